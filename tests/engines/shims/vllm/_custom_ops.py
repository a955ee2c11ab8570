"""Rotary embedding in plain torch, in place, as vLLM's kernel of that name does it."""

import torch


def rotary_embedding(
    positions: torch.Tensor,
    query: torch.Tensor,
    key: torch.Tensor | None,
    head_size: int,
    cos_sin_cache: torch.Tensor,
    is_neox: bool,
) -> None:
    """Turn ``query`` and ``key`` [tokens, heads × head_size] by their positions; pairs are halves where ``is_neox``."""
    cos, sin = cos_sin_cache[positions.flatten()].chunk(2, dim=-1)
    for tensor in (query, key):
        if tensor is None:
            continue
        heads = tensor.view(cos.shape[0], -1, head_size)
        turned = heads[..., : 2 * cos.shape[-1]]
        first, second = turned.chunk(2, dim=-1) if is_neox else (turned[..., ::2], turned[..., 1::2])
        c, s = cos[:, None].to(first.dtype), sin[:, None].to(first.dtype)
        one, two = first * c - second * s, second * c + first * s
        turned.copy_(torch.cat((one, two), -1) if is_neox else torch.stack((one, two), -1).flatten(-2))
