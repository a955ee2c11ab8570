"""What ``max_batch = "auto"`` tried and found, beside a sweep's trials: ``probes.jsonl`` and ``max_batch.jsonl``.

Probes are no cells of the sweep (one wire call, no warm-up), so no chart and no finding may read them as such.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar

from loadgen.errors import StoreError
from loadgen.records import MaxBatch, TrialResult
from loadgen.results.store import append_line, cut_torn_line, from_json

T = TypeVar("T")
PROBES, OUTCOMES = "probes.jsonl", "max_batch.jsonl"


def probes(folder: Path) -> list[TrialResult]:
    """The newest result of every probe. Raises StoreError for a file that is broken."""
    return list({result.trial.id: result for result in _read(folder / PROBES, TrialResult)}.values())


def outcomes(folder: Path) -> list[MaxBatch]:
    """The newest outcome of every search. Raises StoreError for a file that is broken."""
    found: list[MaxBatch] = []
    for outcome in _read(folder / OUTCOMES, MaxBatch):
        found = [other for other in found if other.search != outcome.search] + [outcome]
    return found


def add_probe(folder: Path, result: TrialResult) -> None:
    """Write one probe's result and wait until it is on disk. Raises StoreError."""
    _append(folder / PROBES, result)


def add_outcome(folder: Path, outcome: MaxBatch) -> None:
    """Write one outcome, unless it is there already. Raises StoreError."""
    if outcome not in outcomes(folder):
        _append(folder / OUTCOMES, outcome)


def _append(path: Path, record: Any) -> None:
    try:
        cut_torn_line(path)
        with path.open("ab") as file:
            append_line(file, record)
    except OSError as error:
        raise StoreError(f"StoreError: {path}: cannot be written: {error.strerror}") from None


def _read(path: Path, kind: type[T]) -> list[T]:
    whole = path.read_bytes().split(b"\n")[:-1] if path.exists() else []
    found = []
    for number, line in enumerate(whole, 1):
        try:
            found.append(from_json(kind, line))
        except ValueError as error:
            raise StoreError(f"{path}: line {number} is not a {kind.__name__}: {error}") from None
    return found
