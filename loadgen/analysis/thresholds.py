"""Where a curve crosses a level: by a stated method, with an interval, or "not resolvable" and the points to add.

A grid that steps from 8 to 16 cannot say 11: the interval of a crossing is never narrower than the step it lies in.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from loadgen.analysis.statistics import interval, isotonic
from loadgen.analysis.variance import Array

State = Literal[
    "resolved",
    "below the grid",
    "above the grid",
    "too coarse",
    "too coarse, too noisy",
    "too noisy",
    "no interval",
]
FINEST_STEP = 2.0  # grids in powers of two are fine enough; a wider step is too coarse
WIDEST = 4.0  # an interval wider than two such steps is noise's doing


@dataclass(frozen=True, slots=True, kw_only=True)
class Threshold:
    """A crossing lies in (``low``, ``high``]: beyond ``low`` the effect was not there, at ``high`` it was.

    ``low`` 0 or ``high`` infinity: the grid does not reach. ``estimate`` interpolates inside. ``add`` are the points to
    measure next, ``repeat`` the points to measure again.
    """

    state: State
    low: float
    high: float
    estimate: float | None
    add: tuple[int, ...] = ()
    repeat: tuple[int, ...] = ()

    @property
    def resolved(self) -> bool:
        """Whether the measured points place it."""
        return self.state == "resolved"

    def text(self, unit: str = "") -> str:
        """In words: ``(4, 8], about 6.1``."""
        unit = f" {unit}" if unit else ""
        if self.state == "no interval":
            return "not resolvable (no repeats: nothing says how large the noise is)"
        if self.state == "below the grid":
            return f"at or below {self.high:g}{unit}, as far down as was measured"
        if self.state == "above the grid":
            return f"above {self.low:g}{unit}, as far up as was measured"
        about = "" if self.estimate is None else f", about {self.estimate:.3g}"
        place = f"in ({self.low:g}, {self.high:g}]{unit}{about}"
        if math.isinf(self.high):
            place = f"above {self.low:g}{unit}{about}" if self.low else "anywhere"
        elif self.low == 0:
            place = f"at or below {self.high:g}{unit}{about}"
        return place if self.resolved else f"not resolvable: {place} ({self.state})"


def crossing(grid: Sequence[int], effects: Sequence[float], draws: Array | None, level: float) -> Threshold:
    """The first grid point from which on a rising ``effect`` is at least ``level``.

    ``draws`` has shape (D, len(grid)); both are made to rise (isotonic regression) first. The interval spans the grid
    steps that hold the central 95 % of the draws' crossings.
    """
    point = isotonic(np.asarray([effects], dtype=float))[0]
    first = _first(point[None, :], level)[0]
    if draws is None:
        return Threshold(state="no interval", low=0, high=math.inf, estimate=None, repeat=tuple(grid))
    spread = _first(isotonic(draws), level)
    lowest, highest = interval(spread.astype(float))
    low_at, high_at = math.floor(lowest), math.ceil(highest)  # a quantile between two steps takes in both
    low = float(grid[low_at - 1]) if low_at > 0 else 0.0
    high = float(grid[high_at]) if high_at < len(grid) else math.inf
    estimate = _interpolate(grid, point, first, level)
    if low_at == len(grid):
        return Threshold(
            state="above the grid", low=low, high=high, estimate=None, add=(2 * grid[-1], 4 * grid[-1])
        )
    if high_at == 0:
        add = (max(1, grid[0] // 2),) if grid[0] > 1 else ()
        return Threshold(state="below the grid", low=low, high=high, estimate=None, add=add)
    bracket = range(max(low_at - 1, 0), min(high_at, len(grid) - 1))
    coarse = tuple(
        middle
        for left, right in ((grid[at], grid[at + 1]) for at in bracket)
        if right / left > FINEST_STEP
        for middle in between(left, right)
    )
    again = tuple(grid[max(low_at - 1, 0) : high_at + 1])
    if coarse and low_at == high_at:
        return Threshold(state="too coarse", low=low, high=high, estimate=estimate, add=coarse)
    if coarse:  # its draws do not even agree on the step
        return Threshold(
            state="too coarse, too noisy", low=low, high=high, estimate=estimate, add=coarse, repeat=again
        )
    if low == 0 or math.isinf(high) or high / low > WIDEST:
        edge = (2 * grid[-1],) if math.isinf(high) else ()
        return Threshold(state="too noisy", low=low, high=high, estimate=estimate, add=edge, repeat=again)
    return Threshold(state="resolved", low=low, high=high, estimate=estimate)


def between(left: int, right: int) -> tuple[int, ...]:
    """Points that split a step into steps of at most 2, evenly on a log scale."""
    parts = math.ceil(math.log2(right / left) - 1e-9)
    points = [left * (right / left) ** (part / parts) for part in range(1, parts)]
    rounded = sorted({round(point) for point in points} - {left, right})
    return tuple(rounded)


def finer(low: float, high: float) -> tuple[int, ...]:
    """Up to three whole points inside (low, high), to tell two crossings apart that share a step."""
    if math.isinf(high) or high - low < 2:
        return ()
    points = {round(low + (high - low) * part / 4) for part in (1, 2, 3)} - {round(low), round(high)}
    return tuple(sorted(point for point in points if point >= 1))


def _first(rising: Array, level: float) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """Per row the index of the first value at or above the level; the row's length where there is none."""
    found: np.ndarray[tuple[int], np.dtype[np.int64]] = (rising < level).sum(axis=1)
    return found


def _interpolate(grid: Sequence[int], point: Array, first: int, level: float) -> float | None:
    if first == 0 or first == len(grid):
        return None
    below, above = float(point[first - 1]), float(point[first])
    part = (level - below) / (above - below) if above > below else 1.0
    return grid[first - 1] + (grid[first] - grid[first - 1]) * part
