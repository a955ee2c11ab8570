"""The queue of framework ``null``: an engine's iterations without an engine. Pure: whoever runs it keeps the clock.

Sequences wait in the order in which they came for one of ``slots`` places. A step takes every sequence in place one
token further; it lasts ``step_ns``, ``sequence_ns`` for each of them, and ``prompt_ns`` for each prompt token of those
that begin in it. Steps follow one another while there is work, by their own lengths and whatever the clock of the
machine does: so capacity is known, and can be simulated.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Hashable
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)


class Queue(Generic[Key]):
    """``ends_ns`` is when the running step ends, ``None`` while there is nothing to do; ``steps`` have ended."""

    def __init__(self, *, slots: int, step_ns: int, sequence_ns: int, prompt_ns: int) -> None:
        self._free, self._step_ns, self._sequence_ns, self._prompt_ns = slots, step_ns, sequence_ns, prompt_ns
        self._waiting: deque[tuple[Key, int, int, int]] = deque()
        self._serial = 0
        # (last step, serial, key, sequences) of what is in place
        self._placed: list[tuple[int, int, Key, int]] = []
        self._at_work = 0
        self._begun: list[Key] = []  # in the running step
        self.steps = 0
        self.ends_ns: int | None = None

    def add(self, key: Key, now_ns: int, *, tokens: int, prompt_tokens: int, sequences: int = 1) -> None:
        """A request comes: so many output tokens for each of its sequences, of which no more than ``slots`` are."""
        self._waiting.append((key, tokens, prompt_tokens, sequences))
        if self.ends_ns is None:
            self._begin(now_ns)

    def end_step(self) -> tuple[list[Key], list[Key]]:
        """End the running step and begin the next: who got a first token by it, and who the last."""
        assert self.ends_ns is not None, "no step is running"
        started, self._begun = self._begun, []
        self.steps += 1
        ended = []
        while self._placed and self._placed[0][0] <= self.steps:
            _, _, key, sequences = heapq.heappop(self._placed)
            self._free += sequences
            self._at_work -= sequences
            ended.append(key)
        self._begin(self.ends_ns)
        return started, ended

    def _begin(self, now_ns: int) -> None:
        prompts = 0
        while self._waiting and self._waiting[0][3] <= self._free:
            key, tokens, prompt_tokens, sequences = self._waiting.popleft()
            self._free -= sequences
            self._at_work += sequences
            self._serial += 1
            heapq.heappush(self._placed, (self.steps + tokens, self._serial, key, sequences))
            prompts += prompt_tokens
            self._begun.append(key)
        if not self._placed:
            self.ends_ns = None
            return
        self.ends_ns = now_ns + self._step_ns + self._sequence_ns * self._at_work + self._prompt_ns * prompts
