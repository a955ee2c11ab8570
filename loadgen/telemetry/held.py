"""What a server held by other counts than its allocator's: the driver's, and the engine's own of its cache. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from loadgen.engine_facts import kv_dtype
from loadgen.records import ServerSpec
from loadgen.telemetry.prometheus_text import ENGINE
from loadgen.telemetry.series import Readings, peak
from loadgen.telemetry.spans import Span
from loadgen.theory.models import kv_bytes_per_token


def by_driver(
    readings: Readings,
    busy: Sequence[Span],
    gpus: Sequence[str],
    before: Mapping[str, float],
) -> tuple[float | None, Any]:
    """What the driver counts for the server on the fullest of ``gpus``, else what its use grew by; how it is known.

    In a container NVML may name the host's process ids, of which none can be known for the server's.
    """
    by_process = peak(readings.all_of("gpu_server_memory_bytes", gpus), busy)
    if by_process is not None:
        return by_process, "process"
    grown = []
    for gpu in gpus:
        used = peak(readings.all_of("gpu_memory_used_bytes", [gpu]), busy)
        if used is None or gpu not in before:
            return None, None
        grown.append(used - before[gpu])
    return (max(grown), "growth") if grown else (None, None)


def by_kv_counter(
    server: ServerSpec, readings: Readings, busy: Sequence[Span], page: Mapping[str, object]
) -> tuple[float | None, float | None]:
    """The cache in use at its peak, and all that was taken ahead, by the engine's counters of blocks; ``None`` where
    they do not tell. How large its cache is an engine may say on its page alone (``kv_tokens``)."""
    usage, capacity = readings.get("kv_usage", ENGINE), readings.get("kv_capacity_tokens", ENGINE)
    highest, tokens = peak([usage] if usage else None, busy), peak([capacity] if capacity else None, busy)
    told = page.get("kv_tokens")
    if tokens is None and isinstance(told, int) and not isinstance(told, bool):
        tokens = float(told)
    if tokens is None:
        return None, None
    taken = tokens * kv_bytes_per_token(server.model, kv_dtype(page, server), server.tp, server.pp)
    return None if highest is None else highest * taken, taken
