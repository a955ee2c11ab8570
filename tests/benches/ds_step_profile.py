"""Where a decode step of DeepSpeed's engines goes: launches, all-reduces, host, at several TP degrees.

Usage: python tests/benches/ds_step_profile.py --model llama-13b --tp 1,2,4 --batches 1,64 \\
           --engines mii-fastgen,mii-fastgen+tuned,mii-fastgen+tuned+cuda_graph,ds-inference-autotp

Rank 0's view of the engine alone, without gRPC: what a server adds is the difference to a sweep's figures. ``step`` is
measured without a profiler; the other columns come from a profiled window whose host parts are slower than in truth.
"""

from __future__ import annotations

import json
import threading
import time
from collections import Counter, defaultdict
from typing import Any

import ds_ranks

WARM, STEPS, PROFILED = 20, 32, 8  # FastGen records its graphs within the first 16 steps
COLUMNS = (
    "engine", "tp", "batch", "step_ms", "gpu_busy_ms", "allreduce_ms", "allreduces", "kernels", "launches",
    "idle_ms", "put_ms", "wait_ms", "publish_ms", "schedule_ms",
)  # fmt: skip
LAUNCHES = ("cudaLaunchKernel", "cuLaunchKernel", "cudaGraphLaunch")


def main() -> None:
    parser = ds_ranks.arguments(__doc__ or "")
    parser.add_argument("--engines", default="mii-fastgen,ds-inference-autotp")
    parser.add_argument("--batches", default="1,8,64")
    parser.add_argument("--input", type=int, default=20)
    parser.add_argument("--top", type=int, default=12, help="kernels to list per cell; 0: none")
    given = parser.parse_args()
    if given.rank >= 0:
        rank(given.rank, json.loads(given.work))
        return
    batches = [int(word) for word in given.batches.split(",")]
    rows, notes, prepared = [], [], set()
    for degree in map(int, given.tp.split(",")):
        for words in given.engines.split(","):
            engine, *switches = words.split("+")
            options: dict[str, Any] = {"engine": engine, **dict.fromkeys(switches, True)}
            if engine == "mii-fastgen":
                options["kv_tokens"] = max(batches) * 512
            spec = ds_ranks.spec_of(given, degree, options, max_batch=max(batches))
            if engine not in prepared:
                ds_ranks.prepare(spec, given)
                prepared.add(engine)
            work = {"batches": batches, "input": given.input, "top": given.top, "label": words}
            for line in ds_ranks.launch(spec, given, __file__, work):
                if line.startswith("{"):
                    rows.append(json.loads(line))
                    print(ds_ranks.table(rows[-1:], COLUMNS), flush=True)
                elif line.startswith("#"):
                    notes.append(line)
                    print(line, flush=True)
                else:
                    print(f"{words} tp {degree}: {line}", flush=True)
    print("\n" + ds_ranks.table(rows, COLUMNS))


def rank(number: int, work: dict[str, Any]) -> None:
    """One rank: cell after cell in step with the others."""
    import torch

    spec = ds_ranks.load(work["spec"])
    options, ready, patches = ds_ranks.start_rank(spec, number, work["folder"])
    fastgen = options.engine == "mii-fastgen"
    if fastgen and number:
        while True:  # follow what rank 0 publishes until it ends, and this process with it
            ready.pipeline.generate()
    if number == 0:
        print(f"# {work['label']} tp {spec.tp}: {', '.join(patches)}", flush=True)
        if fastgen:
            time.sleep(1.0)
    if spec.tp > 1 and spec.gpus and not fastgen:
        host_cost(number, spec)
    for batch in work["batches"]:
        cell = (
            FastGenCell(ready, spec, batch, work["input"])
            if fastgen
            else StaticCell(ready, spec, batch, work["input"])
        )
        row = cell.measure(bool(spec.gpus), work["top"] if number == 0 else 0)
        if number == 0:
            print(json.dumps({"engine": work["label"], "tp": spec.tp, "batch": batch, **row}), flush=True)
        if spec.gpus:
            torch.cuda.empty_cache()
    ds_ranks.leave()


