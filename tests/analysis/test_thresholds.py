"""Crossings and ridges are found where they were put, and refused where the grid or the noise cannot say."""

from __future__ import annotations

import math

import numpy as np
import pytest

from loadgen.analysis.thresholds import best, between, crossing, finer, ridge

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


def test_the_best_point_and_those_that_noise_cannot_tell_from_it() -> None:
    values = [-((math.log2(batch) - 4.4) ** 2) for batch in GRID]
    clear = best(GRID, *noisy(values, 0.01))
    assert clear.at == 16
    assert clear.tied == (16,)
    assert not clear.at_edge
    vague = best(GRID, *noisy(values, 0.5))
    assert {16, 32} <= set(vague.tied)
    assert best(GRID, list(map(float, GRID)), None).at_edge


TOKENS = [20, 40, 80, 160, 320, 640, 1280, 2560, 5120]


@pytest.mark.parametrize("truth", [150.0, 300.0, 700.0])
@pytest.mark.parametrize("sharpness", [1.0, 2.0, 16.0])
def test_a_ridge_lies_in_its_interval(truth: float, sharpness: float) -> None:
    tokens = [*TOKENS, 10_240, 20_480, 40_960]
    times = [0.01 * (1 + (size / truth) ** sharpness) ** (1 / sharpness) for size in tokens]
    logs, draws = noisy(np.log(times).tolist(), 0.01)
    found = ridge(tokens, np.exp(logs).tolist(), draws)
    assert found is not None
    assert found.resolved, found.why
    assert found.low <= truth <= found.high
    assert found.tokens == pytest.approx(truth, rel=0.15)
    assert found.plateau_s == pytest.approx(0.01, rel=0.1)


@pytest.mark.parametrize(("truth", "why"), [(5.0, "no plateau"), (100_000.0, "does not yet rise")])
def test_a_ridge_outside_of_the_sizes_is_refused(truth: float, why: str) -> None:
    times = [0.01 * max(1.0, size / truth) for size in TOKENS]
    logs, draws = noisy(np.log(times).tolist(), 0.01)
    found = ridge(TOKENS, np.exp(logs).tolist(), draws)
    assert found is not None
    assert not found.resolved
    assert why in found.why
    assert found.add


def test_a_coarse_grid_widens_a_ridge_beyond_the_noise() -> None:
    """Efficiency that grows with the size bends the line: the misfit must be in the interval, not the noise alone."""
    sizes = [20, 64, 128, 512, 1280, 2048, 5120, 8192, 32768]
    times = [0.0135 * max(1.0, size / 250 * (1 + 30 / size) ** 2 * size**-0.03 * 250**0.03) for size in sizes]
    logs, draws = noisy(np.log(times).tolist(), 0.002)
    bent = ridge(sizes, np.exp(logs).tolist(), draws)
    straight = ridge(sizes, *_straight(sizes))
    assert bent is not None
    assert straight is not None
    assert straight.high / straight.low < 1.1
    assert bent.high / bent.low > 1.15
    assert bent.low <= 250 <= bent.high


def _straight(sizes: list[int]) -> tuple[list[float], np.ndarray]:
    logs, draws = noisy([float(np.log(0.0135 * max(1.0, size / 250))) for size in sizes], 0.002)
    return np.exp(logs).tolist(), draws


def test_one_size_repeated_is_no_plateau() -> None:
    sizes = [20, 20, 20, 256, 512, 1280, 2048, 8192]
    found = ridge(sizes, *_straight(sizes))
    assert found is not None
    assert not found.resolved
    assert "only one size" in found.why
    assert found.fastest_plateau_s == pytest.approx(0.0135, rel=0.02)
    assert set(found.add) < set(range(21, 256))


def test_a_ridge_needs_sizes_and_repeats() -> None:
    assert ridge([20, 40, 80], [1.0, 1.0, 2.0], None) is None
    found = ridge(TOKENS, [0.01 * max(1.0, size / 300) for size in TOKENS], None)
    assert found is not None
    assert not found.resolved
    assert "no repeats" in found.why
