"""Trace files on disk: opened alike by plan and load, and what a plan must know of one."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO

from loadgen.errors import BadInput
from loadgen.traces.rows import parse_trace


@dataclass(frozen=True, slots=True, kw_only=True)
class TraceExtent:
    """How far a trace reaches: its longest input and output in tokens, its requests, and a hash of its content.

    The two lengths may be of different requests. ``digest`` (16 hex digits) goes into a trial's id in place of the
    path, so that a moved file is the same load.
    """

    input_tokens: int
    output_tokens: int
    requests: int
    digest: str


@contextmanager
def open_trace(path: str) -> Iterator[IO[bytes]]:
    """The file's lines, as bytes. Raises BadInput for a file that cannot be opened or read while it is open."""
    try:
        with open(path, "rb") as lines:
            yield lines
    except OSError as error:
        raise BadInput(f"{path}: cannot be read: {error.strerror or error}") from None


def measure_trace(path: str) -> TraceExtent:
    """Read a whole trace as it will be sent, in the memory of one row.

    Raises BadInput, with the file and the line, for all that would end the trial later, and for a trace without a row.
    """
    digest = hashlib.sha256()
    requests = input_tokens = output_tokens = 0

    def hashed(lines: IO[bytes]) -> Iterator[bytes]:
        for line in lines:
            digest.update(line)
            yield line

    with open_trace(path) as lines:
        for row in parse_trace(hashed(lines), path):
            requests += 1
            input_tokens = max(input_tokens, row.input_tokens)
            output_tokens = max(output_tokens, row.output_tokens)
    if not requests:
        raise BadInput(f"{path}: holds no request")
    return TraceExtent(
        input_tokens=input_tokens,
        output_tokens=output_tokens,
        requests=requests,
        digest=digest.hexdigest()[:16],
    )