def host_cost(number: int, spec: Any) -> None:
    """What one all-reduce of a decode step costs the host to enqueue, and the device to do."""
    import deepspeed.comm as comm
    import torch

    data = torch.ones(1, spec.model.hidden, dtype=getattr(torch, spec.dtype), device="cuda")
    group = comm.new_group(list(range(spec.tp)))
    for words, call in (
        ("deepspeed.comm.all_reduce", lambda: comm.all_reduce(data, group=group)),
        ("deepspeed.comm.inference_all_reduce", lambda: comm.inference_all_reduce(data, group=group)),
        ("torch.distributed.all_reduce", lambda: torch.distributed.all_reduce(data)),
    ):
        for _ in range(50):
            call()
        torch.cuda.synchronize()
        started = time.perf_counter()
        for _ in range(400):
            call()
        enqueued = time.perf_counter()
        torch.cuda.synchronize()
        done = time.perf_counter()
        if number == 0:
            print(
                f"# tp {spec.tp} {words} of {data.numel() * data.element_size()} bytes: host "
                f"{(enqueued - started) / 400 * 1e6:.1f} µs, done {(done - started) / 400 * 1e6:.1f} µs each",
                flush=True,
            )


class StaticCell:
    """An engine that decodes a batch in one call: steps are told apart by differences of whole calls."""

    def __init__(self, ready: Any, spec: Any, batch: int, length: int) -> None:
        self._decoder = ready._decoder
        self._prompts = prompts(spec, batch, length)

    def measure(self, on_gpus: bool, top: int) -> dict[str, Any]:
        generate = self._decoder.generate
        generate(self._prompts, WARM + STEPS, None)  # graphs of this length, workspaces
        few = min(timed(lambda: generate(self._prompts, WARM, None)) for _ in range(3))
        many = min(timed(lambda: generate(self._prompts, WARM + STEPS, None)) for _ in range(3))
        step = (many - few) / STEPS
        if not on_gpus:
            return {"step_ms": step * 1e3 if step > 0 else None}  # a busy host can hide it
        window = Window()
        generate(self._prompts, WARM + STEPS, window.steps(WARM, PROFILED))
        return {"step_ms": step * 1e3 if step > 0 else None, **window.row(top)}


class FastGenCell:
    """FastGen on rank 0, driven step by step on this thread as its own thread would."""

    def __init__(self, ready: Any, spec: Any, batch: int, length: int) -> None:
        self._pipeline = ready.pipeline
        self._prompts, self._batch = prompts(spec, batch, length), batch

    def measure(self, on_gpus: bool, top: int) -> dict[str, Any]:
        pipeline = self._pipeline
        settings = {"max_new_tokens": WARM + STEPS + PROFILED + 8, "ignore_eos": True, "do_sample": False}
        uids = [pipeline.put_request(" ".join(map(str, ids)), dict(settings)) for ids in self._prompts]
        while not self._all_decode():
            pipeline.generate()
        for _ in range(WARM):
            pipeline.generate()
        step = timed(lambda: [pipeline.generate() for _ in range(STEPS)]) / STEPS
        parts = Parts(pipeline)
        window = Window()
        window.start()
        for _ in range(PROFILED):
            pipeline.generate()
        window.stop(PROFILED)
        shares = parts.remove(PROFILED)
        results = pipeline.result_queues[threading.get_ident()]
        while results.qsize() < self._batch:
            pipeline.generate()
        for uid in uids:
            pipeline.get_response()
            pipeline.flush_uid(uid)
        pipeline.schedule_requests()
        while pipeline.scheduled_requests or pipeline.buffer:
            pipeline.generate()
        return {"step_ms": step * 1e3, **window.row(top), **shares}

    def _all_decode(self) -> bool:
        pipeline = self._pipeline
        running = [r for r in pipeline.scheduled_requests if not r.is_flush_request]
        return len(running) == self._batch and all(r.num_generated_tokens > 0 for r in running)


