"""Percentiles against the table and the values of the method they follow, and their intervals against a known truth."""

from __future__ import annotations

import numpy as np
import pytest

from loadgen.metrics.distribution import EXACT_VALUES, Values, dist
from loadgen.metrics.percentiles import (
    EXACT_RANKS,
    NOT_THE_MAXIMUM,
    PERCENTILES,
    WITH_INTERVAL,
    design_effect,
    nearest_rank,
    percentile,
    percentile_words,
    ranks,
    tail,
    tail_words,
    with_interval,
)
from loadgen.records import Dist


@pytest.mark.parametrize(
    ("n", "percent", "expected"),
    [
        (5, 50, (None, None)), (6, 50, (1, 6)), (10, 50, (2, 9)), (100, 50, (40, 61)), (35, 90, (28, None)),
        (36, 90, (29, 36)), (71, 95, (63, None)), (72, 95, (64, 72)), (100, 95, (90, 100)), (367, 99, (359, None)),
        (368, 99, (360, 368)), (1000, 99, (983, 997)),
    ],
)  # fmt: skip
def test_ranks_of_the_reference(n: int, percent: int, expected: tuple[int | None, int | None]) -> None:
    assert ranks(n, percent) == expected


@pytest.mark.parametrize("name", PERCENTILES)
def test_the_tables_rows_follow_from_the_ranks(name: str) -> None:
    percent = PERCENTILES[name]
    n = NOT_THE_MAXIMUM[name]
    assert nearest_rank(n, percent) < n
    assert all(nearest_rank(fewer, percent) == fewer for fewer in range(1, n))
    n = WITH_INTERVAL[name]
    assert None not in ranks(n, percent)
    assert None in ranks(n - 1, percent)


def test_correlated_values_have_the_ranks_of_fewer_scaled_outward() -> None:
    assert ranks(400, 50, 4.0) == (160, 244)
    assert ranks(100, 90, 10.0) == (70, None)  # worth 10: the 7th of 10, and no upper end
    low, high = ranks(EXACT_RANKS, 99)
    assert ranks(EXACT_RANKS + 1, 99) == pytest.approx((low, high), abs=3)


def ar(coefficient: float, n: int, seed: int) -> np.ndarray:  # type: ignore[type-arg]
    noise = np.random.default_rng(seed).normal(size=n)
    for at in range(1, n):
        noise[at] += coefficient * noise[at - 1]
    return noise


def test_the_effect_of_correlation() -> None:
    # 1{x ≤ median} of a Gaussian AR(1) has ρ_j = 2/π·asin(φ^j)
    true = 1 + 2 * sum(2 / np.pi * np.arcsin(0.9**lag) for lag in range(1, 200))
    found = np.mean([design_effect(values := ar(0.9, 4000, seed), np.median(values)) for seed in range(5)])
    assert found == pytest.approx(true, rel=0.25)
    assert design_effect(ar(0.0, 4000, 9), 0.0) < 1.3
    assert design_effect(np.ones(10), 1.0) == 1.0


@pytest.mark.parametrize(
    ("coefficient", "n", "least"), [(0.0, 64, 0.93), (0.5, 200, 0.90), (0.9, 1000, 0.88)]
)
def test_intervals_cover_the_median(coefficient: float, n: int, least: float) -> None:
    covered = 0
    for seed in range(200):
        found = dist(ar(coefficient, n, seed))
        assert found is not None
        low, high = found.intervals["p50"]
        covered += low is not None and low <= 0 and (high is None or high >= 0)
    assert covered / 200 >= least


def test_a_tail_is_never_invented() -> None:
    two = dist([2.0, 1.0])
    assert two is not None
    assert (two.p50, two.p90, two.p95, two.p99, two.max) == (1.0, None, None, None, 2.0)
    assert two.intervals == {}
    many = dist(np.arange(1.0, 101.0)[::-1])
    assert many is not None
    assert (many.p50, many.p90, many.p95, many.p99) == (50.0, 90.0, 95.0, 99.0)
    fewer = dist(np.random.default_rng(1).permutation(np.arange(1.0, 100.0)))
    assert fewer is not None
    assert (fewer.p95, fewer.p99) == (95.0, None)
    assert fewer.intervals["p50"] == (40.0, 60.0)
    assert fewer.intervals["p95"][1] == 99.0


def test_older_results_lose_the_tail_that_was_interpolated_and_keep_the_rest() -> None:
    older = Dist(n=64, mean=1.5, stdev=0.5, min=1.0, p50=1.5, p90=1.9, p95=1.95, p99=1.99, max=2.0)
    assert [percentile(older, name) for name in PERCENTILES] == [1.5, 1.9, 1.95, None]
    assert (tail(older, "p99"), tail(older, "p95")) == (2.0, 1.95)
    assert percentile(None, "p50") is None


def test_folded_values_have_the_intervals_of_all() -> None:
    data = np.random.default_rng(2).lognormal(0, 1, EXACT_VALUES + 5)
    values = Values()
    values.extend(data)
    got, true = values.dist(), dist(data)
    assert got is not None
    assert true is not None
    assert got.p50 == pytest.approx(true.p50, rel=3e-4)
    assert got.intervals["p99"] == pytest.approx(true.intervals["p99"], rel=3e-3)


def test_every_percentile_says_what_its_values_leave_of_it() -> None:
    of_24, of_200, of_1000 = (
        dist(np.random.default_rng(n).permutation(np.arange(n)) / 1000 + 1) for n in (24, 200, 1000)
    )
    assert of_24 is not None
    assert of_200 is not None
    assert of_1000 is not None
    assert percentile_words(of_24, "p50") == "1.01 s"
    assert with_interval(of_24, "p50") == "1.01 s [1.01 s, 1.02 s]"
    assert with_interval(of_24, "p99") == "–"
    assert percentile_words(of_24, "p90") == "1.02 s (no upper end from 24)"
    assert percentile_words(of_24, "p99") == "1.02 s (largest of 24)"
    assert percentile_words(of_200, "p99") == "1.20 s (no upper end from 200)"
    assert with_interval(of_200, "p99") == "1.20 s [1.19 s, –]"
    assert with_interval(of_1000, "p99") == "1.99 s [1.98 s, 2.00 s]"
    assert percentile_words(of_1000, "p99") == "1.99 s"
    assert percentile_words(None, "p50") == "–"
    assert (tail_words(of_24, "p99"), tail_words(of_1000, "p99")) == ("largest of 24: 1.02 s", "p99 1.99 s")


def test_an_older_percentile_is_judged_by_the_number_of_its_values() -> None:
    older = Dist(n=200, mean=1.5, stdev=0.5, min=1.0, p50=1.5, p90=1.9, p95=1.95, p99=1.99, max=2.0)
    assert percentile_words(older, "p99") == "1.99 s (no upper end from 200)"
    assert percentile_words(older, "p90") == with_interval(older, "p90") == "1.90 s"
