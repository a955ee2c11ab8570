"""The null server's log of when it really sent what: written by its child, read by ``calibrate``. Pure bytes.

A file is ``MAGIC``, then one record per answer: id length, sequences, received_ns, number of writes; the id; for each
write its time and its tokens as two signed 64-bit integers, in the byte order of the machine that both run on.
"""

from __future__ import annotations

import struct
from array import array
from collections.abc import Iterator
from dataclasses import dataclass

MAGIC = b"loadgen-null-1\n"
_HEAD = struct.Struct("=HIqI")


@dataclass(frozen=True, slots=True, kw_only=True)
class Sent:
    """The true send times of one answer, in ns on the host's monotonic clock.

    ``writes_ns`` is taken right before each write that carried tokens; ``tokens`` runs in parallel: the tokens of
    that write over all ``sequences``. Without streaming there is one write, of the whole answer.
    """

    request_id: str
    sequences: int
    received_ns: int
    writes_ns: tuple[int, ...]
    tokens: tuple[int, ...]


def record(request_id: bytes, sequences: int, received_ns: int, writes: array[int]) -> bytes:
    """One answer; ``writes`` (of type code ``q``) alternates time and tokens."""
    return (
        _HEAD.pack(len(request_id), sequences, received_ns, len(writes) // 2) + request_id + writes.tobytes()
    )


def read(data: bytes) -> Iterator[Sent]:
    """The records of a log. Raises ValueError for bytes that are none."""
    if not data.startswith(MAGIC):
        raise ValueError("not a log of the null server")
    at = len(MAGIC)
    while at < len(data):
        if at + _HEAD.size > len(data):
            raise ValueError("the log ends in the middle of a record")
        id_size, sequences, received_ns, count = _HEAD.unpack_from(data, at)
        at += _HEAD.size
        end = at + id_size + count * 16
        if end > len(data):
            raise ValueError("the log ends in the middle of a record")
        writes = array("q", data[at + id_size : end])
        yield Sent(
            request_id=data[at : at + id_size].decode("latin-1"),
            sequences=sequences,
            received_ns=received_ns,
            writes_ns=tuple(writes[0::2]),
            tokens=tuple(writes[1::2]),
        )
        at = end
