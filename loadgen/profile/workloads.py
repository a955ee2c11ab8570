"""What a profile or the command line says of lengths, traces, shared prefixes and sessions → records, in one set of
words.

Lengths: a whole number, or a distribution, as a table (``{kind = "lognormal", median = 512, sigma = 0.8, max = 4096}``)
or as text (``lognormal:median=512,sigma=0.8,max=4096``). Thinking: a span of time (``2s``), or a distribution of them,
whose ``median``, ``mean``, ``min`` and ``max`` are spans.
"""

from __future__ import annotations

import csv
import io
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson

from loadgen.errors import BadInput
from loadgen.input_files import open_input, unreadable
from loadgen.traces.formats import FORMATS
from loadgen.units import SPAN, parse_span
from loadgen.workload_records import Cancel, Prefixes, Replay, Spread

MOST = 2**31 - 1
LEAST_NUMBER, MOST_NUMBER = 1e-9, 1e12  # beyond, a quotient or a square of it leaves what a float can hold
_DIGITS = re.compile("[0-9]{1,10}")
KINDS: dict[str, tuple[str, ...]] = {
    "uniform": ("min", "max"),
    "lognormal": ("median", "sigma", "max"),
    "gamma": ("mean", "cv", "max"),
    "empirical": ("file",),
}
OPTIONAL = {"uniform": (), "lognormal": ("min",), "gamma": ("min",), "empirical": ("column", "min", "max")}
REPLAY = (
    "format",
    "speed",
    "rate",
    "sample",
    "from",
    "to",
    "spread",
    "max_context",
    "too_long",
    "block_tokens",
)
PREFIXES = ("groups", "tokens", "share")
CANCEL = ("share", "after_s", "after_tokens")
SPANS = ("median", "mean", "min", "max")  # of a distribution of times
NO_THINK = Spread(kind="uniform", least=0, most=0)


def read_length(value: Any, name: str) -> int | Spread:
    """A length, or a distribution of them. Raises BadInput."""
    if isinstance(value, str) and _DIGITS.fullmatch(value):
        value = int(value)
    if isinstance(value, int) and not isinstance(value, bool):
        return _whole(name, value)
    if isinstance(value, str):
        kind, _, rest = value.partition(":")
        value = {"kind": kind, **pairs(rest, name)}
    if not isinstance(value, Mapping):
        raise BadInput(
            f"{name} = {value!r}: no length (accepted: a whole number, or a distribution: {_kinds()})"
        )
    given = dict(value)
    kind = given.pop("kind", None)
    if not isinstance(kind, str) or kind not in KINDS:
        raise BadInput(f"{name}: kind = {kind!r} (accepted: {_kinds()})")
    _known(given, (*KINDS[kind], *OPTIONAL[kind]), name)
    if missing := [key for key in KINDS[kind] if key not in given]:
        raise BadInput(
            f"{name}: {kind} needs {missing[0]} (accepted: {', '.join((*KINDS[kind], *OPTIONAL[kind]))})"
        )
    if kind == "empirical":
        return _empirical(given, name)
    least, most = _whole(f"{name}.min", given.pop("min", 1)), _whole(f"{name}.max", given.pop("max"))
    if least > most:
        raise BadInput(f"{name}: min = {least} is above max = {most}")
    numbers = {key: _number(f"{name}.{key}", number) for key, number in given.items()}
    return Spread(kind=kind, least=least, most=most, **numbers)  # type: ignore[arg-type]


def read_turns(value: Any, name: str) -> Spread:
    """How many turns a session has: a number, or a distribution. Raises BadInput."""
    found = read_length(value, name)
    return found if isinstance(found, Spread) else Spread(kind="uniform", least=found, most=found)


