"""Greedy tokens of a server against those of transformers on the same folder, where equal means: within ties."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx


@dataclass(frozen=True)
class Outcome:
    """``same`` of ``total`` tokens are those of transformers' largest logit after the same tokens. Where they are not,
    ``gaps`` are how much larger it is, relative to the logits' spread: rounding, when that is tiny."""

    same: int
    total: int
    gaps: tuple[float, ...]


def prompts(count: int, tokens: int, vocab: int, seed: int = 1) -> list[list[int]]:
    choose = random.Random(seed)
    return [[choose.randrange(3, vocab) for _ in range(tokens)] for _ in range(count)]


def completions(url: str, model: str, asked: Sequence[Sequence[int]], tokens: int) -> list[list[int]]:
    """The server's greedy tokens, by an OpenAI-compatible route that returns ids."""
    body: dict[str, Any] = {
        "model": model,
        "prompt": [list(prompt) for prompt in asked],
        "max_tokens": tokens,
        "temperature": 0,
        "ignore_eos": True,
        "return_token_ids": True,
    }
    reply = httpx.post(f"{url}/v1/completions", json=body, timeout=300)
    reply.raise_for_status()
    choices = sorted(reply.json()["choices"], key=lambda choice: choice["index"])
    return [choice["token_ids"] for choice in choices]


def against_transformers(
    folder: Path, dtype: str, device: str, asked: Sequence[Sequence[int]], answers: Sequence[Sequence[int]]
) -> Outcome:
    """Each answer, token by token, against the logits that transformers has after the same tokens."""
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, dtype)).to(device).eval()
    same = total = 0
    gaps = []
    for prompt, answer in zip(asked, answers, strict=True):
        with torch.no_grad():
            whole = torch.tensor([[*prompt, *answer]], device=device)
            logits = model(whole).logits[0, len(prompt) - 1 : -1].float()
        total += len(answer)
        for place, token in enumerate(answer):
            best = int(logits[place].argmax())
            if best != token:
                gap = logits[place, best] - logits[place, token]
                gaps.append(float(gap / logits[place].std()))
            else:
                same += 1
    return Outcome(same, total, tuple(gaps))
