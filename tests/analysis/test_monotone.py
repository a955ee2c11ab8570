"""A fall of latency is held against a cell only beyond four standard errors."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest
from cases import rows
from synthetic import Point, World, result

from loadgen.analysis.monotone import violations
from loadgen.analysis.study import Study
from loadgen.analysis.table import Key
from loadgen.analysis.variance import t_quantile

DEVIATIONS = (-0.06, 0.01, 0.05)  # of the logarithm, in three repeats


def falling(fall: float, starts: bool) -> Study:
    """Batches 1 and 2, opposite deviations between repeats, of as many ``starts`` or of one; the larger is faster by
    ``fall`` (a logarithm).
    """
    found = []
    for batch, level, sign in ((1, 0.0, 1), (2, -fall, -1)):
        for repeat, deviation in enumerate(DEVIATIONS):
            seconds = 0.05 * float(np.exp(level + sign * deviation))
            world = World(prefill=lambda _p, s=seconds: s, step=lambda _p, s=seconds: s)
            start = f"start {repeat}" if starts else "the one"
            found.append(result(Point(batch=batch), world, repeat=repeat, start=start))
    return Study(rows(found))


@pytest.mark.parametrize("starts", [True, False])
def test_a_fall_within_four_standard_errors_is_noise_and_beyond_them_is_named(starts: bool) -> None:
    # Between starts: start × cell of 2 Σd² over 2 degrees of freedom; of repeats: the same sum over 4.
    squares, df = 2 * sum(each**2 for each in DEVIATIONS), 2 if starts else 4
    error = (2 * squares / df / len(DEVIATIONS)) ** 0.5 * t_quantile(0.975, df) / 1.96
    assert 3.5 * error > 0.05  # so that the least fall that counts does not decide
    within: Mapping[Key, str] = violations(falling(3.5 * error, starts))
    assert within == {}
    beyond = violations(falling(4.5 * error, starts))
    assert {key.batch for key in beyond} == {1, 2}
    assert all("beyond the noise" in why for why in beyond.values())
