"""What this process holds on each of its devices, in bytes: torch's allocator, its peaks, and the key/value cache.

Names of the figures, all of one device: ``allocated_bytes`` and ``reserved_bytes`` now; ``peak_allocated_bytes`` and
``peak_reserved_bytes`` since the start; the same with ``call_`` before since the last ``begin``; ``loaded_bytes`` in
use once the weights were there, without a cache taken ahead. ``kv_needed_bytes``: what the cache of the last call
took, or the most that was in use of a cache taken ahead since the last ``begin``; the size of such a cache is
``kv_reserved_bytes``, as is what caches kept from other calls hold together with this one. A figure that nobody has
is absent.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch

Figures = dict[str, dict[str, int]]  # place → name → bytes


class Blocks:
    """The blocks in use of a cache taken ahead, and their peak since ``begin``, noted at every allocation."""

    def __init__(self, total: int, tokens: int, size: int, used: Callable[[], int]) -> None:
        """``total`` blocks of ``tokens`` tokens and ``size`` bytes on this device, of which ``used()`` are in use."""
        self.total, self.tokens, self.size, self._used = total, tokens, size, used
        self.peak = used()

    def watch(self, owner: Any, allocate: str) -> None:
        """Note the peak after each call of a method of ``owner``, by which alone blocks come into use."""
        before = getattr(owner, allocate)

        def noted(*args: Any, **named: Any) -> Any:
            found = before(*args, **named)
            self.peak = max(self.peak, self._used())
            return found

        setattr(owner, allocate, noted)

    def begin(self) -> None:
        """Count the peak anew."""
        self.peak = self._used()

    def figures(self) -> dict[str, int]:
        """Bytes reserved and needed at the peak since ``begin``, and the same in blocks."""
        return {
            "kv_needed_bytes": self.peak * self.size,
            "kv_reserved_bytes": self.total * self.size,
            "kv_blocks": self.total,
            "kv_blocks_used": self._used(),
            "kv_blocks_peak": self.peak,
            "kv_block_tokens": self.tokens,
            "kv_block_bytes": self.size,
        }


class Memory:
    """Figures of the devices at ``places``, the numbers that torch knows them by; on a CPU of the cache alone."""

    def __init__(self, places: Sequence[int], *, cuda: bool) -> None:
        self.places, self.kind = tuple(places), "cuda" if cuda else "cpu"
        self._cuda = cuda
        self._earlier: dict[int, dict[str, int]] = {}  # the highest of each peak before the last begin
        self._loaded: dict[int, int] = {}
        self._cache: dict[int, int] = {}
        self._kept: dict[int, int] = {}
        self._blocks: Blocks | None = None

    def load_done(self) -> None:
        """The weights are there, and the blocks if they are counted already, which are no part of them."""
        if self._cuda:
            ahead = 0 if self._blocks is None else self._blocks.total * self._blocks.size
            self._loaded = {place: torch.cuda.memory_allocated(place) - ahead for place in self.places}

    def count(self, blocks: Blocks) -> None:
        """This process, which has one device, keeps its cache in ``blocks``."""
        self._blocks = blocks

    def begin(self) -> None:
        """Count peaks anew, for what comes; those of the process are kept beside."""
        self._cache, self._kept = {}, {}
        if self._blocks is not None:
            self._blocks.begin()
        if self._cuda:
            for place in self.places:
                self._earlier[place] = highest(peaks_of(place), self._earlier.get(place))
                torch.cuda.reset_peak_memory_stats(place)

    def used(self, cache: Iterable[torch.Tensor], kept: Iterable[torch.Tensor] = ()) -> None:
        """The tensors of the cache that a call had, and those of caches that are kept beside it for later calls."""
        self._cache = self._sizes(cache)
        beside = self._sizes(kept)
        self._kept = {place: size + self._cache.get(place, 0) for place, size in beside.items()}

    def _sizes(self, tensors: Iterable[torch.Tensor]) -> dict[int, int]:
        found: dict[int, int] = {}
        for tensor in tensors:
            place = self.places[0] if tensor.device.index is None else tensor.device.index
            found[place] = found.get(place, 0) + tensor.numel() * tensor.element_size()
        return found

    def figures(self) -> Figures:
        """By place; empty where there is nothing to tell."""
        found = {str(place): self._of(place) for place in self.places}
        return {place: figures for place, figures in found.items() if figures}

    def _of(self, place: int) -> dict[str, int]:
        figures = self._allocator(place) if self._cuda else {}
        if place in self._loaded:
            figures["loaded_bytes"] = self._loaded[place]
        if self._blocks is not None:
            figures |= self._blocks.figures()
        elif place in self._cache:
            figures["kv_needed_bytes"] = self._cache[place]
            figures |= {"kv_reserved_bytes": self._kept[place]} if place in self._kept else {}
        return figures

    def _allocator(self, place: int) -> dict[str, int]:
        peaks, earlier = peaks_of(place), self._earlier.get(place)
        figures = {
            "allocated_bytes": torch.cuda.memory_allocated(place),
            "reserved_bytes": torch.cuda.memory_reserved(place),
            **highest(peaks, earlier),
        }
        if earlier is not None:
            figures |= {f"call_{name}": value for name, value in peaks.items()}
        return figures


def peaks_of(place: int) -> dict[str, int]:
    """torch's peaks of a device since they were last reset."""
    return {
        "peak_allocated_bytes": torch.cuda.max_memory_allocated(place),
        "peak_reserved_bytes": torch.cuda.max_memory_reserved(place),
    }


def highest(peaks: dict[str, int], earlier: dict[str, int] | None) -> dict[str, int]:
    """The larger of two readings of each peak; an absent earlier one does not count."""
    return {name: max(value, (earlier or peaks)[name]) for name, value in peaks.items()}
