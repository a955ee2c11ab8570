"""Slow trials are set apart, noisy ones are not."""

from __future__ import annotations

import numpy as np
import pytest

from loadgen.analysis.slow import share_differs, slow

CELLS = np.log(np.geomspace(0.1, 10, 8))


def trials(starts: int, repeats: int, sd: float, seed: int = 1) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return CELLS[None, :, None] + rng.normal(0, sd, (starts, 8, repeats))


@pytest.mark.parametrize(("starts", "repeats"), [(2, 2), (3, 1), (3, 2), (1, 2), (1, 5)])
def test_trials_twice_as_slow_stand_apart(starts: int, repeats: int) -> None:
    found = trials(starts, repeats, 0.004)
    found[-1, 3, 0] += np.log(2)
    found[0, 5, -1] += np.log(2)
    expected = np.zeros(found.shape, dtype=bool)
    expected[-1, 3, 0] = expected[0, 5, -1] = True
    assert (slow(found) == expected).all()


def test_where_most_of_a_cell_was_slow_the_fast_trial_is_the_typical_one() -> None:
    found = trials(3, 1, 0.004)
    found[:2, 3, 0] += np.log(2)
    assert np.argwhere(slow(found)).tolist() == [[0, 3, 0], [1, 3, 0]]


def test_the_scale_of_three_trials_is_not_understated() -> None:
    """Of three trials one is the median: by deviations from it 10 % of noise pass for 6 %, and half a tail is cut."""
    rng = np.random.default_rng(3)
    cut = made = 0
    for seed in range(20):
        found = trials(3, 1, 0.1, seed)
        late = rng.random(found.shape) < 0.1
        cut, made = cut + slow(found + np.log(2) * late).sum(), made + late.sum()
    assert cut < 0.2 * made


def test_a_whole_start_that_is_slow_is_a_start_and_no_trial() -> None:
    found = trials(3, 2, 0.004)
    found[1] += np.log(2)
    assert not slow(found).any()


@pytest.mark.parametrize("sd", [0.1, 0.25])
def test_a_noisy_engine_keeps_its_trials(sd: float) -> None:
    assert not slow(trials(3, 2, sd)).any()


def test_few_trials_are_left_alone_and_holes_are_borne() -> None:
    found = trials(2, 1, 0.004)
    found[1, 3, 0] += np.log(2)
    assert not slow(found).any(), "of two trials neither is the typical one"
    assert not slow(trials(1, 1, 0.004)).any()
    holed = trials(3, 2, 0.004)
    holed[0, :6] = np.nan
    holed[2, 7, 1] += np.log(2)
    assert np.argwhere(slow(holed)).tolist() == [[2, 7, 1]]


def test_shares_of_slow_trials_by_fishers_exact_test() -> None:
    assert share_differs((0, 64), (4, 64)) == pytest.approx(0.1189, abs=6e-4)
    assert share_differs((3, 30), (3, 30)) == 1
