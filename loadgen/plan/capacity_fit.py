"""Attainment against load as a curve, fitted to few noisy trials: where it falls through the goal, and how sure. Pure.

a(λ) = a₀·σ(logit(g/a₀) − s·ln(λ/λ*)): λ* is the capacity, g the goal, a₀ the ceiling (what one request alone attains),
s how steep the curve is. The posterior is taken on a grid; the counts of a trial count as those of n/D independent
requests, with one design effect D for all trials about the goal: a lucky trial looks independent, and would weigh too
much by its own.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Grid = NDArray[np.float64]

SPAN = math.log(4)  # capacity is looked for within a quarter and four times of the bracket's middle
PLACES, SLOPES = 281, 16
LEAST_SLOPE, MOST_SLOPE = 3.0, 80.0
PRIOR_SLOPE, PRIOR_SPREAD = 15.0, 0.8  # of ln s; local slopes of simulated servers lie between 3 and 38
ABOVE_GOAL = 0.002  # that a ceiling lies above the goal at least, or the curve would not reach it
# Power of the posterior that an interval is of: with 1 it covers 0.57 to 0.87 of truths, with 0.4 from 0.83 on.
TEMPER = 0.35
TAIL = 0.05
CLIFF_NATS = 4.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """A trial as the fit sees it: its rate (or concurrency), requests due in its window, and how many kept; ``effect``
    of them are worth one independent one."""

    level: float
    due: int
    kept: int
    effect: float


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Fit:
    """The posterior over capacity (rows, ``places`` are its logarithms) and steepness (columns)."""

    places: Grid
    slopes: Grid
    weights: Grid
    goal: float
    ceiling: float
    misfit: float

    @property
    def marginal(self) -> Grid:
        """The posterior of capacity alone, along ``places``."""
        found: Grid = self.weights.sum(axis=1)
        return found

    def quantile(self, share: float) -> float:
        """Capacity at a quantile of the posterior."""
        return quantile(self.places, self.marginal, share)

    @property
    def tempered(self) -> Grid:
        """The widened posterior of capacity, which intervals are of."""
        power = self.weights**TEMPER
        found: Grid = power.sum(axis=1) / power.sum()
        return found

    @property
    def at_border(self) -> bool:
        """Whether the slope lies at an end of what is looked at: the curve is a cliff, or hardly falls."""
        share = self.weights.sum(axis=0)
        return bool(max(share[0], share[-1]) > 0.5)

    def curve(self, levels: Sequence[float]) -> tuple[Grid, Grid, Grid]:
        """Attainment at ``levels``: its mean, and the ends of its 90 % band by the widened posterior."""
        power = self.weights**TEMPER
        flat, weights, widened = [], self.weights.ravel(), power.ravel() / power.sum()
        for level in levels:
            flat.append(_curve(math.log(level), self.places, self.slopes, self.goal, self.ceiling).ravel())
        values = np.array(flat)
        order = np.argsort(values, axis=1)
        ordered = np.take_along_axis(values, order, axis=1)
        reached = np.cumsum(widened[order], axis=1)
        low, high = (
            np.array(
                [
                    row[min(np.searchsorted(steps, q), len(row) - 1)]
                    for row, steps in zip(ordered, reached, strict=True)
                ]
            )
            for q in (TAIL, 1 - TAIL)
        )
        return values @ weights, low, high


def fit(points: Sequence[Point], *, middle: float, goal: float, ceiling: float) -> Fit:
    """The posterior from trials with a window, around ``middle``."""
    ceiling = ceiling_above(ceiling, goal)
    places = math.log(middle) + np.linspace(-SPAN, SPAN, PLACES)
    slopes = np.exp(np.linspace(math.log(LEAST_SLOPE), math.log(MOST_SLOPE), SLOPES))
    log = np.broadcast_to(
        -0.5 * ((np.log(slopes) - math.log(PRIOR_SLOPE)) / PRIOR_SPREAD) ** 2, (PLACES, SLOPES)
    ).copy()
    gains = []
    for point in points:
        share = _curve(math.log(point.level), places, slopes, goal, ceiling)
        missed = point.due - point.kept
        gains.append((point.kept * np.log(share) + missed * np.log1p(-share)) / point.effect)
        log += gains[-1]
    weights = np.exp(log - log.max())
    weights /= weights.sum()
    best = np.unravel_index(int(np.argmax(log)), log.shape)
    misfits = [_best(point) - float(gain[best]) for point, gain in zip(points, gains, strict=True)]
    return Fit(
        places=places,
        slopes=slopes,
        weights=weights,
        goal=goal,
        ceiling=ceiling,
        misfit=max(misfits, default=0.0),
    )


def ceiling_above(ceiling: float, goal: float) -> float:
    """The ceiling as the curve needs it: above the goal, and below 1."""
    return min(max(ceiling, goal + ABOVE_GOAL), 1 - 1e-9)


def smallest(fits: Sequence[Fit], widened: bool) -> Grid:
    """The distribution of the smallest capacity of several goals, along the places that they share."""
    above = np.ones(PLACES)
    for each in fits:
        share = each.tempered if widened else each.marginal
        above *= np.clip(1 - np.cumsum(share), 0.0, 1.0)
    below = np.concatenate([[0.0], 1 - above])
    below[-1] = 1.0
    return np.diff(below)


def quantile(places: Grid, share: Grid, at: float) -> float:
    """The capacity below which ``at`` of a distribution along ``places`` lies, between grid points linearly."""
    step = places[1] - places[0]
    reached = np.concatenate([[0.0], np.cumsum(share)])
    edges = np.concatenate([[places[0] - step / 2], places + step / 2])
    return float(np.exp(np.interp(at, reached, edges)))


def _curve(level: float, places: Grid, slopes: Grid, goal: float, ceiling: float) -> Grid:
    """Attainment at the logarithm of a level, for every place (rows) and slope (columns)."""
    at_goal = math.log(goal / (ceiling - goal))  # logit(g/a₀)
    logit = at_goal - slopes[None, :] * (level - places[:, None])
    found: Grid = np.clip(ceiling / (1 + np.exp(-np.clip(logit, -700, 700))), 1e-12, 1 - 1e-9)
    return found


def _best(point: Point) -> float:
    """The log-likelihood of a curve that goes through the trial itself."""
    share = point.kept / point.due
    terms = [
        count * math.log(part)
        for count, part in ((point.kept, share), (point.due - point.kept, 1 - share))
        if part
    ]
    return sum(terms) / point.effect
