"""The steps of text-generation-inference's shards, read in order and counted. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from loadgen.drivers.tgi_messages import DecodeError, message
from loadgen.errors import BadReply

FIRST_TOKENS = 16
REASONS = ("length", "eos_token", "stop_sequence")
Step: Any = message("Step")


class Answer:
    """A batch's steps, read in order."""

    def __init__(self, sequences: int) -> None:
        self.counts = [0] * sequences
        self.ends: dict[int, int] = {}  # sequence → finish reason
        self.token_ns: list[int] = []
        self.tokens: list[int] = []
        self.first: list[int] = []
        self.begun_ns: int | None = None

    def take(self, at_ns: int, answers: Sequence[bytes]) -> None:
        """Read one step. Raises BadReply for what is none."""
        new = 0
        begun = all(self.counts)
        for answer in answers:
            for generation in step_of(answer).generations:
                place, ids = generation.request_id, generation.tokens.ids
                if place >= len(self.counts) or place in self.ends:
                    raise BadReply(f"tokens of sequence {place}, which is not in the batch, or has ended")
                self.counts[place] += len(ids)
                new += len(ids)
                if place == 0 and len(self.first) < FIRST_TOKENS:
                    self.first += ids[: FIRST_TOKENS - len(self.first)]
                if generation.HasField("generated_text"):
                    told = generation.generated_text
                    self.ends[place] = told.finish_reason
                    if told.generated_tokens != self.counts[place]:
                        raise BadReply(
                            f"sequence {place}: {self.counts[place]} tokens came, and the shard counts "
                            f"{told.generated_tokens}"
                        )
        if new:
            self.token_ns.append(at_ns)
            self.tokens.append(new)
        if not begun and all(self.counts) and len(self.counts) > 1:
            self.begun_ns = at_ns

    @property
    def finish(self) -> str | None:
        """Why its sequences ended, each reason once."""
        reasons = {REASONS[min(reason, len(REASONS) - 1)] for reason in self.ends.values()}
        return ",".join(sorted(reasons)) or None

    def conclude(self) -> None:
        """The answer is whole. Raises BadReply for one that is not."""
        if len(self.ends) < len(self.counts):
            raise BadReply(
                f"{len(self.counts) - len(self.ends)} of {len(self.counts)} sequences have no end: the batch is gone"
            )


def step_of(answer: bytes) -> Any:
    """A step's message. Raises BadReply for what is none."""
    try:
        return Step.FromString(answer)
    except DecodeError as error:
        raise BadReply(f"not a step of a shard's ({len(answer)} bytes): {error}") from None
