"""Rounds: what ran side by side is read from what happened, and pairs of starts see through drift."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from synthetic import Point, World, environment, result, trial_of, write

from loadgen.analysis.analyse import analyse
from loadgen.analysis.rounds import rounds_of
from loadgen.analysis.starts import Cell
from loadgen.analysis.study import Study
from loadgen.analysis.table import rows_of
from loadgen.records import TrialResult
from loadgen.report.analysis_tables import statistics

FASTER = 0.96  # ds against hf
ENVIRONMENTS = {environment().id: environment()}


def world(drift_per_hour: float) -> World:
    """ds takes FASTER of hf's time; the machine slows down by the hour."""

    def step(point: Point) -> float:
        return 0.02 * (FASTER if point.framework == "ds" else 1.0) * (1 + point.batch / 64)

    return World(prefill=step, step=step, noise=0.002, drift_per_hour=drift_per_hour)


def trials(order: str, drift_per_hour: float = 0.5, seed: int = 1) -> list[TrialResult]:
    """Two batches, three passes on fresh servers, two rivals: in turns or one after the other, a minute each."""
    rivals, batches, passes = ("hf", "ds"), (1, 8), range(3)
    if order == "interleaved":
        steps = [
            (name, batch, again)
            for again in passes
            for place, batch in enumerate(batches)
            for name in (rivals if (again + place) % 2 == 0 else rivals[::-1])
        ]
    else:
        steps = [(name, batch, again) for name in rivals for again in passes for batch in batches]
    rng, made = np.random.default_rng(seed), world(drift_per_hour)
    return [
        result(
            Point(framework=name, batch=batch),
            made,
            repeat=again,
            hours=at / 60,
            rng=rng,
            start=f"{name} {again}",
        )
        for at, (name, batch, again) in enumerate(steps)
    ]


def study(found: list[TrialResult]) -> Study:
    return Study(rows_of(found, ENVIRONMENTS))


def pair(found: Study, batch: int) -> tuple[Cell, Cell]:
    """hf and ds."""
    cells = {cell.key.framework: cell for cell in found.cells.values() if cell.key.batch == batch}
    return cells["hf"], cells["ds"]


def test_an_interleaved_sweep_is_all_rounds_and_a_grouped_one_has_none() -> None:
    found = trials("interleaved")
    rounds = rounds_of(found)
    assert len(rounds) == 12
    assert [len({rounds[r.trial.id] for r in found[at : at + 2]}) for at in range(0, 12, 2)] == [1] * 6
    assert len(set(rounds.values())) == 6
    assert study(found).rounds() == 6
    assert rounds_of(trials("grouped")) == {}
    assert study(trials("grouped")).rounds() == 0


def both(found: Study) -> list[tuple[Cell, Cell]]:
    """ds over hf at each batch."""
    return [(ds, hf) for hf, ds in (pair(found, batch) for batch in (1, 8))]


def test_pairs_of_starts_see_through_drift_that_hides_the_difference_otherwise() -> None:
    for seed in range(5):
        one = study(trials("interleaved", seed=seed))
        paired = one.mean_ratio(both(one), "e2e_s")
        assert paired is not None
        assert paired.low is not None
        assert paired.high is not None
        assert paired.low < FASTER < paired.high
        assert paired.below(1)
        assert paired.source == "3 pairs of starts side by side"
        loose = Study([replace(row, round="") for cell in one.cells.values() for row in cell.rows])
        unpaired = loose.mean_ratio(both(loose), "e2e_s")
        assert unpaired is not None
        assert not unpaired.below(1), "the drift would have hidden it"


def test_one_after_the_other_the_same_drift_is_taken_for_a_difference_and_stays_unpaired() -> None:
    """Why it is worth it: on equally fast rivals the second one looks slower by the hour's drift."""
    found = study(trials("grouped"))
    ratio = found.mean_ratio(both(found), "e2e_s")
    assert ratio is not None
    assert "side by side" not in ratio.source
    assert ratio.value > FASTER * 1.03


def test_two_pairs_are_not_enough_and_rounds_inside_one_pair_are_one() -> None:
    found = study([each for each in trials("interleaved") if each.trial.repeat < 2])
    ratio = found.mean_ratio(both(found), "e2e_s")
    assert ratio is not None
    assert "side by side" not in ratio.source
    served = [replace(each, start=each.start and each.start[:2]) for each in trials("interleaved")]
    one = study(served)
    told = one.mean_ratio(both(one), "e2e_s")
    assert told is not None
    assert told.starts == (1, 1)
    assert not told.told


@pytest.mark.parametrize("what", ["a day later", "another machine", "other work", "other GPUs", "no time"])
def test_what_breaks_a_round(what: str) -> None:
    one, other = trials("interleaved")[:2]
    assert len(rounds_of([one, other])) == 2
    assert other.trial.server is not None
    changed = {
        "a day later": replace(other, started="2026-01-02T00:00:00+00:00"),
        "another machine": replace(other, environment="other"),
        "other work": replace(other, trial=trial_of(Point(framework="ds", batch=2))),
        "other GPUs": replace(
            other, trial=replace(other.trial, server=replace(other.trial.server, tp=2, gpus=(1, 2)))
        ),
        "no time": replace(other, started="?"),
    }[what]
    assert rounds_of([one, changed]) == {}


def test_the_report_tells_of_rounds(tmp_path: Path) -> None:
    told = " ".join(statistics(analyse([write(tmp_path / "r", trials("interleaved"), samples=False)])))
    assert "6 rounds ran side by side" in told
    told = " ".join(statistics(analyse([write(tmp_path / "g", trials("grouped"), samples=False)])))
    assert "side by side" not in told
