"""Intervals cover what they should, and are refused where nothing says how noisy a figure is."""

from __future__ import annotations

import math

import numpy as np
import pytest

from loadgen.analysis.statistics import (
    block_error,
    drift,
    estimate,
    isotonic,
    noise,
    residuals,
    student,
)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


@pytest.mark.parametrize(
    ("freedom", "expected"), [(2, 4.303), (3, 3.182), (5, 2.571), (10, 2.228), (60, 2.000), (1000, 1.962)]
)
def test_student_quantiles(freedom: int, expected: float) -> None:
    assert student(0.975, freedom) == pytest.approx(expected, rel=0.035)


@pytest.mark.parametrize(("cells", "repeats"), [(20, 3), (4, 3), (30, 2), (1, 8)])
def test_intervals_cover_the_truth_about_19_times_in_20(cells: int, repeats: int) -> None:
    source, covered, worlds = rng(3), 0, 300
    for _ in range(worlds):
        groups = 5.0 * np.exp(source.normal(0, 0.05, (cells, repeats)))
        found = estimate(list(groups[0]), residuals(groups.tolist()), source)
        assert found.low is not None
        assert found.high is not None
        covered += found.low <= 5.0 <= found.high
    assert 0.90 <= covered / worlds <= 0.99


def test_one_run_of_one_cell_has_no_interval() -> None:
    found = estimate([5.0], residuals([[5.0]]), rng())
    assert found.value == pytest.approx(5.0)
    assert found.low is None
    assert found.draws is None
    assert "no interval" in found.how
    with pytest.raises(ValueError, match="no interval"):
        found.with_draws()


def test_noise_floor_is_recovered_and_needs_repeats() -> None:
    covered = 0
    for seed in range(100):
        groups = np.exp(rng(seed).normal(0, 0.03, (40, 3))) * np.linspace(1, 50, 40)[:, None]
        found = noise(groups.tolist(), rng())
        assert found is not None
        covered += found.low <= 0.03 <= found.high
        assert found.relative == pytest.approx(0.03, rel=0.35)
        assert found.freedom == 80
    assert covered >= 86
    assert noise([[1.0], [2.0], [3.0]], rng()) is None


def test_the_detectable_difference_is_detected_four_times_in_five() -> None:
    source, sigma, repeats = rng(9), 0.02, 3
    groups = np.exp(source.normal(0, sigma, (40, repeats)))
    floor = noise(groups.tolist(), rng())
    assert floor is not None
    effect, seen, worlds = floor.detectable(repeats), 0, 400
    pool = residuals(groups.tolist())
    for _ in range(worlds):
        one = estimate(list(np.exp(source.normal(0, sigma, repeats))), pool, source)
        other = estimate(list((1 + effect) * np.exp(source.normal(0, sigma, repeats))), pool, source)
        low = np.quantile(other.with_draws() - one.with_draws(), 0.025)
        seen += low > 0
    assert 0.7 <= seen / worlds <= 0.92


def test_block_error_sees_correlation_that_the_naive_error_misses() -> None:
    source, count = rng(2), 2000
    shocks = source.normal(0, 1, count)
    wave = np.zeros(count)
    for at in range(1, count):
        wave[at] = 0.9 * wave[at - 1] + shocks[at]
    values = 100 + wave
    found = block_error(values, rng())
    assert found is not None
    relative, inflation = found
    # An AR(1) mean has (1 + ρ)/(1 − ρ) = 19 times the variance of independent values.
    assert inflation == pytest.approx(math.sqrt(19), rel=0.35)
    assert relative == pytest.approx(inflation * wave.std() / math.sqrt(count) / 100, rel=0.05)
    independent = block_error(100 + shocks, rng())
    assert independent is not None
    assert independent[1] == pytest.approx(1, abs=0.15)


def test_block_error_needs_values_and_takes_constants() -> None:
    assert block_error(np.ones(7), rng()) is None
    assert block_error(np.ones(20), rng()) == (0.0, 1.0)


def passes(per_hour: float, hours: float) -> list[list[tuple[float, float]]]:
    source = rng(4)
    return [
        [
            (start + at, (10 + cell) * (1 + per_hour * (start + at)) * float(np.exp(source.normal(0, 0.01))))
            for at in (0, hours / 3, 2 * hours / 3)
        ]
        for cell, start in enumerate(np.linspace(0, hours / 3, 20))
    ]


def test_drift_is_recovered_and_none_is_not_invented() -> None:
    drifting = drift(passes(0.05, 2.0), 2.0, rng())
    assert drifting is not None
    assert drifting.distinguishable
    assert drifting.low <= 0.05 <= drifting.high + 0.01
    still = drift(passes(0.0, 2.0), 2.0, rng())
    assert still is not None
    assert not still.distinguishable
    assert drift([[(0.0, 1.0)], [(1.0, 2.0)]], 1.0, rng()) is None


def test_isotonic_is_the_least_squares_rising_fit() -> None:
    from scipy.optimize import isotonic_regression

    draws = rng(7).normal(0, 1, (50, 9)) + np.linspace(0, 2, 9)
    fitted = isotonic(draws)
    for row, expected in zip(fitted, draws, strict=True):
        np.testing.assert_allclose(row, isotonic_regression(expected).x, atol=1e-12)
