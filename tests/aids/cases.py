"""Rows of synthetic results as the findings take them, and one finding of many."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from synthetic import (
    A100,
    BATCHES,
    H200,
    Point,
    World,
    environment,
    grid,
)

from loadgen.analysis.analyse import findings_of
from loadgen.analysis.finding import Case, Finding, Rules
from loadgen.analysis.roofline import examine
from loadgen.analysis.study import Study
from loadgen.analysis.table import Row, rows_of
from loadgen.records import TrialResult
from loadgen.theory.ceilings import Ceilings, datasheet

ENVIRONMENTS = {each.id: each for each in (environment(H200), environment(A100))}


def rows(results: Sequence[TrialResult]) -> list[Row]:
    return rows_of(results, ENVIRONMENTS, "synthetic")


def case(found: Sequence[Row], **rules: object) -> Case:
    ceilings: dict[str, Ceilings] = {}
    for machine in (H200, A100):
        sheet = datasheet(machine)
        assert sheet is not None
        ceilings[machine] = sheet
    return Case(
        study=Study(found),
        rows=found,
        physics=examine(found, ceilings),
        ceilings=ceilings,
        rules=Rules(**rules),  # type: ignore[arg-type]
    )


def findings(found: Case, id: str) -> list[Finding]:
    """All findings of one claim."""
    return [each for each in findings_of(found) if each.id == id]


def one(found: Case, id: str) -> Finding:
    """The only finding of a claim."""
    (only,) = findings(found, id)
    return only


def truth_b_star(world: World, tp: int, short: int, long: int, margin: float = 0.10) -> float:
    """The real batch at which the world's ratio of latencies crosses the margin."""
    low, high = 0.01, 10_000.0
    for _ in range(80):
        middle = (low * high) ** 0.5
        at = Point(tp=tp, batch=middle)  # type: ignore[arg-type]
        ratio = world.e2e(replace(at, input_tokens=long)) / world.e2e(replace(at, input_tokens=short))
        low, high = (middle, high) if ratio < 1 + margin else (low, middle)
    return high


EXP1 = grid(tp=(1, 2, 4), batch=BATCHES, input_tokens=(20, 128, 512))


EXP3 = grid(tp=(1, 2, 4), batch=BATCHES, input_tokens=(20,), output_tokens=(100,))
