"""Pipes between rank 0 and the other ranks of one server: calls one way, what came of them the other.

A rank that waits sleeps in ``read`` instead of spinning in a collective, needs no time-out, and leaves when rank 0 is
gone: the end of the pipe tells it.
"""

from __future__ import annotations

import array
import json
import os
import struct
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from loadgen.servers._torch.memory import Figures, Memory

_CALL = struct.Struct("<QIII")  # number, sequences, tokens to make, tokens in all prompts
_OUTCOME = struct.Struct("<QII")  # number, checksum of the tokens made, bytes of the memory figures behind it
_TELL, _ANEW = b"t", b"a"  # what a rank that takes no calls can be asked


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One static batch: each prompt is continued by exactly ``new_tokens``."""

    number: int
    prompts: tuple[tuple[int, ...], ...]
    new_tokens: int


class Leader:
    """Rank 0's ends: (write, read) descriptors per follower. ``memory`` is what the followers last told of theirs."""

    def __init__(self, pairs: Sequence[tuple[int, int]]) -> None:
        self._down = [os.fdopen(down, "wb", buffering=0) for down, _ in pairs]
        self._up = [os.fdopen(up, "rb") for _, up in pairs]
        self._asking = threading.Lock()
        self.memory: Figures = {}

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
            answered, checksum, size = _OUTCOME.unpack(_exactly(pipe, _OUTCOME.size, f"rank {rank}"))
            self.memory.update(json.loads(_exactly(pipe, size, f"rank {rank}")))
            if answered != number:
                raise RuntimeError(f"rank {rank} answered call {answered}, not {number}")
            found.append(checksum)
        return found

    def ask_memory(self, *, anew: bool = False) -> None:
        """Have ranks that take no calls tell their memory; with ``anew`` they count their peaks anew first."""
        with self._asking:
            for pipe in self._down:
                pipe.write(_ANEW if anew else _TELL)
            self.outcomes(0)

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
        self.answer(0, 0, {})

    def answer(self, number: int, checksum: int, memory: Figures) -> None:
        """Tell rank 0 that call ``number`` is done, with a checksum of its tokens and this rank's memory."""
        told = json.dumps(memory).encode()
        self._up.write(_OUTCOME.pack(number, checksum, len(told)) + told)

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

    def wait(self, memory: Memory) -> None:
        """Tell ``memory`` when asked; return when rank 0 closes its end."""
        while asked := self._down.read(1):
            if asked == _ANEW:
                memory.begin()
            self.answer(0, 0, memory.figures())

    def close(self) -> None:
        """Leave: rank 0 finds that this rank is gone."""
        self._down.close()
        self._up.close()


def _exactly(pipe: object, size: int, who: str) -> bytes:
    data: bytes = pipe.read(size)  # type: ignore[attr-defined]
    if len(data) < size:
        raise EOFError(f"{who} is gone")
    return data
