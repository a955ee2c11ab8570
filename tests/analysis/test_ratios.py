"""Quotients of two systems: the reference values of the method, and what must hold of any of them."""

from __future__ import annotations

import numpy as np
import pytest
from reference import LENDERS, A, B, overall, unlike

from loadgen.analysis.ratios import Ratio, beside_trend, paired, ratio_of, trimmed


def bounds(ratio: Ratio) -> list[float | None]:
    return [ratio.value, ratio.low, ratio.high]


def test_one_variance_serves_both_sides_of_one_class() -> None:
    found = overall(A, B)
    assert bounds(found) == pytest.approx([1.0435, 1.0008, 1.0880], abs=6e-5)
    assert (found.se, found.df, found.p) == pytest.approx((0.009705, 2, 0.0482), rel=1e-3)
    assert found.starts == (2, 2)


def test_unlike_classes_have_each_their_own_variance() -> None:
    found = unlike(A, B)
    assert bounds(found)[1:] == pytest.approx([0.9904, 1.0995], abs=6e-5)
    assert (found.df, found.p) == pytest.approx((1.6315, 0.0687), rel=1e-3)


def test_pairs_of_starts_are_the_unit() -> None:
    three = np.vstack([A, np.log([99.0, 199.0, 398.0])]), np.vstack([B, np.log([103.0, 207.0, 415.0])])
    found = paired(*three)
    apart = (three[1] - three[0]).mean(axis=1)
    assert found.df == 2
    assert found.se == pytest.approx(apart.std(ddof=1) / 3**0.5)
    assert found.source == "3 pairs of starts side by side"


def test_a_trend_over_the_session_is_told_apart_from_the_sides() -> None:
    """1 % over the session, 0.3 % between starts, in the order A B, B A, …: 5 % false, ±0.51 % against ±0.81 %."""
    rng = np.random.default_rng(1)
    when = np.array([0.0, 3, 4, 7, 1, 2, 5, 6])  # A's four starts, then B's
    widths, plain, false = [], [], 0
    for _ in range(400):
        means = 0.01 * when / 7 + rng.normal(0, 0.003, 8)
        a, b = means[:4, None] + np.zeros(3), means[4:, None] + np.zeros(3)
        found, without = beside_trend(a, b, when), overall(a, b)
        assert found is not None
        assert found.df == 5
        assert found.high is not None
        assert without.high is not None
        widths.append(np.log(found.high / found.value))
        plain.append(np.log(without.high / without.value))
        false += found.differs
    assert np.mean(widths) == pytest.approx(0.0051, rel=0.05)
    assert np.mean(plain) == pytest.approx(0.0081, rel=0.05)
    assert 0.02 < false / 400 < 0.08


def test_a_side_that_ran_after_the_other_is_no_trend() -> None:
    zeros = np.zeros((4, 2))
    assert beside_trend(zeros, zeros, np.array([0.0] * 4 + [1.0] * 4)) is None


def test_two_pairs_as_the_reference_has_them() -> None:
    found = ratio_of(float((B - A).mean()), (float((B - A).mean(axis=1).var(ddof=1)) / 2, 1))
    assert bounds(found)[1:] == pytest.approx([0.9998, 1.0891], abs=6e-5)
    assert found.p == pytest.approx(0.0502, abs=6e-5)


def test_one_start_a_side_is_told_by_a_loan_alone() -> None:
    one, other = np.zeros((1, 3)), np.full((1, 3), 0.03)
    alone = overall(one, other)
    assert not alone.told
    assert alone.source == "one start each: not told"
    assert alone.p == alone.p_above(0.5) == 1
    lent = overall(one, other, LENDERS)
    assert bounds(lent) == pytest.approx([1.0305, 0.9883, 1.0744], abs=6e-5)
    assert lent.source == "spread between starts borrowed from 3 servers (4 df counted as 2)"
    assert not overall(one, other, LENDERS[:1]).told, "2 df counted as 1 are too few"


def test_from_three_starts_on_nothing_is_borrowed() -> None:
    three = np.vstack([A, A[:1]]), np.vstack([B, B[:1]])
    assert overall(*three, LENDERS).df == 4
    assert overall(A, B, LENDERS).df == 4, "2 of its own and half of 4"


def test_swapping_sides_inverts() -> None:
    found, back = overall(A, B), overall(B, A)
    assert bounds(back.inverse) == pytest.approx(bounds(found))
    assert back.p == pytest.approx(found.p)


def test_equal_figures_from_other_starts_give_one_with_an_interval_about_it() -> None:
    found = overall(A, A.copy())
    assert found.value == 1
    assert found.low is not None
    assert found.low < 1
    assert not found.differs


def test_more_starts_at_equal_figures_never_widen() -> None:
    widths = []
    for copies in (1, 2, 3):
        found = overall(np.vstack([A] * copies), np.vstack([B] * copies))
        assert found.high is not None
        widths.append(found.high)
    assert widths == sorted(widths, reverse=True)


def test_a_hole_costs_little_and_a_full_grid_nothing() -> None:
    rng = np.random.default_rng(3)
    a = rng.normal(0, 0.01, (3, 8)) + np.array([[0.0], [0.02], [-0.01]])
    b = rng.normal(0.05, 0.01, (3, 8)) + np.array([[-0.01], [0.0], [0.02]])
    whole = overall(a, b)
    a[0, 2] = np.nan
    holed = overall(a, b)
    assert holed.df is not None
    assert holed.df == pytest.approx(4, abs=0.2)
    assert holed.value == pytest.approx(whole.value, rel=5e-3)
    assert holed.se == pytest.approx(whole.se, rel=0.05)


def test_within_a_margin_is_two_one_sided_tests() -> None:
    found = ratio_of(0.05, (0.02**2, 4))
    assert found.p_within(0.1) == pytest.approx(0.0431, abs=6e-5)
    assert ratio_of(0.2, (0.02**2, 4)).p_outside(0.1) == pytest.approx(0.0032, abs=6e-5)
    assert overall(A, B).p_within(0.1) == pytest.approx(0.0161, abs=6e-5)


def test_the_trimmed_mean_leaves_out_a_fifth_at_each_end() -> None:
    assert trimmed(np.array([100.0, 1.0, 2.0, 3.0, -100.0])) == 2
    assert trimmed(np.array([1.0, 3.0])) == 2
