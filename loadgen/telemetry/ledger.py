"""The memory ledger: what a trial was predicted to need on its fullest GPU, beside what was measured. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from loadgen.models import kv_bytes_per_token
from loadgen.predict import predict
from loadgen.records import MemoryLedger, Trial
from loadgen.telemetry.normal import ENGINE
from loadgen.telemetry.series import Readings, peak
from loadgen.telemetry.spans import Span, Spans

AT_LEAST = "allocator, sampled: at least"
Pools = Mapping[str, Mapping[str, float]]  # rank → allocated, peak, reserved


def engine_memory(info: Mapping[str, object]) -> dict[str, dict[str, float]]:
    """Rank → ``allocated``, ``peak``, ``reserved`` bytes, from a server's own page; empty when it tells none.

    hf and Triton's transformers engine give them per rank under ``memory.cuda``, ds of rank 0 under ``memory``.
    """
    memory = info.get("memory")
    if not isinstance(memory, Mapping):
        return {}
    names = {"allocated": "allocated", "reserved": "reserved", "allocated_peak": "peak"}
    names |= {"call_peak_allocated_bytes": "call_peak"}
    names |= {"allocated_bytes": "allocated", "reserved_bytes": "reserved", "peak_allocated_bytes": "peak"}
    ranks: Any = memory.get("cuda") if "cuda" in memory else {"0": memory}
    found: dict[str, dict[str, float]] = {}
    for rank, values in (ranks if isinstance(ranks, Mapping) else {}).items():
        known = {names[key]: float(value) for key, value in values.items() if key in names}
        if known:
            found[str(rank)] = known
    return found


def preallocates(engine: object) -> bool:
    """Whether an engine takes its whole KV cache at the start: its allocator then says nothing of what was needed."""
    return isinstance(engine, str) and any(name in engine.lower() for name in ("fastgen", "vllm"))


def make_ledger(
    trial: Trial,
    readings: Readings,
    spans: Spans,
    *,
    gpus: Sequence[str],
    before: Mapping[str, object],
    after: Mapping[str, object],
) -> MemoryLedger | None:
    """The ledger of a trial on GPUs; ``before`` and ``after`` are the server's own page around it.

    One process that spans several GPUs (a pipeline) reports their sum, which is no GPU's: then the engine's figures
    are left out.
    """
    server = trial.server
    if server is None or not server.gpus:
        return None
    predicted = predict(trial, None)
    busy = (*spans.warmup, *spans.load)
    process = peak(readings.all_of("gpu_server_memory_bytes", gpus), busy)
    idle = reserved = needed = None
    needed_from = None
    if server.pp == 1:
        allocated = [one for _, one in _ranks(readings, "engine_allocated_bytes")]
        idle = peak(allocated, spans.idle)
        reserved = peak([one for _, one in _ranks(readings, "engine_reserved_bytes")], busy)
        first, pools = (
            engine_memory(before) or _scraped(readings, 0),
            engine_memory(after) or _scraped(readings, -1),
        )
        reserved = (
            reserved or max((pool.get("reserved", 0.0) for pool in pools.values()), default=0.0) or None
        )
        if preallocates(after.get("engine")):
            needed, needed_from = _by_kv_counter(trial, readings, busy, predicted.weight_bytes)
        else:
            needed, needed_from = _by_allocator(first, pools, peak(allocated, busy))
    known = predicted.weight_bytes is not None and predicted.kv_bytes is not None
    rest = (
        needed - predicted.weight_bytes - predicted.kv_bytes
        if known
        and needed is not None
        and predicted.weight_bytes is not None
        and predicted.kv_bytes is not None
        else None
    )
    return MemoryLedger(
        predicted_weight_bytes=predicted.weight_bytes,
        predicted_kv_bytes=predicted.kv_bytes,
        idle_bytes=idle,
        needed_bytes=needed,
        needed_from=needed_from,
        rest_bytes=rest,
        reserved_bytes=reserved,
        process_bytes=process,
        overhead_bytes=None if process is None or reserved is None else process - reserved,
    )


def _scraped(readings: Readings, place: int) -> Pools:
    """The allocator's figures by the first (0) or last (-1) scrape, for servers whose own page has none."""
    names = {
        "engine_peak_bytes": "peak",
        "engine_call_peak_bytes": "call_peak",
        "engine_reserved_bytes": "reserved",
    }
    found: dict[str, dict[str, float]] = {}
    for metric, name in names.items():
        for rank, series in _ranks(readings, metric):
            found.setdefault(rank, {})[name] = float(series.values[place])
    return found


def _ranks(readings: Readings, metric: str) -> list[tuple[str, Any]]:
    return [
        (rank, one) for rank in readings.subjects(metric) if (one := readings.get(metric, rank)) is not None
    ]


def _by_allocator(before: Pools, after: Pools, sampled: float | None) -> tuple[float | None, str | None]:
    """The allocator's highest use in this trial, on the fullest rank.

    Its peak counter runs since the server's start: it is this trial's only if the trial raised it. Otherwise an
    earlier trial needed more; then an engine that counts each call's own peak tells that of the trial's last call
    (all calls of a static batch are alike), and without one, what was sampled may have missed the peak.
    """
    peaks = {rank: pool["peak"] for rank, pool in after.items() if "peak" in pool}
    if peaks:
        rank = max(peaks, key=lambda name: peaks[name])
        start = before.get(rank, {}).get("peak")
        if start is not None and peaks[rank] > start:
            return peaks[rank], "allocator's peak"
    of_calls = [pool["call_peak"] for pool in after.values() if "call_peak" in pool]
    if of_calls:
        return max(of_calls), "allocator's peak in the last call"
    return (None, None) if sampled is None else (sampled, AT_LEAST)


def _by_kv_counter(
    trial: Trial, readings: Readings, busy: Sequence[Span], weights: int | None
) -> tuple[float | None, str | None]:
    """Predicted weights and the engine's own count of KV blocks in use."""
    usage, capacity = readings.get("kv_usage", ENGINE), readings.get("kv_capacity_tokens", ENGINE)
    server = trial.server
    highest, tokens = peak([usage] if usage else None, busy), peak([capacity] if capacity else None, busy)
    if server is None or weights is None or highest is None or tokens is None:
        return None, None
    per_token = kv_bytes_per_token(server.model, server.dtype, server.tp, server.pp)
    return weights + highest * tokens * per_token, "weights as predicted, KV by the engine's counter"
