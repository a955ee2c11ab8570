"""The largest batches that ``max_batch = "auto"`` found, as a table."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from loadgen.labels import server_label
from loadgen.records import TrialResult
from loadgen.results import max_batch_log
from loadgen.results.store import open_results
from loadgen.search_records import MaxBatch
from loadgen.text_table import Table, table_of
from loadgen.units import show_bytes, show_share

HEAD = (
    "server", "in", "out", "predicted", "largest that fits", "GPU memory needed at it", "smallest that runs out",
    "the search ended by", "tried",
)  # fmt: skip
NOTE = (
    "By bisection, each batch tried by one wire call. Predicted: what weights and KV cache alone leave room for. An "
    "engine that queues what it cannot hold at once takes any batch, so nothing runs out there."
)


def max_batch_table(folders: Sequence[Path]) -> Table | None:
    """One row for each point of each folder; ``None`` without any. Raises StoreError."""
    rows = []
    for folder in folders:
        found = max_batch_log.outcomes(folder)
        tried = [*open_results(folder).results(), *max_batch_log.probes(folder)] if found else []
        by_id = {result.trial.id: result for result in tried}
        rows += [_row(outcome, by_id.get(outcome.fits_trial or "")) for outcome in found]
    return table_of("Largest batch that fits", HEAD, rows, NOTE)


def _row(found: MaxBatch, at_it: TrialResult | None) -> tuple[str, ...]:
    load = found.search.load
    needed = at_it.telemetry.gpu_memory_bytes if at_it and at_it.telemetry else None
    ended = {
        "out of memory": f"memory, to within {show_share(found.search.within)}",
        "most": f"its bound: nothing above {found.most} was tried",
        "not served": f"the server: {found.why}",
        "not started": f"the server's start: {found.why}",
    }[found.ended]
    return (
        server_label(found.search.server),
        str(load.input_tokens),
        str(load.output_tokens),
        _count(found.predicted),
        _count(found.fits),
        show_bytes(needed),
        _count(found.out_of_memory),
        ended,
        str(len(found.trials)),
    )


def _count(value: int | None) -> str:
    return "–" if value is None else str(value)
