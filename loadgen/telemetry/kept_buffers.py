"""What a trial needed of an engine that keeps every buffer at its largest: known where it raised what the server held.

Its memory is a high-water mark over all trials of a server. One that needs less than an earlier one leaves no trace.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from loadgen.engine_facts import keeps_buffers
from loadgen.identity import server_key
from loadgen.records import TrialResult
from loadgen.telemetry_records import TelemetrySummary

NEW_MAXIMUM = "process's memory at a new maximum of its server"
KEPT = "process's memory, kept from earlier trials: at most"
COUNTED_BYTES = 2 << 20  # a driver hands memory out in pieces of this size


def need_of(held: float | None, peak: float | None) -> tuple[float | None, str | None]:
    """Bytes, and by what they are known: ``held`` is the most before the trial, ``peak`` the most in it."""
    if held is None or peak is None:
        return None, None
    return peak, NEW_MAXIMUM if peak >= held + COUNTED_BYTES else KEPT


def mended(results: Iterable[TrialResult]) -> list[TrialResult]:
    """Results in the order of their end, with the needs of those that were stored before anybody told them.

    Where starts were not told apart either, one more start looks like trials that raised nothing: at most.
    """
    most: dict[tuple[str, str, str | None], float] = {}
    return [
        result
        if result.telemetry is None
        else replace(result, telemetry=_mended(result, result.telemetry, most))
        for result in results
    ]


def _mended(
    result: TrialResult, telemetry: TelemetrySummary, most: dict[tuple[str, str, str | None], float]
) -> TelemetrySummary:
    ledger = telemetry.ledger
    if ledger is None or ledger.process_bytes is None or not keeps_buffers(result.engine):
        return telemetry
    server = result.environment, server_key(result.trial), result.start
    idle = telemetry.phases.get("idle")
    held = most.get(server, None if idle is None else idle.gpu_memory_peak_bytes)
    most[server] = max(most.get(server, 0.0), ledger.process_bytes)
    if ledger.needed_from is not None:
        return telemetry
    needed, how = need_of(held, ledger.process_bytes)
    return replace(
        telemetry,
        ledger=replace(ledger, needed_bytes=needed, needed_from=how),
        gpu_memory_bytes=needed if how == NEW_MAXIMUM else None,
    )
