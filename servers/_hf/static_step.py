"""The pieces of a decode step whose shapes never change: caches, attention over them, linears split over ranks.

They plug into transformers' own llama layers, which do the mathematics.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import nn
from torch.nn import functional
from torch.nn.attention.flex_attention import BlockMask

from loadgen.servers._hf.filled import attend_to_blocks
from loadgen.servers._torch.tensor_parallel import planned

ATTENTION = "loadgen_static"


class PrefillCache:
    """One layer's keys and values [batch, kv heads, slots, head dim] while the prompts are read: fills the front."""

    def __init__(self, keys: torch.Tensor, values: torch.Tensor) -> None:
        self.keys, self.values = keys, values

    def update(
        self, keys: torch.Tensor, values: torch.Tensor, *_: Any, **__: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Store; attention needs no more than the prompts themselves."""
        length = keys.shape[2]
        self.keys[:, :, :length].copy_(keys)
        self.values[:, :, :length].copy_(values)
        return keys, values


class DecodeCache:
    """The same tensors while decoding: one token is written to slot ``position`` (on the device), all are read."""

    def __init__(self, keys: torch.Tensor, values: torch.Tensor, position: torch.Tensor) -> None:
        self.keys, self.values, self.position = keys, values, position

    def update(
        self, keys: torch.Tensor, values: torch.Tensor, *_: Any, **__: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Write one token's keys and values [batch, heads, 1, d]; returns all slots, the unused ones masked
        elsewhere.
        """
        self.keys.index_copy_(2, self.position, keys)
        self.values.index_copy_(2, self.position, values)
        return self.keys, self.values


def static_attention(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | BlockMask | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    **rest: Any,
) -> tuple[torch.Tensor, None]:
    """An attention function in transformers' sense: query [batch, heads, length, d] → [batch, length, heads, d].

    In a decode step the query heads that share a key/value head stand as the rows of one query: the keys and values
    are read once, where repeating them (transformers' way under a mask) would copy the whole cache each step.
    Under a block mask those of the filled blocks alone are read.
    """
    if query.shape[2] > 1:
        from transformers.integrations.sdpa_attention import sdpa_attention_forward

        out: tuple[torch.Tensor, None] = sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **rest
        )
        return out
    batch, heads, _, dim = query.shape
    if isinstance(attention_mask, BlockMask):
        return attend_to_blocks(query, key, value, attention_mask, scaling).reshape(
            batch, 1, heads, dim
        ), None
    groups = key.shape[1]
    rows = query.reshape(batch, groups, heads // groups, dim)
    mixed = functional.scaled_dot_product_attention(rows, key, value, attn_mask=attention_mask, scale=scaling)
    return mixed.reshape(batch, 1, heads, dim), None


def use_static_attention(model: Any) -> None:
    """Have the model's layers attend through ``static_attention``; all share one compiled form."""
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    ALL_ATTENTION_FUNCTIONS.register(ATTENTION, static_attention)
    model.config._attn_implementation = ATTENTION
    for layer in model.model.layers:
        # A layer's number is all that tells one layer from another to the compiler, which would compile each anew.
        # Each layer is handed its own cache here, so nobody asks for the number.
        layer.self_attn.layer_idx = 0


class _Product:
    """The joint product of linears that read the same input, while a layer is at it."""

    def __init__(self) -> None:
        self.value: torch.Tensor | None = None


class JointLinear(nn.Module):
    """One of several linears with the same input: the first multiplies by all their weights, each returns its part.

    One long matrix streams from memory faster than two or three short ones. The layers call them in a fixed order;
    the last one lets go of the product.
    """

    def __init__(
        self, weight: nn.Parameter | None, product: _Product, start: int, end: int, *, last: bool
    ) -> None:
        """``weight`` [all output features, input features] for the first, None for the others."""
        super().__init__()
        self.whole, self.product, self.start, self.end, self.last = weight, product, start, end, last

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``x`` [..., in] → this linear's own features; the first of the group multiplies, the last frees the
        product.
        """
        if self.whole is not None:
            self.product.value = functional.linear(x, self.whole)
        joint = self.product.value
        assert joint is not None
        if self.last:
            self.product.value = None
        return joint[..., self.start : self.end]


def join_linears(model: Any) -> None:
    """Join query, key and value, and gate and up, of every layer; one layer at a time, to need little extra memory."""
    for layer in model.model.layers:
        _join(layer.self_attn, ("q_proj", "k_proj", "v_proj"))
        _join(layer.mlp, ("gate_proj", "up_proj"))


def _join(owner: nn.Module, names: tuple[str, ...]) -> None:
    linears = [owner.get_submodule(name) for name in names]
    if any(linear.bias is not None for linear in linears):
        return
    whole = nn.Parameter(
        torch.cat([linear.get_parameter("weight") for linear in linears]), requires_grad=False
    )
    product, start = _Product(), 0
    for name, linear in zip(names, linears, strict=True):
        end = start + linear.get_parameter("weight").shape[0]
        first, last = name == names[0], name == names[-1]
        setattr(owner, name, JointLinear(whole if first else None, product, start, end, last=last))
        start = end


class SummedLinear(nn.Module):
    """A linear whose input features are shared out over ranks: partial products, then one sum over the ranks."""

    def __init__(self, linear: nn.Linear, group: str) -> None:
        super().__init__()
        self.weight, self.bias, self.group = linear.weight, linear.bias, group

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``x`` [..., in / ranks] → [..., out], summed over the ranks."""
        partial = functional.linear(x, self.weight)
        total = torch.ops._c10d_functional.all_reduce(partial, "sum", self.group)
        total = cast(torch.Tensor, torch.ops._c10d_functional.wait_tensor(total))
        return total if self.bias is None else total + self.bias


class GatheredLinear(nn.Module):
    """A linear whose output features are shared out over ranks: each rank's part, then gathered side by side."""

    def __init__(self, linear: nn.Linear, group: str, ranks: int) -> None:
        super().__init__()
        self.weight, self.bias, self.group, self.ranks = linear.weight, linear.bias, group, ranks

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x [batch, hidden] → [batch, all features]."""
        mine = functional.linear(x, self.weight, self.bias)
        parts = torch.ops._c10d_functional.all_gather_into_tensor(mine.contiguous(), self.ranks, self.group)
        parts = cast(
            torch.Tensor, torch.ops._c10d_functional.wait_tensor(parts)
        )  # [ranks × batch, features / ranks]
        return parts.view(self.ranks, *mine.shape).movedim(0, -2).flatten(-2)


def use_plain_collectives(model: Any) -> None:
    """Replace transformers' tensor-parallel wrappers, which a compiler cannot see through, by modules it can."""
    group = torch.distributed.group.WORLD
    assert group is not None
    for name, module, style in list(planned(model)):
        vars(module).pop("forward", None)
        owner, _, leaf = name.rpartition(".")
        if style.startswith("rowwise"):
            setattr(model.get_submodule(owner), leaf, SummedLinear(cast(nn.Linear, module), group.group_name))
        elif style != "colwise":
            gathered = GatheredLinear(cast(nn.Linear, module), group.group_name, group.size())
            setattr(model.get_submodule(owner), leaf, gathered)
