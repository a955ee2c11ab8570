"""Where a decode step's time goes: launches on the CPU, kernels on the GPU, collectives, host functions, threads.

Usage: python tests/benches/hf_step_profile.py --model llama-13b --engine generate --tp 2 --batch 1

Rank 0's view. ``wall`` is measured without a profiler too, whose own cost falls on the launches. Functions of the host
come from a third window under cProfile, threads from the kernel's account of a window with neither.
"""

from __future__ import annotations

import cProfile
import os
import pstats
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hf_overhead import Direct, arguments, prompts_of, spec_of

FIRST, STEPS = 6, 8  # the window: after the steps that fill the pipeline, before the last ones
LAUNCHES = (
    "cudaLaunchKernel",
    "cuLaunchKernel",
    "cudaGraphLaunch",
    "cudaLaunchKernelExC",
    "cuLaunchKernelEx",
)


def main() -> None:
    parser = arguments()
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--top", type=int, default=10)
    given = parser.parse_args()
    given.output = FIRST + STEPS + 4
    spec = spec_of(given)
    direct = Direct(spec)
    for salt in range(2):
        steps(direct, given, salt)
    plain = min(steps(direct, given, 2 + i) for i in range(3))
    import torch
    from torch.profiler import ProfilerActivity

    kinds = [ProfilerActivity.CPU] + ([ProfilerActivity.CUDA] if spec.gpus else [])
    profiler = torch.profiler.profile(activities=kinds, acc_events=True)
    watched = steps(direct, given, 9, profiler.start, profiler.stop)
    name = direct.ready.engine.name
    print(
        f"\n{name} {spec.model.name} {spec.dtype} tp {spec.tp} batch {given.batch}, per decode step over {STEPS}:"
    )
    print(f"  wall, not profiled       {plain * 1e3:9.3f} ms")
    print(f"  wall, profiled           {watched * 1e3:9.3f} ms")
    report(list(profiler.events()), watched, given.top)
    threads(direct, given)
    functions(direct, given)
    direct.leave()


def threads(direct: Direct, given: Any) -> None:
    """CPU time of this process's threads, and how often each was put aside for another."""
    before: dict[str, tuple[str, float, int]] = {}
    after: dict[str, tuple[str, float, int]] = {}
    wall = steps(direct, given, 10, lambda: before.update(accounts()), lambda: after.update(accounts()))
    print(f"  threads of rank 0, CPU ms and involuntary switches per step of {wall * 1e3:.3f} ms:")
    used = {tid: (n, cpu - before.get(tid, (n, 0.0, 0))[1]) for tid, (n, cpu, _) in after.items()}
    for tid, (name, cpu) in sorted(used.items(), key=lambda item: -item[1][1])[:6]:
        switched = after[tid][2] - before.get(tid, ("", 0.0, 0))[2]
        main = " (main)" if int(tid) == os.getpid() else ""
        print(f"    {cpu / STEPS * 1e3:8.3f}  {switched / STEPS:6.1f}  {name}{main}")


def accounts() -> dict[str, tuple[str, float, int]]:
    """Thread id → (name, CPU seconds, involuntary switches) of this process."""
    found = {}
    for task in Path("/proc/self/task").iterdir():
        on_cpu_ns = int((task / "schedstat").read_text().split()[0])
        status = dict(line.split(":\t", 1) for line in (task / "status").read_text().splitlines())
        found[task.name] = (status["Name"], on_cpu_ns / 1e9, int(status["nonvoluntary_ctxt_switches"]))
    return found


def functions(direct: Direct, given: Any) -> None:
    """Where the host's main thread spends a step, by function, what it calls not counted."""
    profile = cProfile.Profile()
    wall = steps(direct, given, 11, profile.enable, profile.disable)
    print(f"  functions by own time, ms and calls per step, under cProfile ({wall * 1e3:.3f} ms a step):")
    rows = sorted(pstats.Stats(profile).stats.items(), key=lambda item: -item[1][2])  # type: ignore[attr-defined]
    for (file, line, name), (_, calls, own, _, _) in rows[: given.top]:
        place = name if file == "~" else f"{Path(file).parent.name}/{Path(file).name}:{line} {name}"
        print(f"    {own / STEPS * 1e3:8.3f}  {calls / STEPS:8.1f}  {place[:100]}")


def steps(
    direct: Direct,
    given: Any,
    salt: int,
    begin: Callable[[], Any] = lambda: None,
    finish: Callable[[], Any] = lambda: None,
) -> float:
    """Mean seconds of a step in the window of one call; ``begin`` and ``finish`` are called at its ends."""
    from loadgen.servers._hf.call import Run

    stamps: list[float] = []

    def on_step(_: Any) -> None:
        if len(stamps) == FIRST:
            begin()
        stamps.append(time.perf_counter())
        if len(stamps) == FIRST + STEPS + 1:
            finish()

    prompts = prompts_of(given.batch, given.input, direct.spec.model.vocab, salt)
    call = direct.call(prompts, given.output)
    direct.calls += 1
    if direct.followers:
        direct.followers.send(direct.calls, call)
    direct.ready.engine.run(Run(call, frozenset(), on_step=on_step))
    if direct.followers:
        direct.followers.gather(direct.calls, "ok")
    return (stamps[FIRST + STEPS] - stamps[FIRST]) / STEPS


def report(events: list[Any], wall: float, top: int) -> None:
    """Print the shares of a step; what the machine cannot show is left out."""
    from torch.autograd import DeviceType

    device = [e for e in events if e.device_type == DeviceType.CUDA and not e.is_user_annotation]
    launches = [e for e in events if e.device_type == DeviceType.CPU and e.name.startswith(LAUNCHES)]
    operators = [e for e in events if e.device_type == DeviceType.CPU and e.name.startswith("aten::")]
    print(f"  CPU operators            {len(operators) / STEPS:9.0f}")
    if not device:
        return
    busy = merged([(e.time_range.start, e.time_range.end) for e in device]) / STEPS
    nccl = [e for e in device if "nccl" in e.name.lower()]
    spent = sum(e.time_range.elapsed_us() for e in nccl) / STEPS
    print(
        f"  CPU in launch calls      {sum(e.time_range.elapsed_us() for e in launches) / STEPS / 1e3:9.3f} ms"
    )
    print(f"  launch calls             {len(launches) / STEPS:9.0f}")
    print(f"  GPU kernels and copies   {len(device) / STEPS:9.0f}")
    print(
        f"  GPU busy                 {busy / 1e3:9.3f} ms   {busy / wall / 1e4:5.1f} % of the profiled wall"
    )
    print(
        f"    of which collectives   {spent / 1e3:9.3f} ms   {len(nccl) / STEPS:.0f} of them, waits included"
    )
    print(f"  GPU idle                 {max(0.0, wall * 1e6 - busy) / 1e3:9.3f} ms")
    total: Counter[str] = Counter()
    count: Counter[str] = Counter()
    for e in device:
        total[e.name] += e.time_range.elapsed_us()
        count[e.name] += 1
    print("  largest kernels, ms and number per step:")
    for name, us in total.most_common(top):
        print(f"    {us / STEPS / 1e3:8.3f}  {count[name] / STEPS:6.1f}  {name[:90]}")


def merged(spans: list[tuple[float, float]]) -> float:
    """Total length of the union of spans."""
    total, end = 0.0, float("-inf")
    for start, stop in sorted(spans):
        total += max(0.0, stop - max(start, end))
        end = max(end, stop)
    return total


if __name__ == "__main__":
    main()
