"""The small chart of a claim: effects where they belong on one logarithmic axis."""

from __future__ import annotations

import math

import pytest

from loadgen.analysis.finding import CLAIMS, Finding, Number
from loadgen.report.claim_chart import WIDTH, claim_chart


def found(
    value: float | None, low: float | None = None, high: float | None = None, sign: str = "×"
) -> Finding:
    effect = Number(name="effect", text=f"{sign}{value}", value=value, low=low, high=high)
    return Finding(id="F5", claim=CLAIMS["F5"], subject="s", verdict="holds", sentence=".", effect=effect)


def test_ratios_lie_about_one() -> None:
    chart = claim_chart([found(0.5, 0.4, 0.6), found(2.0, 1.8, 2.5)])
    assert chart is not None
    assert chart.level == pytest.approx(WIDTH / 2, abs=0.1)
    left, right = chart.marks
    assert left.low < left.at < left.high < chart.level < right.low < right.at < right.high
    assert chart.level - left.at == pytest.approx(right.at - chart.level, abs=0.2)
    assert all(0 <= end <= WIDTH for mark in chart.marks for end in (mark.low, mark.high))


def test_thresholds_have_no_line_at_one_and_end_at_the_edge() -> None:
    chart = claim_chart([found(6.0, 4.0, 8.0, sign="in "), found(12.0, 8.0, math.inf, sign="in ")])
    assert chart is not None
    assert chart.level is None
    assert chart.marks[1].high > chart.marks[1].at
    assert chart.marks[1].high <= WIDTH


def test_what_is_no_number_is_not_drawn() -> None:
    assert claim_chart([found(None)]) is None
    assert claim_chart([]) is None
    one = claim_chart([found(1.0)])
    assert one is not None
    assert one.marks[0].low == one.marks[0].at == one.marks[0].high == pytest.approx(WIDTH / 2, abs=0.1)
