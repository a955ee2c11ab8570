"""A cell's figure, the noise floor, drift, and curves made to rise.

All figures are positive and are treated on the log scale, where noise is relative.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from loadgen.analysis.variance import CONFIDENCE, Array, t_quantile

DRAWS = 1000
POWER = 0.8
FEWEST_FREEDOM = 2  # degrees of freedom below which an interval would be fiction


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """A figure with its 95 % interval: that of the mean over server starts.

    ``repeats`` trials of ``starts`` starts lie behind it; ``low`` and ``high`` are ``None`` where nothing says how much
    starts differ.
    """

    value: float
    low: float | None
    high: float | None
    repeats: int
    starts: int
    how: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Noise:
    """The relative standard deviation between runs of one cell, pooled over ``cells`` with ``freedom`` degrees."""

    relative: float
    low: float
    high: float
    freedom: int
    cells: int

    def detectable(self, repeats: int) -> float:
        """The smallest relative difference between two cells of so many repeats that is found 4 times in 5."""
        reach = t_quantile((1 + CONFIDENCE) / 2, self.freedom) + t_quantile(POWER, self.freedom)
        return math.expm1(reach * self.relative * math.sqrt(2 / repeats))


@dataclass(frozen=True, slots=True, kw_only=True)
class Drift:
    """The relative change per hour that repeats show, with its 95 % interval, and how long the sweep took."""

    per_hour: float
    low: float
    high: float
    hours: float

    @property
    def distinguishable(self) -> bool:
        """Whether its interval leaves out zero."""
        return self.low > 0 or self.high < 0

    @property
    def over_sweep(self) -> tuple[float, float, float]:
        """The relative change from the sweep's begin to its end: value, low, high."""
        value, low, high = (math.expm1(each * self.hours) for each in (self.per_hour, self.low, self.high))
        return value, low, high


def interval(draws: Array) -> tuple[float, float]:
    """The central 95 % of draws."""
    low, high = np.quantile(draws, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return float(low), float(high)


def noise(groups: Sequence[Sequence[float]], rng: np.random.Generator) -> Noise | None:
    """The noise floor of cells with repeats; ``None`` when too few were repeated. Its interval resamples cells."""
    logs = [np.log(np.asarray(group, dtype=float)) for group in groups if len(group) > 1]
    freedom = sum(len(group) - 1 for group in logs)
    if freedom < FEWEST_FREEDOM:
        return None
    squares = np.array([float(((group - group.mean()) ** 2).sum()) for group in logs])
    free = np.array([len(group) - 1 for group in logs])
    if len(logs) > 1:
        picks = rng.integers(0, len(logs), (DRAWS, len(logs)))
        low, high = interval(np.sqrt(squares[picks].sum(axis=1) / free[picks].sum(axis=1)))
    else:  # one cell: the chi-squared interval, by Wilson and Hilferty
        pooled = math.sqrt(squares.sum() / freedom)
        low, high = (pooled / math.sqrt(_chi_squared_mean(p, freedom)) for p in (0.975, 0.025))
    return Noise(
        relative=math.sqrt(squares.sum() / freedom), low=low, high=high, freedom=freedom, cells=len(logs)
    )


def _chi_squared_mean(probability: float, freedom: int) -> float:
    part = 2 / (9 * freedom)
    return float(max(1 - part + NormalDist().inv_cdf(probability) * math.sqrt(part), 0.05) ** 3)


def drift(
    groups: Sequence[Sequence[tuple[float, float]]], hours: float, rng: np.random.Generator
) -> Drift | None:
    """The trend over time of repeats about their cell's mean; each pair is (hours, figure).

    ``None`` when there are too few repeats. Cells resampled. Repeats that ran back to back give a wide interval: what a
    trend did between cells cannot be told from the cells' own differences.
    """
    parts = []
    for group in groups:
        if len(group) > 1:
            at, figure = np.array([pair[0] for pair in group]), np.log([pair[1] for pair in group])
            at, figure = at - at.mean(), figure - figure.mean()
            parts.append(((at * figure).sum(), (at**2).sum()))
    crossed = np.array(parts)
    if len(parts) < FEWEST_FREEDOM or crossed[:, 1].sum() == 0:
        return None
    picks = rng.integers(0, len(parts), (DRAWS, len(parts)))
    sums = crossed[picks].sum(axis=1)
    slopes = sums[:, 0] / np.where(sums[:, 1] > 0, sums[:, 1], np.nan)
    low, high = interval(slopes[np.isfinite(slopes)])
    slope = crossed[:, 0].sum() / crossed[:, 1].sum()
    return Drift(per_hour=float(slope), low=low, high=high, hours=hours)


def isotonic(draws: Array) -> Array:
    """The closest rising sequence to each row (shape (D, K)), by the max–min formula over running means."""
    count = draws.shape[1]
    sums = np.concatenate([np.zeros((len(draws), 1)), np.cumsum(draws, axis=1)], axis=1)
    fitted = np.empty_like(draws)
    for at in range(count):
        best = np.full(len(draws), -np.inf)
        for start in range(at + 1):
            ends = np.arange(at, count)
            means = (sums[:, ends + 1] - sums[:, [start]]) / (ends + 1 - start)
            best = np.maximum(best, means.min(axis=1))
        fitted[:, at] = best
    return fitted
