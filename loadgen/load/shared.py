"""Prompts that share pieces: which request begins with which prefix, and the token ids of shared blocks.

A block is known by its number. Its ids follow from the trial's seed and that number alone, so that any worker on any
machine makes the same, and no block of another trial, nor of the warm-up, is like it.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from itertools import repeat

import numpy as np
from numpy.typing import NDArray

from loadgen.load_records import LoadSpec

CHUNK = 4096
KEPT_TOKENS = 4_000_000  # of blocks, 16 MB: those of a conversation come again soon
_SEED = 0x70726566
_BLOCKS, _WARMUP_BLOCKS = 2, 3  # beside the prompts' own 0 and 1


def groups(load: LoadSpec) -> Iterator[tuple[int, ...]]:
    """The blocks of each request, from the first on, without an end: the one that is its prefix, or none."""
    prefixes = load.prefixes
    if prefixes is None:
        yield from repeat(())
        return
    random = np.random.default_rng([_SEED, load.seed])
    while True:
        shares = random.random(CHUNK) < prefixes.share
        chosen = random.integers(0, prefixes.groups, CHUNK)
        for shared, group in zip(shares.tolist(), chosen.tolist(), strict=True):
            yield (group,) if shared else ()


def for_warmup(blocks: tuple[int, ...]) -> tuple[int, ...]:
    """Blocks of the same shape that no measured request has."""
    return tuple(-1 - block for block in blocks)


class Blocks:
    """The ids of blocks of ``size`` tokens, from ``low`` on and below ``high``; those used last are kept.

    The first ids of a block spell its number, so that two blocks part at once and no page of an engine's cache is
    shared by chance.
    """

    def __init__(self, seed: int, size: int, low: int, high: int, nonce_tokens: int) -> None:
        self._seed, self._size, self._low, self._base = seed, size, low, high - low
        self._nonce_tokens = nonce_tokens
        self._kept: OrderedDict[int, NDArray[np.int32]] = OrderedDict()
        self._most = max(1, KEPT_TOKENS // size)

    def ids(self, blocks: tuple[int, ...], length: int) -> NDArray[np.int32]:
        """The first ``length`` ids of some blocks one after the other, fewer where they have not so many."""
        if len(blocks) == 1:
            return self._block(blocks[0])[:length]
        return np.concatenate([self._block(block) for block in blocks])[:length]

    def _block(self, number: int) -> NDArray[np.int32]:
        found = self._kept.get(number)
        if found is not None:
            self._kept.move_to_end(number)
            return found
        kind, name = (_BLOCKS, number) if number >= 0 else (_WARMUP_BLOCKS, -1 - number)
        raw = np.random.PCG64([self._seed, kind, name]).random_raw(self._size)
        ids = (raw % self._base).astype(np.int32) + np.int32(self._low)
        for place in range(min(self._nonce_tokens, self._size)):
            ids[place] = self._low + name % self._base
            name //= self._base
        self._kept[number] = ids
        if len(self._kept) > self._most:
            self._kept.popitem(last=False)
        return ids
