"""Quantities as text keep the digits that matter."""

from __future__ import annotations

import math

import pytest

from loadgen.units import show_interval, show_number


@pytest.mark.parametrize(
    ("value", "low", "high", "text"),
    [
        (1.2, 1.151, 1.249, "1.2 [1.151, 1.249]"),
        (1.76, 1.123, 2.768, "1.76 [1.12, 2.77]"),
        (0.69912, 0.6921, 0.7063, "0.699 [0.692, 0.706]"),
        (1.0, 0.99951, 1.00049, "1 [0.99951, 1.00049]"),  # three digits would say [1, 1]
        (0.0412, 0.041196, 0.041204, "0.0412 [0.041196, 0.041204]"),
        (123.4, 120.04, 126.83, "123.4 [120, 126.8]"),
        (1.0, 1.0, 1.0, "1 [1, 1]"),
        (2.0, 0.0, math.inf, "2 [0, inf]"),
    ],
)
def test_an_interval_shows_its_width(value: float, low: float, high: float, text: str) -> None:
    assert show_interval(value, low, high) == text


def test_a_figure_that_is_not_finite_is_shown_as_that() -> None:
    assert show_number(float("nan")) == "nan"
    assert show_number(float("-inf")) == "-inf"