def read_think(value: Any, name: str) -> Spread:
    """How long a user thinks, in milliseconds: a span of time, or a distribution. Raises BadInput."""
    if isinstance(value, str) and ":" in value:
        kind, _, rest = value.partition(":")
        value = {"kind": kind, **pairs(rest, name)}
    if not isinstance(value, Mapping):
        always = _milliseconds(name, value)
        return Spread(kind="uniform", least=always, most=always)
    if value.get("kind") == "empirical":
        raise BadInput(f"{name}: kind = 'empirical': of lengths alone (accepted: uniform, lognormal, gamma)")
    spans = {key: _milliseconds(f"{name}.{key}", value[key]) for key in SPANS if key in value}
    least = spans.pop("min", 0)
    found = read_length({**value, **spans, "min": max(1, least)}, name)
    assert isinstance(found, Spread), "a table is a distribution"
    return replace(found, least=least)


def _milliseconds(name: str, value: Any) -> int:
    return round(_span(name, value) * 1000)


def _empirical(given: Mapping[str, Any], name: str) -> Spread:
    file, column = Path(str(given["file"])), given.get("column")
    counted: Counter[int] = Counter()
    try:
        for place, value in _column(file, None if column is None else str(column)):
            text = str(value).strip()
            if not _DIGITS.fullmatch(text) or not 1 <= int(text) <= MOST:
                raise BadInput(f"{name}: {file}: {place}: {text[:40]!r} is no length (accepted: 1 or more)")
            counted[int(text)] += 1
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise BadInput(f"{name}: {file}: {unreadable(file, error)}") from None
    if not counted:
        raise BadInput(f"{name}: {file}: holds no length")
    values = sorted(counted)
    least, most = (
        _whole(f"{name}.min", given.get("min", values[0])),
        _whole(f"{name}.max", given.get("max", values[-1])),
    )
    if least > most:
        raise BadInput(f"{name}: min = {least} is above max = {most}")
    weights = tuple(float(counted[value]) for value in values)
    return Spread(kind="empirical", least=least, most=most, values=tuple(values), weights=weights)


def _column(file: Path, column: str | None) -> Iterator[tuple[str, Any]]:
    """A file's values with where each stands: of a column of CSV or a key of JSON lines, else one number a line."""
    with io.TextIOWrapper(open_input(file), encoding="utf-8-sig", newline="") as lines:
        if column is None:
            yield from ((f"line {number}", line) for number, line in enumerate(lines, 1) if line.strip())
            return
        if file.suffix in (".jsonl", ".json"):
            for number, line in enumerate(lines, 1):
                if not line.strip():
                    continue
                try:
                    row = orjson.loads(line)
                except ValueError as error:
                    raise BadInput(f"{file}: line {number}: not JSON: {error}") from None
                yield f"line {number}", row.get(column) if isinstance(row, dict) else None
            return
        reader = csv.DictReader(lines)
        if column not in (reader.fieldnames or ()):
            raise BadInput(f"{file}: no column {column!r} (accepted: {', '.join(reader.fieldnames or ())})")
        yield from ((f"line {reader.line_num}", row[column]) for row in reader)


def read_replay(given: Mapping[str, Any], name: str) -> Replay:
    """How a trace is replayed. Raises BadInput."""
    _known(given, REPLAY, name)
    found: dict[str, Any] = {}
    for key, value in given.items():
        label = f"{name}.{key}"
        if key in ("speed", "rate"):
            found[key] = _number(label, value)
        elif key == "sample":
            found[key] = _share(label, value)
        elif key in ("from", "to", "spread"):
            found[f"{key}_s"] = _span(label, value)
        elif key in ("max_context", "block_tokens"):
            found[key] = _whole(label, value)
        else:
            found[key] = _one_of(label, value, FORMATS if key == "format" else ("fail", "skip", "cut"))
    if "speed" in found and "rate" in found:
        raise BadInput(f"{name}: speed and rate both set its pace (accepted: one of the two)")
    if found.get("to_s") is not None and found["to_s"] <= found.get("from_s", 0.0):
        raise BadInput(f"{name}.to = {given['to']}: is not after from")
    return Replay(**found)


