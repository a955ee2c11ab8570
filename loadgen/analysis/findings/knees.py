"""Where needed memory begins to climb over the batch: by its law where measurements follow it, else by the grid alone.

What a static batch needs is a straight line in it: weights, and for each sequence a cache and activations of equal
size. Three batches or more on one line say where it crosses a level to within the line's own misses, however wide the
grid's steps are; a curve (an engine that takes memory in lumps, or sets some aside) has only the grid.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from loadgen.analysis.finding import Number, Verdict, split_text, threshold_number
from loadgen.analysis.table import Key
from loadgen.analysis.thresholds import Threshold, crossing

MISSES = 0.02  # the most that a measurement may lie off the line, as a share of it
LEAST = 0.002  # what is always allowed for: allocators round


@dataclass(frozen=True, slots=True, kw_only=True)
class Knee:
    """From which batch on needed memory exceeds that of the smallest batch by the margin; bytes by batch."""

    threshold: Threshold
    grid: tuple[int, ...]
    values: tuple[float, ...]
    on_line: bool


def knee(grid: Sequence[int], values: Sequence[float], margin: float) -> Knee:
    """``values`` in bytes, one per batch of the rising ``grid``; two or more."""
    threshold = line_crossing(grid, values, margin)
    on_line = threshold is not None
    if threshold is None:
        logs = np.log(np.array(values) / values[0])
        threshold = crossing(grid, list(logs), np.repeat(logs[None, :], 2, axis=0), math.log1p(margin))
    return Knee(threshold=threshold, grid=tuple(grid), values=tuple(values), on_line=on_line)


def line_crossing(grid: Sequence[int], values: Sequence[float], margin: float) -> Threshold | None:
    """The crossing of a straight line through three or more batches; ``None`` where there is no such line.

    Its interval is that of a line which may miss both the smallest batch and the level by the largest miss seen.
    Nothing is extrapolated: the crossing lies inside the grid.
    """
    if len(grid) < 3:
        return None
    x, y = np.array(grid, dtype=float), np.array(values, dtype=float)
    slope, start = np.polyfit(x, y, 1, w=1 / y)
    line = start + slope * x
    miss = float(np.abs(y / line - 1).max())
    if slope <= 0 or miss > MISSES:
        return None
    miss = max(miss, LEAST)
    base = float(line[0])
    low, high, estimate = (
        (base * (1 + margin) * factor - float(start)) / float(slope)
        for factor in ((1 - miss) / (1 + miss), (1 + miss) / (1 - miss), 1.0)
    )
    if not grid[0] <= low or high > grid[-1]:
        return None
    return Threshold(
        state="resolved",
        low=math.floor(low * 10) / 10,
        high=math.ceil(high * 10) / 10,
        estimate=round(estimate, 1),
    )


def from_one_batch(knees: Mapping[Key, Knee], margin: float) -> dict[Key, Knee]:
    """The knees over the level of one batch, the largest of the series' first ones: a series that begins later, from a
    higher level, would have a later knee for no other reason. One with fewer than two batches left is out.
    """
    start = max(found.grid[0] for found in knees.values())
    aligned = {}
    for key, found in knees.items():
        left = [
            (batch, value) for batch, value in zip(found.grid, found.values, strict=True) if batch >= start
        ]
        if len(left) == len(found.grid):
            aligned[key] = found
        elif len(left) > 1:
            aligned[key] = knee([batch for batch, _ in left], [value for _, value in left], margin)
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
                text=f"×{ratio:.3g} [{low:.3g}, {high:.3g}]",
                value=ratio,
                low=low,
                high=high,
            )
        )
    return verdicts, numbers
