"""The running trial over time: means that stay means when bins are joined, and bars that fit."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadgen.live.course import BINS, Course, bars

MOMENTS = st.tuples(
    st.integers(0, 10**13), st.integers(0, 10**13), st.floats(1e-6, 1e3), st.integers(0, 4096)
)


@given(st.lists(MOMENTS, min_size=1, max_size=60))
def test_bins_stay_few_and_lose_nothing(replies: list[tuple[int, int, float, int]]) -> None:
    course = Course()
    for one, other, took_s, tokens in replies:
        begun, end = sorted((one, other))
        course.add(begun, begun, end, took_s, tokens)
    assert 1 <= len(course.latencies_s) <= BINS
    assert sum(course._counts) == len(replies)
    assert sum(course._sums) == pytest.approx(sum(took_s for _, _, took_s, _ in replies))
    assert sum(course._tokens) == pytest.approx(sum(tokens for *_, tokens in replies))
    first = min(replies[0][:2])
    assert max(max(reply[:2]) for reply in replies) - first < course.width_s * 1e9 * BINS


def test_a_bin_is_the_mean_of_its_replies_and_an_empty_one_is_blank() -> None:
    course = Course()
    for at_ms, took_s in ((0, 1.0), (200, 3.0), (600, 5.0)):
        course.add(at_ms * 10**6, at_ms * 10**6, at_ms * 10**6, took_s, 1)
    assert course.latencies_s == (2.0, None, 5.0)
    assert course.width_s == 0.25


def test_tokens_are_spread_from_the_first_to_the_last_and_the_bin_under_way_is_not_told() -> None:
    course = Course()
    course.add(
        0, 125_000_000, 625_000_000, 0.625, 100
    )  # 200 tokens a second, from the middle of the first bin
    assert course.tokens_per_s == pytest.approx((100, 200))
    course.add(0, 750_000_000, 750_000_000, 0.75, 7)
    assert course.tokens_per_s == pytest.approx((100, 200, 100))
    course.add(0, 900_000_000, 900_000_000, 0.9, None)
    assert course.tokens_per_s == (), "nobody counted"


def test_bars_are_drawn_from_zero_and_fit() -> None:
    assert bars([2.0, None, 4.0, 1e-9], rows=2, columns=4) == ["  █ ", "█ █▁"]
    assert [len(line) for line in bars([1.0] * 96, rows=3, columns=60)] == [60] * 3
    assert bars([1.0], rows=1, columns=100) == ["████"]
    assert bars([], rows=1, columns=10) == [""]
