"""Blocks of a cache that hold something: which are read, and that attention over them is attention under a mask."""

import types
from typing import Any

import pytest
import torch
from torch.nn import functional

from loadgen.servers._hf import filled
from loadgen.servers._hf.filled import BLOCK, FilledBlocks, attend_to_blocks, blocks_pay

SLOTS = 5 * BLOCK - 7  # the last block ends in mid-air
PADDING = torch.tensor([0, 1, BLOCK - 1, BLOCK, 3 * BLOCK + 5])


def looking_from(position: int) -> FilledBlocks:
    blocks = FilledBlocks(SLOTS, torch.tensor([position]), PADDING.clone())
    blocks.begin()
    blocks.look_from(torch.tensor([position]))
    return blocks


@pytest.mark.parametrize("position", [3 * BLOCK + 5, 4 * BLOCK - 1, 4 * BLOCK, SLOTS - 1])
def test_the_blocks_read_are_those_that_hold_something(position: int) -> None:
    blocks = looking_from(position)
    for sequence, padding in enumerate(PADDING.tolist()):
        count = int(blocks.counts[sequence, 0, 0])
        read = blocks.indices[sequence, 0, 0].tolist()[:count]
        assert read == sorted({slot // BLOCK for slot in range(padding, position + 1)})


def test_a_capture_sees_its_first_slot_whatever_call_was_before() -> None:
    blocks = looking_from(SLOTS - 1)
    blocks.padding.zero_()
    blocks.begin()
    blocks.look_from(torch.tensor([0]))
    assert blocks.counts.flatten().tolist() == [1] * len(PADDING)
    assert not blocks.indices[..., 0].any()


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.parametrize("kv_heads", [4, 2, 1])
def test_attention_over_blocks_is_attention_under_a_mask(kv_heads: int) -> None:
    position, chance = 4 * BLOCK + 3, torch.Generator().manual_seed(0)

    def some(*size: int) -> torch.Tensor:
        return torch.randn(len(PADDING), *size, generator=chance)

    query, keys, values = some(4, 1, 16), some(kv_heads, SLOTS, 16), some(kv_heads, SLOTS, 16)
    slots = torch.arange(SLOTS)
    seen = ((slots <= position) & (slots >= PADDING[:, None]))[:, None, None]
    want = functional.scaled_dot_product_attention(
        query, keys, values, attn_mask=seen, scale=0.3, enable_gqa=True
    )
    torch.testing.assert_close(attend_to_blocks(query, keys, values, looking_from(position).mask, 0.3), want)


def test_blocks_are_for_many_sequences_of_heads_in_even_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    def processors(device: Any) -> Any:
        return types.SimpleNamespace(multi_processor_count=132)

    monkeypatch.setattr(torch.cuda, "get_device_properties", processors)
    monkeypatch.setattr(filled.torch, "__version__", "2.11.0+cu128")
    gpu = torch.device("cuda")
    assert blocks_pay(8, 40, 40, 128, gpu)
    assert not blocks_pay(
        8, 20, 20, 128, gpu
    )  # half of them, at tp 2: fewer than two programs a multiprocessor
    assert blocks_pay(64, 8, 64, 128, gpu)
    assert not blocks_pay(64, 8, 24, 128, gpu)  # three heads to a group
    assert not blocks_pay(64, 40, 40, 100, gpu)
    assert not blocks_pay(64, 40, 40, 8, gpu)
    assert not blocks_pay(64, 40, 40, 128, torch.device("cpu"))
    monkeypatch.setattr(filled.torch, "__version__", "2.6.0")
    assert not blocks_pay(64, 40, 40, 128, gpu)
