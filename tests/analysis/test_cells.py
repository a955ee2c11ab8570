"""Many cells of one claim: variances that borrow from each other, and Holm over all."""

from __future__ import annotations

import math

import numpy as np
import pytest
from reference import A, B

from loadgen.analysis.cells import (
    adjusted,
    cell_ratios,
    cell_variances,
    digamma,
    holm,
    prior,
    trigamma,
    trigamma_inverse,
)
from loadgen.analysis.variance import spread_of


def test_the_functions_behind_the_prior() -> None:
    assert digamma(0.5) == pytest.approx(-1.9635, abs=6e-5)
    assert (trigamma(0.5), trigamma(2)) == pytest.approx((4.9348, 0.6449), abs=6e-5)
    assert trigamma_inverse(0.8) == pytest.approx(1.6889, abs=6e-5)


@pytest.mark.parametrize(
    ("variances", "df", "expected"),
    [
        ([0.01, 0.1, 1, 10, 100], 1, (0.7420, 0.5915)),
        ([1, 3, 20, 0.5], 2, (2.9757, 2.8727)),
        ([1, 2, 4, 8, 16], 1, (math.inf, 6.2)),
    ],
)
def test_the_prior_of_variances(variances: list[float], df: float, expected: tuple[float, float]) -> None:
    assert prior(variances, [df] * len(variances)) == pytest.approx(expected, abs=6e-5)


def test_holm() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([]) == []


def test_a_cell_has_the_larger_of_pooled_and_shrunk() -> None:
    found = cell_variances([A, B], spread_of(A) + spread_of(B))
    assert [each[0] for each in found if each] == pytest.approx([1.2755e-4, 1.6178e-4, 1.2755e-4], rel=1e-4)
    assert [each[1] for each in found if each] == pytest.approx([3.4511] * 3, rel=1e-4)


def test_ratios_of_cells_and_their_adjusted_p_values() -> None:
    found = adjusted(cell_ratios(A, B))
    assert [each.value for each in found] == pytest.approx([1.0447, 1.0421, 1.0436], abs=6e-5)
    assert [each.low for each in found] == pytest.approx([1.0104, 1.0036, 1.0093], abs=6e-5)
    assert [each.high for each in found] == pytest.approx([1.0803, 1.0821, 1.0791], abs=6e-5)
    assert [each.p for each in found] == pytest.approx([0.0236, 0.0391, 0.0253], abs=6e-5)
    assert [each.adjusted for each in found] == pytest.approx([0.0707] * 3, abs=6e-5)
    assert not any(each.differs for each in found)


def test_cells_are_never_told_from_one_start_a_side() -> None:
    found = adjusted(cell_ratios(A[:1], B))
    assert not any(each.told for each in found)
    assert not any(each.differs for each in found)


def test_unlike_sides_have_each_their_own_variance_and_holes_are_borne() -> None:
    quiet = np.vstack([A, A.mean(axis=0)])
    quiet[0, 1] = np.nan
    loud = np.log([[100.0, 200.0, 400.0], [160.0, 310.0, 700.0], [90.0, 170.0, 350.0]])
    apart, together = cell_ratios(quiet, loud, alike=False), cell_ratios(quiet, loud)
    assert all(each.told for each in apart)
    for one, other in zip(apart, together, strict=True):
        assert one.df is not None
        assert other.df is not None
        assert one.df < other.df, "the loud side alone decides"
