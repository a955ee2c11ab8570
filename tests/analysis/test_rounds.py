"""Rounds: what ran side by side is read from what happened, and differences within rounds see through drift."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from synthetic import Point, World, environment, result, trial_of, write

from loadgen.analysis.analyse import analyse
from loadgen.analysis.rounds import rounds_of
from loadgen.analysis.study import Cell, Study, quotient
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
    """Two batches, three passes, two rivals: in turns or one after the other, a minute each."""
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
        result(Point(framework=name, batch=batch), made, repeat=again, hours=at / 60, rng=rng)
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


def test_rounds_see_through_drift_that_hides_the_difference_otherwise() -> None:
    for seed in range(5):
        one = study(trials("interleaved", seed=seed))
        for batch in (1, 8):
            hf, ds = pair(one, batch)
            paired = one.ratio(ds, hf, "e2e_s")
            loose = quotient(one.estimate(ds, "e2e_s"), one.estimate(hf, "e2e_s"))
            assert paired is not None
            assert loose is not None
            assert paired.low is not None
            assert paired.high is not None
            assert paired.low < FASTER < paired.high
            assert paired.below(1)
            assert not loose.below(1), "the drift would have hidden it"
        both = [(ds, hf) for hf, ds in (pair(one, batch) for batch in (1, 8))]
        mean = one.mean_ratio(both, "e2e_s")
        assert mean is not None
        assert mean.value == pytest.approx(FASTER, rel=0.01)
        assert mean.below(0.98)


def test_one_after_the_other_the_same_drift_is_taken_for_a_difference_and_stays_unpaired() -> None:
    """Why it is worth it: on equally fast rivals the second one looks slower by the hour's drift."""
    found = study(trials("grouped"))
    hf, ds = pair(found, 1)
    assert found.paired(ds, hf, "e2e_s") is None
    ratio = found.ratio(ds, hf, "e2e_s")
    assert ratio is not None
    assert ratio.value > FASTER * 1.03


def test_repeats_of_one_server_are_no_round() -> None:
    found = study(trials("interleaved"))
    small, large = (cell for cell in found.cells.values() if cell.key.framework == "hf")
    assert found.paired(large, small, "e2e_s") is None
    assert found.ratio(large, small, "e2e_s") == quotient(
        found.estimate(large, "e2e_s"), found.estimate(small, "e2e_s")
    )


def test_rounds_with_one_pass_have_no_interval_of_their_own() -> None:
    found = study([each for each in trials("interleaved") if each.trial.repeat == 0])
    hf, ds = pair(found, 1)
    assert found.paired(ds, hf, "e2e_s") is None


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
