"""Engine ``compiled``: transformers' layers over a static cache, in a decode loop of our own.

On a GPU one decode step (forward, choice of token, position) is a CUDA graph, replayed without a host sync: the host
stays ``DEPTH`` steps ahead, and hands out a step's tokens when the device has really finished it. Elementwise work is
fused by torch.compile, one layer compiled once for all layers. On a CPU the same loop runs the same steps directly.
"""

from __future__ import annotations

import gc
import math
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch

from loadgen.servers._hf import decode
from loadgen.servers._hf.call import Run
from loadgen.servers._hf.decode import Buffers, Functions, Shape
from loadgen.servers._hf.generate import padded_ids
from loadgen.servers._hf.requests import Call
from loadgen.servers._hf.static_step import join_linears, use_plain_collectives, use_static_attention

DEPTH = 2  # steps launched ahead of the one awaited: the device never waits for the host
SLOT_STEP = 64  # cache slots come in multiples of this: few shapes, little read in vain
GRAPHED_PROMPT_TOKENS = 4096  # longer prompts keep the device busier than the host: no graph needed
PROMPT_GRAPHS = 16  # per shape: more prompt lengths than this means that lengths vary, and graphs do not pay
IDLE_SHARE = 0.25  # of the device's memory, for caches of shapes not in use


class CompiledEngine:
    """One static batch per ``run``; greedy, or sampled from the full distribution. Ends of sequence are seen by the
    host, so up to ``DEPTH`` − 1 steps past the last end are computed and dropped.
    """

    in_flight_batching = False
    kv_ahead, graphs, eager = False, True, False
    kv_block_tokens = SLOT_STEP

    def __init__(
        self,
        model: Any,
        eos: frozenset[int],
        device: torch.device,
        *,
        compile_mode: str,
        tp: int,
        on_cache: Callable[[Iterable[torch.Tensor], Iterable[torch.Tensor]], None] = lambda cache, kept: None,
    ) -> None:
        """``on_cache`` is told each call's key/value cache, and the caches kept beside it for other shapes."""
        kind = (getattr(model.config, "rope_parameters", None) or {}).get("rope_type", "default")
        if kind in ("dynamic", "longrope"):
            raise ValueError(f"engine compiled tabulates rotary positions, which rope type {kind!r} forbids")
        self.model, self.eos, self.device = model, eos, device
        self.graphs = device.type == "cuda"
        self.name = "hf/compiled" if self.graphs else "hf/compiled (CPU: no CUDA graphs, no torch.compile)"
        self.tp, self._on_cache = tp, on_cache
        if tp > 1:
            use_plain_collectives(model)
        use_static_attention(model)
        join_linears(model)
        self.functions = _functions(compile_mode if self.graphs else "off")
        # One for all captures: cuBLAS keeps 32 MiB of work space for every stream that it was ever used on.
        self._side = torch.cuda.Stream(device) if self.graphs else None
        self._shapes: OrderedDict[Shape, _Prepared] = OrderedDict()

    @torch.no_grad()
    def run(self, run: Run) -> None:
        """Generate; every step goes to ``run``. Raises Cancelled, torch.OutOfMemoryError."""
        try:
            self._run(run)
        except torch.OutOfMemoryError:
            self._shapes.clear()  # whatever is half made goes; shapes are made anew when asked for
            raise

    def _run(self, run: Run) -> None:
        call = run.call
        sampled = call.temperature > 0
        prepared = self._prepared(shape_of(call))
        prepared.prepare(call, sampled)
        others = (other.buffers for other in self._shapes.values() if other is not prepared)
        kept = [tensor for buffers in others for tensor in buffers.cache]
        self._on_cache(prepared.buffers.cache, kept)
        if sampled:
            torch.manual_seed(call.seed)  # after the captures, whose trial runs draw too
        buffers, host = prepared.buffers, prepared.host
        buffers.load(call, self.eos)
        host.restart()
        prepared.read_prompts(call, sampled)
        host.push(buffers.tokens)
        launched = 1
        while True:
            while launched < min(call.max_tokens, run.steps + DEPTH):
                if launched == call.min_tokens:
                    buffers.allow_end_of_sequence()
                prepared.step(sampled)
                host.push(buffers.tokens)
                launched += 1
            if not run.step(host.pull(), launched):
                return

    def _prepared(self, shape: Shape) -> _Prepared:
        """The buffers and graphs of a shape; those used longest ago make room."""
        if shape in self._shapes:
            self._shapes.move_to_end(shape)
            return self._shapes[shape]
        self._make_room(0 if not self.graphs else torch.cuda.get_device_properties(self.device).total_memory)
        buffers = self._buffers(shape)
        if buffers is None:  # outside the handler, whose traceback would keep what was half made
            self._shapes.clear()
            _collect(self.device)
            buffers = Buffers(self.model, self.functions, shape, self.device, self.tp)
        prepared = self._shapes[shape] = _Prepared(buffers, self._side)
        return prepared

    def _buffers(self, shape: Shape) -> Buffers | None:
        try:
            return Buffers(self.model, self.functions, shape, self.device, self.tp)
        except torch.OutOfMemoryError:
            return None

    def _make_room(self, memory: int) -> None:
        dropped = False
        while (
            self._shapes and sum(p.buffers.cache_bytes for p in self._shapes.values()) > IDLE_SHARE * memory
        ):
            self._shapes.popitem(last=False)
            dropped = True
        if dropped:
            _collect(self.device)

    def close(self) -> None:
        """Drop every graph and cache; must come before the process group goes, whose collectives graphs hold."""
        self._shapes.clear()
        _collect(self.device)


