"""The kinds of value that a profile's keys take, each refusing others in plain words."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, get_args

from pydantic import BeforeValidator, WithJsonSchema
from pydantic_core import PydanticCustomError

from loadgen import urls
from loadgen.errors import BadInput
from loadgen.load_records import LoadKind
from loadgen.metrics.objectives import BOUNDS, SHARES, parse_objective, parse_share
from loadgen.profile.bounds import MOST, MOST_AT_ONCE, MOST_REPEATS, MOST_WORKERS
from loadgen.profile.workloads import (
    CANCEL,
    KINDS,
    PREFIXES,
    REPLAY,
    read_cancel,
    read_length,
    read_prefixes,
    read_replay,
    read_think,
    read_turns,
)
from loadgen.records import OptionValue, Order
from loadgen.search_records import Variable
from loadgen.theory.models import DTYPE_ALIASES, DTYPE_BYTES, dtype_name
from loadgen.units import SPAN, parse_span

AUTO = "auto"
Validator = Callable[[Any], Any]


def _bad(why: str, accepted: str | None) -> PydanticCustomError:
    # Braces would be taken for placeholders of pydantic's message template.
    return PydanticCustomError("bad", "{why}", {"why": why, "accepted": accepted})


def whole_number(least: int, most: int = MOST) -> Validator:
    """A validator of whole numbers from ``least`` to ``most``; ``true`` is none."""
    accepted = f"whole numbers from {least}" + (f" to {most}" if most < MOST else "")

    def check(value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, int):
            raise _bad("is not a whole number", accepted)
        if value < least:
            raise _bad(f"must be at least {least}", accepted)
        if value > most:
            raise _bad(f"must be at most {most}", accepted)
        return value

    return check


def _positive(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise _bad("is not a number", "numbers above 0")
    if not 0 < value < math.inf or (isinstance(value, int) and value > MOST):
        raise _bad("must be above 0 and finite", "numbers above 0")
    return float(value)


def _span(value: Any) -> float:
    seconds = parse_span(value) if isinstance(value, str) else value
    if isinstance(seconds, bool) or not isinstance(seconds, int | float):
        raise _bad("is no span of time", SPAN)
    if not 0 <= seconds <= MOST:
        raise _bad("is out of range", SPAN)
    return float(seconds)


def _duration(value: Any) -> float:
    if (seconds := _span(value)) == 0:
        raise _bad("must be above 0", SPAN)
    return seconds


def _read_by(reader: Callable[[Any, str], Any], name: str) -> Validator:
    """A validator out of what reads a table, whose errors say themselves what is accepted."""

    def check(value: Any) -> Any:
        if reader in (read_cancel, read_replay, read_prefixes) and not isinstance(value, dict):
            raise _bad("is not a table", "a table of keys")
        try:
            return reader(value, name)
        except BadInput as error:
            raise _bad(str(error), None) from None

    return check


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value.strip():
        raise _bad("is not text" if not isinstance(value, str) else "is empty", "text")
    return value


def _flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise _bad("is not true or false", "true, false")
    return value


def _capacity(value: Any) -> Any:
    if isinstance(value, str):
        if value != AUTO:
            raise _bad("is neither a number nor " + repr(AUTO), f"whole numbers from 1, {AUTO}")
        return value
    return whole_number(1)(value)


def _share(value: Any) -> float:
    if (number := _positive(value)) > 1:
        raise _bad("is more than all of it", "numbers above 0 and up to 1")
    return number


def _load(value: Any) -> float:
    if (number := _positive(value)) > MOST_AT_ONCE:
        raise _bad(f"must be at most {MOST_AT_ONCE}", f"numbers above 0, to {MOST_AT_ONCE}")
    return number


def _one_of(*choices: str) -> Validator:
    def check(value: Any) -> str:
        if isinstance(value, str) and value in choices:
            return value
        raise _bad("is not one of the accepted" + did_you_mean(value, choices), ", ".join(choices))

    return check


def _dtype(value: Any) -> str:
    choices = [*DTYPE_BYTES, *DTYPE_ALIASES]
    try:
        return dtype_name(_text(value))
    except BadInput:
        raise _bad("is not one of the accepted" + did_you_mean(value, choices), ", ".join(choices)) from None


def _slug(value: Any) -> str:
    if not isinstance(value, str) or not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", value):
        raise _bad("cannot name a folder", "letters, digits, '.', '_', '-'")
    return value


def _bound(value: Any) -> str:
    if not isinstance(value, str):
        raise _bad("is not a bound", BOUNDS)
    try:
        parse_objective("ttft", value)  # all objectives take the same
    except BadInput:
        raise _bad("is not a bound", f"{BOUNDS}, shares from {SHARES}") from None
    return value


def _attainment(value: Any) -> float:
    try:
        return parse_share(str(value))
    except BadInput:
        raise _bad("is not a share of requests", SHARES) from None


def _url(value: Any) -> str:
    if (wrong := urls.problem(_text(value))) is not None:
        raise _bad(wrong, "http://HOST:PORT, https://…, grpc://…")
    return str(value).rstrip("/")


def _option(value: Any) -> OptionValue:
    if not isinstance(value, str | int | float | bool):
        raise _bad("cannot be an option's value", "text, a number, true or false")
    if isinstance(value, float) and not math.isfinite(value):
        raise _bad("is not finite", "text, a number, true or false")
    if isinstance(value, int) and abs(value) > MOST:
        raise _bad("is out of range", f"numbers up to {MOST}")
    return value


def _several(value: Any) -> Any:
    """A list as it is, a single value as a list of one; neither empty nor with a value twice."""
    values = value if isinstance(value, list) else [value]
    if not values:
        raise _bad("is an empty list", "at least one value")
    seen: set[tuple[type, str]] = set()
    for item in values:
        if (key := (type(item), repr(item))) in seen:
            raise _bad(f"lists {item!r} twice", "each value once")
        seen.add(key)
    return values


def _repeat(value: Any) -> Any:
    """A count n as the repeats 0 … n−1; a list as the very repeats it names."""
    if isinstance(value, list):
        return [whole_number(0)(item) for item in _several(value)]
    return list(range(whole_number(1, MOST_REPEATS)(value)))


def _devices(value: Any) -> Any:
    if value == AUTO:
        return value
    values = [] if value == [] else _several(value)
    return [whole_number(0)(item) for item in values]


def _told(kind: str | None = None, **words: Any) -> WithJsonSchema:
    """How JSON Schema tells of a kind of value: it refuses none that its validator takes, and may take more."""
    return WithJsonSchema({"type": kind, **words} if kind else words)


def _whole(least: int, most: int = MOST) -> dict[str, Any]:
    return {"type": "integer", "minimum": least, "maximum": most}


def _either(*kinds: dict[str, Any]) -> WithJsonSchema:
    return WithJsonSchema({"anyOf": list(kinds)})


def _list_of(kind: dict[str, Any], least: int = 0) -> dict[str, Any]:
    return {"type": "array", "items": kind, "minItems": least}


_SPAN_TEXT = {"type": "string", "pattern": r"^\s*(\d+(\.\d+)?|(\d+(\.\d+)?(ms|s|m|h))+)\s*$"}
_SPANS = [{"type": "number", "minimum": 0, "maximum": MOST}, _SPAN_TEXT]
_SPREADS = [
    {"type": "string", "pattern": rf"^({'|'.join(KINDS)}):"},
    {"type": "object", "properties": {"kind": {"enum": [*KINDS]}}, "required": ["kind"]},
]
_LENGTHS = [{"type": "integer", "minimum": 1}, {"type": "string", "pattern": r"^\d+$"}, *_SPREADS]


@dataclass(frozen=True)
class _Several(BeforeValidator):
    """A list, or a single value in place of a list of one."""

    func: Validator = _several

    def __get_pydantic_json_schema__(
        self, schema: Any, handler: Callable[[Any], dict[str, Any]]
    ) -> dict[str, Any]:
        found = handler(schema)
        (kind,) = [each for each in found.get("anyOf", [found]) if each.get("type") == "array"]
        kind["minItems"] = 1
        return {"anyOf": [kind["items"], *found.get("anyOf", [kind])]}


Capacity = Annotated[Any, BeforeValidator(_capacity), _either(_whole(1), {"const": AUTO})]
Share = Annotated[float, BeforeValidator(_share), _told("number", exclusiveMinimum=0, maximum=1)]
Count = Annotated[int, BeforeValidator(whole_number(1)), _told(**_whole(1))]
AtOnce = Annotated[int, BeforeValidator(whole_number(1, MOST_AT_ONCE)), _told(**_whole(1, MOST_AT_ONCE))]
Workers = Annotated[int, BeforeValidator(whole_number(1, MOST_WORKERS)), _told(**_whole(1, MOST_WORKERS))]
Length = Annotated[Any, BeforeValidator(_read_by(read_length, "length")), _either(*_LENGTHS)]
Cancelling = Annotated[
    Any, BeforeValidator(_read_by(read_cancel, "cancel")), _told("object", propertyNames={"enum": [*CANCEL]})
]
Turns = Annotated[Any, BeforeValidator(_read_by(read_turns, "turns")), _either(*_LENGTHS)]
Think = Annotated[Any, BeforeValidator(_read_by(read_think, "think")), _either(*_SPANS, *_SPREADS)]
TraceReplay = Annotated[
    Any, BeforeValidator(_read_by(read_replay, "replay")), _told("object", propertyNames={"enum": [*REPLAY]})
]
SharedPrefixes = Annotated[
    Any,
    BeforeValidator(_read_by(read_prefixes, "prefixes")),
    _told("object", propertyNames={"enum": [*PREFIXES]}),
]
Port = Annotated[int, BeforeValidator(whole_number(0, 65535)), _told(**_whole(0, 65535))]
Index = Annotated[int, BeforeValidator(whole_number(0)), _told(**_whole(0))]
Amount = Annotated[float, BeforeValidator(_positive), _told("number", exclusiveMinimum=0)]
Load = Annotated[float, BeforeValidator(_load), _told("number", exclusiveMinimum=0, maximum=MOST_AT_ONCE)]
Span = Annotated[float, BeforeValidator(_span), _either(*_SPANS)]
Duration = Annotated[float, BeforeValidator(_duration), _either(*_SPANS)]
Text = Annotated[str, BeforeValidator(_text), _told("string", pattern=r"\S")]
Flag = Annotated[bool, BeforeValidator(_flag), _told("boolean")]
Dtype = Annotated[str, BeforeValidator(_dtype), _told(enum=[*DTYPE_BYTES, *DTYPE_ALIASES])]
Mode = Annotated[LoadKind, BeforeValidator(_one_of(*get_args(LoadKind)))]
Ordering = Annotated[Order, BeforeValidator(_one_of(*get_args(Order)))]
Option = Annotated[Any, BeforeValidator(_option), _told(type=["string", "number", "boolean"])]
Repeats = Annotated[
    list[int], BeforeValidator(_repeat), _either(_whole(1, MOST_REPEATS), _list_of(_whole(0), 1))
]
Devices = Annotated[Any, BeforeValidator(_devices), _either(_whole(0), {"const": AUTO}, _list_of(_whole(0)))]
Bound = Annotated[str, BeforeValidator(_bound)]
Attainment = Annotated[float, BeforeValidator(_attainment), _told(type=["string", "number"])]
Searched = Annotated[Variable, BeforeValidator(_one_of(*get_args(Variable)))]
Slug = Annotated[str, BeforeValidator(_slug), _told("string", pattern="^[A-Za-z0-9][A-Za-z0-9._-]*$")]
Url = Annotated[str, BeforeValidator(_url), _told("string", pattern="^[a-z+]+://")]
Combine = Annotated[str, BeforeValidator(_one_of("product", "zip")), _told(enum=["product", "zip"])]
Several = _Several()


def did_you_mean(value: object, choices: Sequence[str]) -> str:
    """A clause with the choice that goes on from the value, or else the nearest; empty where none is near."""
    begun = [choice for choice in choices if choice.startswith(f"{value}_")]
    near = begun or difflib.get_close_matches(str(value), choices, n=1)
    return f"; did you mean {near[0]!r}?" if near else ""
