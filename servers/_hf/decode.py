"""Buffers of one static shape and the device work over them: read the prompts, then decode token after token.

A ``Shape`` is (sequences, cache slots). Prompts are padded on the left, so all sequences of a call write the same slot.
Nothing in a step depends on host values: the slot, the paddings, the last tokens and the sampling temperature are
device tensors, so a CUDA graph of one step serves every step of every call of that shape.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from loadgen.servers._hf.filled import FilledBlocks, blocks_pay
from loadgen.servers._hf.requests import Call
from loadgen.servers._hf.static_step import DecodeCache, PrefillCache
from loadgen.servers._torch import cache_argument


@dataclass(frozen=True, slots=True)
class Shape:
    """Sequences per call, and cache slots per sequence."""

    batch: int
    slots: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Functions:
    """The step's three parts, compiled or not: embed and mask; one layer; norm, head and choice of the next token.

    ``prompt`` is one layer again, for prompts of any number and length. ``fused``: layers are compiled.
    """

    before: Callable[..., Any]
    layer: Callable[..., Any]
    after: Callable[..., Any]
    prompt: Callable[..., Any]
    fused: bool = False


def before(
    embed: Any, tokens: Any, position: Any, padding: Any, cosines: Any, sines: Any, slots: Any, blocks: Any
) -> tuple[Any, Any, Any, Any]:
    """Hidden states [batch, 1, hidden], additive mask [batch, 1, 1, slots], rotary cosines and sines [batch, 1, d].

    ``blocks``, where a step reads filled blocks alone, counts those that are seen from ``position``; no mask then.
    """
    hidden = embed(tokens)
    mask = None
    if blocks is None:
        seen = (slots <= position) & (slots >= padding[:, None])
        mask = torch.where(seen, 0.0, float("-inf")).to(hidden.dtype)[:, None, None, :]
    else:
        blocks.look_from(position)
    place = position - padding
    return hidden, mask, cosines[place][:, None, :], sines[place][:, None, :]


def layer(module: Any, hidden: Any, mask: Any, cosines: Any, sines: Any, cache: Any) -> Any:
    """One of transformers' decoder layers."""
    return module(
        hidden, attention_mask=mask, position_embeddings=(cosines, sines), **{cache_argument.NAME: cache}
    )


def after(norm: Any, head: Any, hidden: Any, bans: Any) -> Any:
    """Logits [batch, vocabulary] in float32 after the last position; ``bans`` holds −inf where a token may not come."""
    return head(norm(hidden[:, -1])).float() + bans


def choose(logits: torch.Tensor, temperature: torch.Tensor | None) -> torch.Tensor:
    """The most likely token, or with a temperature one drawn from softmax(logits / temperature), without a host sync.

    argmax(p / e) with e ~ Exp(1) draws from p (the exponential race).
    """
    if temperature is None:
        return logits.argmax(-1)
    odds = torch.softmax(logits / temperature, -1)
    return (odds / torch.empty_like(odds).exponential_(1.0)).argmax(-1)


