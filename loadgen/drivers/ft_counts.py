"""How many tokens a FasterTransformer answer holds: what its two tensors mean, in both variants.

``output_ids`` [rows, beams, width] is each prompt, then what was generated, then end ids. ``sequence_length`` [rows,
beams] is, in variant a, the padded input width plus the generated tokens (also for a row with a shorter prompt), in
variant b the generated tokens alone. Requests that the server merged keep the width of the merged batch, which the
client does not know: then only the ids tell.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from loadgen.errors import BadReply
from loadgen.request_records import Ids, Reply, Request

VARIANTS = ("a", "b")


@dataclass(frozen=True, slots=True, kw_only=True)
class Meaning:
    """How to count. ``end_id`` is one that no model can sample, or None when the model's own may end a row."""

    variant: str = "a"
    end_id: int | None = None
    merged: bool = False


@dataclass(frozen=True, slots=True)
class Tensors:
    """The outputs of one response, beam 0 of each row: ids per row, and sequence_length."""

    rows: list[array[int]]
    lengths: list[int]


def tensors(
    ids_shape: Sequence[int], ids: array[int], lengths_shape: Sequence[int], lengths: array[int]
) -> Tensors:
    """Cut the flat contents of [rows, beams, width] and [rows, beams]. Raises BadReply when they do not fit."""
    if len(ids_shape) != 3 or len(lengths_shape) != 2:
        raise BadReply(
            f"output_ids {list(ids_shape)}, sequence_length {list(lengths_shape)}: 3 and 2 dimensions expected"
        )
    rows, beams, width = ids_shape
    if len(ids) != rows * beams * width or len(lengths) != rows * beams or not beams:
        raise BadReply(
            f"output_ids {list(ids_shape)} came with {len(ids)} ids and {len(lengths)} lengths (a server whose Python "
            "backend runs under numpy 2 sends empty ones)"
        )
    step = beams * width
    return Tensors(
        [ids[row * step : row * step + width] for row in range(rows)],
        [lengths[row * beams] for row in range(rows)],
    )


def counts(tensors: Tensors, prompts: tuple[Ids, ...], meaning: Meaning) -> tuple[int, ...]:
    """Generated tokens of each row so far. Raises BadReply when the tensors cannot be an answer to ``prompts``."""
    if len(tensors.rows) != len(prompts) or len(tensors.lengths) != len(prompts):
        raise BadReply(f"{len(prompts)} sequences sent, {len(tensors.rows)} came back")
    if meaning.merged:
        return tuple(
            count_ids(row, prompt, meaning) for row, prompt in zip(tensors.rows, prompts, strict=True)
        )
    base = max(map(len, prompts)) if meaning.variant == "a" else 0
    found = []
    for number, length in enumerate(tensors.lengths):
        if length < base:
            raise BadReply(
                f"sequence_length = {length} of sequence {number} is less than the input width {base} that variant a "
                "counts in: is it variant b?"
            )
        found.append(length - base)
    return tuple(found)


def count_ids(row: array[int], prompt: Ids, meaning: Meaning) -> int:
    """Tokens between the prompt and the tail of end ids. Without an unsampleable end id the tail has no known start.

    Raises BadReply without such an id, and for a row that does not begin with the prompt.
    """
    if meaning.end_id is None:
        raise BadReply("merged requests can only be counted with an end_id that cannot be sampled")
    check_echo(row, prompt)
    generated = row[len(prompt) :]
    try:
        return generated.index(meaning.end_id)
    except ValueError:
        return len(generated)


def check_echo(row: array[int], prompt: Ids) -> None:
    """An answer begins with its own prompt; anything else is an answer to something else.

    Raises BadReply for such an answer.
    """
    if not np.array_equal(row[: len(prompt)], prompt):
        raise BadReply("output_ids does not begin with the prompt that was sent")


