"""Measures one machine's ceilings with torch, in a process of its own; prints one line of JSON.

``loadgen.servers._torch.probe device cuda:0 SECONDS`` measures copy, read and matrix rates and the cost of a launch.
``loadgen.servers._torch.probe all-reduce cuda|cpu RANK WORLD PORT`` is one rank of an all-reduce ladder; rank 0 prints.

Matrix products use random data: zeros draw less power, so clocks stay higher than any real work sees.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import torch

MIB = 1 << 20
GPU_SETS = (4 * MIB, 32 * MIB, 128 * MIB, 1024 * MIB, 4096 * MIB)
CPU_SETS = (MIB // 4, MIB, 4 * MIB, 16 * MIB, 64 * MIB, 256 * MIB)
GPU_SIDES, CPU_SIDES = (4096, 8192), (512, 1024, 2048)
GPU_MESSAGES = (10 << 10, 80 << 10, 640 << 10, 5 * MIB, 80 * MIB)
CPU_MESSAGES = (1 << 10, 10 << 10, 100 << 10, MIB, 8 * MIB)
DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}
# Shorter samples would time the clock's own grain and one interrupt; the best of many is the ceiling.
SAMPLE_S = {"cuda": 0.02, "cpu": 0.03}
SLOW_S = 2.0  # one product that takes longer (half precision on an old CPU) is measured once


def wait(device: torch.device) -> None:
    """Until the device has done all that was launched; a CPU has."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def seconds_of(work: Callable[[], Any], device: torch.device, budget_s: float) -> tuple[float, float]:
    """Best and median seconds of one ``work()`` within the budget; a device runs many back to back per sample."""
    begin = time.perf_counter()
    work()
    wait(device)
    begin = time.perf_counter()
    work()
    wait(device)
    first = time.perf_counter() - begin
    if first > SLOW_S:
        return first, first
    count = max(1, round(SAMPLE_S[device.type] / max(first, 1e-7)))
    samples: list[float] = []
    deadline = time.perf_counter() + budget_s
    while len(samples) < 3 or time.perf_counter() < deadline:
        begin = time.perf_counter()
        for _ in range(count):
            work()
        wait(device)
        samples.append((time.perf_counter() - begin) / count)
        if len(samples) >= 3 and samples[-1] * count > budget_s:
            break
    return min(samples), statistics.median(samples)


def free_bytes(device: torch.device) -> int:
    """Memory that is free now: the device's, or the machine's for the CPU."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return int(os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))


def bandwidth(device: torch.device, budget_s: float) -> list[dict[str, Any]]:
    """Copy (bytes read + written) and read (a sum) rates by working set; what does not fit is left out."""
    wanted = GPU_SETS if device.type == "cuda" else CPU_SETS
    sizes = [size for size in wanted if 2 * size < free_bytes(device)]
    found = []
    for size in sizes:
        source = torch.rand(size // 8, device=device)  # float32: half of the working set
        target = torch.empty_like(source)
        both = torch.rand(size // 4, device=device)
        share = budget_s / (2 * len(sizes))
        best, middle = seconds_of(lambda t=target, s=source: t.copy_(s), device, share)  # type: ignore[misc]
        found.append({"kind": "copy", "bytes": size, "best": size / best, "median": size / middle})
        best, middle = seconds_of(lambda b=both: b.sum(), device, share)  # type: ignore[misc]
        found.append({"kind": "read", "bytes": size, "best": size / best, "median": size / middle})
        del source, target, both
    return found


def products(device: torch.device, budget_s: float) -> list[dict[str, Any]]:
    """FLOP/s of square matrix products by dtype and side, on normal random data."""
    sides = GPU_SIDES if device.type == "cuda" else CPU_SIDES
    found: list[dict[str, Any]] = []
    for name, dtype in DTYPES.items():
        for side in sides:
            left = torch.randn(side, side, device=device).to(dtype)
            right = torch.randn(side, side, device=device).to(dtype)
            out = torch.empty(side, side, device=device, dtype=dtype)
            share = budget_s / (len(DTYPES) * len(sides))
            best, middle = seconds_of(
                lambda a=left, b=right, c=out: torch.mm(a, b, out=c),  # type: ignore[misc]
                device,
                share,
            )
            flops = 2 * side**3
            found.append({"dtype": name, "side": side, "best": flops / best, "median": flops / middle})
            if best > SLOW_S / 8:
                break  # eight times the work would say the same, more slowly
    return found


def launch(device: torch.device, budget_s: float) -> float:
    """The host's seconds per small operation, when many are started one after the other."""
    small = torch.zeros(1, device=device)
    _, middle = seconds_of(lambda: small.add_(1), device, budget_s)
    return middle


