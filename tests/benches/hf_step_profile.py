"""Where a decode step's time goes: launches on the CPU, kernels on the GPU, collectives, and nothing at all.

Usage: python tests/benches/hf_step_profile.py --model llama-13b --engine generate --tp 2 --batch 1

Rank 0's view. ``wall`` is measured twice, without and with the profiler, whose own cost falls on the launches.
"""

from __future__ import annotations

import time
from collections import Counter
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
        steps(direct, given, salt, None)
    plain = min(steps(direct, given, 2 + i, None) for i in range(3))
    import torch
    from torch.profiler import ProfilerActivity

    kinds = [ProfilerActivity.CPU] + ([ProfilerActivity.CUDA] if spec.gpus else [])
    profiler = torch.profiler.profile(activities=kinds, acc_events=True)
    watched = steps(direct, given, 9, profiler)
    name = direct.stood.engine.name
    print(
        f"\n{name} {spec.model.name} {spec.dtype} tp {spec.tp} batch {given.batch}, per decode step over {STEPS}:"
    )
    print(f"  wall, not profiled       {plain * 1e3:9.3f} ms")
    print(f"  wall, profiled           {watched * 1e3:9.3f} ms")
    report(list(profiler.events()), watched, given.top)
    direct.leave()


def steps(direct: Direct, given: Any, salt: int, profiler: Any) -> float:
    """Mean seconds of a step in the window of one call, under ``profiler`` if given."""
    from loadgen.servers._hf_run import Run

    stamps: list[float] = []

    def on_step(_: Any) -> None:
        if profiler is not None and len(stamps) == FIRST:
            profiler.start()
        stamps.append(time.perf_counter())
        if profiler is not None and len(stamps) == FIRST + STEPS + 1:
            profiler.stop()

    prompts = prompts_of(given.batch, given.input, direct.spec.model.vocab, salt)
    call = direct.call(prompts, given.output)
    direct.calls += 1
    if direct.followers:
        direct.followers.send(direct.calls, call)
    direct.stood.engine.run(Run(call, frozenset(), on_step=on_step))
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
