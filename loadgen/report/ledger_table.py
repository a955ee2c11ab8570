"""The memory ledger of every trial: predicted beside measured, and how near they are."""

from __future__ import annotations

from collections.abc import Sequence

from loadgen.records import MemoryLedger, TrialResult
from loadgen.report.tables import Table, describe, varying
from loadgen.units import show_bytes, show_share

HEAD = (
    "trial", "GPU", "weights, predicted", "measured", "of predicted", "KV, predicted", "measured", "of predicted",
    "activations, at least", "measured", "needed", "KV held", "reserved", "process", "framework",
)  # fmt: skip
NOTE = (
    "Of the GPU that needed most. Weights: the allocator after the load. KV: the cache that the engine itself counts "
    "as in use at its peak, against the prediction in the engine's whole blocks; held is what it took ahead or keeps. "
    "Needed: the allocator's peak less cache that was held but not in use. Framework: the driver's count for the "
    "process, or the growth of the GPU's use, less what the allocator reserved. A dash was not measured."
)


def ledger_table(results: Sequence[TrialResult]) -> Table | None:
    """A line per trial that has a ledger; ``None`` where none has one."""
    known = [
        (result, result.telemetry.ledger)
        for result in results
        if result.telemetry is not None and result.telemetry.ledger is not None
    ]
    if not known:
        return None
    axes = varying(result.trial for result in results)
    rows = tuple((describe(result.trial, axes), *_cells(ledger)) for result, ledger in known)
    return Table(title="Memory, trial by trial", head=HEAD, rows=rows, note=NOTE)


def _cells(ledger: MemoryLedger) -> tuple[str, ...]:
    predicted_kv = ledger.predicted_kv_bytes
    if predicted_kv is not None:
        predicted_kv += ledger.kv_rounding_bytes or 0
    return (
        "–" if ledger.gpu is None else str(ledger.gpu),
        show_bytes(ledger.predicted_weight_bytes),
        show_bytes(ledger.weight_bytes),
        show_share(ledger.weight_ratio),
        show_bytes(predicted_kv),
        show_bytes(ledger.kv_bytes),
        show_share(ledger.kv_ratio),
        show_bytes(ledger.predicted_activation_bytes),
        show_bytes(ledger.activation_bytes),
        show_bytes(ledger.needed_bytes),
        show_bytes(ledger.kv_reserved_bytes),
        show_bytes(ledger.reserved_bytes),
        show_bytes(ledger.process_bytes),
        show_bytes(ledger.overhead_bytes),
    )
