"""The running trial's latency over time: means that stay means when bins are joined, and bars that fit."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadgen.live.course import BINS, Course, bars


@given(st.lists(st.tuples(st.integers(0, 10**13), st.floats(1e-6, 1e3)), min_size=1, max_size=60))
def test_bins_stay_few_and_lose_no_value(values: list[tuple[int, float]]) -> None:
    course = Course()
    for at_ns, value_s in values:
        course.add(at_ns, value_s)
    assert 1 <= len(course.means) <= BINS
    assert sum(course._counts) == len(values)
    assert sum(course._sums) == pytest.approx(sum(value for _, value in values))
    assert max(at for at, _ in values) - values[0][0] < course.width_s * 1e9 * BINS


def test_a_bin_is_the_mean_of_its_replies_and_an_empty_one_is_blank() -> None:
    course = Course()
    for at_ns, value_s in ((0, 1.0), (200_000_000, 3.0), (600_000_000, 5.0)):
        course.add(at_ns, value_s)
    assert course.means == (2.0, None, 5.0)
    assert course.width_s == 0.25


def test_bars_are_drawn_from_zero_and_fit() -> None:
    assert bars([2.0, None, 4.0, 1e-9], rows=2, columns=4) == ["  █ ", "█ █▁"]
    assert [len(line) for line in bars([1.0] * 96, rows=3, columns=60)] == [60] * 3
    assert bars([1.0], rows=1, columns=100) == ["████"]
    assert bars([], rows=1, columns=10) == [""]
