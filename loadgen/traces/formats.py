"""Readers of the formats that public traces have, each by its name or recognised by its first line.

| name | file | time | blocks |
|---|---|---|---|
| ``loadgen`` | JSON lines: offset_s, input_tokens, output_tokens, and session, think_s | s from the start | – |
| ``azure`` | CSV: TIMESTAMP, ContextTokens, GeneratedTokens (Azure's LLM traces, 2023 and 2024) | date, UTC | – |
| ``burstgpt`` | CSV: Timestamp, Model, Request tokens, Response tokens, …; Session ID in its third release | s | – |
| ``mooncake`` | JSON lines: timestamp, input_length, output_length, hash_ids; session_id, delay | ms | 512 tokens |
| ``bailian`` | the same, chat_id and parent_chat_id (Qwen-Bailian) | s | 16 tokens |
"""

from __future__ import annotations

import math
import re
from calendar import timegm
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from time import strptime

from loadgen.errors import BadInput
from loadgen.traces.rows import (
    KEYS,
    LONGEST_S,
    TraceRow,
    count,
    hash_of,
    json_object,
    parse_row,
    session_of,
)
from loadgen.units import NS_PER_S

FORMATS = ("loadgen", "azure", "burstgpt", "mooncake", "bailian")
BLOCK_TOKENS = {"mooncake": 512, "bailian": 16}
BOM = b"\xef\xbb\xbf"
_STAMP = re.compile(rb"(\d{4}-\d\d-\d\d)[ T](\d\d):(\d\d):(\d\d)(?:\.(\d{1,9}))?(?:Z|[+]00:?00)?")
Parse = Callable[[bytes, str], TraceRow]


@dataclass(frozen=True, slots=True, kw_only=True)
class Reader:
    """How lines become rows. ``header``: the first line holds the names of columns. ``strict``: rows are in order, and
    all are requests. ``rebased``: times count from the first row, and not from a start of their own."""

    format: str
    parse: Parse
    header: bool = False
    strict: bool = False
    rebased: bool = True
    block_tokens: int | None = None


def reader_of(
    first_line: bytes, name: str, wanted: str | None = None, block_tokens: int | None = None
) -> Reader:
    """The reader of a file that begins with a line. ``block_tokens``: in place of the format's own.

    Raises BadInput, which begins with ``name``, for a format that is neither known nor recognised.
    """
    if wanted is not None and wanted not in FORMATS:
        raise BadInput(f"{name}: format = {wanted!r} (accepted: {', '.join(FORMATS)})")
    found = wanted or _recognised(first_line, name)
    if found == "loadgen":
        return Reader(format=found, parse=parse_row, strict=True, rebased=False)
    if found in ("azure", "burstgpt"):
        make = _azure if found == "azure" else _burstgpt
        return Reader(format=found, parse=make(_columns(first_line), f"{name}: line 1"), header=True)
    size = block_tokens or BLOCK_TOKENS[found]
    unit_ns = NS_PER_S if found == "bailian" else NS_PER_S // 1000
    return Reader(format=found, parse=_hashed(size, unit_ns), block_tokens=size)


def _recognised(line: bytes, name: str) -> str:
    if line.removeprefix(BOM).lstrip()[:1] in (b"{", b"["):
        keys = json_object(line, f"{name}: line 1", KEYS).keys()
        for format_, needed in (
            ("bailian", {"chat_id", "input_length"}),
            ("mooncake", {"timestamp", "input_length"}),
        ):
            if needed <= keys:
                return format_
        return "loadgen"
    columns = _columns(line)
    for format_, column in (("azure", "contexttokens"), ("burstgpt", "request tokens")):
        if column in columns:
            return format_
    return "loadgen"  # whose error tells what is accepted


def _columns(line: bytes) -> list[str]:
    text = line.removeprefix(BOM).decode("utf-8", "replace")
    return [column.strip().strip('"').lower() for column in text.split(",")]


def _places(columns: list[str], names: tuple[str, ...], where: str) -> list[int]:
    missing = [name for name in names if name not in columns]
    if missing:
        raise BadInput(f"{where}: no column {missing[0]!r} (accepted: a header with {', '.join(names)})")
    return [columns.index(name) for name in names]


def _cells(line: bytes, last: int, where: str) -> list[bytes]:
    cells = line.split(b",")
    if len(cells) <= last:
        raise BadInput(f"{where}: {len(cells)} columns (accepted: {last + 1} or more)")
    return cells


def _number(cell: bytes, column: str, where: str) -> int:
    text = cell.strip()
    if not text.isdigit() or len(text) > 9:
        raise BadInput(f"{where}: {column} = {_shown(cell)} (accepted: a whole number of 0 or more)")
    return int(text)


