"""Capacities of two servers held against each other, by what starts of each found. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean

import numpy as np

from loadgen.analysis.ratios import Ratio, ratio_of
from loadgen.analysis.variance import Spread, spread_of, summed
from loadgen.search_records import Capacity

REACH_90 = 1.645  # standard errors to either end of a search's own interval, on a logarithmic scale


def capacity_ratio(a: Sequence[Capacity], b: Sequence[Capacity], *, alike: bool) -> Ratio:
    """A's capacity over B's: geometric means over starts with a 95 % interval; without one where a side has one start.

    The variance of a start's figure is what its starts differ by, which holds the searches' own errors, and at least
    those errors: few starts may agree by chance. ``alike``: both sides are of one class, and share a variance; else
    each has its own (Welch 1947). All searches found a capacity. Raises ValueError for a side without any.
    """
    sides = [np.array([[math.log(each.capacity or math.nan)] for each in side]) for side in (a, b)]
    if not all(len(side) for side in sides):
        raise ValueError("a side has no capacity")
    log_ratio = float(sides[0].mean() - sides[1].mean())
    starts = len(a), len(b)
    if min(starts) < 2:
        return ratio_of(log_ratio, None, starts=starts)
    spreads, own = [spread_of(side) for side in sides], [_own_variance(side) for side in (a, b)]
    if alike:
        spreads, own = [sum(spreads, Spread())] * 2, [fmean(own)] * 2
    parts = [
        (max(spread.of_starts, error) / count, spread.df)
        for spread, error, count in zip(spreads, own, starts, strict=True)
    ]
    known = (sum(part for part, _ in parts), parts[0][1]) if alike else summed(parts)
    return ratio_of(log_ratio, known, starts=starts, source="spread between starts, searches' errors in it")


def _own_variance(found: Sequence[Capacity]) -> float:
    """The mean variance of the searches' own logarithms, from their 90 % intervals."""
    return fmean(
        (math.log(each.high / each.low) / (2 * REACH_90)) ** 2 for each in found if each.high and each.low
    )
