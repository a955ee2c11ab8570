"""Engine ``generate``: transformers' own ``model.generate``, eager, as most reports have used it."""

from __future__ import annotations

from typing import Any

import torch

from loadgen.servers._hf_requests import Call
from loadgen.servers._hf_run import Run


class GenerateEngine:
    """One static batch per ``run``: left padding, greedy or sampled, exactly ``max_tokens`` unless EOS ends it."""

    name = "hf/generate"
    in_flight_batching = False

    def __init__(self, model: Any, eos: frozenset[int], device: torch.device) -> None:
        from transformers import GenerationConfig

        # A checkpoint's generation config may carry sampling settings and an EOS; each call states its own.
        model.generation_config = GenerationConfig()
        self.model, self.eos, self.device = model, eos, device

    def run(self, run: Run) -> None:
        """Generate; every step goes to ``run``. Raises Cancelled, torch.OutOfMemoryError."""
        call = run.call
        ids, mask = padded_ids(call).to(self.device), padding_mask(call).to(self.device)
        if call.temperature > 0:
            torch.manual_seed(call.seed)
        self.model.generate(
            ids, attention_mask=mask, generation_config=settings(call, self.eos), streamer=_Steps(run)
        )

    def close(self) -> None:
        """Nothing is held between calls."""


def settings(call: Call, eos: frozenset[int]) -> Any:
    """transformers' GenerationConfig for one call. Without EOS ids there, exactly ``max_tokens`` come."""
    from transformers import GenerationConfig

    ends = sorted(eos) if eos and not call.ignore_eos else None
    sampling = {"temperature": call.temperature, "top_k": 0, "top_p": 1.0} if call.temperature > 0 else {}
    return GenerationConfig(
        max_new_tokens=call.max_tokens,
        min_new_tokens=call.min_tokens if ends and call.min_tokens else None,
        do_sample=call.temperature > 0,
        eos_token_id=ends,
        pad_token_id=ends[0] if ends else None,
        use_cache=True,
        **sampling,
    )


def padded_ids(call: Call) -> torch.Tensor:
    """Prompts [batch, longest], padded on the left."""
    longest = call.longest
    return torch.tensor([[0] * (longest - len(p)) + list(p) for p in call.prompts], dtype=torch.long)


def padding_mask(call: Call) -> torch.Tensor:
    """[batch, longest]: 0 where a prompt is padded, else 1."""
    longest = call.longest
    return torch.tensor([[0] * (longest - len(p)) + [1] * len(p) for p in call.prompts], dtype=torch.long)


class _Steps:
    """What ``generate`` calls a streamer: it gets the prompts first, then each step's tokens, already on the CPU."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._prompt_seen = False

    def put(self, tokens: torch.Tensor) -> None:
        if not self._prompt_seen:
            self._prompt_seen = True
            return
        self._run.step(tokens.tolist(), self._run.steps + 1)

    def end(self) -> None:
        """Called by ``generate`` when it is done; ``run`` knows already."""
