"""Where variances come from: moments on full and holed grids, loans, and degrees of freedom."""

from __future__ import annotations

import numpy as np
import pytest
from reference import LENDERS, A, B

from loadgen.analysis.variance import Spread, f_quantile, pooled, spread_of, summed, t_below, t_quantile


@pytest.mark.parametrize(
    ("probability", "df", "value"),
    [
        (0.975, 1, 12.7062), (0.975, 2, 4.3027), (0.975, 2.5, 3.5747), (0.975, 3, 3.1824), (0.975, 4, 2.7764),
        (0.975, 8, 2.3060), (0.8, 2, 1.0607), (0.95, 2.7, 2.4639),
    ],
)  # fmt: skip
def test_students_t_at_few_and_fractional_degrees(probability: float, df: float, value: float) -> None:
    assert t_quantile(probability, df) == pytest.approx(value, abs=6e-5)
    assert t_below(value, df) == pytest.approx(probability, abs=1e-4)


def test_moments_of_a_full_grid() -> None:
    found = spread_of(A) + spread_of(B)
    assert (found.of_starts, found.df) == (pytest.approx(9.4187e-5, rel=1e-4), 2)
    assert (found.of_rest, found.rest_df) == (pytest.approx(5.0037e-5, rel=1e-4), 4)


def test_a_cell_alone_adds_what_the_mean_over_cells_takes_out() -> None:
    found = (spread_of(A) + spread_of(B)).variance(1.0, 1.0)
    assert found == pytest.approx((1.2755e-4, 3.4511), rel=1e-4)


def test_what_cancels_the_start_leaves_the_rest_alone() -> None:
    spread = spread_of(A) + spread_of(B)
    assert spread.variance(0.0, 2.0) == pytest.approx((2 * spread.of_rest, 4))


def test_holes_are_fitted_and_agree_with_a_full_grid_where_there_are_none() -> None:
    rng = np.random.default_rng(5)
    grid = rng.normal(0, 0.01, (4, 12)) + rng.normal(0, 0.02, (4, 1)) + np.linspace(0, 3, 12)
    gone = np.full((4, 1), np.nan)
    assert spread_of(np.hstack([grid, gone])) == spread_of(grid), "a cell that nobody has says nothing"
    grid[1, 3] = np.nan
    holed = spread_of(grid)
    assert (holed.df, holed.rest_df) == (3, 47 - 12 - 3)
    offsets = (3 + 12 * 3) / 12 / 12
    assert holed.share == pytest.approx(offsets, rel=0.1)


def test_moments_of_holed_grids_are_unbiased() -> None:
    rng = np.random.default_rng(11)
    found = []
    for _ in range(400):
        grid = rng.normal(0, 0.01, (3, 8)) + rng.normal(0, 0.02, (3, 1))
        grid[rng.random((3, 8)) < 0.2] = np.nan
        found.append(spread_of(grid))
    total = sum(found, Spread())
    assert total.of_rest == pytest.approx(1e-4, rel=0.06)
    assert total.of_starts - total.share / total.df * total.of_rest == pytest.approx(4e-4, rel=0.12)


def test_one_start_or_no_cell_tells_nothing() -> None:
    assert spread_of(A[:1]) == spread_of(A[:, :0]) == Spread(servers=1)
    assert Spread().variance(1.0, 1.0) is None
    one_cell = spread_of(A[:, :1])
    assert one_cell.variance(1.0, 1.0) == (one_cell.of_starts, 1)
    assert one_cell.variance(0.0, 1.0) is None, "one cell cannot tell start × cell from start"


def test_a_loan_counts_half() -> None:
    found, source = pooled([], LENDERS, 1)
    assert (found.of_starts, found.df) == (pytest.approx(4.708e-5, rel=1e-4), 2)
    assert source == "spread between starts borrowed from 3 servers (4 df counted as 2)"
    own = [spread_of(A), spread_of(B)]
    assert pooled(own, LENDERS, 3)[0] == own[0] + own[1]
    assert pooled(own[:1], LENDERS, 3)[0].df == 3, "one degree of its own is not enough, however many starts"


def test_a_loan_is_dropped_when_its_lenders_vary_less_beyond_chance() -> None:
    loud = Spread(starts=2e-5 * 2 * 1.01 * f_quantile(0.95, 2, 8), df=2, servers=2)
    quiet = [Spread(starts=8 * 2e-5, df=8, servers=4)]
    found, source = pooled([loud], quiet, 2)
    assert found == loud
    assert "wider than that of other servers" in source
    softer = Spread(starts=loud.starts * 0.98, df=2, servers=2)
    assert pooled([softer], quiet, 2)[0].df == 6


def test_sums_of_variances_have_satterthwaites_degrees() -> None:
    assert summed([(1.0, 2.0), (1.0, 2.0)]) == (2.0, 4.0)
    assert summed([(1.0, 2.0), (0.0, 7.0)]) == (1.0, 2.0)
    assert summed([(1.0, 2.0), None]) is None
