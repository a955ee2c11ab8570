"""Does a peak survive telemetry's period? Short bursts of memory and power on a GPU, seen by a 10 ms loop and by us.

Usage: python3 tests/benches/telemetry_period.py --gpu 0 --seconds 20
       (any interpreter with torch, nvidia-ml-py, psutil, prometheus_client, httpx, orjson, pyarrow, numpy)

A child takes and gives back random amounts of memory for 5 to 500 ms, and multiplies matrices meanwhile. A second child
asks NVML every 10 ms; beside it run the real exporter and recorder at ``--period``. A peak *survives* when a reading
inside its burst shows 95 % of it. Energy is the integral of the sampled power, held against NVML's own counter, which
on most GPUs is itself read some ten times a second.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, TextIO

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

LIBRARIES = ("torch", "pynvml", "psutil", "prometheus_client", "httpx", "orjson", "pyarrow", "numpy")
LOOP_S = 0.01
SURVIVES = 0.95
EDGES_MS = (5, 20, 50, 100, 200, 500)
GIB, S = 1 << 30, 1_000_000_000


@dataclass(frozen=True)
class Burst:
    """One peak: when memory was taken and given back, and how much the allocator had taken from the device."""

    start_ns: int
    end_ns: int
    size: int

    @property
    def length_ms(self) -> float:
        return (self.end_ns - self.start_ns) / 1e6


Points = Sequence[tuple[int, float]]  # (ns, value), in order


def seen(points: Points, burst: Burst) -> float | None:
    """The highest reading inside a burst; None when there was none."""
    times = [at for at, _ in points]
    inside = points[bisect_left(times, burst.start_ns) : bisect_right(times, burst.end_ns)]
    return max((value for _, value in inside), default=None)


def survivors(points: Points, bursts: Sequence[Burst], base: float) -> list[tuple[str, int, int]]:
    """By length of burst: (the range, bursts, those that a reading shows ``SURVIVES`` of, over ``base``)."""
    rows = []
    for low, high in zip(EDGES_MS, (*EDGES_MS[1:-1], float("inf")), strict=False):
        own = [burst for burst in bursts if low <= burst.length_ms < high]
        kept = [b for b in own if (top := seen(points, b)) is not None and top - base >= SURVIVES * b.size]
        rows.append((f"{low}–{EDGES_MS[EDGES_MS.index(low) + 1]} ms", len(own), len(kept)))
    return rows


def integral(points: Points, start_ns: int, end_ns: int) -> float | None:
    """∫ value dt by the trapezoid rule between the readings inside, scaled to the whole stretch."""
    inside = [(at, value) for at, value in points if start_ns <= at <= end_ns]
    if len(inside) < 2:
        return None
    area = sum((b - a) / S * (x + y) / 2 for (a, x), (b, y) in pairwise(inside))
    return area * (end_ns - start_ns) / (inside[-1][0] - inside[0][0])


def grown(points: Points, start_ns: int, end_ns: int) -> float | None:
    """A counter's growth between its readings inside, scaled to the whole stretch."""
    inside = [(at, value) for at, value in points if start_ns <= at <= end_ns]
    if len(inside) < 2:
        return None
    return (inside[-1][1] - inside[0][1]) * (end_ns - start_ns) / (inside[-1][0] - inside[0][0])


def loop(uuid: str, out: TextIO) -> None:
    """Child: NVML every 10 ms until standard input ends; a line (ns, bytes, watts, joules) each."""
    import threading

    import pynvml

    over = threading.Event()
    threading.Thread(target=lambda: (sys.stdin.read(), over.set()), daemon=True).start()
    pynvml.nvmlInit()
    handle = pynvml.nvmlDeviceGetHandleByUUID(uuid)
    due, before_s = time.monotonic(), sum(os.times()[:2])
    while not over.is_set():
        begun = time.monotonic_ns()
        used = pynvml.nvmlDeviceGetMemoryInfo(handle, pynvml.nvmlMemory_v2).used
        watts = pynvml.nvmlDeviceGetPowerUsage(handle) / 1e3
        joules = pynvml.nvmlDeviceGetTotalEnergyConsumption(handle) / 1e3
        at = (begun + time.monotonic_ns()) // 2
        out.write(json.dumps([at, used, watts, joules]) + "\n")
        due += LOOP_S
        time.sleep(max(0.0, due - time.monotonic()))
    out.flush()
    print(json.dumps({"cpu_s": sum(os.times()[:2]) - before_s}))


