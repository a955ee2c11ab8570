"""Thresholds from effects within starts: what a start has in common with itself cancels out."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from loadgen.analysis.ratios import Ratio, ratio_of
from loadgen.analysis.variance import CONFIDENCE, Array, t_quantile

DRAWS = 1000
NORMAL = 1.959964  # the normal quantile that draws would have


def effect_draws(
    effects: Sequence[float],
    se: float | Array,
    df: float,
    rng: np.random.Generator,
    *,
    draws: int = DRAWS,
) -> Array:
    """Draws of log effects along a grid, shape (draws, grid), for ``thresholds.crossing``.

    ``se`` of one effect, or of each, has ``df`` degrees of freedom: the normal is widened by Student's t.
    """
    widened = t_quantile((1 + CONFIDENCE) / 2, df) / NORMAL
    noise = rng.standard_normal((draws, len(effects)))
    found: Array = np.asarray(effects, dtype=float) + widened * se * noise
    return found


def effects_ratio(
    lower: Sequence[float], upper: Sequence[float], variances: tuple[float, float], df: float, margin: float
) -> Ratio | None:
    """exp of the mean of ``upper − lower`` over the grid points that tell: below 1 the upper one's threshold is higher.

    Log effects of two servers at the same grid points, with the variance of one effect of each. Points count whose mean
    effect of both lies between half and twice log(1 + margin): the mean is independent of the difference. ``None``
    where there is no such point.
    """
    level = math.log1p(margin)
    low, high = np.asarray(lower, dtype=float), np.asarray(upper, dtype=float)
    telling = (low + high) / 2
    chosen = (telling > level / 2) & (telling < 2 * level)
    count = int(chosen.sum())
    if not count:
        return None
    return ratio_of(float((high - low)[chosen].mean()), (sum(variances) / count, df))
