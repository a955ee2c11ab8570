"""loadgen's own trace format, one JSON object a line: ``{"offset_s": 0.25, "input_tokens": 128, "output_tokens": 64}``.

A reader of another format yields the same rows and raises the same error: the file, the line, what was accepted.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from loadgen.errors import BadInput
from loadgen.units import NS_PER_S

KEYS = ("offset_s", "input_tokens", "output_tokens")
LONGEST_S = 1e9  # in nanoseconds it still fits 63 bits


class TraceRow(NamedTuple):
    """One request: when it came, in ns from the start of the trace, and its lengths in tokens."""

    offset_ns: int
    input_tokens: int
    output_tokens: int


def parse_trace(lines: Iterable[str | bytes], name: str) -> Iterator[TraceRow]:
    """The rows of a trace, in order, a line at a time; blank lines are passed over.

    Raises BadInput that begins with ``name`` and the line's number for malformed rows and for offsets that fall.
    """
    last_ns = 0
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        where = f"{name}: line {number}"
        try:
            row = json.loads(line)  # of bytes: a byte order mark is passed over
        except (ValueError, RecursionError) as error:
            raise BadInput(f"{where}: not JSON: {error}") from None
        if not isinstance(row, dict):
            raise BadInput(f"{where}: not an object (accepted: {', '.join(KEYS)})")
        offset_s = row.get("offset_s")
        if (
            isinstance(offset_s, bool)
            or not isinstance(offset_s, int | float)
            or not 0 <= offset_s < LONGEST_S
        ):
            raise BadInput(f"{where}: offset_s = {offset_s!r} (accepted: seconds from the start, 0 or more)")
        offset_ns = round(offset_s * NS_PER_S)
        if offset_ns < last_ns:
            raise BadInput(
                f"{where}: offset_s = {offset_s!r} is before the line above it (accepted: in order)"
            )
        last_ns = offset_ns
        yield TraceRow(offset_ns, _count(row, "input_tokens", where), _count(row, "output_tokens", where))


def _count(row: dict[str, object], key: str, where: str) -> int:
    value = row.get(key)
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise BadInput(f"{where}: {key} = {value!r} (accepted: a whole number of 1 or more)")
    return value
