"""JSON Schemas (draft 2020-12) of a line of trials.jsonl and of a profile, from what reads each of them.

The schema of a profile refuses nothing that loadgen takes: what only the whole of a profile decides (a mode's keys, a
model's context, this machine's GPUs) is left to ``loadgen sweep --dry-run``.
"""

from __future__ import annotations

from typing import Any

from loadgen.records import SCHEMA_VERSION, TrialResult
from loadgen.schemas.fields import about, fields_of, records_of, sentences

DIALECT = "https://json-schema.org/draft/2020-12/schema"


def trials_schema() -> dict[str, Any]:
    """The schema of one line of trials.jsonl."""
    from pydantic import TypeAdapter

    schema = TypeAdapter(TrialResult).json_schema()
    records = {record.__name__: record for record in records_of(TrialResult)}
    for name, table in {**schema["$defs"], TrialResult.__name__: schema}.items():
        for field in fields_of(records[name]):
            unit = f" ({field.unit})" if field.unit else ""
            null = f"; null: {field.null}" if field.null else ""
            table["properties"][field.name]["description"] = f"{field.meaning}{unit}{null}"
        table["description"] = about(records[name])
    schema["properties"]["schema_version"]["const"] = SCHEMA_VERSION
    return {"$schema": DIALECT, **schema, "title": "A line of loadgen's trials.jsonl"}


def profile_schema() -> dict[str, Any]:
    """The schema of a profile, as editors of TOML take it."""
    from loadgen.profile.schema import Tables

    schema = Tables.model_json_schema()
    # Of one block the brackets may be single, and a table's key may stand alone where a list is meant.
    blocks = schema["properties"]["sweep"]
    schema["properties"]["sweep"] = {"anyOf": [blocks["items"], {"type": "array", "items": blocks["items"]}]}
    for table in (schema, *schema["$defs"].values()):
        if "description" in table:
            table["description"] = " ".join(sentences(table["description"]))
        for key in table.get("properties", {}).values():
            key.pop("title", None)
            _without_null(key)
    return {
        "$schema": DIALECT,
        **schema,
        "title": "A profile of loadgen's",
        "description": "What a sweep runs.",
    }


def _without_null(key: dict[str, Any]) -> None:
    """TOML has no null: ``None`` stands for a key that is left out."""
    if "anyOf" in key:
        kinds = [kind for kind in key["anyOf"] if kind != {"type": "null"}]
        if len(kinds) < len(key["anyOf"]):
            del key["anyOf"]
            key.update(kinds[0] if len(kinds) == 1 else {"anyOf": kinds})
    if key.get("default", 0) is None or "$ref" in key:
        key.pop("default", None)
