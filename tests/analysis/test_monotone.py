"""A fall of latency is held against a cell only beyond four standard errors."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from cases import rows
from synthetic import Point, World, result

from loadgen.analysis.monotone import violations
from loadgen.analysis.study import Study
from loadgen.analysis.table import Key

DEVIATIONS = (-0.06, 0.01, 0.05)  # of the logarithm, in three repeats


def falling(fall: float) -> Study:
    """Batches 1 and 2 with the same deviations between repeats; the larger is faster by ``fall`` (a logarithm)."""
    found = []
    for batch, level in ((1, 0.0), (2, -fall)):
        for repeat, deviation in enumerate(DEVIATIONS):
            seconds = 0.05 * float(np.exp(level + deviation))
            world = World(prefill=lambda _p, s=seconds: s, step=lambda _p, s=seconds: s)
            found.append(result(Point(batch=batch), world, repeat=repeat))
    return Study(rows(found))


def standard_error(study: Study) -> float:
    one, two = (study.estimate(cell, "e2e_s") for cell in study.cells.values())
    assert one is not None
    assert two is not None
    assert one.draws is not None
    assert two.draws is not None
    return float(np.std(two.draws - one.draws))


def test_a_fall_within_four_standard_errors_is_noise_and_beyond_them_is_named() -> None:
    error = standard_error(falling(0.0))
    assert 3.5 * error > 0.05  # so that the least fall that counts does not decide
    within: Mapping[Key, str] = violations(falling(3.5 * error))
    assert within == {}
    beyond = violations(falling(4.5 * error))
    assert {key.batch for key in beyond} == {1, 2}
    assert all("beyond the noise" in why for why in beyond.values())
