"""One request of a trace, whatever its format, and loadgen's own format.

That is one JSON object a line: ``{"offset_s": 0.25, "input_tokens": 128, "output_tokens": 64}``, in order; requests of
one conversation have a ``session`` (a whole number or a text) in common, and may have a ``think_s`` behind the reply
before them. What it does not allow is an error; readers of formats of others leave out what those hold besides requests
that were served.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from typing import NamedTuple

from loadgen.errors import BadInput
from loadgen.units import NS_PER_S

KEYS = ("offset_s", "input_tokens", "output_tokens")
LONGEST_S = 1e9  # of a trace's own clock
LATEST_S = 4e9  # of a replay: in nanoseconds, on a clock that has run for some, it still fits 63 bits


class TraceRow(NamedTuple):
    """One request: when it came, in ns, and its lengths in tokens. ``session`` is equal for requests of one
    conversation, whose turns come ``think_ns`` behind the reply before them, or later; ``blocks`` name the pieces that
    its prompt is made of, each the same wherever it stands."""

    offset_ns: int
    input_tokens: int
    output_tokens: int
    session: int | None = None
    blocks: tuple[int, ...] = ()
    think_ns: int = 0


def parse_row(line: bytes | str, where: str) -> TraceRow:
    """A line of loadgen's own format. Raises BadInput that begins with ``where``."""
    row = json_object(line, where, KEYS)
    offset_s = row.get("offset_s")
    if isinstance(offset_s, bool) or not isinstance(offset_s, int | float) or not 0 <= offset_s < LONGEST_S:
        raise BadInput(f"{where}: offset_s = {offset_s!r} (accepted: seconds from the start, 0 or more)")
    asked, given = (count(row.get(key), key, where, least=1) for key in ("input_tokens", "output_tokens"))
    think_s = row.get("think_s", 0)
    if isinstance(think_s, bool) or not isinstance(think_s, int | float) or not 0 <= think_s < LONGEST_S:
        raise BadInput(
            f"{where}: think_s = {think_s!r} (accepted: seconds behind the reply before, 0 or more)"
        )
    session = session_of(row.get("session"), "session", where)
    return TraceRow(round(offset_s * NS_PER_S), asked, given, session, (), round(think_s * NS_PER_S))


def session_of(value: object, key: str, where: str) -> int | None:
    """A conversation's name as a number below 2^63; ``None`` without one. Raises BadInput."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise BadInput(f"{where}: {key} = {value!r} (accepted: a whole number or a text)")
    if isinstance(value, int) and 0 <= value < 2**63:
        return value
    return hash_of(str(value).encode("utf-8", "replace"))


def hash_of(text: bytes) -> int:
    """63 bits that are equal for equal texts on any machine."""
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big") >> 1


def json_object(line: bytes | str, where: str, keys: Iterable[str]) -> dict[str, object]:
    """A line that holds one JSON object. Raises BadInput for another."""
    try:
        row = json.loads(line)  # of bytes: a byte order mark is passed over
    except (ValueError, RecursionError) as error:
        raise BadInput(f"{where}: not JSON: {error}") from None
    if not isinstance(row, dict):
        raise BadInput(f"{where}: not an object (accepted: {', '.join(keys)})")
    return row


def count(value: object, key: str, where: str, *, least: int = 0) -> int:
    """A number of tokens. Raises BadInput for anything else."""
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value < 2**31:
        raise BadInput(f"{where}: {key} = {value!r} (accepted: a whole number of {least} or more)")
    return value
