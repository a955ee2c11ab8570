"""Records → their fields: type, unit, what null means, what they are; from annotations, docstrings and ``words.py``."""

from __future__ import annotations

import dataclasses
import re
import types
import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from loadgen.schemas.words import MEANING, NULL

UNITS = (
    ("_per_s", "1/s"), ("_s", "s"), ("_seconds", "s"), ("_ns", "ns"), ("_bytes", "bytes"), ("_w", "W"), ("_j", "J"),
    ("_hz", "Hz"), ("_share", "0 to 1"), ("_tokens", "tokens"), ("_cores", "cores"),
)  # fmt: skip
UNIT_OF = {
    "seconds": "s",
    "rate": "1/s",
    "rate_end": "1/s",
    "max_rate": "1/s",
    "share": "0 to 1",
    "within": "0 to 1",
}
# Records of what was asked for, where nothing is measured.
GIVEN = {
    "Trial", "LoadSpec", "ServerSpec", "ModelSpec", "Replay", "Spread", "Objective", "Search", "CapacitySearch",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Field:
    """One field as it is shown. ``null`` is empty for one that is never null."""

    name: str
    kind: str
    unit: str
    null: str
    meaning: str


def records_of(root: type) -> list[type]:
    """The record and all that it holds, each once, in the order of their fields."""
    found: list[type] = []

    def walk(kind: Any) -> None:
        if dataclasses.is_dataclass(kind) and isinstance(kind, type):
            if kind in found:
                return
            found.append(kind)
            hints = typing.get_type_hints(kind)
            for field in dataclasses.fields(kind):
                walk(hints[field.name])
        for part in typing.get_args(kind):
            walk(part)

    walk(root)
    return found


def fields_of(record: type) -> Iterator[Field]:
    """Its stored fields, in order. Raises KeyError for one that neither docstring nor ``words.py`` tells of."""
    hints = typing.get_type_hints(record)
    said = sentences(record.__doc__ or "")
    words = MEANING.get(record.__name__, {})
    for field in dataclasses.fields(record):
        name, hint = field.name, hints[field.name]
        nullable = type(None) in typing.get_args(hint)
        own = [text for text in said if f"`{name}`" in text]
        if not own and name not in words:
            raise KeyError(
                f"{record.__name__}.{name}: name it in its record's docstring, in double backticks"
            )
        meaning = words.get(name, " ".join(own))
        usual = "not set" if record.__name__ in GIVEN else "not measured" if _figure(hint) else "none"
        null = NULL.get(f"{record.__name__}.{name}", usual) if nullable else ""
        yield Field(name, kind_text(hint), unit_of(name, hint), null, meaning)


def _figure(hint: Any) -> bool:
    """Whether a value is something that is measured."""
    return any(
        part in (int, float) or dataclasses.is_dataclass(part) for part in (hint, *typing.get_args(hint))
    )


def sentences(docstring: str) -> list[str]:
    """A docstring's sentences, as they are shown."""
    return re.split(r"(?<=\.) ", " ".join(docstring.split()).replace("``", "`"))


def about(record: type) -> str:
    """What a docstring says of the record as a whole: its sentences that name none of its fields."""
    names = [f"`{field.name}`" for field in dataclasses.fields(record)]
    return " ".join(
        text for text in sentences(record.__doc__ or "") if not any(name in text for name in names)
    )


def unit_of(name: str, hint: Any) -> str:
    """The unit that a field's name holds; none where it has none."""
    if not _figure(hint) and Mapping not in (
        typing.get_origin(hint),
        *map(typing.get_origin, typing.get_args(hint)),
    ):
        return "ns" if name.endswith("_ns") else ""
    if name in UNIT_OF:  # whole names, which a record may have, too
        return UNIT_OF[name] if {int, float} & {hint, *typing.get_args(hint)} else ""
    return next((unit for suffix, unit in UNITS if name.endswith(suffix)), "")


def kind_text(hint: Any) -> str:
    """A type as JSON and Parquet have it, without its null."""
    origin, parts = (
        typing.get_origin(hint),
        [part for part in typing.get_args(hint) if part is not type(None)],
    )
    if origin in (typing.Union, types.UnionType):
        return " or ".join(dict.fromkeys(map(kind_text, parts)))
    if origin is typing.Literal:
        return ", ".join(f"`{part}`" for part in parts)
    if origin is tuple:
        if len(parts) == 2 and parts[1] is Ellipsis:
            return f"list of {kind_text(parts[0])}"
        return f"list: {', '.join(map(kind_text, parts))}"
    if origin is not None:  # a Mapping
        return f"object of {kind_text(parts[1])}"
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        return f"[{hint.__name__}](#{hint.__name__.lower()})"
    return {int: "integer", float: "number", str: "text", bool: "true, false", object: "any"}[hint]
