"""Greedy decoding of a static batch over a transformers llama that DeepSpeed holds: exactly ``n`` tokens a sequence.

The key/value cache is one buffer made for the longest sequence of the call, so that no step copies it. A decode step
can be replayed as a CUDA graph: then the host launches one thing instead of some thousand, which is what a step of a
large model on several GPUs is otherwise bound by.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from loadgen.servers._torch import cache_argument

# The cache of a graph has a fixed length, and every step attends over all of it; calls of like lengths share a graph.
GRAPH_STEP = 64
OnTokens = Callable[[list[int]], None]


class Buffers:
    """The cache in the shape that transformers' llama asks for: ``update`` and the sizes for its mask.

    ``fixed`` switches from views of what is filled (``filled`` tokens) to the whole buffer, written at the device-side
    position ``at``, as a graph must.
    """

    def __init__(
        self,
        layers: int,
        batch: int,
        heads: int,
        length: int,
        dim: int,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        shape = (layers, batch, heads, length, dim)
        # Zeroed: what is not written yet is masked, and a mask does not hide NaN.
        self.keys = torch.zeros(shape, dtype=dtype, device=device)
        self.values = torch.zeros(shape, dtype=dtype, device=device)
        self.at = torch.zeros(1, dtype=torch.long, device=device)
        self.filled = 0
        self.fixed = False

    def update(
        self, keys: torch.Tensor, values: torch.Tensor, layer_idx: int, *_: Any, **__: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Write the new keys and values [batch, heads, new, d] of a layer; returns all that attention reads."""
        mine, theirs = self.keys[layer_idx], self.values[layer_idx]
        if self.fixed:
            mine.index_copy_(2, self.at, keys)
            theirs.index_copy_(2, self.at, values)
            return mine, theirs
        end = self.filled + keys.shape[2]
        mine[:, :, self.filled : end] = keys
        theirs[:, :, self.filled : end] = values
        return mine[:, :, :end], theirs[:, :, :end]

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Positions filled so far, as transformers asks a cache."""
        return self.filled

    def get_query_offset(self, layer_idx: int = 0) -> int:
        """The position of the first new token, as transformers asks a cache."""
        return self.filled

    def get_mask_sizes(self, query_length: int, layer_idx: int = 0) -> tuple[int, int]:
        """Length and offset of the keys that a mask covers, as transformers asks a cache."""
        return self.filled + query_length, 0


class Decoder:
    """Runs calls one at a time on DeepSpeed's ``engine``; ``heads`` are the key/value heads that this rank holds."""

    def __init__(
        self,
        engine: Any,
        *,
        layers: int,
        heads: int,
        dim: int,
        dtype: torch.dtype,
        device: torch.device,
        cuda_graph: bool = False,
    ) -> None:
        self._engine = engine
        self._layers, self._heads, self._dim = layers, heads, dim
        self._dtype, self._device, self._cuda_graph = dtype, device, cuda_graph
        self.kv_block_tokens = GRAPH_STEP if cuda_graph else 1
        self._cache: Buffers | None = None
        self._step: _GraphStep | None = None

    @torch.inference_mode()
    def generate(self, prompts: Sequence[Sequence[int]], n: int, on_tokens: OnTokens | None) -> torch.Tensor:
        """Greedy tokens [batch, n], on the CPU. With ``on_tokens`` every step's tokens are handed over as they come;
        without it the host never waits for the device before the end."""
        longest = max(map(len, prompts))
        padding = [longest - len(prompt) for prompt in prompts]
        ids = torch.tensor([[0] * pad + list(prompt) for pad, prompt in zip(padding, prompts, strict=True)])
        pads = torch.tensor(padding) if any(padding) else None
        cache = self._prepare(len(prompts), longest + n)
        ids = ids.to(self._device)
        pads = None if pads is None else pads.to(self._device)
        tokens = torch.empty((len(prompts), n), dtype=torch.long, device=self._device)
        token = self._prefill(ids, pads, cache)
        tokens[:, 0] = token
        if on_tokens is not None:
            on_tokens(token.tolist())
        steps = self._graph_steps if self._cuda_graph else self._plain_steps
        if n > 1:
            steps(token, pads, cache, longest, tokens, on_tokens)
        return tokens.cpu()

    def weight_bytes(self) -> int:
        """Bytes of this rank's parameters, shared ones once."""
        return sum(p.numel() * p.element_size() for p in self._engine.module.parameters())

    def cache(self) -> tuple[torch.Tensor, ...]:
        """The key/value cache of the last call, which stays for the next one of its shape."""
        return () if self._cache is None else (self._cache.keys, self._cache.values)

    def _prepare(self, batch: int, length: int) -> Buffers:
        if self._cuda_graph:
            length = -(-length // self.kv_block_tokens) * self.kv_block_tokens
        cache = self._cache
        if cache is None or cache.keys.shape[1] != batch or cache.keys.shape[3] != length:
            self._step = self._cache = cache = None  # free the old one before the new one is made
            cache = Buffers(self._layers, batch, self._heads, length, self._dim, self._dtype, self._device)
            self._cache = cache
        cache.filled, cache.fixed = 0, False
        return cache

    def _prefill(self, ids: torch.Tensor, pads: torch.Tensor | None, cache: Buffers) -> torch.Tensor:
        length = ids.shape[1]
        places = torch.arange(length, device=self._device)
        positions, mask = places.unsqueeze(0), None
        if pads is not None:
            positions = (positions - pads.unsqueeze(1)).clamp_min(0)
            real = places.unsqueeze(0) >= pads.unsqueeze(1)
            causal = places.unsqueeze(1) >= places.unsqueeze(0)
            # Padding attends to itself: a row of nothing but hidden keys would be NaN.
            mask = causal & (
                real[:, None, None, :] | torch.eye(length, dtype=torch.bool, device=self._device)
            )
        token = self._call(ids, positions, mask, cache)
        cache.filled = length
        return token

    def _call(
        self, ids: torch.Tensor, positions: torch.Tensor, mask: torch.Tensor | None, cache: Buffers
    ) -> torch.Tensor:
        output = self._engine(
            input_ids=ids,
            attention_mask=mask,
            position_ids=positions,
            **{cache_argument.NAME: cache},
            use_cache=True,
            logits_to_keep=1,
        )
        token: torch.Tensor = output.logits[:, -1].argmax(dim=-1)
        return token

    def _plain_steps(
        self,
        token: torch.Tensor,
        pads: torch.Tensor | None,
        cache: Buffers,
        filled: int,
        tokens: torch.Tensor,
        on_tokens: OnTokens | None,
    ) -> None:
        places = torch.arange(filled + tokens.shape[1], device=self._device)
        for step in range(1, tokens.shape[1]):
            at = filled + step - 1
            positions, mask = places[at : at + 1].unsqueeze(0), None
            if pads is not None:
                positions = positions - pads.unsqueeze(1)
                mask = (places[: at + 1].unsqueeze(0) >= pads.unsqueeze(1))[:, None, None, :]
            token = self._call(token.unsqueeze(1), positions, mask, cache)
            cache.filled = at + 1
            tokens[:, step] = token
            if on_tokens is not None:
                on_tokens(token.tolist())

    def _graph_steps(
        self,
        token: torch.Tensor,
        pads: torch.Tensor | None,
        cache: Buffers,
        filled: int,
        tokens: torch.Tensor,
        on_tokens: OnTokens | None,
    ) -> None:
        cache.fixed = True
        step = self._step
        if step is None:
            step = self._step = _GraphStep(self._call, cache)
            step.start(token, pads, filled)
            step.capture()
        step.start(token, pads, filled)
        for _ in range(1, tokens.shape[1]):
            step.run()
            if on_tokens is not None:
                on_tokens(step.token.tolist())
        done = step.history[:, filled : filled + tokens.shape[1] - 1]
        tokens[:, 1:] = done


class _GraphStep:
    """One decode step whose every input and output lies on the device, so that replaying it needs nothing of the host.

    ``history[:, p]`` is the token that the step at position ``p`` gave.
    """

    def __init__(self, call: Callable[..., torch.Tensor], cache: Buffers) -> None:
        batch, length = cache.keys.shape[1], cache.keys.shape[3]
        device = cache.keys.device
        self._call, self._cache = call, cache
        self._graph: torch.cuda.CUDAGraph | None = None
        self._places = torch.arange(length, device=device)
        self.token = torch.zeros(batch, dtype=torch.long, device=device)
        self.history = torch.zeros((batch, length), dtype=torch.long, device=device)
        self._positions = torch.zeros((batch, 1), dtype=torch.long, device=device)
        self._mask = torch.zeros((batch, 1, 1, length), dtype=torch.bool, device=device)

    def start(self, token: torch.Tensor, pads: torch.Tensor | None, filled: int) -> None:
        """Set the state in which position ``filled`` is the next to compute."""
        hidden = torch.zeros_like(self.token) if pads is None else pads
        self.token.copy_(token)
        self._cache.at.fill_(filled)
        self._positions.copy_((filled - hidden).unsqueeze(1))
        seen = (self._places >= hidden.unsqueeze(1)) & (self._places <= filled)
        self._mask.copy_(seen[:, None, None, :])

    def body(self) -> None:
        """One step: everything in it is a kernel."""
        token = self._call(self.token.unsqueeze(1), self._positions, self._mask, self._cache)
        self.token.copy_(token)
        self.history.index_copy_(1, self._cache.at, token.unsqueeze(1))
        self._cache.at.add_(1)
        self._positions.add_(1)
        self._mask.index_fill_(3, self._cache.at.clamp_max(self._mask.shape[3] - 1), True)

    def capture(self) -> None:
        """Warm up beside the main stream, as capture asks for, and record. Leaves the state spent: ``start`` again."""
        aside: Any = torch.cuda.Stream()
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):
            for _ in range(2):
                self._cache.at.clamp_(max=self._mask.shape[3] - 1)
                self.body()
        torch.cuda.current_stream().wait_stream(aside)
        self._cache.at.clamp_(max=self._mask.shape[3] - 1)
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):
            self.body()
        self._graph = graph

    def run(self) -> None:
        """Replay the step, or compute it where nothing was captured (the tests, on a CPU)."""
        if self._graph is None:
            self.body()
        else:
            self._graph.replay()