class Buffers:
    """All tensors of one shape, and the work on them."""

    def __init__(
        self, model: Any, functions: Functions, shape: Shape, device: torch.device, ranks: int
    ) -> None:
        self.model, self.functions, self.shape, self.device = model, functions, shape, device
        inner, config = model.model, model.config
        attention = inner.layers[0].self_attn
        kv_heads = config.num_key_value_heads // ranks
        dtype = inner.embed_tokens.weight.dtype
        size = (shape.batch, kv_heads, shape.slots, attention.head_dim)

        def zeros(*of: int, kind: torch.dtype = torch.long) -> torch.Tensor:
            return torch.zeros(of, dtype=kind, device=device)

        self.keys = [zeros(*size, kind=dtype) for _ in inner.layers]
        self.values = [zeros(*size, kind=dtype) for _ in inner.layers]
        self.tokens = zeros(shape.batch, 1)
        self.position = zeros(1)
        self.padding = zeros(shape.batch)
        self.bans = zeros(config.vocab_size, kind=torch.float32)
        self.temperature = torch.ones((), device=device)
        self.slots = torch.arange(shape.slots, device=device)
        cosines, sines = inner.rotary_emb(inner.embed_tokens.weight[:1, None], self.slots[None])
        self.cosines, self.sines = cosines[0], sines[0]  # [slots, d]
        self.caches = [DecodeCache(k, v, self.position) for k, v in zip(self.keys, self.values, strict=True)]
        self.blocks = None
        heads = config.num_attention_heads // ranks
        if functions.fused and blocks_pay(shape.batch, kv_heads, heads, attention.head_dim, device):
            self.blocks = FilledBlocks(shape.slots, self.position, self.padding)

    @property
    def cache(self) -> tuple[torch.Tensor, ...]:
        """All key and value tensors, layer by layer."""
        return (*self.keys, *self.values)

    @property
    def cache_bytes(self) -> int:
        """Bytes of the whole static cache on this rank."""
        return sum(t.numel() * t.element_size() for t in self.cache)

    def load(self, call: Call, eos: frozenset[int]) -> None:
        """Lay a call's settings into the buffers; the prompts go through ``read_prompts``."""
        longest = call.longest
        self.padding.copy_(torch.tensor([longest - len(prompt) for prompt in call.prompts]))
        if self.blocks is not None:
            self.blocks.begin()
        self.position.fill_(longest)
        self.temperature.fill_(call.temperature or 1.0)
        self.allow_end_of_sequence()
        if call.min_tokens and not call.ignore_eos and eos:
            self.bans[torch.tensor(sorted(eos), device=self.device)] = float("-inf")

    def rest(self) -> None:
        """No padding, and the first slot next: what captures run on."""
        self.position.zero_()
        self.padding.zero_()
        if self.blocks is not None:
            self.blocks.begin()

    def allow_end_of_sequence(self) -> None:
        """Lift the ban on ends of sequence."""
        self.bans.zero_()

    def read_prompts(self, ids: torch.Tensor, ragged: bool, sampled: bool) -> None:
        """Prefill ``ids`` [batch, longest], padded on the left; leaves the first new tokens in ``tokens``."""
        inner = self.model.model
        longest = ids.shape[1]
        place = (self.slots[:longest] - self.padding[:, None]).clamp(min=0)
        cosines, sines = self.cosines[place], self.sines[place]
        mask = self._prompt_mask(longest) if ragged else None
        hidden = inner.embed_tokens(ids)
        for module, keys, values in zip(inner.layers, self.keys, self.values, strict=True):
            hidden = self.functions.prompt(module, hidden, mask, cosines, sines, PrefillCache(keys, values))
        self._next(after(inner.norm, self.model.lm_head, hidden, self.bans), sampled)

    def _prompt_mask(self, longest: int) -> torch.Tensor:
        """[batch, 1, longest, longest], true where a query may look: causal, and never at padding.

        Padding looks at itself: a row that sees nothing would become NaN, and poison the cache.
        """
        slots = self.slots[:longest]
        causal = slots[None, :] <= slots[:, None]
        real = slots[None, :] >= self.padding[:, None]
        itself = slots[None, :] == slots[:, None]
        return ((causal & real[:, None, :]) | itself)[:, None]

    def step(self, sampled: bool) -> None:
        """One decode step: ``tokens`` go in, the next tokens come out there."""
        inner, functions = self.model.model, self.functions
        hidden, mask, cosines, sines = functions.before(
            inner.embed_tokens, self.tokens, self.position, self.padding, self.cosines, self.sines, self.slots,
            self.blocks,
        )  # fmt: skip
        mask = mask if self.blocks is None else self.blocks.mask
        for module, cache in zip(inner.layers, self.caches, strict=True):
            hidden = functions.layer(module, hidden, mask, cosines, sines, cache)
        self._next(functions.after(inner.norm, self.model.lm_head, hidden, self.bans), sampled)
        self.position.add_(1)

    def _next(self, logits: torch.Tensor, sampled: bool) -> None:
        self.tokens.copy_(choose(logits, self.temperature if sampled else None)[:, None])
