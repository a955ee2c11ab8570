from __future__ import annotations

import math

import numpy as np
import pytest

from loadgen.plan.capacity_fit import Fit, Point, fit, quantile, smallest


def of(points: list[Point], middle: float = 10.0, goal: float = 0.95, ceiling: float = 0.999) -> Fit:
    return fit(points, middle=middle, goal=goal, ceiling=ceiling)


def curve(level: float, capacity: float, slope: float, goal: float = 0.95, ceiling: float = 0.999) -> float:
    logit = math.log(goal / (ceiling - goal)) - slope * math.log(level / capacity)
    return ceiling / (1 + math.exp(-logit))


def points(capacity: float, slope: float, effect: float = 1.0, n: int = 4000) -> list[Point]:
    levels = (0.9, 0.97, 1.02, 1.1)
    return [
        Point(
            level=capacity * at, due=n, kept=round(n * curve(capacity * at, capacity, slope)), effect=effect
        )
        for at in levels
    ]


@pytest.mark.parametrize("slope", [5.0, 15.0, 38.0])
@pytest.mark.parametrize("capacity", [7.0, 12.3])
def test_it_finds_the_curve_that_made_the_counts(capacity: float, slope: float) -> None:
    found = of(points(capacity, slope, effect=10))  # 400 independent requests each
    assert abs(found.quantile(0.5) / capacity - 1) < 0.02
    assert found.quantile(0.05) < capacity < found.quantile(0.95)
    assert found.misfit < 4
    assert not found.at_border


def test_without_trials_all_of_the_span_is_as_likely() -> None:
    found = of([])
    assert abs(found.quantile(0.5) - 10) < 1e-6
    assert abs(found.quantile(0.05) / (10 * 4 ** (-0.9)) - 1) < 0.02


def test_a_larger_effect_makes_it_less_sure() -> None:
    sure, unsure = of(points(10, 15)), of(points(10, 15, effect=30))
    assert unsure.quantile(0.95) - unsure.quantile(0.05) > 3 * (sure.quantile(0.95) - sure.quantile(0.05))


def test_the_interval_is_of_the_widened_posterior() -> None:
    found = of(points(10, 15, effect=30))
    wide = [quantile(found.places, found.tempered, at) for at in (0.05, 0.95)]
    assert wide[0] < found.quantile(0.05) < found.quantile(0.95) < wide[1]


def test_a_ceiling_under_the_goal_is_lifted_over_it() -> None:
    assert of(points(10, 15), ceiling=0.9).ceiling == pytest.approx(0.952)


def test_a_trial_off_the_curve_and_a_cliff_are_seen() -> None:
    odd = [*points(10, 15), Point(level=9.0, due=4000, kept=3000, effect=1.0)]
    assert of(odd).misfit > 4
    cliff = [
        Point(level=9.8, due=4000, kept=3995, effect=1.0),
        Point(level=10.2, due=4000, kept=40, effect=1.0),
    ]
    assert of(cliff).at_border


def test_the_smallest_of_two_goals_is_below_both() -> None:
    low, high = of(points(9, 15)), of(points(11, 15))
    both = quantile(low.places, smallest([low, high], widened=False), 0.5)
    assert abs(both / low.quantile(0.5) - 1) < 0.01
    same = quantile(low.places, smallest([low, low], widened=True), 0.5)
    assert same < low.quantile(0.5)
    assert smallest([low, high], widened=True).sum() == pytest.approx(1)


def test_the_drawn_curve_passes_the_goal_at_the_capacity() -> None:
    found = of(points(10, 15, effect=20))
    mean, low, high = found.curve([5.0, found.quantile(0.5), 15.0])
    assert mean[0] > 0.98 > mean[1] > mean[2]
    assert abs(mean[1] - 0.95) < 0.02
    assert np.all(low <= mean)
    assert np.all(mean <= high)
