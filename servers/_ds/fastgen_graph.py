"""FastGen's decode step as a CUDA graph, which its code prepares for (batches live in fixed buffers) and never does.

A step launches some four hundred kernels and, with tensor parallelism, eighty all-reduces, each of which costs the host
more than the device; replayed, they cost it one launch. What a step needs lies in buffers filled before ``forward``, so
steps with equally many sequences and no prompt tokens differ in nothing that a graph records.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable
from typing import Any

import torch

from loadgen.servers._ds.patches import Patches

WARM_STEPS = 2  # eager steps of a size before it is recorded, so that libraries have made their workspaces
GRAPHS = 64
CHECK_TOKENS = 12


def install(engine: Any, patches: Patches) -> GraphedForward:
    """Have ``engine`` (FastGen's InferenceEngineV2) replay its decode steps. Call it before the first forward."""
    from deepspeed.inference.v2.kernels.core_ops import BlasLibLinear

    def product(self: Any, output: Any, hidden_states: Any, weights: Any) -> Any:
        return torch.mm(hidden_states, weights.t(), out=output)

    # FastGen's own cuBLAS handle works on the legacy stream, which cannot be recorded.
    patches.replace("torch-linear", BlasLibLinear, "__call__", product)
    forward = GraphedForward(engine._model.forward)
    patches.replace("cuda-graph", engine._model, "forward", forward)
    return forward


class GraphedForward:
    """FastGen's ``forward`` with a graph per number of sequences, the least recently used of which are dropped.

    Ranks see the same batches in the same order, so they record and replay the same collectives at the same call; for
    the same reason the first ``CHECK_TOKENS`` forwards are eager on all of them, as ``check`` needs.
    """

    def __init__(self, eager: Any) -> None:
        self._eager = eager
        self._seen: Counter[int] = Counter()
        self._graphs: OrderedDict[int, tuple[Any, Any]] = OrderedDict()
        self._pool: Any = None
        self._forwards = 0
        self.replays = 0

    def __call__(self, batch: Any) -> Any:
        size = batch.current_sequences
        self._forwards += 1
        if self._forwards <= CHECK_TOKENS or batch.current_tokens != size:
            return self._eager(batch)
        if size not in self._graphs:
            self._seen[size] += 1
            if self._seen[size] <= WARM_STEPS:
                return self._eager(batch)
            self._record(size, batch)
        graph, logits = self._graphs[size]
        self._graphs.move_to_end(size)
        graph.replay()
        self.replays += 1
        return logits

    def check(self, ask: Callable[[int], str]) -> None:
        """Raise RuntimeError unless replayed steps give what eager ones gave. ``ask(n)``: n tokens of one prompt."""
        eager, replayed = ask(CHECK_TOKENS), ask(CHECK_TOKENS)
        replayed = ask(CHECK_TOKENS) if not self.replays else replayed
        if not self.replays or replayed != eager:
            raise RuntimeError(
                f"self-check: with {self.replays} replays FastGen answered {replayed!r}, without them {eager!r}; "
                "it is not served with cuda_graph (leave that option out)"
            )

    def _record(self, size: int, batch: Any) -> None:
        if len(self._graphs) == GRAPHS:
            self._graphs.popitem(last=False)
        if self._pool is None:
            self._pool = torch.cuda.graph_pool_handle()
        torch.cuda.synchronize()
        graph: Any = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
            logits = self._eager(batch)
        self._graphs[size] = (graph, logits)
