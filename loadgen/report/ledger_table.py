"""The memory ledger of every trial: predicted beside measured, and how near they are."""

from __future__ import annotations

from collections.abc import Iterable

from loadgen.records import TrialResult
from loadgen.report.tables import describe, varying
from loadgen.results.rows import Rows
from loadgen.telemetry_records import MemoryLedger, TelemetrySummary
from loadgen.text_table import Table, table_of
from loadgen.units import show_bytes, show_share

HEAD = (
    "trial", "GPU", "weights, predicted", "measured", "of predicted", "KV, predicted", "measured", "of predicted",
    "activations, at least", "measured", "needed", "KV held", "reserved", "process", "framework",
)  # fmt: skip
NOTE = (
    "Of the GPU that needed most. Weights: the allocator after the load. KV: the cache that the engine itself counts "
    "as in use at its peak, against the prediction in the engine's whole blocks; held is what it took ahead or keeps. "
    "Needed: the allocator's peak less what is kept for other calls; at least, where a replayed graph hides what it "
    "computes with, or only samples tell; of an engine that keeps its buffers the process at a new maximum, else at "
    "most that. Framework: the driver's count for the "
    "process, or the growth of the GPU's use, less what the allocator reserved at the same moment. KV at most: the "
    "sequences need never all be in the cache at once, and less is no miss. A dash was not measured."
)
PAIRED = ("engine_reserved_bytes", "gpu_server_memory_bytes")


def ledger_table(found: Iterable[tuple[TrialResult, Rows | None]]) -> Table | None:
    """A line per trial that has a ledger; ``None`` where none has one.

    Each trial comes with its stored readings, where there are some: stored ledgers may hold an overhead of two
    moments.
    """
    from loadgen.telemetry.ledger import mended_need

    found = list(found)
    known = [
        (result, _mended(result.telemetry, ledger, rows))
        for result, rows in found
        if result.telemetry is not None and (ledger := mended_need(result)) is not None
    ]
    axes = varying(result.trial for result, _ in found) if known else []
    rows = [(describe(result.trial, axes), *_cells(result, ledger)) for result, ledger in known]
    return table_of("Memory, trial by trial", HEAD, rows, NOTE)


def _mended(summary: TelemetrySummary, ledger: MemoryLedger, rows: Rows | None) -> MemoryLedger:
    # A terminal's tables need no numpy, and `run` starts quickly.
    from loadgen.telemetry.overhead import mended
    from loadgen.telemetry.scrapes import read_scrapes
    from loadgen.telemetry.series import Readings, readings_of

    readings = Readings({})
    if rows is not None and ledger.overhead_bytes is not None:
        readings = readings_of(read_scrapes(rows, PAIRED), [source.url for source in summary.sources])
    return mended(ledger, readings, summary.gpus)


def _cells(result: TrialResult, ledger: MemoryLedger) -> tuple[str, ...]:
    from loadgen.telemetry.ledger import kv_at_most
    from loadgen.telemetry.needed import bound_words

    predicted_kv = ledger.predicted_kv_bytes
    if predicted_kv is not None:
        predicted_kv += ledger.kv_rounding_bytes or 0
    at_most = "at most " if predicted_kv is not None and kv_at_most(result.trial.load, result.engine) else ""
    share = show_share(ledger.kv_ratio)
    return (
        "–" if ledger.gpu is None else str(ledger.gpu),
        show_bytes(ledger.predicted_weight_bytes),
        show_bytes(ledger.weight_bytes),
        show_share(ledger.weight_ratio),
        at_most + show_bytes(predicted_kv),
        show_bytes(ledger.kv_bytes),
        f"{share} of the most" if at_most and ledger.kv_ratio is not None else share,
        show_bytes(ledger.predicted_activation_bytes),
        show_bytes(ledger.activation_bytes),
        f"{bound_words(ledger.needed_from)} {show_bytes(ledger.needed_bytes)}".strip(),
        show_bytes(ledger.kv_reserved_bytes),
        show_bytes(ledger.reserved_bytes),
        show_bytes(ledger.process_bytes),
        show_bytes(ledger.overhead_bytes),
    )
