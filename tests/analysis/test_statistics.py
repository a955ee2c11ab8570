"""The noise floor, drift, and curves made to rise."""

from __future__ import annotations

import numpy as np
import pytest

from loadgen.analysis.statistics import drift, isotonic, noise


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


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
