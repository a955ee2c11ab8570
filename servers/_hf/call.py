"""One call under way: what each sequence has so far, when it ends, and when to stop early."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from loadgen.servers._hf.requests import Call


class Cancelled(Exception):
    """The client went away; raised inside an engine to leave its loop."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """What one decode step gave: (sequence, token, finish reason or None) of the sequences still growing."""

    tokens: tuple[tuple[int, int, str | None], ...]


class StopWord(Protocol):
    """Memory shared by all ranks, telling after which step of which call all must stop."""

    def set(self, call: int, step: int) -> None:
        """Say that call number ``call`` ends after ``step``."""

    def get(self, call: int) -> int | None:
        """The step after which ``call`` ends; ``None`` while nobody said so."""


class Run:
    """Follows one call step by step on one rank; engines report each step and obey the answer.

    Ranks must leave their loops after the same step, or the next collective would hang. All of them see the same
    tokens, so they agree on ends of sequences. A cancellation is known to rank 0 alone: it names a step that it has
    not launched yet, hence one that no rank can have finished, and every rank stops after that one.
    """

    def __init__(
        self,
        call: Call,
        eos: frozenset[int],
        *,
        number: int = 0,
        word: StopWord | None = None,
        cancelled: Callable[[], bool] = lambda: False,
        on_step: Callable[[Step], None] = lambda step: None,
    ) -> None:
        self.call = call
        self.eos = frozenset() if call.ignore_eos else eos
        self.tokens: list[list[int]] = [[] for _ in call.prompts]
        self.finish: list[str | None] = [None for _ in call.prompts]
        self.steps = 0
        self._number, self._word, self._cancelled, self._on_step = number, word, cancelled, on_step
        self._told = False

    def step(self, tokens: Sequence[int], launched: int) -> bool:
        """Take one step's tokens, one per sequence; ``launched`` steps are on their way or done. False: stop.

        Raises Cancelled when the call is to be dropped.
        """
        self.steps += 1
        self.grow(enumerate(tokens))
        self._check_cancelled(launched)
        return None in self.finish

    def grow(self, tokens: Iterable[tuple[int, int]]) -> None:
        """Add (sequence, token) pairs; those of sequences that have ended are padding, and dropped."""
        grown = []
        for i, token in tokens:
            if self.finish[i] is None:
                self.tokens[i].append(token)
                if token in self.eos:
                    self.finish[i] = "stop"
                elif len(self.tokens[i]) == self.call.max_tokens:
                    self.finish[i] = "length"
                grown.append((i, token, self.finish[i]))
        self._on_step(Step(tokens=tuple(grown)))

    def _check_cancelled(self, launched: int) -> None:
        if self._word is None:
            if self._cancelled():
                raise Cancelled
            return
        if not self._told and self._cancelled():
            self._word.set(self._number, launched + 1)
            self._told = True
        last = self._word.get(self._number)
        if last is not None and self.steps >= last:
            raise Cancelled
