"""What ``max_batch = "auto"`` tried and found, beside a sweep's trials: ``probes.jsonl`` and ``max_batch.jsonl``.

Probes are no cells of the sweep (one wire call, no warm-up), so no chart and no finding may read them as such.
"""

from __future__ import annotations

from pathlib import Path

from loadgen.records import TrialResult
from loadgen.results import lines
from loadgen.search_records import MaxBatch

PROBES, OUTCOMES = "probes.jsonl", "max_batch.jsonl"


def probes(folder: Path) -> list[TrialResult]:
    """The newest result of every probe. Raises StoreError for a file that is broken."""
    return list({result.trial.id: result for result in lines.read(folder / PROBES, TrialResult)}.values())


def outcomes(folder: Path) -> list[MaxBatch]:
    """The newest outcome of every search. Raises StoreError for a file that is broken."""
    found: list[MaxBatch] = []
    for outcome in lines.read(folder / OUTCOMES, MaxBatch):
        found = [other for other in found if other.search != outcome.search] + [outcome]
    return found


def add_probe(folder: Path, result: TrialResult) -> None:
    """Write one probe's result and wait until it is on disk. Raises StoreError."""
    lines.append(folder / PROBES, result)


def add_outcome(folder: Path, outcome: MaxBatch) -> None:
    """Write one outcome, unless it is there already. Raises StoreError."""
    if outcome not in outcomes(folder):
        lines.append(folder / OUTCOMES, outcome)
