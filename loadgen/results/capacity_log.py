"""What searches for capacity tried and found, beside a sweep's trials: ``search.jsonl`` and ``capacity.jsonl``.

A search's trials are no cells of the sweep: their loads follow from one another, and some are short or ended early.
"""

from __future__ import annotations

from pathlib import Path

from loadgen.records import TrialResult
from loadgen.results import lines
from loadgen.search_records import Capacity

TRIALS, OUTCOMES = "search.jsonl", "capacity.jsonl"


def trials(folder: Path) -> list[TrialResult]:
    """The newest result of every trial, in order. Raises StoreError for a file that is broken."""
    newest: dict[str, TrialResult] = {}
    for result in lines.read(folder / TRIALS, TrialResult):
        newest.pop(result.trial.id, None)
        newest[result.trial.id] = result
    return list(newest.values())


def outcomes(folder: Path) -> list[Capacity]:
    """The newest outcome of every search. Raises StoreError for a file that is broken."""
    found: list[Capacity] = []
    for outcome in lines.read(folder / OUTCOMES, Capacity):
        found = [other for other in found if other.search != outcome.search] + [outcome]
    return found


def add_trial(folder: Path, result: TrialResult) -> None:
    """Write one trial's result and wait until it is on disk."""
    lines.append(folder / TRIALS, result)


def add_outcome(folder: Path, outcome: Capacity) -> None:
    """Write one outcome, unless it is there already."""
    if outcome not in outcomes(folder):
        lines.append(folder / OUTCOMES, outcome)
