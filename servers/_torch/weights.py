"""Random weights for engines of others: the very matrices that framework ``hf`` makes, whole or any slice of them.

``model.py`` cuts every matrix into blocks and seeds each by (seed, name, number). DeepSpeed
slices otherwise than transformers (its output head by columns, an MLP into shares of unequal width), so a slice here is
put together from the blocks that it touches. On one type of device equal seeds give equal models in all frameworks.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterator
from typing import Any

import torch

from loadgen.records import ModelSpec
from loadgen.servers._torch.model import BLOCKS, STD

# Linears that tensor parallelism splits by input columns; transformers' plan cuts all other matrices by rows.
CUT_BY_COLUMNS = ("o_proj.weight", "down_proj.weight")


def shapes(model: ModelSpec) -> dict[str, tuple[int, ...]]:
    """Every parameter of a llama by its Hugging Face name, with its whole shape [rows, columns] or [hidden]."""
    query, key = model.heads * model.head_dim, model.kv_heads * model.head_dim
    hidden, inner = model.hidden, model.intermediate
    found: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (model.vocab, hidden)}
    for layer in range(model.layers):
        found |= {
            f"model.layers.{layer}.{name}.weight": shape
            for name, shape in (
                ("self_attn.q_proj", (query, hidden)),
                ("self_attn.k_proj", (key, hidden)),
                ("self_attn.v_proj", (key, hidden)),
                ("self_attn.o_proj", (hidden, query)),
                ("mlp.gate_proj", (inner, hidden)),
                ("mlp.up_proj", (inner, hidden)),
                ("mlp.down_proj", (hidden, inner)),
                ("input_layernorm", (hidden,)),
                ("post_attention_layernorm", (hidden,)),
            )
        }
    return found | {"model.norm.weight": (hidden,), "lm_head.weight": (model.vocab, hidden)}


def parameters(
    model: ModelSpec, dtype: torch.dtype, device: torch.device, seed: int
) -> Iterator[tuple[str, Any]]:
    """(name, whole parameter) one after the other, as a checkpoint's are read."""
    for name, shape in shapes(model).items():
        weight = torch.empty(shape, dtype=dtype, device=device)
        fill(weight, source(name, model), shape, seed)
        yield name, weight


def source(name: str, model: ModelSpec) -> str:
    """The parameter whose values ``name`` holds: a tied output head is the embedding."""
    return "model.embed_tokens.weight" if model.tied and name == "lm_head.weight" else name


def fill(
    weight: torch.Tensor, name: str, whole: tuple[int, ...], seed: int, start: tuple[int, int] = (0, 0)
) -> None:
    """Write into ``weight`` the part of parameter ``name`` (shape ``whole``) that begins at (row, column) ``start``."""
    if len(whole) == 1:
        weight.fill_(1.0)
        return
    cut = 1 if name.endswith(CUT_BY_COLUMNS) else 0
    width = whole[cut] // math.gcd(whole[cut], BLOCKS)
    shape = [*whole]
    shape[cut] = width
    block = torch.empty(shape, dtype=weight.dtype, device=weight.device)
    generator = torch.Generator(weight.device)
    other = 1 - cut
    first, last = start[cut], start[cut] + weight.shape[cut]
    for number in range(first // width, -(-last // width)):
        generator.manual_seed(zlib.crc32(f"{seed}/{name}/{number}".encode()))
        block.normal_(0.0, STD, generator=generator)
        low, high = max(first, number * width), min(last, (number + 1) * width)
        part = block.narrow(cut, low - number * width, high - low).narrow(
            other, start[other], weight.shape[other]
        )
        weight.narrow(cut, low - first, high - low).copy_(part)