def read_prefixes(given: Mapping[str, Any], name: str) -> Prefixes:
    """Which prompts begin alike. Raises BadInput."""
    _known(given, PREFIXES, name)
    for key in ("groups", "tokens"):
        if key not in given:
            raise BadInput(f"{name}: {key} is missing (accepted: {', '.join(PREFIXES)})")
    counts = {key: _whole(f"{name}.{key}", given[key]) for key in ("groups", "tokens")}
    return Prefixes(**counts, share=_share(f"{name}.share", given.get("share", 1.0)))


def read_cancel(given: Mapping[str, Any], name: str) -> Cancel:
    """Which requests the client gives up, and when. Raises BadInput."""
    _known(given, CANCEL, name)
    if "share" not in given or ("after_s" in given) == ("after_tokens" in given):
        raise BadInput(f"{name}: needs share, and one of after_s and after_tokens")
    share = _share(f"{name}.share", given["share"])
    if share == 1:
        raise BadInput(f"{name}.share = {given['share']}: leaves none to measure (accepted: below 1)")
    if "after_s" in given:
        return Cancel(share=share, after_s=_span(f"{name}.after_s", given["after_s"]))
    return Cancel(share=share, after_tokens=_whole(f"{name}.after_tokens", given["after_tokens"]))


def pairs(text: str, name: str) -> dict[str, str]:
    """``a=1,b=2`` as a table. Raises BadInput."""
    found: dict[str, str] = {}
    for part in text.replace(",", " ").split():
        key, equals, value = part.partition("=")
        if not equals or not key or not value or key in found:
            raise BadInput(f"{name}: {part!r} is not KEY=VALUE, each key once")
        found[key] = value
    return found


def _kinds() -> str:
    return "; ".join(f"{kind}: {', '.join((*keys, *OPTIONAL[kind]))}" for kind, keys in KINDS.items())


def _known(given: Mapping[str, Any], keys: tuple[str, ...], name: str) -> None:
    if unknown := [key for key in given if key not in keys]:
        raise BadInput(f"{name}: {unknown[0]} is not a key here (accepted: {', '.join(keys)})")


def _converted(label: str, value: Any, kind: Callable[[str], Any], accepted: str) -> Any:
    if isinstance(value, str):
        try:
            return kind(value)
        except ValueError:
            raise BadInput(f"{label} = {value} (accepted: {accepted})") from None
    return value


def _whole(label: str, value: Any) -> int:
    found = _converted(label, value, int, "a whole number of 1 or more")
    if isinstance(found, bool) or not isinstance(found, int) or not 1 <= found <= MOST:
        raise BadInput(f"{label} = {value} (accepted: a whole number of 1 or more)")
    return found


def _number(label: str, value: Any) -> float:
    accepted = f"a number above 0, from {LEAST_NUMBER:g} to {MOST_NUMBER:g}"
    found = _converted(label, value, float, accepted)
    if (
        isinstance(found, bool)
        or not isinstance(found, int | float)
        or not LEAST_NUMBER <= found <= MOST_NUMBER
    ):
        raise BadInput(f"{label} = {value} (accepted: {accepted})")
    return float(found)


def _share(label: str, value: Any) -> float:
    if (found := _number(label, value)) > 1:
        raise BadInput(f"{label} = {value} (accepted: above 0 and up to 1)")
    return found


def _span(label: str, value: Any) -> float:
    found = parse_span(value) if isinstance(value, str) else value
    if isinstance(found, bool) or not isinstance(found, int | float) or not 0 <= found <= MOST:
        raise BadInput(f"{label} = {value} (accepted: {SPAN})")
    return float(found)


def _one_of(label: str, value: Any, choices: tuple[str, ...]) -> str:
    if not isinstance(value, str) or value not in choices:
        raise BadInput(f"{label} = {value} (accepted: {', '.join(choices)})")
    return str(value)
