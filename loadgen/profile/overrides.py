"""``--set KEY=VALUE``: values laid over a profile's tables before they are checked."""

from __future__ import annotations

import copy
import math
import tomllib
from collections.abc import Mapping, Sequence
from typing import Any

from loadgen.errors import ProfileError
from loadgen.profile.schema import (
    Axes,
    LoadTable,
    Origins,
    Path,
    ServerTable,
    SweepTable,
    Tables,
    TargetTable,
    TimeoutsTable,
    together,
)
from loadgen.profile.told import told_set
from loadgen.profile.values import did_you_mean

LISTS = {*Axes.model_fields, "gpus", "repeat", "starts"}
SECTIONS = set(Tables.model_fields)
OPEN = (("target", "extra_body"), ("target", "options"))  # of any keys and values, which are sent as JSON
DEEPEST = 32  # levels of tables and lists: everything that walks through one may do so by recursion


def lay_over(data: Mapping[str, Any], sets: Sequence[str], file: str) -> tuple[dict[str, Any], Origins]:
    """The tables with every ``--set`` in place, ``sweep`` always as a list of blocks, and where each value is from.

    Raises ProfileError, with a line for each ``--set`` that is wrong.
    """
    check_values(data, Origins(file=file))
    merged = copy.deepcopy(dict(data))
    sweep = merged.setdefault("sweep", {})
    single = isinstance(sweep, dict)
    if single:
        merged["sweep"] = [sweep]
    origins = Origins(file=file, single_sweep=single)
    problems: list[ProfileError] = []
    for text in sets:
        try:
            for path, value in _assignments(merged, text, file):
                _put(merged, path, value, text, file)
                origins.sets[path] = text
        except ProfileError as error:
            problems.append(error)
    if problems:
        raise together(problems)
    check_values(merged, origins)
    return merged, origins


def check_values(tables: Mapping[str, Any], origins: Origins) -> None:
    """Raise ProfileError for what no key takes, wherever it stands: a whole number over 64 bits, text that no file name
    and no JSON can hold, tables in tables in tables; and in what is sent as it is, a number that JSON has not."""
    left: list[tuple[Path, Any]] = [((), tables)]
    while left:
        path, value = left.pop()
        if len(path) > DEEPEST:
            raise origins.problem(path[:2], None, "is nested too deeply", f"{DEEPEST} levels")
        if isinstance(value, dict | list):
            items = value.items() if isinstance(value, dict) else enumerate(value)
            left += [((*path, key), inner) for key, inner in items]
            left += [(path, key) for key in value if isinstance(value, dict)]
        elif isinstance(value, int) and not -(2**63) <= value < 2**63:
            raise origins.problem(path, None, "is out of range", "whole numbers of 64 bits")
        elif isinstance(value, float) and path[:2] in OPEN and not math.isfinite(value):
            raise origins.problem(path, value, "is not finite", "numbers")
        elif isinstance(value, str) and ("\0" in value or (not value.isascii() and _surrogate(value))):
            raise origins.problem(path, value, "holds what is no text", "UTF-8 without NUL")


def _surrogate(text: str) -> bool:
    return any("\ud800" <= letter <= "\udfff" for letter in text)


def _assignments(tables: dict[str, Any], text: str, file: str) -> list[tuple[Path, Any]]:
    """What one ``--set`` puts where; a bare name is first taken out of the places that would hide it."""
    key, equals, raw = (part.strip() for part in text.partition("="))
    if not (key and equals and raw):
        raise ProfileError(
            file, f"--set {told_set(text)}", None, "is not KEY=VALUE", "tp=4, tp=1,2,4, load.seed=7, …"
        )
    parts = tuple(key.split("."))
    value = value_of(raw, listable=parts[-1] in LISTS or "options" in parts)
    blocks = [i for i, block in enumerate(_list(tables["sweep"])) if isinstance(block, dict)]
    if parts[0] == "sweep":
        return [(("sweep", i, *parts[1:]), value) for i in blocks]
    if parts[0] in SECTIONS:
        for i in blocks if parts[0] in SweepTable.model_fields else ():
            _take(tables, ("sweep", i, *parts))
        return [(parts, value)]
    home = _home(tables, parts[0], file, text)
    if parts[0] not in SweepTable.model_fields:
        return [((*home, *parts[1:]), value)]
    for i in blocks:
        _take(tables, ("sweep", i, *parts))
    _take(tables, (*home, *parts[1:]))
    if isinstance(value, list) and parts[0] in Axes.model_fields:
        return [(("sweep", i, *parts), value) for i in blocks]
    return [((*home, *parts[1:]), value)]


def _home(tables: dict[str, Any], name: str, file: str, text: str) -> Path:
    """The table that a bare name belongs to, and the name."""
    homes: dict[str, Path] = {key: ("load", "timeouts", key) for key in TimeoutsTable.model_fields}
    homes |= {key: ("load", key) for key in LoadTable.model_fields}
    servers: dict[str, Path] = {key: ("server", key) for key in ServerTable.model_fields}
    targets: dict[str, Path] = {key: ("target", key) for key in TargetTable.model_fields}
    homes |= servers | targets if "target" in tables else targets | servers  # both have a model
    if name not in homes:
        known = [*homes, *sorted(SECTIONS)]
        why = f"{name!r} is not a key" + did_you_mean(name, known)
        raise ProfileError(file, f"--set {told_set(text)}", None, why, ", ".join(known))
    return homes[name]


def value_of(raw: str, *, listable: bool) -> Any:
    """TOML where it is TOML, else a list where commas make one, else the bare text."""
    try:
        parsed = tomllib.loads(f"value = {raw}")
    except (ValueError, RecursionError):  # also a number of thousands of digits
        parsed = {}
    if parsed.keys() == {"value"}:  # a line break in the text could smuggle in others
        return parsed["value"]
    if listable and "," in raw and not raw.startswith("["):
        return [value_of(part.strip(), listable=False) for part in raw.split(",") if part.strip()]
    return raw


def _put(tables: dict[str, Any], path: Path, value: Any, text: str, file: str) -> None:
    table: Any = tables
    for part in path[:-1]:
        table = table[part] if isinstance(part, int) else table.setdefault(part, {})
        if not isinstance(table, dict | list):
            raise ProfileError(
                file, f"--set {told_set(text)}", None, f"{part!r} is not a table", "keys of tables"
            )
    table[path[-1]] = value


def _take(tables: dict[str, Any], path: Path) -> None:
    table: Any = tables
    for part in path[:-1]:
        table = table[part] if isinstance(part, int) else _dict(table).get(part)
    _dict(table).pop(str(path[-1]), None)


def _dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []
