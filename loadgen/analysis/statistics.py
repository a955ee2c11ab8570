"""Intervals from repeats, the noise floor, drift, and the smallest difference that a sweep can see.

All figures are positive and are treated on the log scale, where noise is relative. The bootstrap is of residuals,
pooled over the cells of one server: three repeats of one cell say little, three repeats of thirty cells say much.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

DRAWS = 1000
CONFIDENCE = 0.95
POWER = 0.8
OWN_REPEATS = 6  # from so many repeats on, a cell's own residuals serve it better than the pool
FEWEST_FREEDOM = 2  # degrees of freedom below which an interval would be fiction


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Estimate:
    """A figure with its 95 % interval. ``draws`` are bootstrap draws of its natural logarithm, shape (DRAWS,).

    ``repeats`` runs lie behind it; ``low``, ``high`` and ``draws`` are ``None`` where nothing says how noisy it is.
    """

    value: float
    low: float | None
    high: float | None
    repeats: int
    how: str
    draws: Array | None

    def with_draws(self) -> Array:
        """The draws, for comparisons; raises ValueError where there are none."""
        if self.draws is None:
            raise ValueError("the figure has no interval")
        return self.draws


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
        reach = student((1 + CONFIDENCE) / 2, self.freedom) + student(POWER, self.freedom)
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


def student(probability: float, freedom: int) -> float:
    """Quantile of Student's t, by Cornish and Fisher's expansion (within 1 % from 3 degrees of freedom on)."""
    z = NormalDist().inv_cdf(probability)
    v = max(freedom, 1)
    first = (z**3 + z) / 4
    second = (5 * z**5 + 16 * z**3 + 3 * z) / 96
    third = (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384
    return z + first / v + second / v**2 + third / v**3


def interval(draws: Array) -> tuple[float, float]:
    """The central 95 % of draws."""
    low, high = np.quantile(draws, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return float(low), float(high)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Pool:
    """Log deviations of repeats from their cell's mean, and how many degrees of freedom they have."""

    values: Array
    freedom: int

    @property
    def speaks(self) -> bool:
        """Whether it has the degrees of freedom that an interval needs."""
        return self.freedom >= FEWEST_FREEDOM


def residuals(groups: Sequence[Sequence[float]]) -> Pool:
    """The deviations of all cells, scaled up for each mean having been fitted to its own repeats."""
    logs = [np.log(np.asarray(group, dtype=float)) for group in groups if len(group) > 1]
    parts = [(group - group.mean()) * math.sqrt(len(group) / (len(group) - 1)) for group in logs]
    return Pool(
        values=np.concatenate(parts) if parts else np.empty(0), freedom=sum(len(part) - 1 for part in parts)
    )


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


def estimate(values: Sequence[float], pool: Pool, rng: np.random.Generator) -> Estimate:
    """The geometric mean of a cell's repeats, with the residual bootstrap's interval.

    Draws are widened by Student's t against the normal: a small pool does not know its own spread well.
    """
    logs = np.log(np.asarray(values, dtype=float))
    own = len(values) >= OWN_REPEATS
    source = residuals([values]) if own else pool
    if not source.speaks:
        return Estimate(
            value=float(np.exp(logs.mean())),
            low=None,
            high=None,
            repeats=len(values),
            how="no interval: too few repeats in the sweep",
            draws=None,
        )
    picks = source.values[rng.integers(0, len(source.values), (DRAWS, len(values)))].mean(axis=1)
    picks *= student((1 + CONFIDENCE) / 2, source.freedom) / NormalDist().inv_cdf((1 + CONFIDENCE) / 2)
    how = "bootstrap over its own repeats" if own else "bootstrap of residuals pooled over the server's cells"
    return _finish(logs.mean(), picks, len(values), how)


def within_trial(value: float, relative_error: float, rng: np.random.Generator) -> Estimate:
    """One run whose own requests give the interval; what varies between runs is not in it."""
    spread = rng.normal(0.0, relative_error, DRAWS)
    how = "requests of one run (block bootstrap); the noise between runs was not measured"
    return _finish(math.log(value), spread, 1, how)


def _finish(centre: float, spread: Array, repeats: int, how: str) -> Estimate:
    draws = centre + spread
    low, high = interval(draws)
    return Estimate(
        value=math.exp(centre), low=math.exp(low), high=math.exp(high), repeats=repeats, how=how, draws=draws
    )


def block_error(values: Array, rng: np.random.Generator) -> tuple[float, float] | None:
    """Relative standard error of the mean of correlated values in time order, and its ratio to the naive one.

    Circular block bootstrap; the block length follows the lag-1 correlation (Carlstein's rule for AR(1)). ``None`` for
    fewer than 8 values.
    """
    count = len(values)
    if count < 8:
        return None
    centred = values - values.mean()
    variance = float((centred**2).mean())
    if variance == 0:
        return 0.0, 1.0
    correlation = float(np.clip((centred[1:] * centred[:-1]).mean() / variance, -0.95, 0.95))
    growth = (2 * abs(correlation) / (1 - correlation**2)) ** (2 / 3) * count ** (1 / 3)
    length = int(np.clip(math.ceil(growth), 1, max(1, count // 4)))
    sums = np.convolve(np.concatenate([centred, centred[: length - 1]]), np.ones(length), "valid")
    blocks = math.ceil(count / length)
    means = sums[rng.integers(0, count, (DRAWS // 2, blocks))].sum(axis=1) / (blocks * length)
    error = float(means.std())
    return error / float(values.mean()), error / math.sqrt(variance / count)


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
