"""How many independent requests correlated ones are worth, and whether a queue grows. Pure.

Requests of one run miss together: at capacity 500 to 1,000 are worth 26 to 173, and an interval that takes them for
independent covers the truth in a quarter of runs. Batch means tell by how much (Law and Kelton, Simulation Modeling).
"""

from __future__ import annotations

import math
from array import array

import numpy as np
from numpy.typing import ArrayLike, NDArray

from loadgen.units import nanoseconds

BATCHES = 20
LEAST = 4.0
MOST_CORRELATED = 0.8
Z95 = 1.959964
GROWTH_BATCHES, GROWTH_SKIPPED = 10, 2  # the first ones are those of a queue that fills
GROWTH_ERRORS, GROWTH_FACTOR = 3.0, 1.5
LOOK_S = 30.0  # before it a queue that fills looks as one that grows
GRID = 200


def independent(kept: NDArray[np.bool_]) -> float:
    """n_eff of requests in the order in which they were due: a(1 − a)/v · (1 − ρ)/(1 + ρ), within 4 and n.

    v is the variance of the mean by B = 20 batch means, ρ their lag-1 correlation + 1/B, within 0 and 0.8. Where all
    or none kept, nothing tells of correlation, and n stands.
    """
    n = len(kept)
    share = float(kept.mean()) if n else 0.0
    if n <= LEAST or share in (0.0, 1.0):
        return float(n)
    count = min(BATCHES, n)
    means = np.array([part.mean() for part in np.array_split(kept.astype(np.float64), count)])
    off = means - means.mean()
    squares = float((off**2).sum())
    if squares == 0.0:
        return float(n)
    variance = squares / (count - 1) / count
    rho = min(max(float((off[1:] * off[:-1]).sum()) / squares + 1 / count, 0.0), MOST_CORRELATED)
    found = share * (1 - share) / variance * (1 - rho) / (1 + rho)
    return min(max(found, LEAST), float(n))


def wilson(kept: float, n: float, worth: float, z: float = Z95) -> tuple[float, float]:
    """Wilson's interval of a share kept / n, n being worth so many independent ones; 95 % by default."""
    share, spread = kept / n, z * z / worth
    middle = (share + spread / 2) / (1 + spread)
    half = z * math.sqrt(share * (1 - share) / worth + spread / (4 * worth)) / (1 + spread)
    return max(0.0, middle - half), min(1.0, middle + half)


def growing(in_flight: ArrayLike) -> bool:
    """Whether a queue grows, from the requests in flight at even times, in order.

    Of 10 batch means less the first 2: a slope over 3 standard errors, and the last over 1.5 × the first. Few events
    say nothing.
    """
    counts = np.asarray(in_flight, np.float64)
    if len(counts) < 2 * GROWTH_BATCHES:
        return False
    means = np.array([part.mean() for part in np.array_split(counts, GROWTH_BATCHES)])[GROWTH_SKIPPED:]
    x = np.arange(len(means)) - (len(means) - 1) / 2
    slope = float((x * means).sum() / (x**2).sum())
    left = means - means.mean() - slope * x
    error = math.sqrt(float((left**2).sum()) / (len(means) - 2) / float((x**2).sum()))
    return slope > GROWTH_ERRORS * error and bool(means[-1] > GROWTH_FACTOR * means[0])


def grew(sent_ns: ArrayLike, end_ns: ArrayLike, in_flight: ArrayLike) -> bool:
    """``growing`` at even times from the first send to the last end, of requests in flight right after each end.

    At ends alone a load that is far too high has few events while its queue grows most. Under 30 s nothing is said.
    """
    ends, counts = np.asarray(end_ns, np.float64), np.asarray(in_flight, np.float64)
    if len(ends) < 2 * GROWTH_BATCHES:
        return False
    order, first = np.argsort(ends, kind="stable"), float(np.min(np.asarray(sent_ns)))
    if ends.max() - first < nanoseconds(LOOK_S):
        return False
    times = np.concatenate([[first], ends[order]])
    along = np.linspace(first, times[-1], GRID)
    return growing(np.interp(along, times, np.concatenate([[0.0], counts[order]])))


class Growth:
    """Watches the requests in flight of a running load, and looks every ``LOOK_S`` whether their number grows."""

    def __init__(self) -> None:
        self._sent_ns, self._end_ns, self._counts = array("q"), array("q"), array("q")
        self._look_ns: int | None = None
        self.seen = False

    def heard(self, sent_ns: int, end_ns: int, in_flight: int) -> None:
        """A request that was sent then has ended now, with so many left in flight."""
        self._sent_ns.append(sent_ns)
        self._end_ns.append(end_ns)
        self._counts.append(in_flight)
        if self._look_ns is None:
            self._look_ns = sent_ns + nanoseconds(LOOK_S)
        if end_ns >= self._look_ns:
            self._look_ns = end_ns + nanoseconds(LOOK_S)
            self.seen = self.seen or grew(self._sent_ns, self._end_ns, self._counts)


def in_flight_at_ends(sent_ns: ArrayLike, end_ns: ArrayLike) -> NDArray[np.int64]:
    """Requests in flight right after each end, in the order of ends, from the stamps of all."""
    sent, end = np.sort(np.asarray(sent_ns, np.int64)), np.sort(np.asarray(end_ns, np.int64))
    return np.searchsorted(sent, end, side="right") - np.arange(1, len(end) + 1)