def check_whole(
    tensors: Tensors, counted: tuple[int, ...], prompts: tuple[Ids, ...], meaning: Meaning
) -> bool:
    """Look at the final response twice: its ids must say what its lengths say. True when the ids were counted.

    Raises BadReply where they differ, which is what a server of the other variant looks like.
    """
    for number, (row, prompt, count) in enumerate(zip(tensors.rows, prompts, counted, strict=True)):
        if len(prompt) + count > len(row):
            raise BadReply(
                f"sequence_length = {tensors.lengths[number]} of sequence {number} does not fit its {len(row)} ids, "
                f"{len(prompt)} of them the prompt: is it variant {'b' if meaning.variant == 'a' else 'a'}?"
            )
        if meaning.end_id is None:
            check_echo(row, prompt)
            continue
        by_ids = count_ids(row, prompt, meaning)
        if by_ids != count:
            raise BadReply(
                f"sequence {number}: {count} tokens by sequence_length = {tensors.lengths[number]} (variant "
                f"{meaning.variant}), {by_ids} by its ids: is it variant {'b' if meaning.variant == 'a' else 'a'}?"
            )
    return meaning.end_id is not None


def without_extra(counted: tuple[int, ...], asked: int, meaning: Meaning) -> tuple[int, ...]:
    """Counts without the one token too many that a row gets when a longer one was merged with it."""
    if not meaning.merged:
        return counted
    return tuple(asked if count == asked + 1 else count for count in counted)


class Answer:
    """One request's responses, taken in order, become its Reply."""

    def __init__(self, request: Request, meaning: Meaning) -> None:
        self._request, self._meaning = request, meaning
        self._counts: tuple[int, ...] = (0,) * len(request.prompts)
        self._kept = 0  # tokens of all rows so far that were asked for
        self._last: Tensors | None = None
        self._final = False
        self._token_ns: list[int] = []
        self._tokens: list[int] = []
        self._output_tokens: tuple[int, ...] | None = None
        self._counted_by: Literal["ids", "usage"] | None = None

    def take(self, at_ns: int, found: Tensors | None, final: bool) -> None:
        """A response; ``found`` is None when it only says that it is the final one."""
        self._final |= final
        if found is not None:
            self._last = found
            self.take_counts(at_ns, counts(found, self._request.prompts, self._meaning))

    def take_counts(self, at_ns: int, counted: tuple[int, ...]) -> None:
        """A response of which only the count was kept.

        Raises BadReply where a sequence shrank.
        """
        if any(now < before for now, before in zip(counted, self._counts, strict=True)):
            raise BadReply(f"sequences shrank from {list(self._counts)} to {list(counted)} tokens")
        self._counts = counted
        kept = sum(without_extra(counted, self._request.output_tokens, self._meaning))
        if kept > self._kept:
            self._token_ns.append(at_ns)
            self._tokens.append(kept - self._kept)
            self._kept = kept

    def conclude(self) -> None:
        """The call ended well: its last response must be the final one, whole, and right in both tensors.

        Raises BadReply where it is not.
        """
        if not self._final:
            raise BadReply(
                f"the stream ended without its final response, after {len(self._token_ns)} with tokens"
            )
        if self._last is None:
            raise BadReply("the answer holds no output_ids")
        by_ids = check_whole(self._last, self._counts, self._request.prompts, self._meaning)
        self._output_tokens = without_extra(self._counts, self._request.output_tokens, self._meaning)
        self._counted_by = "ids" if by_ids else "usage"

    def reply(self, *, sent_ns: int, end_ns: int, streamed: bool, reads: int, error: str | None) -> Reply:
        """The Reply. A call that ended well ends with its last token, not with gRPC's trailer."""
        stamped = streamed and self._request.stream
        first: tuple[int, ...] = ()
        if self._last is not None and self._output_tokens is not None:
            start = len(self._request.prompts[0])
            first = tuple(self._last.rows[0][start : start + min(self._request.keep_ids, self._counts[0])])
        return Reply(
            seq=self._request.seq,
            sent_ns=sent_ns,
            end_ns=self._token_ns[-1] if error is None and self._token_ns else end_ns,
            token_ns=tuple(self._token_ns) if stamped else (),
            tokens_per_arrival=tuple(self._tokens) if stamped else (),
            output_tokens=self._output_tokens,
            counted_by=self._counted_by,
            usage_output_tokens=None if self._output_tokens is None else sum(self._counts),
            first_tokens=first,
            finish=None if self._output_tokens is None else "length",
            reads=reads,
            error=error,
        )
