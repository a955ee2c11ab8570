"""Pipes between rank 0 and the other ranks of one server: calls one way, what came of them the other.

A rank that waits sleeps in ``read`` instead of spinning in a collective, needs no time-out, and leaves when rank 0 is
gone: the end of the pipe tells it.
"""

from __future__ import annotations

import array
import os
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

_CALL = struct.Struct("<QIII")  # number, sequences, tokens to make, tokens in all prompts
_OUTCOME = struct.Struct("<QI")  # number, checksum of the tokens made


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One static batch: each prompt is continued by exactly ``new_tokens``."""

    number: int
    prompts: tuple[tuple[int, ...], ...]
    new_tokens: int


class Leader:
    """Rank 0's ends: (write, read) descriptors per follower."""

    def __init__(self, pairs: Sequence[tuple[int, int]]) -> None:
        self._down = [os.fdopen(down, "wb", buffering=0) for down, _ in pairs]
        self._up = [os.fdopen(up, "rb") for _, up in pairs]

    def send(self, call: Call) -> None:
        """Hand a call to every follower."""
        lengths = array.array("I", map(len, call.prompts))
        ids = array.array("I", [token for prompt in call.prompts for token in prompt])
        head = _CALL.pack(call.number, len(call.prompts), call.new_tokens, len(ids))
        frame = memoryview(head + lengths.tobytes() + ids.tobytes())
        for pipe in self._down:
            sent = 0
            while sent < len(frame):  # a raw pipe may take a part of it
                sent += pipe.write(frame[sent:]) or 0

    def outcomes(self, number: int) -> list[int]:
        """Every follower's checksum of a call, or of number 0: that it is ready. Raises EOFError when one is gone."""
        found = []
        for rank, pipe in enumerate(self._up, start=1):
            answered, checksum = _OUTCOME.unpack(_exactly(pipe, _OUTCOME.size, f"rank {rank}"))
            if answered != number:
                raise RuntimeError(f"rank {rank} answered call {answered}, not {number}")
            found.append(checksum)
        return found

    def close(self) -> None:
        """Tell the followers to leave."""
        for pipe in (*self._down, *self._up):
            pipe.close()


class Follower:
    """A further rank's ends."""

    def __init__(self, down: int, up: int) -> None:
        self._down = os.fdopen(down, "rb")
        self._up = os.fdopen(up, "wb", buffering=0)

    def ready(self) -> None:
        """Tell rank 0 that this rank can take calls."""
        self.answer(0, 0)

    def answer(self, number: int, checksum: int) -> None:
        self._up.write(_OUTCOME.pack(number, checksum))

    def calls(self) -> Iterator[Call]:
        """Calls until rank 0 closes its end."""
        while head := self._down.read(_CALL.size):
            number, sequences, new_tokens, tokens = _CALL.unpack(head)
            lengths = array.array("I", _exactly(self._down, 4 * sequences, "rank 0"))
            ids = array.array("I", _exactly(self._down, 4 * tokens, "rank 0")).tolist()
            prompts, at = [], 0
            for length in lengths:
                prompts.append(tuple(ids[at : at + length]))
                at += length
            yield Call(number=number, prompts=tuple(prompts), new_tokens=new_tokens)

    def wait(self) -> None:
        """Return when rank 0 closes its end."""
        while self._down.read(1):
            continue

    def close(self) -> None:
        """Leave: rank 0 finds that this rank is gone."""
        self._down.close()
        self._up.close()


def _exactly(pipe: object, size: int, who: str) -> bytes:
    data: bytes = pipe.read(size)  # type: ignore[attr-defined]
    if len(data) < size:
        raise EOFError(f"{who} is gone")
    return data
