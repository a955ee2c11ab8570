"""Seeded prompts as token ids: exact lengths, each unlike every other, the same again for the same seed."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from loadgen.errors import BadInput
from loadgen.load.shared import Blocks
from loadgen.request_records import Ids

FIRST_ID = 3  # 0, 1 and 2 are <unk>, <s> and </s> in the tokenisers of LLaMA 1 and 2
RESERVED_TOP = 256  # llama 3 keeps its special tokens in the last 256 ids
LARGE_VOCAB = 100_000
SAFE_VOCAB = 1000  # ids below this exist in every llama tokeniser: used where the vocabulary is not known
NONCES = (
    SAFE_VOCAB - FIRST_ID
) ** 2  # beginnings that differ, at least: two ids of the smallest vocabulary assumed
BLOCK_IDS, BLOCK_REQUESTS = (
    1024,
    64,
)  # short prompts are made a block at a time: seeding costs more than they do

FILLER = 4  # a stream of its own, beside the prompts' 0 and 1 and those of shared blocks


def id_range(vocab: int | None) -> tuple[int, int]:
    """The first id that prompts may use, and the first above it that they may not.

    Raises BadInput for a vocabulary too small to choose from.
    """
    size = SAFE_VOCAB if vocab is None else vocab
    high = size - RESERVED_TOP if size > LARGE_VOCAB else size
    if high - FIRST_ID < 2:
        raise BadInput(f"vocab = {vocab}: too small to make prompts from (accepted: {FIRST_ID + 2} or more)")
    return FIRST_ID, high


class PromptSource:
    """Prompts of a trial, by the number of the request.

    A prompt depends on ``seed``, ``seq`` and its row in the batch alone, so requests may be made in any order and
    by any worker. Its first tokens spell the prompt's number, starting at a seeded place and lowest digit first:
    prompts that follow each other differ from their first token on, and no prefix cache finds a match. As many tokens
    are used as tell ``NONCES`` prompts apart: two, or four where prompts are made of a hundred words.
    """

    def __init__(
        self,
        seed: int,
        vocab: int | None,
        input_tokens: int,
        batch_size: int = 1,
        block_tokens: int | None = None,
    ) -> None:
        self.low, self.high = id_range(vocab)
        self.seed, self.input_tokens, self.batch_size = seed, input_tokens, batch_size
        self._base = self.high - self.low
        self._nonce_tokens = next(n for n in range(1, 64) if self._base**n >= NONCES)
        self._made = np.empty((0, batch_size, 0), np.int32)
        self._made_of: tuple[int, int] | None = None
        self._shared = (
            None
            if block_tokens is None
            else Blocks(seed, block_tokens, self.low, self.high, self._nonce_tokens)
        )
        self._start = int(np.random.PCG64([seed, 0]).random_raw()) % self._base**self._nonce_tokens

    def prompts(
        self, seq: int, input_tokens: int | None = None, blocks: tuple[int, ...] = ()
    ) -> tuple[Ids, ...]:
        """``batch_size`` prompts of ``input_tokens`` ids each (the trial's own length when not given), which begin with
        the ids of shared ``blocks``.

        Raises BadInput for less than one.
        """
        length = self.input_tokens if input_tokens is None else input_tokens
        if length < 1:
            raise BadInput(f"input_tokens = {length}: a prompt has at least one token")
        if blocks:
            assert self._shared is not None, "a load with blocks says how long they are"
            shared = self._shared.ids(blocks, length)
            left = length - len(shared)
            if not left:
                return (shared,) * self.batch_size
            return tuple(np.concatenate([shared, row]) for row in self.prompts(seq, left))
        requests = min(max(1, BLOCK_IDS // (self.batch_size * length)), BLOCK_REQUESTS)
        block, place = divmod(seq, requests)
        if self._made_of != (length, block):
            self._made = self._block(block, requests, length)
            self._made_of = (length, block)
        return tuple(self._made[place])

    def filler(self, seq: int, tokens: int) -> Ids:
        """Ids that stand for the reply to a request, where the server did not tell its own."""
        raw = np.random.PCG64([self.seed, FILLER, seq]).random_raw(tokens)
        return (raw % self._base).astype(np.int32) + np.int32(self.low)

    def _block(self, block: int, requests: int, length: int) -> NDArray[np.int32]:
        # Raw bits: numpy promises their stream for good, and that of Generator.integers for one version only.
        raw = np.random.PCG64([self.seed, 1, block]).random_raw(requests * self.batch_size * length)
        ids = (raw % self._base).astype(np.int32).reshape(requests * self.batch_size, length) + np.int32(
            self.low
        )
        first = self._start + block * len(ids)
        number = first + np.arange(len(ids), dtype=np.int64)
        for place in range(min(self._nonce_tokens, length)):
            ids[:, place] = self.low + number % self._base
            number //= self._base
        return ids.reshape(requests, self.batch_size, length)
