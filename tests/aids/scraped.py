"""Scrapes written by hand: two GPUs, a reading each half second, and the spans of a trial of seven seconds."""

from __future__ import annotations

from typing import Any

from loadgen.telemetry.scrapes import Scrape
from loadgen.telemetry.series import Readings, readings_of
from loadgen.telemetry.spans import Spans

S = 1_000_000_000
GIB = 1 << 30
GPUS = ("GPU-a", "GPU-b")
SPANS = Spans(
    idle=((0, 1 * S),),
    warmup=((1 * S, 2 * S),),
    load=((2 * S, 6 * S),),
    prefill=((2 * S, 3 * S), (4 * S, 5 * S)),
    decode=((3 * S, 4 * S), (5 * S, 6 * S)),
)
HALVES = [half * S // 2 for half in range(15)]


def scrapes(source: str = "one", **metrics: Any) -> list[Scrape]:
    """A scrape each half second; each metric is a function of (GPU number, second), or None to leave it out."""
    found = []
    for at_ns in HALVES:
        readings = [
            (metric, gpu, float(value))
            for metric, figure in metrics.items()
            for number, gpu in enumerate(GPUS)
            if (value := figure(number, at_ns / S)) is not None
        ]
        found.append(Scrape(source=source, at_ns=at_ns - 1000, took_ns=2000, readings=tuple(readings)))
    return found


def readings(**metrics: Any) -> Readings:
    return readings_of(scrapes(**metrics), ["one"])


def ranks(**pools: tuple[float, float, float]) -> dict[str, Any]:
    """The page of an eager server: of each rank (in use, peak, reserved) in bytes."""
    names = ("allocated_bytes", "peak_allocated_bytes", "reserved_bytes")
    cuda = {rank.removeprefix("r"): dict(zip(names, pool, strict=True)) for rank, pool in pools.items()}
    return {"engine": "hf/generate", "memory": {"resident_bytes": 5, "cuda": cuda}}
