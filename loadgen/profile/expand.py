"""A profile's tables → its cells: every point of its sweeps, each checked to be possible."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from loadgen.profile.bounds import USED_BY
from loadgen.profile.build import Builder, Point, Problems
from loadgen.profile.profile import Cell
from loadgen.profile.schema import Axes, LoadTable, Origins, Path, ServerTable, SweepTable, Tables
from loadgen.protocols import Framework

# What a trace brings itself.
LENGTHS = frozenset({"input_tokens", "output_tokens", "requests", "duration", "lead_in"})
MOST_TRIALS = 100_000  # of one block: each is held in memory, and written into sweep.json
SERVER_AXES = ("framework", "model", "dtype", "tp", "pp")


def expand(
    tables: Tables,
    origins: Origins,
    gpu_count: int | None,
    frameworks: Sequence[str] | None,
    ask: Callable[[str], Framework] | None,
) -> tuple[Cell, ...]:
    """Every cell of every sweep block. Raises one ProfileError with a line for each problem."""
    problems = Problems(origins)
    _check_sections(tables, problems)
    for number, block in enumerate(tables.sweep):
        _check_modes(tables, number, block, problems)
    _check_hidden(tables, problems)
    problems.check()
    cells: list[Cell] = []
    builder = Builder(tables, problems, gpu_count, frameworks, ask)
    for number, block in enumerate(tables.sweep):
        for point in _points(tables, number, block, problems):
            cells += builder.cells(point, block.repeat or tables.load.repeat, block.starts or tables.starts)
    problems.check()
    if not cells:
        problems.add(("sweep", "exclude"), None, "leaves nothing to run", "rules that keep at least one cell")
        problems.check()
    return tuple(cells)


def _check_sections(tables: Tables, problems: Problems) -> None:
    if tables.target is None:
        return
    if tables.server is not None:
        problems.add(("server",), None, "cannot stand beside [target]", "one of the two")
    if tables.target.url is None:
        problems.add(("target", "url"), None, "is missing", "http://HOST:PORT")
    if "starts" in tables.model_fields_set:
        problems.add(("starts",), tables.starts, "has no effect: [target] already runs", "it beside [server]")
    for number, block in enumerate(tables.sweep):
        for key in (*SERVER_AXES, "options", "starts"):
            if key in block.model_fields_set:
                why = "has no effect: [target] already runs"
                problems.add(("sweep", number, key), getattr(block, key), why, "keys of [load]")


def _check_modes(tables: Tables, number: int, block: SweepTable, problems: Problems) -> None:
    """Refuse what the mode of a block does not use, and ask for what it needs."""
    mode = block.mode or tables.load.mode
    used = USED_BY[mode] if mode == "trace" else USED_BY[mode] | LENGTHS
    for key in sorted(_of_modes() - used):
        if key in block.model_fields_set:
            problems.add(
                ("sweep", number, key),
                getattr(block, key),
                f"has no effect in mode = {mode!r}",
                _modes_with(key),
            )
        elif key in tables.load.model_fields_set and not any(
            key in USED_BY[other] or (key in LENGTHS and other != "trace") for other in _all_modes(tables)
        ):
            problems.add(
                ("load", key),
                getattr(tables.load, key),
                f"has no effect in mode = {mode!r}",
                _modes_with(key),
            )
    needed = {"rate", "rate_end", "trace", "users", "turns", "input_tokens", "output_tokens"} & used
    if mode == "trace" or (tables.capacity is not None and mode != "ramp"):
        needed -= {"rate"}  # which a trace has itself, and which is searched
    if tables.load.dataset is not None:
        needed -= {"input_tokens", "output_tokens"}  # which it may bring
    for key in sorted(needed):
        if getattr(tables.load, key) is None and getattr(block, key, None) is None:
            problems.add(
                ("load", key), None, f"is missing for mode = {mode!r}", "a value, here or in [sweep]"
            )


def _of_modes() -> frozenset[str]:
    return LENGTHS.union(*USED_BY.values())


def _all_modes(tables: Tables) -> set[str]:
    return {block.mode or tables.load.mode for block in tables.sweep}


def _modes_with(key: str) -> str:
    names = [mode for mode, keys in USED_BY.items() if key in keys or (key in LENGTHS and mode != "trace")]
    return "with mode " + " or ".join(names)


def _check_hidden(tables: Tables, problems: Problems) -> None:
    """A single value that every sweep replaces would silently do nothing."""
    homes: list[tuple[str, ServerTable | LoadTable | None]] = [
        ("server", tables.server),
        ("load", tables.load),
    ]
    for section, table in homes:
        for key in sorted(table.model_fields_set if table is not None else ()):
            if key != "options" and all(key in block.model_fields_set for block in tables.sweep):
                why = "has no effect: the sweep gives it too"
                problems.add((section, key), getattr(table, key), why, "one of the two")


def _points(tables: Tables, number: int, block: SweepTable, problems: Problems) -> Iterator[Point]:
    axes: dict[str, list[Any]] = {
        key: getattr(block, key)
        for key in Axes.model_fields
        if key != "options" and getattr(block, key) is not None
    }
    axes |= {f"options.{name}": values for name, values in block.options.items()}
    base: dict[str, Any] = {}
    paths: dict[str, Path] = {}
    for section, table in (("server", tables.server or ServerTable()), ("load", tables.load)):
        for key in type(table).model_fields:
            base[key] = getattr(table, key)
            paths[key] = (section, key)
    for key in ("mode", "requests", "duration", "lead_in", "warmup"):
        if getattr(block, key) is not None:
            base[key] = getattr(block, key)
            paths[key] = ("sweep", number, key)
    paths |= {key: ("sweep", number, *key.split(".")) for key in axes}
    count = math.prod(map(len, axes.values())) if block.combine == "product" else 1
    if count * len(block.repeat or tables.load.repeat) * len(block.starts or tables.starts) > MOST_TRIALS:
        why = "lists and repeats come to more trials than any sweep can run"
        problems.add(("sweep", number), None, why, f"up to {MOST_TRIALS}")
        return
    for i, rule in enumerate(block.exclude):
        if not rule.model_fields_set:
            problems.add(
                ("sweep", number, "exclude", i), None, "is an empty rule", "keys that a sweep can list"
            )
    for combination in _combinations(axes, block.combine, number, problems):
        chosen = dict(zip(axes, combination, strict=True))
        values = base | {key: value for key, value in chosen.items() if "." not in key}
        options = {key.partition(".")[2]: value for key, value in chosen.items() if "." in key}
        if not any(_excludes(rule, values, options) for rule in block.exclude):
            yield Point(values=values, paths=paths, options=options)


def _combinations(
    axes: Mapping[str, list[Any]], combine: str, number: int, problems: Problems
) -> Iterator[tuple[Any, ...]]:
    if combine == "product":
        return itertools.product(*axes.values())
    lengths = {key: len(values) for key, values in axes.items()}
    longest = max(lengths.values(), default=1)
    if {1, longest} | set(lengths.values()) != {1, longest}:
        shown = ", ".join(f"{key} {length}" for key, length in lengths.items())
        why = f"joins lists of different lengths: {shown}"
        problems.add(("sweep", number, "combine"), "zip", why, "lists of one length, or of one value")
        return iter(())
    return zip(*(v if len(v) == longest else v * longest for v in axes.values()), strict=True)


def _excludes(rule: Axes, values: Mapping[str, Any], options: Mapping[str, Any]) -> bool:
    keys = rule.model_fields_set - {"options"}
    return all(values[key] in getattr(rule, key) for key in keys) and all(
        options.get(name) in wanted for name, wanted in rule.options.items()
    )