class _Prepared:
    """One shape's buffers with the graphs captured over them so far, on the stream ``side``; None: no graphs."""

    def __init__(self, buffers: Buffers, side: Any) -> None:
        self.buffers, self._side = buffers, side
        self.host = _Host(buffers.shape.batch, buffers.device)
        self._pool = torch.cuda.graph_pool_handle() if side is not None else None
        self._steps: dict[bool, Any] = {}
        self._prompts: dict[_Prompt, tuple[Any, torch.Tensor]] = {}
        self._compiled: set[tuple[bool, bool]] = set()

    def prepare(self, call: Call, sampled: bool) -> None:
        """Compile and capture what this call will launch, where that is new; what it writes is overwritten later."""
        if self._side is None:
            return
        buffers, prompt = self.buffers, _Prompt.of(call, sampled)
        new_prompt = prompt.graphed and prompt not in self._prompts and len(self._prompts) < PROMPT_GRAPHS
        new_kind = (
            prompt.longest == 1,
            prompt.ragged,
        ) not in self._compiled  # what its compiled form depends on
        if sampled in self._steps and not new_prompt and not new_kind:
            return
        self._compiled.add((prompt.longest == 1, prompt.ragged))
        buffers.rest()
        ids = torch.zeros(buffers.shape.batch, prompt.longest, dtype=torch.long, device=buffers.device)
        if new_kind and not new_prompt:
            buffers.read_prompts(
                ids, prompt.ragged, sampled
            )  # seconds of compiling, outside the call's own time
        if new_prompt:
            graph = self._capture(lambda: buffers.read_prompts(ids, prompt.ragged, sampled))
            self._prompts[prompt] = (graph, ids)
        if sampled not in self._steps:
            self._steps[sampled] = self._capture(lambda: buffers.step(sampled))

    def step(self, sampled: bool) -> None:
        """Launch one decode step."""
        if self._side is not None:
            self._steps[sampled].replay()
        else:
            self.buffers.step(sampled)

    def read_prompts(self, call: Call, sampled: bool) -> None:
        """Launch the prefill."""
        prompt = _Prompt.of(call, sampled)
        if prompt in self._prompts:
            graph, ids = self._prompts[prompt]
            ids.copy_(padded_ids(call))
            graph.replay()
        else:
            self.buffers.read_prompts(padded_ids(call).to(self.buffers.device), prompt.ragged, sampled)

    def _capture(self, work: Callable[[], None]) -> Any:
        """Run ``work`` twice on the side stream (compilation, library handles, communicators), then capture it."""
        side = self._side
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            work()
            work()
        torch.cuda.current_stream().wait_stream(side)
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        # thread_local: another thread's harmless CUDA call (a metrics scrape) must not void the capture.
        with torch.cuda.graph(graph, pool=self._pool, stream=side, capture_error_mode="thread_local"):
            work()
        torch.cuda.synchronize()
        return graph


