"""F4: throughput over batch and GPUs, and where its best value lies."""

from __future__ import annotations

import pytest
from cases import EXP3, case, finding, rows
from synthetic import (
    BATCHES,
    World,
    grid,
    roofline_world,
    sweep,
)

from loadgen.analysis.findings.throughput import best_values


def test_f4_finds_the_knee_and_judges_the_range() -> None:
    # latency = 1 + B/b: power B/(1 + B/b)² peaks at B = b, where the elasticity is ½
    for peak, verdict in ((90.0, "holds"), (6.0, "refuted")):
        world = World(
            prefill=lambda _point: 1e-9,
            step=lambda point, peak=peak: 5e-3 / point.tp * (1 + point.batch / peak),
            noise=0.01,
        )
        found = case(rows(sweep(EXP3, world)))
        (study,) = found.subjects().values()
        values = best_values(found, study)
        assert len(values) == 3
        for value in values:
            assert value.knee is not None
            assert value.knee.low <= peak <= value.knee.high
            assert 0.5 <= value.best.at / peak <= 2
        assert finding(found, "F4").verdict == verdict


def test_f4_does_not_place_a_peak_between_points_that_lie_far_apart() -> None:
    """Throughput per latency peaks at 16 in truth; of 1, 64 and 256 the best is 64, which says nothing of 16."""
    world = World(prefill=lambda _p: 1e-9, step=lambda p: 5e-3 / p.tp * (1 + p.batch / 16), noise=0.003)
    coarse = grid(tp=(1, 2), batch=(1, 64, 256), output_tokens=(100,))
    f4 = finding(case(rows(sweep(coarse, world))), "F4")
    assert f4.verdict == "not tested"
    assert {16, 32} & {want.key.batch for want in f4.wanted}


def test_f4_takes_throughput_and_latency_of_a_run_as_one_figure() -> None:
    """They are two sides of one measurement: power is twice as noisy as either, not √2 times."""
    world = World(prefill=lambda _p: 1e-2, step=lambda _p: 1e-2, noise=0.05)
    study = case(rows(sweep(grid(batch=BATCHES), world))).study
    spreads: dict[str, float] = {}
    for metric in ("e2e_s", "throughput_per_latency"):
        levels = study.levels(list(study.cells.values()), metric)
        assert levels is not None
        assert levels.draws is not None
        spreads[metric] = levels.draws.std(axis=0).sum()
    assert spreads["throughput_per_latency"] / spreads["e2e_s"] == pytest.approx(2, rel=0.1)


def test_f4_wants_larger_batches_when_value_still_rises_at_the_edge() -> None:
    world = World(prefill=lambda _p: 1e-9, step=lambda point: 5e-3 / point.tp, noise=0.01)
    points = grid(tp=(1, 2), batch=(1, 2, 4, 8, 16, 32, 64), output_tokens=(100,))
    f4 = finding(case(rows(sweep(points, world))), "F4")
    assert f4.verdict == "not tested"
    assert 128 in {want.key.batch for want in f4.wanted}


def test_f4_tells_price_per_token_when_given() -> None:
    found = case(rows(sweep(EXP3, roofline_world())), price_per_gpu_hour=4.0)
    texts = " ".join(number.text for number in finding(found, "F4").numbers)
    assert "tokens per unit of price" in texts
    assert "per watt" not in texts  # power was not measured: it is left out, not zero
