"""Which percentiles of how many values may be told, and how sure they are. Pure.

A percentile is the nearest rank, ⌈p·n⌉, and never an interpolation, which would invent a tail. Of too few values it is
their maximum, and then there is none. Its interval runs between two order statistics (David and Nagaraja, 2003), which
assumes no distribution; of values that follow each other it is as wide as that of fewer independent ones.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from loadgen.records import Dist
from loadgen.units import show_s

PERCENTILES = {"p50": 50, "p90": 90, "p95": 95, "p99": 99}
NOT_THE_MAXIMUM = {"p50": 2, "p90": 10, "p95": 20, "p99": 100}  # from so many values on; below there is none
WITH_INTERVAL = {
    "p50": 6,
    "p90": 36,
    "p95": 72,
    "p99": 368,
}  # from so many on both ends of the interval are finite
FEW_INDEPENDENT = 20  # below it the effect of correlation is itself hardly known
TAIL = 0.025
EXACT_RANKS = 1 << 17  # beyond, a normal distribution gives the binomial's quantiles to within a rank or two


def nearest_rank(n: int, percent: int) -> int:
    """⌈p·n⌉, from 1."""
    return -(-percent * n // 100)


def ranks(n: int, percent: int, effect: float = 1.0) -> tuple[int | None, int | None]:
    """The ranks (from 1) that bound a percentile with 95 %; ``None`` for an end that n values do not have.

    The lower is the largest l with P(Bin(m, p) ≤ l − 1) ≤ 2.5 %, the upper the smallest u with P(Bin(m, p) ≤ u − 1) ≥
    97.5 %, for the m = n / ``effect`` independent values that n correlated ones are worth, scaled back outward.
    """
    m, p = max(1, int(n / effect)), percent / 100
    if m > EXACT_RANKS:
        width = 1.959964 * math.sqrt(m * p * (1 - p))
        low, high = math.floor(m * p - width), math.ceil(m * p + width) + 1
    else:
        k = np.arange(m)
        steps = np.log((m - k) / (k + 1)) + math.log(p / (1 - p))
        reached = np.cumsum(np.exp(m * math.log1p(-p) + np.concatenate([[0.0], np.cumsum(steps)])))
        low = int(np.searchsorted(reached, TAIL, side="right"))
        high = int(np.searchsorted(reached, 1 - TAIL)) + 1
    return (
        math.floor(low * n / m) if low else None,
        min(n, math.ceil(high * n / m)) if high <= m else None,
    )


def design_effect(values: NDArray[np.float64], at: float) -> float:
    """How many times as many correlated values, in the order they came, are worth one independent one: 1 + 2·Σρ.

    ρ are the autocorrelations of "not above ``at``", summed until the first that chance explains, 2/√n.
    """
    hits = (values <= at).astype(np.float64)
    n, hits = len(hits), hits - hits.mean()
    spectrum = np.fft.rfft(hits, 2 * n)
    products = np.fft.irfft(spectrum.real**2 + spectrum.imag**2)[:n]
    if products[0] <= 0:
        return 1.0
    correlated = products / products[0] > 2 / math.sqrt(n)
    stop = n if correlated.all() else int(np.argmin(correlated))
    return float(max(1.0, 1 + 2 * (products[1:stop] / products[0]).sum()))


def percentile(dist: Dist | None, name: str) -> float | None:
    """A percentile, ``p50`` to ``p99``; ``None`` where it would be but the largest value.

    Older results hold one all the same, interpolated. The median of a single value is that value.
    """
    if dist is None or (name != "p50" and dist.n < NOT_THE_MAXIMUM[name]):
        return None
    found: float | None = getattr(dist, name)
    return found


def tail(dist: Dist, name: str) -> float:
    """A percentile, or the largest value where there are too few for it: for bounds that no value may exceed."""
    found = percentile(dist, name)
    return dist.max if found is None else found


def tail_words(dist: Dist, name: str) -> str:
    """``tail`` under its true name: ``p99 3 ms``, or ``largest of 24: 3 ms``; of a distribution of seconds."""
    label = name if percentile(dist, name) is not None else f"largest of {dist.n}:"
    return f"{label} {show_s(tail(dist, name))}"


def percentile_words(dist: Dist | None, name: str) -> str:
    """A percentile in seconds as a table's cell: ``3 ms``, or ``4 ms (largest of 24)`` where there is none.

    A high one of too few values says so: ``3 ms (no upper end from 40)``; of a median the trial's caveat does.
    """
    found = percentile(dist, name)
    if dist is None or found is None:
        return "–" if dist is None else f"{show_s(dist.max)} (largest of {dist.n})"
    _, high = dist.intervals.get(name, (None, None))
    bounded = high is not None or (
        not dist.intervals and dist.n >= WITH_INTERVAL[name]
    )  # older ones hold none
    return show_s(found) if bounded or name == "p50" else f"{show_s(found)} (no upper end from {dist.n})"


def with_interval(dist: Dist, name: str) -> str:
    """A percentile in seconds with its interval: ``3 ms [2 ms, 5 ms]``, ``3 ms [2 ms, –]`` where so few values have no
    upper end; a dash where there is none."""
    found = percentile(dist, name)
    if found is None or name not in dist.intervals:
        return show_s(found)
    low, high = dist.intervals[name]
    return f"{show_s(found)} [{show_s(low)}, {show_s(high)}]"
