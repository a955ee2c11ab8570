"""Many cells of one claim: each cell's ratio, by a variance that borrows from the others, and Holm over all of them.

The variance of a cell is the larger of the pooled one and of its own, shrunk towards the cells' common scale (Smyth
2004): pooled alone calls a noisy cell different, shrunk alone a quiet one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from loadgen.analysis.ratios import Ratio, ratio_of
from loadgen.analysis.variance import Array, Spread, spread_of, summed

LEAST_VARIANCE = 1e-12  # of a cell whose figures are all equal: its logarithm is needed


def digamma(x: float) -> float:
    """ψ(x)."""
    from scipy import special

    return float(special.digamma(x))


def trigamma(x: float) -> float:
    """ψ′(x)."""
    from scipy import special

    return float(special.zeta(2.0, x))  # ψ′(x) = ζ(2, x), without polygamma's checks


def trigamma_inverse(y: float) -> float:
    """The x with ψ′(x) = y > 0, by bisection on its logarithm."""
    from scipy.optimize import brentq

    return math.exp(brentq(lambda log_x: math.log(trigamma(math.exp(log_x)) / y), -20.0, 20.0))


def prior(variances: Sequence[float], dfs: Sequence[float]) -> tuple[float, float]:
    """Degrees of freedom d₀ and scale s₀² of the distribution that the true variances of cells come from.

    Moments of log variances (Smyth 2004); d₀ is infinite where they differ by no more than chance.
    """
    logs = [
        math.log(max(each, LEAST_VARIANCE)) - digamma(df / 2) + math.log(df / 2)
        for each, df in zip(variances, dfs, strict=True)
    ]
    if len(logs) < 2:
        return math.inf, float(np.mean(variances))
    excess = float(np.var(logs, ddof=1)) - float(np.mean([trigamma(df / 2) for df in dfs]))
    if excess <= 0:
        return math.inf, float(np.mean(variances))
    df = 2 * trigamma_inverse(excess)
    return df, math.exp(float(np.mean(logs)) + digamma(df / 2) - math.log(df / 2))


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values adjusted so that among all of them a false one is called in 5 % at most (Holm 1979)."""
    adjusted = [1.0] * len(p_values)
    running = 0.0
    for rank, at in enumerate(np.argsort(p_values, kind="stable")):
        running = max(running, (len(p_values) - rank) * p_values[at])
        adjusted[at] = min(running, 1.0)
    return adjusted


def cell_variances(sides: Sequence[Array], spread: Spread) -> list[tuple[float, float] | None]:
    """Variance of one start's figure in each cell, and its df: the larger of pooled and own shrunk.

    ``sides`` are log figures (starts, cells) of the same cells, of servers of one class whose pooled spread is
    ``spread``; ``None`` where nothing tells.
    """
    common = spread.variance(1.0, 1.0)
    squares, dfs = np.zeros(sides[0].shape[1]), np.zeros(sides[0].shape[1])
    for side in sides:
        seen = ~np.isnan(side)
        filled = np.where(seen, side, 0.0)
        means = filled.sum(axis=0) / np.maximum(seen.sum(axis=0), 1)
        squares += np.where(seen, (filled - means) ** 2, 0.0).sum(axis=0)
        dfs += np.maximum(seen.sum(axis=0) - 1, 0)
    if common is None or not dfs.any():
        return [None] * len(dfs)
    own = dfs > 0
    df, scale = prior(list(squares[own] / dfs[own]), list(dfs[own]))
    found: list[tuple[float, float] | None] = []
    for square, free in zip(squares, dfs, strict=True):
        shrunk = scale if math.isinf(df) else (df * scale + square) / (df + free)
        found.append((max(common[0], float(shrunk)), min(common[1], df + float(free))))
    return found


def cell_ratios(a: Array, b: Array, *, alike: bool = True) -> list[Ratio]:
    """B over A in each cell; ``a`` and ``b`` are log figures of shape (starts, cells), NaN for holes. Without intervals
    where a side has one start.

    ``alike``: both sides are of one class and share a variance. Their p-values are not yet adjusted.
    """
    k = (len(b), len(a))
    differences = np.nanmean(b, axis=0) - np.nanmean(a, axis=0)
    if min(k) < 2:
        return [ratio_of(float(each), None, starts=k, source="") for each in differences]
    groups = [[b, a]] if alike else [[b], [a]]
    by_group = [cell_variances(group, sum(map(spread_of, group), Spread())) for group in groups]
    counts = [(~np.isnan(side)).sum(axis=0) for side in (b, a)]
    found = []
    for at, difference in enumerate(differences):
        shares = [1 / float(count[at]) for count in counts]
        shares = [sum(shares)] if alike else shares
        parts = [
            None if (known := by_cell[at]) is None else (known[0] * share, known[1])
            for by_cell, share in zip(by_group, shares, strict=True)
        ]
        found.append(
            ratio_of(float(difference), summed(parts), starts=k, source="spread between its own starts")
        )
    return found


def adjusted(ratios: Sequence[Ratio]) -> list[Ratio]:
    """The ratios of all cells of one claim with Holm's p-values; those without an interval take no part."""
    told = [each for each in ratios if each.told]
    values = iter(holm([each.p for each in told]))
    return [replace(each, adjusted=next(values)) if each.told else each for each in ratios]
