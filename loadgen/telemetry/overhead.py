"""What a server's process holds on a GPU beside its allocator's memory: context, kernels, communication. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from loadgen.telemetry.series import Readings, Series
from loadgen.telemetry_records import MemoryLedger

MOVED = 0.25  # of what a process holds beside its allocator's memory: more is no growth of context or kernels
MISSED = 1.5  # times the usual period: a reading was left out between two


def overhead(
    readings: Readings,
    place: str | None,
    gpus: Sequence[str],
    at_end: float | None,
    before: Mapping[str, float],
) -> float | None:
    """What the process holds beside the allocator's memory on one GPU, of readings of the same moment.

    ``at_end`` is what the allocator held by the server's page after the trial, for engines without metrics: nothing is
    in flight then, nor at the last reading.
    """
    if len(gpus) != 1:
        return None
    process = readings.get("gpu_server_memory_bytes", gpus[0])
    if process is None:
        used = readings.get("gpu_memory_used_bytes", gpus[0])
        if used is None or gpus[0] not in before:
            return None
        process = Series(used.at_ns, used.values - before[gpus[0]])
    reserved = None if place is None else readings.get("engine_reserved_bytes", place)
    if reserved is not None:
        return paired_overhead(process, reserved)
    if at_end is None or not len(process.values) or process.values[-1] < at_end:
        return None
    return float(process.values[-1]) - at_end


def paired_overhead(process: Series, reserved: Series) -> float | None:
    """The median of process − reserved over the process's readings between two equal ones of the allocator.

    Peaks of the two may be of different moments: an allocator near the card's end gives its memory back and takes it
    again within a period. A rank may tell of its allocator only when a call ends: while its figure stands still and the
    process moves by more than context and kernels do, the figure is old and none of its pairs counts. ``None`` where no
    reading is left, or the process holds less.
    """
    if len(reserved.at_ns) < 2:
        return None
    gaps = np.diff(reserved.at_ns)
    left = np.searchsorted(reserved.at_ns, process.at_ns, side="right") - 1
    inside = (left >= 0) & (left < len(gaps))
    left, held = left[inside], process.values[inside]
    still = (reserved.values[left] == reserved.values[left + 1]) & (gaps[left] <= MISSED * np.median(gaps))
    beside, run = held - reserved.values[left], np.cumsum(np.diff(reserved.values, prepend=np.nan) != 0)[left]
    kept = [
        own
        for each in np.unique(run[still])
        if (own := beside[still & (run == each)]).min() >= 0 and np.ptp(own) <= MOVED * own.min()
    ]
    return float(np.median(np.concatenate(kept))) if kept else None


def mended(ledger: MemoryLedger, readings: Readings, gpus: Sequence[str]) -> MemoryLedger:
    """A ledger as stored, with its overhead from readings of the same moment where they tell; never negative."""
    beside = ledger.overhead_bytes
    gpu = ledger.gpu if ledger.gpu is not None else 0
    if beside is not None and ledger.process_from == "process" and gpu < len(gpus):
        process = readings.get("gpu_server_memory_bytes", gpus[gpu])
        reserved = readings.get("engine_reserved_bytes", str(gpu))
        if process is not None and reserved is not None:
            beside = paired_overhead(process, reserved)
    return replace(ledger, overhead_bytes=None if beside is None or beside < 0 else beside)
