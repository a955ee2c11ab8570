"""Capacities of two servers by their starts, against what is worked out by hand."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest

from loadgen.analysis.capacities import REACH_90, capacity_ratio
from loadgen.load_records import LoadSpec
from loadgen.records import Trial
from loadgen.search_records import Capacity, CapacitySearch

POINT = Trial(id="", load=LoadSpec(kind="poisson", input_tokens=8, output_tokens=4), url="http://127.0.0.1:1")


def starts(found: Sequence[float], error: float = 0.0) -> list[Capacity]:
    """What searches found, each with an interval of ``error`` standard errors of its logarithm."""
    reach = math.exp(REACH_90 * error)
    return [
        Capacity(
            search=CapacitySearch(point=POINT),
            environment="e",
            ended="found",
            capacity=each,
            low=each / reach,
            high=each * reach,
        )
        for each in found
    ]


def test_one_start_tells_nothing_however_narrow_its_search() -> None:
    ratio = capacity_ratio(starts([12.0], 0.001), starts([4.0, 4.1], 0.001), alike=False)
    assert ratio.value == pytest.approx(12 / math.sqrt(4 * 4.1))
    assert not ratio.told
    assert "too few starts" in ratio.source
    assert capacity_ratio(starts([12.0]), starts([4.0]), alike=True).source == "one start each: not told"


def test_the_interval_is_students_over_starts() -> None:
    a, b = [10.0, 11.0, 12.0], [4.0, 4.4]
    logs = np.log(a), np.log(b)
    pooled = (2 * logs[0].var(ddof=1) + logs[1].var(ddof=1)) / 3
    alike = capacity_ratio(starts(a), starts(b), alike=True)
    assert alike.df == 3
    assert alike.se == pytest.approx(math.sqrt(pooled * (1 / 3 + 1 / 2)))
    parts = logs[0].var(ddof=1) / 3, logs[1].var(ddof=1) / 2
    welch = capacity_ratio(starts(a), starts(b), alike=False)
    assert welch.se == pytest.approx(math.sqrt(sum(parts)))
    assert welch.df == pytest.approx(sum(parts) ** 2 / (parts[0] ** 2 / 2 + parts[1] ** 2 / 1))


def test_starts_that_agree_by_chance_are_no_surer_than_their_searches() -> None:
    for alike in (True, False):
        ratio = capacity_ratio(starts([10.0, 10.0], 0.1), starts([5.0, 5.0], 0.2), alike=alike)
        assert ratio.se == pytest.approx(math.sqrt((0.1**2 + 0.2**2) / 2))


def test_intervals_hold_the_truth_as_often_as_they_say() -> None:
    random, held = np.random.default_rng(7), 0
    for _ in range(400):
        a, b = (np.exp(random.normal(middle, 0.1, 3)).tolist() for middle in (2.0, 1.0))
        ratio = capacity_ratio(starts(a, 0.02), starts(b, 0.02), alike=True)
        assert ratio.low is not None
        assert ratio.high is not None
        held += ratio.low < math.e < ratio.high
    assert 0.92 < held / 400 < 0.98


def test_a_side_without_a_capacity_is_refused() -> None:
    with pytest.raises(ValueError, match="no capacity"):
        capacity_ratio([], starts([1.0]), alike=True)
