"""Records of one request: what was asked, what its driver stamped, and both as a sample."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

from loadgen.workload_records import Cancel

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Ids: TypeAlias = (
    "Sequence[int] | NDArray[np.int32]"  # token ids; many are an array: no object for each of them
)
FIRST_TOKENS = 16  # of a reply, kept with its sample

Phase = Literal["warmup", "lead_in", "measured", "drain"]


# Not frozen, as Reply and Sample are not: one of each is made for every request, and takes thrice the time frozen.
@dataclass(slots=True, kw_only=True)
class Request:
    """One wire call: ``prompts`` holds the token ids of ``batch_size`` prompts, which ask for ``output_tokens`` each.
    What a text route sends in place of words for these is ``content``, a text or a chat's messages, whose ids nobody
    knows.
    ``keep_ids``: how many token ids of the reply are kept, where the server tells them."""

    seq: int
    phase: Phase
    prompts: tuple[Ids, ...]
    output_tokens: int
    stream: bool = True
    keep_ids: int = FIRST_TOKENS
    content: str | Sequence[Mapping[str, str]] | None = None
    cancel: Cancel | None = None


@dataclass(slots=True, kw_only=True)
class Reply:
    """What a driver stamped of one request.

    ``token_ns`` and ``tokens_per_arrival`` run in parallel: when output tokens came, and how many (over all
    sequences). Without streaming both are empty. ``output_tokens`` counts per sequence, by token ids where the
    server sends them (``counted_by`` = ``ids``), else by its usage figures, else ``None``: chunks are never counted
    as tokens. ``begun_ns`` is when the last of several sequences had its first token, since an engine may begin a batch
    in several steps; ``None`` of one sequence, and where arrivals are not told apart by sequence.
    ``first_answer_ns`` is when a chat's answer itself began, behind any reasoning; ``None`` elsewhere.
    ``cached_tokens`` are those input tokens that the server says it took from a cache of prefixes; ``None``: it says
    nothing. ``coalesced`` counts reads that held more than one chunk, whose earlier arrival times are lost;
    ``lag_ns`` is the largest gap between the kernel's stamp and the read, ``None`` with user-space stamps.
    """

    seq: int
    sent_ns: int
    end_ns: int
    token_ns: tuple[int, ...] = ()
    tokens_per_arrival: tuple[int, ...] = ()
    begun_ns: int | None = None
    first_answer_ns: int | None = None
    output_tokens: tuple[int, ...] | None = None
    counted_by: Literal["ids", "usage"] | None = None
    usage_prompt_tokens: int | None = None
    usage_output_tokens: int | None = None
    cached_tokens: int | None = None
    first_tokens: tuple[int, ...] = ()
    finish: str | None = None
    reads: int = 0
    coalesced: int = 0
    lag_ns: int | None = None
    error: str | None = None


@dataclass(slots=True, kw_only=True)
class Sample:
    """The measured record of one request: what was asked, and what its driver stamped.

    ``session`` is equal for the turns of one conversation. ``offset_ns`` is when its trace had it, on the samples'
    clock: a turn is due then, or when the reply before it has come and its user has thought, whichever is later.
    ``known_tokens`` of the input an endless cache would hold: what the session has sent and received before.
    """

    phase: Phase
    batch_size: int
    input_tokens: int
    output_tokens_asked: int
    due_ns: int | None
    reply: Reply
    session: int | None = None
    offset_ns: int | None = None
    known_tokens: int | None = None

    @property
    def seq(self) -> int:
        """The request's number within its trial, the warm-up counted."""
        return self.reply.seq

    @property
    def error(self) -> str | None:
        """``ClassName: message`` of a failed request; ``None`` of one that came back right."""
        return self.reply.error
