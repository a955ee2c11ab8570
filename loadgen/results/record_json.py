"""Records as JSON and back: what comes from a disk is checked for type and range before anything is made of it.

Figures that no trial can have (a percentile above the maximum, an end before the start) are none, too: readers divide
by what they read, and a wrong number must not pass for a right one.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, TypeVar, cast

import orjson

from loadgen.load_records import LoadSpec
from loadgen.records import ClientNode, Dist, Environment, Summary
from loadgen.slo_records import Attained
from loadgen.telemetry_records import (
    HostFigures,
    MemoryLedger,
    PhaseFigures,
    ServerCores,
    SourceFigures,
    TelemetrySummary,
)
from loadgen.workload_records import Share

T = TypeVar("T")
FINITE = sys.float_info.max
HUGE = 2.0**64  # in any unit: beyond it a square of a square leaves what a float can hold
MOST_WHOLE = 2**62
TINY = 1 / HUGE  # of a figure that is not 0: below it, so does a quotient
SIZES = frozenset(
    {"tp", "pp", "batch_size", "concurrency", "workers", "nodes", "max_batch", "layers", "heads", "kv_heads"}
)
MOST_SIZE = 1_000_000  # of what is counted through one by one
AT_LEAST_1 = SIZES | {"hidden", "intermediate", "head_dim", "vocab", "max_context", "n"}
LENGTHS = frozenset({"input_tokens", "output_tokens"})  # of a load; a trial may have got none
COUNTS = frozenset({"errors", "kept"})  # by name; other tables are in the words of others
SIGNED = (ClientNode, Dist)  # of clocks and lags, which may be below 0
LATENCIES = ("e2e_s", "ttft_s", "tpot_s", "itl_s", "latency_per_output_token_s", "first_answer_s")
RATES = ("duration_s", "output_tokens_per_s", "total_tokens_per_s", "requests_per_s", "in_flight_mean")
ORDERED = ("min", "p50", "p90", "p95", "p99", "max")
SLACK = 1e-6  # of a mean: many values are summed, and folded ones stand for their neighbours
# Numbers that others told, who may have told anything: what is stored must be read again.
TOLD = (HostFigures, MemoryLedger, PhaseFigures, ServerCores, SourceFigures, TelemetrySummary)
OURS = frozenset(
    {"gpu", "scrapes", "failed", "readings", "seconds", "load_seconds", "cores", "processes", "threads"}
)


def _is_attained(found: Attained) -> bool:
    names = {each.name for each in found.slo.objectives}
    whole = found.kept.keys() <= names and len(found.goals) == len(found.slo.goals)
    counts = (found.good, found.unknown, *found.kept.values(), *(goal.kept for goal in found.goals))
    return whole and all(0 < goal.share < 1 for goal in found.slo.goals) and max(counts) <= found.due


def _is_environment(found: Environment) -> bool:
    return all(
        isinstance(gpu.get("index", 0), int) and isinstance(gpu.get("name"), str | None) for gpu in found.gpus
    )


def _is_dist(found: Dist) -> bool:
    values = [value for name in ORDERED if (value := getattr(found, name)) is not None]
    slack = SLACK * max(abs(found.min), abs(found.max))
    within = all(
        (low is None or low <= value) and (high is None or value <= high)
        for name, (low, high) in found.intervals.items()
        if name in ORDERED and (value := getattr(found, name)) is not None
    )
    return (
        values == sorted(values)
        and not any(0 < abs(value) < TINY for value in values)
        and found.min - slack <= found.mean <= found.max + slack
        and (found.stdev is None or found.stdev >= 0)
        and (found.independent is None or 0 < found.independent <= found.n)
        and within
    )


def _is_summary(found: Summary) -> bool:
    latencies = [dist for name in LATENCIES if (dist := getattr(found, name)) is not None]
    return (
        all(dist.min >= 0 for dist in latencies)
        and (found.e2e_s is None or found.e2e_s.min > 0)
        and not any(0 < (getattr(found, name) or 0) < TINY for name in RATES)
    )


WHOLE: dict[type, Callable[[Any], bool]] = {
    Attained: _is_attained,
    Dist: _is_dist,
    Environment: _is_environment,
    Summary: _is_summary,
    Share: lambda found: found.number < found.of,
}


def to_json(record: Any) -> bytes:
    """A dataclass or plain value as one line of JSON."""
    return orjson.dumps(record, default=plain)


def plain(value: object) -> object:
    """What orjson does not know, as what it does. Raises TypeError for anything else."""
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"not storable: {type(value).__name__}")


@functools.cache
def _validator(kind: Any) -> Any:
    from pydantic import TypeAdapter  # slow to import, and only reading needs it

    return TypeAdapter(kind)


def from_json(kind: type[T], line: bytes) -> T:
    """The dataclass that ``to_json`` wrote. Raises ValueError when the line is not one: of other types (text for a
    number), not finite, or out of range."""
    from pydantic import ValidationError

    try:  # text such as "nan" passes for a number unless this is strict
        found = _validator(cast(Any, kind)).validate_json(line, strict=True)
    except ValidationError as error:  # its own words are several lines, with what was read and an address
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise ValueError(f"{where}: {first['msg']}" if where else first["msg"]) from None
    _check(found, kind.__name__, -HUGE, HUGE)
    return cast(T, found)


def impossible(record: Any) -> str | None:
    """Why a record could not be read again, once stored; ``None`` of one that can be."""
    try:
        _check(record, type(record).__name__, -HUGE, HUGE)
    except ValueError as error:
        return str(error)
    return None


def _check(value: Any, name: str, least: float, most: float) -> None:
    """Raise ValueError for a number out of its range, in a value or anywhere within it."""
    kind = value.__class__
    if kind is int or kind is float:
        # NaN is neither. The sum of two whole numbers still is one of C's.
        if not least <= value <= most or (kind is int and abs(value) > MOST_WHOLE and most <= HUGE):
            raise ValueError(f"{name} = {value!r} is out of range")
    elif is_dataclass(kind):
        for inner, from_, to in _limits(cast(Any, kind)):
            _check(getattr(value, inner), inner, from_, to)
        if kind in WHOLE and not WHOLE[kind](value):
            raise ValueError(f"{name} holds values that do not go together")
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            _check(inner, key, *((0, HUGE) if name in COUNTS else (-FINITE, FINITE)))
    elif kind is list or kind is tuple:
        for inner in value:
            _check(inner, name, least, most)


@functools.cache
def _limits(kind: type) -> tuple[tuple[str, float, float], ...]:
    """The fields of a record, each with the range of its numbers."""
    if kind in TOLD:
        return tuple(
            (field.name, 0, MOST_SIZE if field.name == "gpu" else HUGE)
            if field.name in OURS
            else (field.name, -FINITE, FINITE)
            for field in fields(kind)
        )
    signed = -HUGE if kind in SIGNED else 0
    return tuple(
        (
            field.name,
            1 if field.name in AT_LEAST_1 or (kind is LoadSpec and field.name in LENGTHS) else signed,
            MOST_SIZE if field.name in SIZES else HUGE,
        )
        for field in fields(kind)
    )
