"""An engine that runs static batches in step on all ranks: rank 0 hands each batch on, and compares what came of it."""

from __future__ import annotations

import time
import zlib
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch

from loadgen.records import ServerSpec
from loadgen.servers._ds.batches import OnTokens, StaticBatches
from loadgen.servers._ds.channel import Call, Follower, Leader
from loadgen.servers._ds.text import text_of
from loadgen.servers._torch.memory import Figures, Memory

REPLIES_LEAVE_S = 0.5


class Decoder(Protocol):
    """Greedy tokens [batch, n] on the CPU, the same on every rank."""

    def generate(self, prompts: Sequence[Sequence[int]], n: int, on_tokens: OnTokens | None) -> torch.Tensor:
        """``n`` greedy tokens after each prompt; ``on_tokens`` is given a step's tokens, one a sequence, as it
        ends.
        """

    kv_block_tokens: int
    """The cache of a sequence is made in multiples of so many tokens."""

    def weight_bytes(self) -> int:
        """Bytes of the weights that this rank holds."""

    def cache(self) -> Sequence[torch.Tensor]:
        """The key/value cache of the last batch; nothing when it is not known."""


class Static:
    """See ``place.Rank``."""

    def __init__(self, decoder: Decoder, spec: ServerSpec, memory: Memory, *, equal: bool) -> None:
        """``equal``: the engine takes only batches whose prompts have one length."""
        self._decoder, self._spec, self._memory, self._equal = decoder, spec, memory, equal
        self._number = 0
        self._leader: Leader | None = None

    def lead(self, leader: Leader) -> StaticBatches:
        """Rank 0: the pipeline that MII's service calls, one batch at a time on all ranks."""
        self._leader = leader
        spec = self._spec
        return StaticBatches(
            self._run,
            text_of(spec.model.checkpoint, spec.model.vocab),
            max_context=spec.model.max_context,
            max_batch=spec.max_batch,
            equal=self._equal,
            fatal=lambda _error: time.sleep(REPLIES_LEAVE_S),
            # Alone, a rank can free its memory and go on; with others, nobody knows where those stand.
            recoverable=(torch.OutOfMemoryError,) if spec.tp == 1 else (),
        )

    def follow(self, follower: Follower) -> None:
        """Another rank: run each call that rank 0 sends, and answer with its checksum."""
        follower.ready()
        for call in follower.calls():
            tokens = self._generate(call.prompts, call.new_tokens, None)
            follower.answer(call.number, _checksum(tokens), self._memory.figures())

    def check(self, ask: Callable[[int], str]) -> None:
        """Ranks compare their tokens after every batch; the injected kernels were checked when they were built."""

    def facts(self) -> dict[str, Any]:
        """What ``/info`` tells of the engine."""
        return {
            "weight_bytes": self._decoder.weight_bytes(),
            "kv_block_tokens": self._decoder.kv_block_tokens,
            "scheduling": "one call at a time, first in first out",
        }

    def memory(self) -> Figures:
        """Peaks are those of the last batch."""
        return {**self._memory.figures(), **(self._leader.memory if self._leader else {})}

    begin_memory = None

    def _generate(self, prompts: Sequence[Sequence[int]], n: int, on_tokens: OnTokens | None) -> torch.Tensor:
        self._memory.begin()
        tokens = self._decoder.generate(prompts, n, on_tokens)
        self._memory.used(self._decoder.cache())
        return tokens

    def _run(self, prompts: Sequence[Sequence[int]], n: int, on_tokens: OnTokens | None) -> list[list[int]]:
        assert self._leader is not None
        self._number += 1
        self._leader.send(Call(number=self._number, prompts=tuple(map(tuple, prompts)), new_tokens=n))
        try:
            tokens = self._generate(prompts, n, on_tokens)
        except torch.OutOfMemoryError:
            torch.cuda.empty_cache()
            raise
        mine = _checksum(tokens)
        for rank, theirs in enumerate(self._leader.outcomes(self._number), start=1):
            if theirs != mine:
                raise RuntimeError(f"rank {rank} generated other tokens than rank 0: their sums disagree")
        answers: list[list[int]] = tokens.tolist()
        return answers


def _checksum(tokens: torch.Tensor) -> int:
    return zlib.crc32(tokens.numpy().tobytes())