def _shown(cell: bytes) -> str:
    return repr(cell.strip().decode("utf-8", "replace")[:40])


def _azure(columns: list[str], where: str) -> Parse:
    stamp, context, generated = _places(columns, ("timestamp", "contexttokens", "generatedtokens"), where)
    last = max(stamp, context, generated)

    def parse(line: bytes, where: str) -> TraceRow:
        cells = _cells(line, last, where)
        at_ns = _instant(cells[stamp], where)
        lengths = (
            _number(cells[context], "ContextTokens", where),
            _number(cells[generated], "GeneratedTokens", where),
        )
        return TraceRow(at_ns, *lengths)

    return parse


def _instant(cell: bytes, where: str) -> int:
    """A date and time of day in UTC as ns; its seven fractional digits are more than datetime takes."""
    found = _STAMP.fullmatch(cell.strip())
    if found is None:
        raise BadInput(f"{where}: TIMESTAMP = {_shown(cell)} (accepted: such as 2023-11-16 18:17:03.9799600)")
    day, *clock, fraction = found.groups()
    hour, minute, second = map(int, clock)
    try:
        day_s = _day(day)
    except ValueError:
        raise BadInput(f"{where}: TIMESTAMP = {_shown(cell)}: no such day") from None
    if hour > 23 or minute > 59 or second > 60:  # 60: a leap second
        raise BadInput(f"{where}: TIMESTAMP = {_shown(cell)}: no such time of day")
    whole_s = day_s + hour * 3600 + minute * 60 + second
    return whole_s * NS_PER_S + int((fraction or b"0").ljust(9, b"0"))


@lru_cache(maxsize=64)
def _day(day: bytes) -> int:
    return timegm(strptime(day.decode(), "%Y-%m-%d"))


def _burstgpt(columns: list[str], where: str) -> Parse:
    stamp, asked, given = _places(columns, ("timestamp", "request tokens", "response tokens"), where)
    session = columns.index("session id") if "session id" in columns else None
    last = max(stamp, asked, given)

    def parse(line: bytes, where: str) -> TraceRow:
        cells = _cells(line, last, where)
        try:
            at_s = float(cells[stamp])
        except ValueError:
            at_s = math.nan
        lengths = (
            _number(cells[asked], "Request tokens", where),
            _number(cells[given], "Response tokens", where),
        )
        named = cells[session].strip() if session is not None and session < len(cells) else b""
        return TraceRow(_offset(at_s, 1.0, "Timestamp", where), *lengths, hash_of(named) if named else None)

    return parse


def _offset(value: object, unit_s: float, key: str, where: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value * unit_s < LONGEST_S:
        raise BadInput(f"{where}: {key} = {value!r} (accepted: a time of 0 or more)")
    return round(value * (NS_PER_S * unit_s))


def _hashed(size: int, unit_ns: int) -> Parse:
    keys = ("timestamp", "input_length", "output_length", "hash_ids")
    unit_s = unit_ns / NS_PER_S
    roots: dict[int, int] = {}  # of Bailian's chats: the first one of each conversation

    def parse(line: bytes, where: str) -> TraceRow:
        row = json_object(line, where, keys)
        stamp = row.get("timestamp")
        if type(stamp) is int and 0 <= stamp * unit_s < LONGEST_S:
            at_ns = stamp * unit_ns  # exact, where floats would round
        else:
            at_ns = _offset(stamp, unit_s, "timestamp", where)
        asked, given = (count(row.get(key), key, where) for key in ("input_length", "output_length"))
        blocks = row.get("hash_ids", [])
        if not isinstance(blocks, list) or not all(
            block.__class__ is int and 0 <= block < 2**64 for block in blocks
        ):
            raise BadInput(f"{where}: hash_ids is no list of whole numbers (accepted: 0 to 2^64 - 1)")
        if blocks and len(blocks) != -(-asked // size):
            raise BadInput(
                f"{where}: {len(blocks)} hash_ids for input_length = {asked}: their blocks are not of {size} "
                "tokens (accepted: another block_tokens)"
            )
        think_ns = _offset(row.get("delay") or 0, unit_s, "delay", where)
        return TraceRow(at_ns, asked, given, _session(row, roots, where), tuple(blocks), think_ns)

    return parse


def _session(row: dict[str, object], roots: dict[int, int], where: str) -> int | None:
    chat, parent = row.get("chat_id"), row.get("parent_chat_id", -1)
    if not isinstance(chat, int):
        return session_of(row.get("session_id"), "session_id", where)
    root = roots.get(parent, parent) if isinstance(parent, int) and parent >= 0 else chat
    if root != chat:
        roots[chat] = root  # first ones stand for themselves, so that these take no memory
    return session_of(root, "chat_id", where)
