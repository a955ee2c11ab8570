"""Engine ``generate``: transformers' own ``model.generate``, eager, as most reports have used it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from loadgen.servers._hf.call import Run
from loadgen.servers._hf.requests import Call
from loadgen.servers._torch import cache_argument


class GenerateEngine:
    """One static batch per ``run``: left padding, greedy or sampled, exactly ``max_tokens`` unless EOS ends it."""

    name = "hf/generate"
    in_flight_batching = False
    kv_ahead, graphs, eager = False, False, True

    def __init__(
        self,
        model: Any,
        eos: frozenset[int],
        device: torch.device,
        on_cache: Callable[[Iterable[torch.Tensor]], None] = lambda cache: None,
    ) -> None:
        """``on_cache`` is told the key/value cache of each finished call."""
        from transformers import GenerationConfig

        # A checkpoint's generation config may carry sampling settings and an EOS; each call states its own.
        model.generation_config = GenerationConfig()
        self.model, self.eos, self.device, self._on_cache = model, eos, device, on_cache

    def run(self, run: Run) -> None:
        """Generate; every step goes to ``run``. Raises Cancelled, torch.OutOfMemoryError."""
        call = run.call
        ids, mask = padded_ids(call).to(self.device), padding_mask(call).to(self.device)
        if call.temperature > 0:
            torch.manual_seed(call.seed)
        with _seen_cache(self.model) as caches:
            self.model.generate(
                ids, attention_mask=mask, generation_config=settings(call, self.eos), streamer=_Steps(run)
            )
            self._on_cache(tensor for cache in caches for tensor in cache_tensors(cache))

    def close(self) -> None:
        """Nothing is held between calls."""


@contextmanager
def _seen_cache(model: Any) -> Iterator[list[Any]]:
    """The cache that ``generate`` makes, caught at its first forward; asking it to return the cache would change how
    it decodes."""
    caught: list[Any] = []

    def catch(_module: Any, _args: Any, named: dict[str, Any]) -> None:
        hook.remove()
        if named.get(cache_argument.NAME) is not None:
            caught.append(named[cache_argument.NAME])

    hook = model.register_forward_pre_hook(catch, with_kwargs=True)
    try:
        yield caught
    finally:
        hook.remove()
        caught.clear()


def cache_tensors(cache: Any) -> list[torch.Tensor]:
    """Keys and values of every layer of one of transformers' caches."""
    layers = getattr(cache, "layers", ())
    return [t for layer in layers for t in (layer.keys, layer.values) if isinstance(t, torch.Tensor)]


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
