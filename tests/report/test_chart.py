"""Axes and marks that can be told apart and read in the tables' units."""

from __future__ import annotations

import math

import pytest

from loadgen.report.chart import (
    COLOURS,
    axis,
    bytes_axis,
    colour,
    counts,
    figure,
    layout,
    log_ticks,
    scatter,
    symbol,
)

GIB = 2**30


def test_no_two_of_many_lines_look_alike() -> None:
    looks = [(colour(at), symbol(at)) for at in range(len(COLOURS) ** 2)]
    assert len(set(looks)) == len(looks)


@pytest.mark.parametrize(
    ("low", "high"), [(24.4, 26.5), (0.2, 0.9), (6.4, 138.0), (12.0, 12.0), (3.0, 900.0)]
)
def test_memory_is_marked_in_whole_steps_of_gib(low: float, high: float) -> None:
    found = bytes_axis("memory", [low * GIB, high * GIB])
    ticks = found["tickvals"]
    assert ticks[0] <= low * GIB
    assert ticks[-1] >= high * GIB
    assert 2 <= len(ticks) <= 11
    for tick, text in zip(ticks, found["ticktext"], strict=True):
        assert float(text.removesuffix(" GiB")) == pytest.approx(tick / GIB, rel=5e-3)


@pytest.mark.parametrize("low", [3e-6, 0.0074, 0.75, 12.0, 999.0, 2.3e12])
@pytest.mark.parametrize("span", [1.2, 1.5, 2.2, 9.0, 40.0, 3e3, 1e7, 1e13])
def test_a_logarithmic_axis_has_a_few_round_numbers(low: float, span: float) -> None:
    ticks = log_ticks(low, low * span)
    assert 3 <= len(ticks) <= 9
    assert ticks == sorted(ticks)
    assert low <= ticks[0] * (1 + 1e-9)
    assert ticks[-1] <= low * span * (1 + 1e-9)
    for tick in ticks:
        assert float(f"{tick:.3g}") == pytest.approx(tick, rel=1e-9), "three digits say it"


def test_axes_span_what_is_drawn_and_number_it_apart() -> None:
    bars = {"type": "data", "array": [1e9, None], "arrayminus": [0.75, None]}
    drawn = scatter("one", [1, 256], [0.755, 0.757], "", error_y=bars)
    batches = [*range(1, 33), 256]
    found = figure(
        [drawn], layout(axis("batch", log=True) | counts(batches), axis("latency", log=True, unit="s"))
    )
    upright, across = found.layout["yaxis"], found.layout["xaxis"]
    low, high = (10**end for end in upright["range"])
    assert low < 0.755 / 2.5
    assert 0.757 < high < 3.5, "an endless interval does not set the axis"
    assert len(set(upright["ticktext"])) == len(upright["ticktext"]) >= 3
    assert all(text.endswith("s") for text in upright["ticktext"])
    assert across["tickvals"][-1] == 256
    gaps = [math.log10(b / a) for a, b in zip(across["tickvals"], across["tickvals"][1:], strict=False)]
    assert min(gaps) > 0.04 * math.log10(256)
    assert found.plain()["data"][0]["y"] == [0.755, 0.757]