class Parts:
    """Milliseconds of the host in FastGen's parts of a step, by wrapping them for a while."""

    NAMES = (
        ("put", "put_ms"),
        ("_process_logits", "wait_ms"),
        ("_bcast_requests", "publish_ms"),
        ("schedule_requests", "schedule_ms"),
    )

    def __init__(self, pipeline: Any) -> None:
        self._pipeline = pipeline
        self._spent: dict[str, float] = defaultdict(float)
        for name, column in self.NAMES:
            setattr(pipeline, name, self._wrap(getattr(pipeline, name), column))

    def _wrap(self, function: Any, column: str) -> Any:
        def timed_call(*args: Any, **named: Any) -> Any:
            started = time.perf_counter()
            try:
                return function(*args, **named)
            finally:
                self._spent[column] += time.perf_counter() - started

        return timed_call

    def remove(self, steps: int) -> dict[str, float]:
        for name, _ in self.NAMES:
            delattr(self._pipeline, name)
        return {column: self._spent[column] / steps * 1e3 for _, column in self.NAMES}


class Window:
    """A profiled window of steps."""

    def __init__(self) -> None:
        import torch
        from torch.profiler import ProfilerActivity

        self._profiler = torch.profiler.profile(
            activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA], acc_events=True
        )
        self._count = 0
        self._wall = 0.0

    def start(self) -> None:
        import torch

        torch.cuda.synchronize()
        self._profiler.start()
        self._wall = time.perf_counter()

    def stop(self, steps: int) -> None:
        import torch

        torch.cuda.synchronize()
        self._wall, self._count = time.perf_counter() - self._wall, steps
        self._profiler.stop()

    def steps(self, first: int, count: int) -> Any:
        """A token callback that profiles ``count`` steps after the ``first``."""
        seen = 0

        def on_tokens(_: Any) -> None:
            nonlocal seen
            seen += 1
            if seen == first:
                self.start()
            elif seen == first + count:
                self.stop(count)

        return on_tokens

    def row(self, top: int) -> dict[str, Any]:
        """Per step: time in which any kernel ran, all-reduces, kernels, launches, and the time in which none ran."""
        from torch.autograd import DeviceType

        spans, reduce_us, reduces, kernels, launches = [], 0.0, 0, 0, 0
        by_name: Counter[str] = Counter()
        for event in self._profiler.events():
            if event.device_type == DeviceType.CUDA:
                if event.name.startswith(("Memcpy", "Memset", "nccl:", "record_param_comms")):
                    continue  # not kernels; "nccl:" are ranges around them
                start, end = event.time_range.start, event.time_range.end
                spans.append((start, end))
                kernels += 1
                by_name[event.name] += end - start
                if "nccl" in event.name.lower():
                    reduce_us += end - start
                    reduces += 1
            elif event.name.startswith(LAUNCHES):
                launches += 1
        busy = union(spans)
        if top:
            for name, spent in by_name.most_common(top):
                print(f"#   {spent / self._count:9.1f} µs a step  {name[:110]}", flush=True)
        per = self._count
        return {
            "gpu_busy_ms": busy / per / 1e3,
            "allreduce_ms": reduce_us / per / 1e3,
            "allreduces": round(reduces / per, 1),
            "kernels": round(kernels / per, 1),
            "launches": round(launches / per, 1),
            "idle_ms": max(0.0, self._wall / per * 1e3 - busy / per / 1e3),
        }


def union(spans: list[tuple[float, float]]) -> float:
    """The length of what any of the spans covers."""
    covered, until = 0.0, float("-inf")
    for start, end in sorted(spans):
        covered += max(0.0, end - max(start, until))
        until = max(until, end)
    return covered


def prompts(spec: Any, batch: int, length: int) -> list[list[int]]:
    usable = spec.model.vocab - 300
    return [[3 + (row * 7919 + place * 104729) % usable for place in range(length)] for row in range(batch)]


def timed(work: Any) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
