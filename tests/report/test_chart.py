"""Axes and marks that can be told apart and read in the tables' units."""

from __future__ import annotations

import pytest

from loadgen.report.chart import COLOURS, bytes_axis, colour, symbol

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