def work(seconds: float, seed: int) -> None:
    """Child: bursts on the one visible GPU; a line about the idle memory first, then one per burst."""
    import torch

    chance = random.Random(seed)
    one = torch.randn(2048, 2048, device="cuda", dtype=torch.bfloat16)
    one @ one  # the context, the library's handle and its work space
    torch.cuda.synchronize()
    torch.cuda.empty_cache()
    print(json.dumps({"ready_ns": time.monotonic_ns(), "base": torch.cuda.memory_reserved()}), flush=True)
    sys.stdin.readline()
    free, _ = torch.cuda.mem_get_info()
    most = min(16 * GIB, free // 2)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        time.sleep(chance.uniform(0.03, 0.3))
        base = torch.cuda.memory_reserved()
        torch.cuda.reset_peak_memory_stats()
        block = torch.empty(chance.randrange(GIB // 2, most), dtype=torch.uint8, device="cuda")
        torch.cuda.synchronize()
        start_ns = time.monotonic_ns()
        until = start_ns + int(5e6 * 100 ** chance.random())  # 5 to 500 ms, as many short as long
        while time.monotonic_ns() < until:
            one @ one
            torch.cuda.synchronize()
        end_ns = time.monotonic_ns()
        size, peak = torch.cuda.max_memory_reserved() - base, torch.cuda.max_memory_allocated()
        del block
        torch.cuda.empty_cache()
        print(
            json.dumps({"start_ns": start_ns, "end_ns": end_ns, "size": size, "allocated": peak}), flush=True
        )


def child(*words: str, env: dict[str, str], out: Any = subprocess.PIPE) -> subprocess.Popen[str]:
    argv = [sys.executable, str(Path(__file__).resolve()), *words]
    return subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=out, text=True, env=env)


def bench(given: argparse.Namespace) -> None:
    import psutil

    from loadgen.load_records import LoadSpec
    from loadgen.records import Environment, ServerSpec, Trial, TrialResult
    from loadgen.results.rows import Rows
    from loadgen.telemetry.recorder import Recorder, look
    from loadgen.telemetry.scrapes import read_scrapes
    from loadgen.telemetry_records import TelemetrySpec
    from loadgen.theory.models import PRESETS

    gpus = {gpu.index: gpu for gpu in look()}
    if given.gpu not in gpus:
        sys.exit(f"no GPU {given.gpu} here: NVML tells of {len(gpus)}; this bench needs one (--gpu)")
    gpu = gpus[given.gpu]
    # The recorder's children find this source tree too.
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    env = {**os.environ, "CUDA_VISIBLE_DEVICES": gpu.uuid}
    print(
        f"{gpu.name}, telemetry every {given.period:g} s, NVML loop every {LOOP_S * 1e3:g} ms, {given.seconds:g} s"
    )
    with tempfile.TemporaryDirectory() as folder:
        worker = child("--role", "work", "--seconds", str(given.seconds), "--seed", str(given.seed), env=env)
        assert worker.stdout is not None
        assert worker.stdin is not None
        ready = json.loads(worker.stdout.readline() or "null")
        if ready is None:
            sys.exit(f"the worker ended with status {worker.wait()} before it began; see above")
        spec = TelemetrySpec(period_s=given.period)
        model = ServerSpec(framework="none", model=PRESETS["tiny"], gpus=(given.gpu,))
        environment = Environment(
            id="bench", host="", os="", cpu="", cpus=0, memory_bytes=0, driver=None, cuda=None, packages={},
            gpus=({"index": gpu.index, "uuid": gpu.uuid, "name": gpu.name},), commit=None, argv=(), started="",
        )  # fmt: skip
        trial = Trial(
            id="bench", server=model, url=None, load=LoadSpec(kind="static", input_tokens=1, output_tokens=1)
        )
        watched = Path(folder, "loop.jsonl")
        with Recorder(
            spec, server=model, environment=environment, pid=worker.pid, metrics_url=None, before=list(gpus.values()),
            page=dict,
        ) as recorder:  # fmt: skip
            looper = child("--role", "loop", "--uuid", gpu.uuid, "--file", str(watched), env=env)
            time.sleep(0.5)
            ours = [one for one in psutil.Process().children() if one.pid not in (worker.pid, looper.pid)]
            before_s = [sum(one.cpu_times()[:2]) for one in ours]
            recorder.begin()
            begun_ns = time.monotonic_ns()
            worker.stdin.write("go\n")
            worker.stdin.close()
            lines = [json.loads(line) for line in worker.stdout]
            over_ns = time.monotonic_ns()
            took_s = (over_ns - begun_ns) / S
            cpu = {
                next(word for word in one.cmdline() if word.startswith("loadgen.")): sum(one.cpu_times()[:2])
                - start
                for one, start in zip(ours, before_s, strict=True)
            }
            into = Path(folder, "telemetry.parquet")
            result = TrialResult(trial=trial, environment="bench", engine={}, started="", wall_s=took_s)
            result = recorder.finish(result, Path(folder, "none.parquet"), into)
            told, _ = looper.communicate("")
        if worker.wait() or not lines:
            sys.exit(f"the worker ended with status {worker.returncode} after {len(lines)} bursts; see above")
        fast = [json.loads(line) for line in watched.read_text().splitlines()]
        slow: dict[str, list[tuple[int, float]]] = {}
        for scrape in read_scrapes(Rows(into)):
            for metric, subject, value in scrape.readings:
                if subject == gpu.uuid:
                    slow.setdefault(metric, []).append((scrape.at_ns + scrape.took_ns // 2, value))
        for caveat in result.caveats:
            print(f"caveat {caveat.kind}: {caveat.message}")
        bursts = [Burst(line["start_ns"], line["end_ns"], line["size"]) for line in lines]
        report(bursts, max(line["allocated"] for line in lines), fast, slow, begun_ns, over_ns)
        costs = {**cpu, "the 10 ms loop": json.loads(told)["cpu_s"]}
        for name, cpu_s in costs.items():
            print(f"CPU of {name}: {cpu_s / took_s * 1e3:.1f} ms per second")


def report(
    bursts: Sequence[Burst],
    allocated: int,
    fast: Sequence[Sequence[float]],
    slow: dict[str, list[tuple[int, float]]],
    begun_ns: int,
    over_ns: int,
) -> None:
    """Print what each saw. ``fast`` rows are (ns, bytes, watts, joules)."""
    quick = {
        name: [(int(row[0]), row[at]) for row in fast]
        for at, name in enumerate(("", "memory", "power", "energy"))
    }
    slowly = {
        "memory": slow.get("gpu_memory_used_bytes", []),
        "power": slow.get("gpu_power_w", []),
        "energy": slow.get("gpu_energy_j", []),
    }
    base = min(value for _, value in quick["memory"])
    print(f"{len(bursts)} bursts; {len(fast)} readings by the loop, {len(slowly['memory'])} by telemetry")
    print(f"largest peak: allocator reserved {max(b.size for b in bursts) / GIB:.2f} GiB over idle "
          f"(allocated {allocated / GIB:.2f} GiB in all)")  # fmt: skip
    for name, points in (("loop", quick["memory"]), ("telemetry", slowly["memory"])):
        top = max((value for at, value in points if begun_ns <= at <= over_ns), default=None)
        print(f"  seen by {name}: {'nothing' if top is None else f'{(top - base) / GIB:.2f} GiB over idle'}")
    print("peaks that survive, by their length:        loop   telemetry")
    both = (survivors(quick["memory"], bursts, base), survivors(slowly["memory"], bursts, base))
    for (label, count, by_loop), (_, _, by_us) in zip(*both, strict=True):
        share = [f"{kept / count:.0%}" if count else "–" for kept in (by_loop, by_us)]
        print(f"  {label:>10} ({count:4d} bursts) {share[0]:>22} {share[1]:>10}")
    truth = grown(quick["energy"], begun_ns, over_ns)
    print(f"energy by NVML's counter: {'unknown' if truth is None else f'{truth:.0f} J'}")
    for name, joules in (
        ("loop's power", integral(quick["power"], begun_ns, over_ns)),
        ("telemetry's power", integral(slowly["power"], begun_ns, over_ns)),
        ("telemetry's counter", grown(slowly["energy"], begun_ns, over_ns)),
    ):
        off = "" if not truth or joules is None else f", {joules / truth - 1:+.1%}"
        print(f"  by {name}: {'unknown' if joules is None else f'{joules:.0f} J'}{off}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--gpu", type=int, default=0, help="NVML's number of the GPU")
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--period", type=float, default=0.2, help="telemetry's period in seconds")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--role", choices=("bench", "work", "loop"), default="bench", help=argparse.SUPPRESS)
    parser.add_argument("--uuid", default="", help=argparse.SUPPRESS)
    parser.add_argument("--file", default="", help=argparse.SUPPRESS)
    given = parser.parse_args()
    missing = [name for name in LIBRARIES if importlib.util.find_spec(name) is None]
    if missing:
        sys.exit(f"this Python has no {', '.join(missing)}; pip install 'llm-loadgen[hf]' has them all")
    if given.role == "loop":
        with open(given.file, "w") as out:
            loop(given.uuid, out)
    elif given.role == "work":
        work(given.seconds, given.seed)
    else:
        bench(given)


if __name__ == "__main__":
    main()
