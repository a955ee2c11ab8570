"""The page of what a results folder holds (``docs/format.md``), from the records that are written."""

from __future__ import annotations

from collections.abc import Sequence

from loadgen.records import DEFINITIONS, SCHEMA_VERSION, Environment, TrialResult
from loadgen.request_records import Reply, Sample
from loadgen.results.capacity_log import TRIALS
from loadgen.results.max_batch_log import PROBES
from loadgen.results.samples import arrow_schema
from loadgen.schemas.fields import Field, about, fields_of, records_of
from loadgen.schemas.words import SWEEP
from loadgen.search_records import Capacity, MaxBatch

INTRO = f"""# What a results folder holds

Made by `loadgen schema page`; nothing here is written by hand.

```
results/NAME/
    sweep.json                  the profile, its plan, the machines
    trials.jsonl                one trial a line, on disk before the next begins
    samples/TRIAL_ID.parquet    one row a request, every token's arrival
    telemetry/TRIAL_ID.parquet  what was scraped meanwhile, on the same clock
    max_batch.jsonl, {PROBES}    what searches for the largest batch found and tried
    capacity.jsonl, {TRIALS}     what searches for capacity found and tried
    ceilings.json               the machine's bandwidth and matrix rates, where they are known
    report.html, report.md      made of all this; `loadgen report` makes them anew
    logs/                       one log for each start of a server
```

A copy made by `loadgen keep` has `samples.parquet` and `telemetry.parquet` in place of the two folders, with a column
`trial`.

**Versions.** `schema_version` is {SCHEMA_VERSION}: of the folder and of each line. Fields may be added, with a value
that stands for what was so before; a reader passes over those that it does not know. A field that goes, or changes
its type, unit or meaning, raises the version, and this loadgen reads no folder of another one. What a summary's
figures mean has a version of its own, `definitions`, {DEFINITIONS} by now; 1 stands for results from before it was
stored. Not promised: the keys of `engine`, which are the server's own words, messages and remedies, and the order of
keys. For tables of other tools take the [exports](exports.md), whose columns have their own version.

**Null** is *not measured*, or does not apply; never zero, and a zero is a measured zero. A field that an earlier
version did not write is as if null, or as its default says.

**Units** are in the names: `_s` seconds, `_ns` nanoseconds of the host's monotonic clock, `_bytes`, `_w` watts, `_j`
joules. Where a [Dist](#dist) stands, the unit is that of the field that holds it.

`schema/trials.json` is the JSON Schema of a line of `trials.jsonl` (`loadgen schema trials`), `schema/profile.json`
that of a profile.
"""


def page() -> str:
    """The whole page as Markdown."""
    parts = [INTRO]
    shown: set[type] = set()

    def add(title: str, intro: str, root: type) -> None:
        parts.append(f"## {title}\n\n{intro}\n")
        for record in records_of(root):
            if record not in shown:
                shown.add(record)
                parts.append(_record(record))

    add("trials.jsonl", "Each line is a [TrialResult](#trialresult).", TrialResult)
    parts.append(_samples())
    parts.append(
        "## sweep.json\n\n"
        + _table(("field", "what it is"), [(f"`{key}`", text) for key, text in SWEEP.items()])
    )
    parts.append(_record(Environment))
    add(
        "max_batch.jsonl",
        "Each line is a [MaxBatch](#maxbatch); the trials behind it are in `probes.jsonl`.",
        MaxBatch,
    )
    add(
        "capacity.jsonl",
        "Each line is a [Capacity](#capacity); the trials behind it are in `search.jsonl`.",
        Capacity,
    )
    return "\n".join(parts)


def _record(record: type) -> str:
    rows = [_row(field) for field in fields_of(record)]
    head = ("field", "type", "unit", "null means", "what it is")
    return f"### {record.__name__}\n\n{about(record)}\n\n{_table(head, rows)}"


def _row(field: Field) -> tuple[str, ...]:
    return (
        f"`{field.name}`",
        field.kind,
        field.unit or "–",
        field.null or "–",
        field.meaning.replace("``", "`"),
    )


def _samples() -> str:
    known = {field.name: field for record in (Sample, Reply) for field in fields_of(record)}
    rows = []
    for column in arrow_schema():
        field = known[column.name]
        rows.append(
            (
                f"`{column.name}`",
                str(column.type),
                field.unit or "–",
                field.null or "–",
                field.meaning.replace("``", "`"),
            )
        )
    head = ("column", "type", "unit", "null means", "what it is")
    intro = (
        "A row a request, in the order they ended. Token times are lossless; latencies are made from them."
    )
    return f"## samples/TRIAL_ID.parquet\n\n{intro}\n\n{_table(head, rows)}"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', '∣') for cell in line)} |" for line in lines) + "\n"
