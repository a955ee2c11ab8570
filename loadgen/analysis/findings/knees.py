"""Where needed memory begins to climb over the batch: by its law where measurements follow it, else by the grid alone.

What a static batch needs is a straight line in it: weights, and for each sequence a cache and activations of equal
size. Three batches or more on one line say where it crosses a level to within the line's own misses and the noise
between starts, however wide the grid's steps are; a curve (an engine that takes memory in lumps, or sets some aside)
has only the grid.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from loadgen.analysis.finding import Number, Verdict, split_text, threshold_number
from loadgen.analysis.statistics import interval
from loadgen.analysis.table import Key
from loadgen.analysis.thresholds import Threshold, crossing
from loadgen.analysis.variance import Array
from loadgen.units import show_interval

MISSES = 0.02  # the most that a measurement may lie off the line, as a share of it
LEAST = 0.002  # what is always allowed for: allocators round
FLAT = 1e-9  # of the level, by sequence: a slope that no grid can tell from none


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Knee:
    """From which batch on needed memory exceeds that of the smallest batch by the margin; bytes by batch.

    ``draws``, shape (draws, grid), are of the logarithm of memory over that of the smallest batch; ``None``: exact.
    """

    threshold: Threshold
    grid: tuple[int, ...]
    values: tuple[float, ...]
    on_line: bool
    draws: Array | None


def knee(grid: Sequence[int], values: Sequence[float], margin: float, draws: Array | None = None) -> Knee:
    """``values`` in bytes, one per batch of the rising ``grid``; two or more. ``draws`` as in ``Knee``."""
    threshold = line_crossing(grid, values, margin, draws)
    on_line = threshold is not None
    if threshold is None:
        logs = np.log(np.array(values) / values[0])
        exact = np.repeat(logs[None, :], 2, axis=0)
        threshold = crossing(grid, list(logs), exact if draws is None else draws, math.log1p(margin))
    return Knee(threshold=threshold, grid=tuple(grid), values=tuple(values), on_line=on_line, draws=draws)


def line_crossing(
    grid: Sequence[int], values: Sequence[float], margin: float, draws: Array | None = None
) -> Threshold | None:
    """The crossing of a straight line through three or more batches; ``None`` where there is no such line.

    Its interval is that of a line which may miss both the smallest batch and the level by the largest miss seen, over
    the lines through all ``draws``. Nothing is extrapolated: the crossing lies inside the grid.
    """
    if len(grid) < 3:
        return None
    x, y = np.array(grid, dtype=float), np.array(values, dtype=float)
    start, slope = _lines(x, y[None, :])
    line = start + slope * (x - x[0])
    miss = float(np.abs(y / line - 1).max())
    if slope[0] <= 0 or miss > MISSES:
        return None
    miss = max(miss, LEAST)
    off = (1 + miss) / (1 - miss)
    drawn = (start, slope) if draws is None else _lines(x, y[0] * np.exp(draws))
    low, _ = interval(_crossings(x[0], drawn, (1 + margin) / off))
    _, high = interval(_crossings(x[0], drawn, (1 + margin) * off))
    if not grid[0] <= low or not high <= grid[-1]:
        return None
    return Threshold(
        state="resolved",
        low=math.floor(low * 10) / 10,
        high=math.ceil(high * 10) / 10,
        estimate=round(float(_crossings(x[0], (start, slope), 1 + margin)[0]), 1),
    )


def _lines(x: Array, y: Array) -> tuple[Array, Array]:
    """Level at the first ``x`` and slope of the line through each row of ``y``, by least squares of relative misses."""
    weight, away = y**-2.0, x - x[0]
    total, first, second = weight.sum(axis=1), (weight * away).sum(axis=1), (weight * away**2).sum(axis=1)
    level, tilt = (weight * y).sum(axis=1), (weight * away * y).sum(axis=1)
    scale = total * second - first**2
    return (second * level - first * tilt) / scale, (total * tilt - first * level) / scale


def _crossings(first: float, lines: tuple[Array, Array], factor: float) -> Array:
    """Where each line is its level at ``first``, times the factor; far away where it does not rise."""
    level, slope = lines
    found: Array = first + level * (factor - 1) / np.maximum(slope, FLAT * level)
    return found


def from_one_batch(knees: Mapping[Key, Knee], margin: float) -> dict[Key, Knee]:
    """The knees over the level of one batch, the largest of the series' first ones: a series that begins later, from a
    higher level, would have a later knee for no other reason. One with fewer than two batches left is out.
    """
    start = max(found.grid[0] for found in knees.values())
    aligned = {}
    for key, found in knees.items():
        first = sum(batch < start for batch in found.grid)
        if not first:
            aligned[key] = found
        elif first < len(found.grid) - 1:
            drawn = None if found.draws is None else found.draws[:, first:] - found.draws[:, [first]]
            aligned[key] = knee(found.grid[first:], found.values[first:], margin, drawn)
    return aligned


def growth_on_lines(
    members: Sequence[tuple[Key, Knee]], name: str, margin: float
) -> tuple[list[Verdict], list[Number]]:
    """Whether knees that lie on lines grow by more than the margin from each number of GPUs to the next."""
    numbers = [
        threshold_number(f"{name} ({split_text(key)})", each.threshold, "sequences") for key, each in members
    ]
    verdicts: list[Verdict] = []
    for (fewer, one), (more, other) in pairwise(members):
        assert one.threshold.estimate is not None
        assert other.threshold.estimate is not None
        low, high = (
            other.threshold.low / one.threshold.high,
            other.threshold.high / one.threshold.low if one.threshold.low else math.inf,
        )
        verdicts.append("holds" if low > 1 + margin else "refuted" if high <= 1 + margin else "not tested")
        ratio = other.threshold.estimate / one.threshold.estimate
        place = f"{split_text(fewer)} → {split_text(more)}"
        numbers.append(
            Number(
                name=f"{name}, {place}",
                text=f"×{show_interval(ratio, low, high)}",
                value=ratio,
                low=low,
                high=high,
            )
        )
    return verdicts, numbers
