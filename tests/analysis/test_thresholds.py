"""Crossings are found where they were put, and refused where the grid or the noise cannot say."""

from __future__ import annotations

import math

import numpy as np
import pytest

from loadgen.analysis.thresholds import between, crossing, finer

GRID = (1, 2, 4, 8, 16, 32, 64, 128)


def noisy(values: list[float], sigma: float, seed: int = 0) -> tuple[list[float], np.ndarray]:
    source = np.random.default_rng(seed)
    seen = np.array(values) + source.normal(0, sigma, len(values))
    return seen.tolist(), seen + source.normal(0, sigma, (1000, len(values)))


@pytest.mark.parametrize("truth", [1.5, 3.0, 5.9, 12.0, 20.0, 50.0, 100.0])
@pytest.mark.parametrize("seed", range(5))
def test_a_crossing_lies_in_its_interval(truth: float, seed: int) -> None:
    effects, draws = noisy([0.1 * batch / truth for batch in GRID], 0.002, seed)
    found = crossing(GRID, effects, draws, 0.1)
    assert found.resolved
    assert found.low <= truth <= found.high
    assert found.high / found.low <= 4
    assert found.estimate == pytest.approx(truth, rel=0.15)


def test_a_crossing_off_the_grid_is_said_to_be_so() -> None:
    above = crossing(GRID, *noisy([0.0001 * batch for batch in GRID], 0.002), 0.1)
    assert above.state == "above the grid"
    assert above.low == 128
    assert math.isinf(above.high)
    assert above.add == (256, 512)
    below = crossing(GRID[3:], *noisy([1.0] * 5, 0.002), 0.1)
    assert below.state == "below the grid"
    assert below.high == 8
    assert below.add == (4,)
    assert crossing(GRID, *noisy([1.0] * 8, 0.002), 0.1).add == ()  # nothing lies below batch 1


@pytest.mark.parametrize(("apart", "low", "high"), [(24, 2, 4), (25, 1, 8)])
def test_a_quantile_between_two_steps_takes_in_both(apart: int, low: float, high: float) -> None:
    """Of 1,000 draws the 2.5 % quantile lies between the 25th and the 26th."""
    draws = np.zeros((1000, 4))
    draws[:, 2:] = 1  # crosses within (2, 4]
    draws[:apart, 1] = 1  # within (1, 2]
    draws[-apart:, 2] = 0  # within (4, 8]
    found = crossing((1, 2, 4, 8), [0.0, 0.0, 1.0, 1.0], draws, 0.5)
    assert (found.low, found.high) == (low, high)


def test_a_coarse_grid_names_the_points_to_add() -> None:
    found = crossing((1, 8, 64), *noisy([0.0, 0.02, 0.5], 0.002), 0.1)
    assert found.state == "too coarse"
    assert found.add == (16, 32)
    assert "not resolvable" in found.text()


def test_noise_names_the_points_to_repeat() -> None:
    found = crossing(GRID, *noisy([0.0, 0.03, 0.05, 0.08, 0.1, 0.12, 0.15, 0.2], 0.06), 0.1)
    assert found.state == "too noisy"
    wide = crossing([1, 8, 64], *noisy([0.0, 0.12, 0.2], 0.2), 0.1)
    assert wide.state == "too coarse, too noisy"
    assert wide.add
    assert wide.repeat
    assert len(found.repeat) > 2
    none = crossing(GRID, [0.0] * 4 + [1.0] * 4, None, 0.1)
    assert none.state == "no interval"
    assert none.repeat == GRID


def test_points_between_and_finer() -> None:
    assert between(8, 16) == ()
    assert between(8, 32) == (16,)
    assert between(1, 64) == (2, 4, 8, 16, 32)
    assert finer(4, 8) == (5, 6, 7)
    assert finer(4, 5) == ()
    assert finer(4, math.inf) == ()