def measure_device(name: str, budget_s: float) -> dict[str, Any]:
    """Bandwidth, matrix products and launches of one device in about ``budget_s`` seconds, as JSON's own types."""
    device = torch.device(name)
    begin = time.perf_counter()
    if device.type == "cuda":
        torch.cuda.set_device(device)
    with torch.inference_mode():
        found = {
            "bandwidth": bandwidth(device, budget_s * 0.4),
            "matrix": products(device, budget_s * 0.5),
            "launch_s": launch(device, budget_s * 0.1),
        }
    return found | {
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "name": torch.cuda.get_device_name(device) if device.type == "cuda" else None,
        "took_s": time.perf_counter() - begin,
    }


def all_reduce(kind: str, rank: int, world: int, port: int) -> dict[str, Any] | None:
    """One rank of the ladder: medians of single all-reduces, eager, and on GPUs replayed from a CUDA graph."""
    import torch.distributed as dist

    device = torch.device(f"cuda:{rank}" if kind == "cuda" else "cpu")
    if kind == "cuda":
        torch.cuda.set_device(device)
    dist.init_process_group(
        "nccl" if kind == "cuda" else "gloo",
        init_method=f"tcp://127.0.0.1:{port}",
        rank=rank,
        world_size=world,
        device_id=device if kind == "cuda" else None,
    )
    sizes = GPU_MESSAGES if kind == "cuda" else CPU_MESSAGES
    dtype = torch.bfloat16 if kind == "cuda" else torch.float32
    found: dict[str, list[tuple[int, float]]] = {"eager" if kind == "cuda" else "gloo": []}
    for size in sizes:
        message = torch.zeros(size // dtype.itemsize, device=device, dtype=dtype)
        eager = next(iter(found))
        found[eager].append((size, _ladder_step(lambda m=message: dist.all_reduce(m), device, 50)))  # type: ignore[misc]
        if kind == "cuda":
            found.setdefault("graph", []).append((size, _graph_step(message, device)))
    dist.barrier()
    dist.destroy_process_group()
    return {"ranks": world, "lines": found, "torch": torch.__version__} if rank == 0 else None


def _ladder_step(work: Callable[[], Any], device: torch.device, count: int) -> float:
    """Median seconds of one call over 7 rounds of ``count``: every rank makes the same number of calls."""
    for _ in range(5):
        work()
    wait(device)
    rounds = []
    for _ in range(7):
        begin = time.perf_counter()
        for _ in range(count):
            work()
        wait(device)
        rounds.append((time.perf_counter() - begin) / count)
    return statistics.median(rounds)


def _graph_step(message: torch.Tensor, device: torch.device) -> float:
    import torch.distributed as dist

    inside = 20
    graph = torch.cuda.CUDAGraph()
    # NCCL's watchdog thread makes CUDA calls of its own meanwhile, which must not spoil the capture.
    with torch.cuda.graph(graph, capture_error_mode="thread_local"):
        for _ in range(inside):
            dist.all_reduce(message)
    step = _ladder_step(graph.replay, device, 5) / inside
    # A captured graph holds on to its communicator: dropped late, destroy_process_group would wait for ever.
    graph.reset()
    del graph
    return step


def main(argv: list[str]) -> None:
    """Measure one device, or be one rank of an all-reduce, as ``argv`` says; what was found is printed as JSON."""
    if argv[0] == "device":
        found: dict[str, Any] | None = measure_device(argv[1], float(argv[2]))
    else:
        found = all_reduce(argv[1], int(argv[2]), int(argv[3]), int(argv[4]))
    if found is not None:
        print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
