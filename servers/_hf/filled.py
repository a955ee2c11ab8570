"""A decode step's attention over the filled part of a static cache, in blocks: what holds nothing is not read.

torch's flex attention, compiled, with a block mask whose counts are device tensors: a CUDA graph of one step serves
every step. Short caches take half the time of scaled_dot_product_attention, which reads all slots at about half the
bandwidth (docs/engines.md has the figures).
"""

from __future__ import annotations

from typing import Any

import torch
from torch.nn.attention.flex_attention import BlockMask, flex_attention

BLOCK = 32  # slots: blocks of 64 read half as much again at 20 to 120 filled slots, and were never faster
LEAST_TORCH = (2, 11)  # before it flex attention was not tried here
LEAST_HEAD = 16  # values of a head; its kernels multiply tiles of 16
# One program a sequence and head: with fewer than two a multiprocessor, kernels that share a sequence out are faster.
PROGRAMS_A_PROCESSOR = 2
# Few warps, for many small programs: 129 µs a layer at 256 sequences × 71 slots where the defaults take 136.
KERNEL: Any = {"num_warps": 2, "num_stages": 2}


def blocks_pay(batch: int, kv_heads: int, heads: int, head_dim: int, device: torch.device) -> bool:
    """Whether a step on ``device`` reads by blocks: many sequences, of heads that flex attention was tried with."""
    if device.type != "cuda" or tuple(map(int, torch.__version__.split(".")[:2])) < LEAST_TORCH:
        return False
    even = head_dim >= LEAST_HEAD and all(n & (n - 1) == 0 for n in (head_dim, heads // kv_heads))
    processors = torch.cuda.get_device_properties(device).multi_processor_count
    return even and batch * kv_heads >= PROGRAMS_A_PROCESSOR * processors


class FilledBlocks:
    """The block mask of one shape: each sequence sees the slots from its ``padding`` [batch] to ``position`` [1]."""

    def __init__(self, slots: int, position: torch.Tensor, padding: torch.Tensor) -> None:
        self.padding = padding
        self._first = torch.zeros_like(padding, dtype=torch.int32)
        self._numbers = torch.arange(-(-slots // BLOCK), dtype=torch.int32, device=padding.device)
        self.counts = torch.ones(len(padding), 1, 1, dtype=torch.int32, device=padding.device)
        self.indices = self._numbers.repeat(len(padding), 1)[:, None, None].contiguous()

        def seen(sequence: Any, head: Any, query: Any, slot: Any) -> Any:
            return (slot <= position[0]) & (slot >= padding[sequence])

        self.mask = BlockMask(
            seq_lengths=(1, slots), kv_num_blocks=self.counts, kv_indices=self.indices, full_kv_num_blocks=None,
            full_kv_indices=None, q_num_blocks=None, q_indices=None, full_q_num_blocks=None, full_q_indices=None,
            BLOCK_SIZE=(128, BLOCK), mask_mod=seen,
        )  # fmt: skip

    def begin(self) -> None:
        """Take a call's paddings: blocks of padding alone are left out."""
        self._first.copy_(self.padding // BLOCK)
        self.indices.copy_(
            (self._first[:, None] + self._numbers).clamp(max=len(self._numbers) - 1)[:, None, None]
        )

    def look_from(self, position: torch.Tensor) -> None:
        """Count the blocks from each sequence's first token to ``position`` [1]."""
        self.counts.copy_((position // BLOCK + 1 - self._first)[:, None, None])


def attend_to_blocks(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: BlockMask, scale: float | None
) -> torch.Tensor:
    """query [batch, heads, 1, d], keys and values [batch, kv heads, slots, d] → [batch, heads, 1, d]."""
    return flex_attention(
        query, key, value, block_mask=mask, scale=scale, enable_gqa=query.shape[1] != key.shape[1],
        kernel_options=KERNEL,
    )  # fmt: skip
