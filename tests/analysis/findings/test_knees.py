"""A knee of needed memory is found from a straight line where the measurements are one, and from the grid else."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from synthetic import H200, grid, roofline_world, sweep

from loadgen.analysis.findings.knees import from_one_batch, growth_on_lines, knee, line_crossing
from loadgen.analysis.table import Key, rows_of

WEIGHTS, EACH = 26e9, 100e6


def key_of(tp: int) -> Key:
    from synthetic import environment

    world = sweep(grid(tp=(1,), batch=(1,), input_tokens=(20,), output_tokens=(100,)), roofline_world())
    (row, *_) = rows_of(world, {(one := environment(H200)).id: one}, "synthetic")
    return replace(row.key, tp=tp)


def test_three_batches_on_a_line_place_the_knee_between_far_points() -> None:
    found = line_crossing([1, 64, 256], [WEIGHTS + EACH * batch for batch in (1, 64, 256)], 0.1)
    assert found is not None
    true = 1 + 0.1 * (WEIGHTS + EACH) / EACH
    assert found.resolved
    assert found.low < true < found.high
    assert found.estimate == pytest.approx(true, abs=0.1)
    assert found.high / found.low < 1.1


@given(
    misses=st.tuples(*[st.floats(-0.005, 0.005)] * 4),
    each=st.floats(50e6, 400e6),
    margin=st.sampled_from([0.05, 0.1, 0.2]),
)
def test_the_interval_holds_the_knee_of_a_line_that_is_missed_a_little(
    misses: tuple[float, ...], each: float, margin: float
) -> None:
    batches = [1, 8, 64, 256]
    values = [(WEIGHTS + each * batch) * (1 + miss) for batch, miss in zip(batches, misses, strict=True)]
    true = 1 + margin * (WEIGHTS + each) / each
    found = line_crossing(batches, values, margin)
    if found is not None:
        # A line fitted to misses of both signs may lie off by as much again as the largest that it leaves.
        slack = 3 * 0.005 * (1 + margin) * WEIGHTS / each
        assert found.low - slack <= true <= found.high + slack


def test_noise_widens_the_interval_of_a_line_and_of_what_is_left_of_it() -> None:
    batches = [1, 2, 16, 64, 256]
    values = [WEIGHTS + EACH * batch for batch in batches]
    noise = np.random.default_rng(1).normal(0, 0.02, (1000, 5))
    draws = np.log(np.array(values) / values[0]) + noise - noise[:, [0]]
    exact, noisy = knee(batches, values, 0.1), knee(batches, values, 0.1, draws)
    assert exact.on_line
    assert noisy.on_line
    assert noisy.threshold.low < 0.95 * exact.threshold.low
    assert noisy.threshold.high > 1.05 * exact.threshold.high
    late = knee([2, 16, 64, 256], values[1:], 0.1)
    left = from_one_batch({key_of(1): noisy, key_of(2): late}, 0.1)[key_of(1)]
    assert left.grid == late.grid
    assert left.threshold.low < late.threshold.low
    assert left.threshold.high > late.threshold.high


def test_a_curve_that_scatters_crosses_where_its_draws_do() -> None:
    logs = np.array([0.0, 0.0, 0.09, 0.3])
    draws = logs + np.random.default_rng(1).normal(0, 0.03, (1000, 4)) * [0, 1, 1, 1]
    values = [float(each) for each in 1e9 * np.exp(logs)]
    assert knee([1, 8, 16, 32], values, 0.1).threshold.low == 16
    found = knee([1, 8, 16, 32], values, 0.1, draws)
    assert not found.on_line
    assert (found.threshold.low, found.threshold.high) == (8, 32)


def test_two_points_curves_falls_and_extrapolations_are_no_line() -> None:
    line = [WEIGHTS + EACH * batch for batch in (1, 64, 256)]
    assert line_crossing([1, 256], [line[0], line[2]], 0.1) is None
    assert line_crossing([1, 64, 256], [line[0], line[0], line[2]], 0.1) is None
    assert line_crossing([1, 64, 256], line[::-1], 0.1) is None
    assert line_crossing([1, 2, 4], [WEIGHTS + EACH * batch for batch in (1, 2, 4)], 0.1) is None
    curved = knee([1, 64, 256], [line[0], line[0], line[2]], 0.1)
    assert not curved.on_line
    assert curved.threshold.state == "too coarse"


@pytest.mark.parametrize(("later", "verdict"), [(1.0, "refuted"), (1.5, "holds"), (1.09, "not tested")])
def test_knees_on_lines_grow_when_they_grow_by_more_than_the_margin(later: float, verdict: str) -> None:
    batches = [1, 16, 64, 256]
    one = knee(batches, [WEIGHTS + EACH * batch for batch in batches], 0.1)
    two = knee(batches, [(WEIGHTS + EACH / later * batch) / 2 for batch in batches], 0.1)
    verdicts, numbers = growth_on_lines([(key_of(1), one), (key_of(2), two)], "memory knee", 0.1)
    assert verdicts == [verdict]
    assert numbers[-1].value == pytest.approx(later, rel=0.02)


def test_a_series_that_begins_later_has_no_later_knee() -> None:
    """Of equal servers' memory one lacks the small batches: over its own first batch it would seem to grow."""
    batches = [1, 4, 16, 64, 256]
    needs = [WEIGHTS + EACH * batch for batch in batches]
    whole, late = knee(batches, needs, 0.1), knee(batches[2:], needs[2:], 0.1)
    assert late.threshold.low > whole.threshold.high
    aligned = from_one_batch({key_of(1): whole, key_of(2): late}, 0.1)
    assert aligned[key_of(2)] == late
    verdicts, _ = growth_on_lines(list(aligned.items()), "memory knee", 0.1)
    assert verdicts == ["refuted"]
    far = knee([256, 512], [*needs[4:], WEIGHTS + EACH * 512], 0.1)
    assert list(from_one_batch({key_of(1): whole, key_of(2): far}, 0.1)) == [key_of(2)], (
        "one batch is no series"
    )