@dataclass(frozen=True, slots=True)
class _Prompt:
    """What a prefill's graph is good for. ``graphed``: short enough that launches would cost more than the work."""

    longest: int
    ragged: bool
    sampled: bool
    graphed: bool

    @classmethod
    def of(cls, call: Call, sampled: bool) -> _Prompt:
        ragged = len(set(map(len, call.prompts))) > 1
        return cls(call.longest, ragged, sampled, call.longest * len(call.prompts) <= GRAPHED_PROMPT_TOKENS)


class _Host:
    """A ring of host copies of the tokens, one per step under way; ``pull`` waits for the oldest."""

    def __init__(self, batch: int, device: torch.device) -> None:
        self._cuda = device.type == "cuda"
        self._ring = [torch.zeros(batch, 1, dtype=torch.long, pin_memory=self._cuda) for _ in range(DEPTH)]
        self._events = [torch.cuda.Event() if self._cuda else None for _ in range(DEPTH)]
        self._pushed = self._pulled = 0

    def restart(self) -> None:
        """Forget steps that a cancelled call left behind; the stream's order keeps them from mixing in."""
        self._pushed = self._pulled = 0

    def push(self, tokens: torch.Tensor) -> None:
        """Queue a copy behind the step that makes ``tokens`` [batch, 1]."""
        place = self._pushed % DEPTH
        self._ring[place].copy_(tokens, non_blocking=True)
        if (event := self._events[place]) is not None:
            event.record()
        self._pushed += 1

    def pull(self) -> list[int]:
        """The oldest copy, once the device has made it."""
        place = self._pulled % DEPTH
        if (event := self._events[place]) is not None:
            event.synchronize()
        self._pulled += 1
        return [int(token) for token in self._ring[place].flatten().tolist()]


def shape_of(call: Call) -> Shape:
    """The static shape that holds a call: its slots rounded up."""
    return Shape(len(call.prompts), math.ceil((call.longest + call.max_tokens) / SLOT_STEP) * SLOT_STEP)


def inductor_options(mode: str) -> dict[str, Any]:
    """torch.compile's options for ``mode``: ``default`` or ``autotune``."""
    if mode == "autotune":
        return {"max_autotune": True, "coordinate_descent_tuning": True}
    # Reductions tuned anew at every start sum in another order: greedy tokens would differ from start to start.
    return {"deterministic": True} if hasattr(torch._inductor.config, "deterministic") else {}


def _functions(mode: str) -> Functions:
    if mode == "off":
        return Functions(before=decode.before, layer=decode.layer, after=decode.after, prompt=decode.layer)
    torch._dynamo.config.recompile_limit = (
        256  # one compilation per shape is meant; past the limit it would run eagerly
    )
    options = inductor_options(mode)

    def compiled(function: Callable[..., Any], *, dynamic: bool = False) -> Callable[..., Any]:
        wrapped: Callable[..., Any] = torch.compile(
            function, fullgraph=True, dynamic=dynamic, options=options or None
        )
        return wrapped

    return Functions(
        before=compiled(decode.before),
        layer=compiled(decode.layer),
        after=compiled(decode.after),
        prompt=compiled(decode.layer, dynamic=True),
        fused=True,
    )


def _collect(device: torch.device) -> None:
    gc.collect()
    if device.type == "cuda":
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
