"""FasterTransformer's tensors ↔ calls of an engine: what a request asks, and what each row answers.

torch alone, neither Triton nor numpy: the tensors come and go as DLPack, because Triton's Python stub knows numpy 1
only and answers with empty tensors under numpy 2.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

# Values at which an optional input changes nothing; anything else would be ignored by the engine, hence is refused.
NEUTRAL: dict[str, tuple[float, ...]] = {
    "runtime_top_k": (0, 1),
    "runtime_top_p": (0.0, 1.0),
    "beam_search_diversity_rate": (0.0,),
    "len_penalty": (0.0, 1.0),
    "repetition_penalty": (1.0,),
    "is_return_log_probs": (0,),
    "beam_width": (1,),
    "top_p_decay": (0.0, 1.0),
    "top_p_min": (0.0, 1e-6),
}
REFUSED = ("bad_words_list", "stop_words_list")


class Refusal(Exception):
    """A request that cannot be served as asked; the message names input, value and what is accepted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """One request: its rows' prompts, and how many tokens each row wants. ``width`` is the padded input width."""

    prompts: tuple[tuple[int, ...], ...]
    limits: tuple[int, ...]
    width: int
    end_id: int | None
    temperature: float
    seed: int


def read(inputs: Mapping[str, torch.Tensor], vocab: int, max_context: int) -> Ask:
    """Understand one request's tensors (on the CPU). Raises Refusal."""
    ids = _rows(inputs, "input_ids")
    lengths = [row[0] for row in _rows(inputs, "input_lengths")]
    limits = [row[0] for row in _rows(inputs, "request_output_len")]
    if not len(ids) == len(lengths) == len(limits):
        raise Refusal(
            f"{len(ids)} input_ids, {len(lengths)} input_lengths and {len(limits)} request_output_len rows"
        )
    _check_neutral(inputs)
    prompts = []
    for row, length, limit in zip(ids, lengths, limits, strict=True):
        if not 1 <= length <= len(row):
            raise Refusal(f"input_lengths = {length}: accepted: 1 to the width of input_ids, {len(row)}")
        if limit < 1:
            raise Refusal(f"request_output_len = {limit}: accepted: 1 and above")
        prompt = tuple(row[:length])
        if max(prompt) >= vocab:
            raise Refusal(f"input_ids holds {max(prompt)}: accepted: 0 to {vocab - 1}")
        if length + limit > max_context:
            raise Refusal(f"{length} input and {limit} output tokens exceed the context of {max_context}")
        prompts.append(prompt)
    sampled = _first(inputs, "runtime_top_p") == 1.0 and _first(inputs, "runtime_top_k") in (None, 0)
    end_id = _first(inputs, "end_id")
    return Ask(
        prompts=tuple(prompts),
        limits=tuple(limits),
        width=len(ids[0]),
        end_id=None if end_id is None else int(end_id),
        temperature=float(_first(inputs, "temperature") or 1.0)
        if sampled
        else 0.0,  # as there: greedy by default
        seed=int(_first(inputs, "random_seed") or 0),
    )


def _rows(inputs: Mapping[str, torch.Tensor], name: str) -> list[list[int]]:
    if name not in inputs:
        raise Refusal(f"{name} is missing")
    tensor = inputs[name]
    rows = tensor.to(torch.int64).reshape(tensor.shape[0], -1)  # uint32 has next to no operations of its own
    if rows.shape[1] < 1:
        raise Refusal(f"{name} is empty")
    found: list[list[int]] = rows.tolist()
    return found


def _first(inputs: Mapping[str, torch.Tensor], name: str) -> float | None:
    if name not in inputs:
        return None
    return float(inputs[name].reshape(-1)[0].item())


def _check_neutral(inputs: Mapping[str, torch.Tensor]) -> None:
    for name, accepted in NEUTRAL.items():
        if name in inputs:
            for value in inputs[name].reshape(-1).tolist():
                if value not in accepted:
                    shown = ", ".join(f"{one:g}" for one in accepted)
                    raise Refusal(f"{name} = {value:g} is not offered (accepted: {shown})")
    for name in REFUSED:
        if name in inputs and inputs[name].numel():
            raise Refusal(f"{name} is not offered (accepted: none)")


class Rows:
    """One request under way: the output tensors of FasterTransformer's contract, filled as tokens come.

    ``padded_count`` is variant a's meaning of sequence_length: padded input width plus generated tokens, also for a
    row with a shorter prompt; variant b counts generated tokens alone.
    """

    def __init__(self, ask: Ask, *, padded_count: bool, fill: int) -> None:
        self.ask = ask
        self.counts = [0] * len(ask.prompts)
        self._lengths = [len(prompt) for prompt in ask.prompts]
        self._fresh: tuple[list[int], list[int], list[int]] = (
            [],
            [],
            [],
        )  # row, column, token not yet in _ids
        self.ended = [False] * len(ask.prompts)
        self._base = ask.width if padded_count else 0
        tail = fill if ask.end_id is None else ask.end_id
        # int32 has the operations, and the same bits as the uint32 that goes out.
        self._ids = torch.full(
            (len(ask.prompts), 1, ask.width + max(ask.limits)), _signed(tail), dtype=torch.int32
        )
        for row, prompt in enumerate(ask.prompts):
            self._ids[row, 0, : len(prompt)] = torch.tensor(prompt, dtype=torch.int32)

    def take(self, row: int, token: int) -> None:
        """One more token of a row; ignored once the row has ended. The end token itself counts."""
        if self.ended[row]:
            return
        rows, columns, tokens = self._fresh
        rows.append(row)
        columns.append(self._lengths[row] + self.counts[row])
        tokens.append(token)
        self.counts[row] += 1
        self.ended[row] = self.counts[row] == self.ask.limits[row] or token == self.ask.end_id

    @property
    def done(self) -> bool:
        """Whether every sequence has ended."""
        return all(self.ended)

    def due(self, step: int) -> bool:
        """Whether a streamed response goes out now: when the position, counted from the width, is a multiple."""
        return (self.ask.width + max(self.counts)) % step == 0

    def tensors(self) -> dict[str, torch.Tensor]:
        """The sequence so far, [rows, 1, width + longest] and [rows, 1], both uint32; good until the next call."""
        rows, columns, tokens = self._fresh
        if rows:
            self._ids[torch.tensor(rows), 0, torch.tensor(columns)] = torch.tensor(tokens, dtype=torch.int32)
            self._fresh = ([], [], [])
        lengths = torch.tensor([[self._base + count] for count in self.counts], dtype=torch.int32)
        return {
            "output_ids": self._ids.view(torch.uint32),
            "sequence_length": lengths.view(torch.uint32),
        }


def _signed(value: int) -> int:
    return value - (1 << 32) if value >= 1 << 31 else value


def place(rows: Sequence[Rows]) -> list[tuple[Rows, int]]:
    """Row of the merged batch → the request that it belongs to, and its row there."""
    return [(one, row) for one in rows for row in range(len(one.ask.prompts))]
