"""Where prefill time turns from a plateau into a slope: t = h + a·s(T), with a constant h of the host in series.

s(T) = (1 + (T/T*)^κ)^(1/κ): a is the time to read the weights once, T* the tokens in one forward at which computing
takes as long, κ how sharp the turn is (1: the two times add up). For given T* and κ, h ≥ 0 and a ≥ floor are linear
least squares with weights 1/t, in closed form; T* and κ are scanned. Without h the slope's foot passes for the plateau,
and T* is found up to half too large; without the floor a soft turn and a larger h are one and the same curve.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from loadgen.analysis.thresholds import Threshold, between, crossing
from loadgen.analysis.variance import Array

FLOOR = 0.95  # of the time that reading takes at the datasheet's bandwidth; a measured rate may be beaten
RISEN = 1.25  # times the smallest size's time: time has begun to rise, whatever the law
WIDEST = 4.0  # high/low of an interval that still says where the turn is
STEPS, BEYOND = 240, 1.5  # of the scan over T*, and how far it goes beyond the sizes (natural logarithm)
SHARPNESS = np.concatenate(
    [[1.0], 1 + np.geomspace(0.02, 15, 30)]
)  # from 1: else times that add up are missed
PARAMETERS = 4  # T*, κ, h, a
DRAWS = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Scatter:
    """The variance of a size's log time, start × cell and trials over the starts, and its degrees of freedom."""

    variance: float
    freedom: float


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Laws:
    """The candidate T* (C,), and for each of them and each κ, (C, K): relative squared error, best h and best a.

    ``moments``: the sums over the sizes of 1/t², s/t² and s²/t², which say how fast the error grows away from h and a.
    """

    places: Array
    misfit: Array
    host: Array
    read: Array
    moments: tuple[float, Array, Array]

    def misfit_with(self, host: float, read: float, least: float) -> float:
        """The least error of any law with ``host``·h + ``read``·a ≥ ``least``."""
        aa, ab, bb = self.moments
        short = np.maximum(least - host * self.host - read * self.read, 0.0)
        spread = np.maximum(host * host * bb + read * read * aa - 2 * host * read * ab, 1e-300)
        return float((self.misfit + short**2 * np.maximum(aa * bb - ab * ab, 0.0) / spread).min())

    def bounds(self, allowed: float, floor: float, fastest: float) -> tuple[float, float, float, float]:
        """The most h, least a, least h + a and most a/(h + a) whose error is at most ``allowed``, over all laws."""
        if math.isinf(allowed):
            return fastest, floor, floor, 1.0
        inside = self.misfit <= allowed
        host, read = self.host[inside], self.read[inside]
        aa, ab, bb = self.moments[0], self.moments[1][inside], self.moments[2][inside]
        spare = (allowed - self.misfit[inside]) / np.maximum(aa * bb - ab * ab, 1e-14 * aa * bb)
        off_host, off_read = np.sqrt(spare * bb), np.sqrt(spare * aa)
        off_both = np.sqrt(spare * np.maximum(aa + bb - 2 * ab, 0.0))
        most_read, least_host = read + off_read, np.maximum(host - off_host, 0.0)
        whole = np.maximum(least_host + most_read, np.finfo(np.float64).tiny)
        return (
            float(np.minimum(host + off_host, fastest).max()),
            float(np.maximum(read - off_read, floor).min()),
            float(np.maximum(host + read - off_both, floor).min()),
            float((most_read / whole).max()),
        )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Ridge:
    """The fitted law: T* in ``tokens`` with its 95 % interval, h and a in seconds.

    ``host_most_s``, ``read_least_s``, ``plateau_least_s`` (h + a) and ``read_share_most`` (a over h + a) are those of
    all laws inside the interval. ``misses``: the law misses by more than the noise, and its own misfit sets the
    interval. ``turn`` is where time passes 1.25 × the smallest size's, free of any law. ``variance`` of a log time,
    ``None`` unknown, and its ``freedom`` are what the interval goes by.
    """

    tokens: float
    low: float
    high: float
    host_s: float
    host_most_s: float
    read_s: float
    read_least_s: float
    plateau_least_s: float
    read_share_most: float
    sharpness: float
    misses: bool
    turn: Threshold
    why: str
    add: tuple[int, ...]
    laws: Laws
    variance: float | None
    freedom: float

    @property
    def resolved(self) -> bool:
        """Whether the sizes and the noise place T*."""
        return not self.why

    @property
    def plateau_s(self) -> float:
        """What a forward of few tokens takes: h + a."""
        return self.host_s + self.read_s

    def p_elsewhere(self, low: float, high: float) -> float:
        """p-value of T* in [``low``, ``high``]: small where it is shown to lie elsewhere. 1 without noise known."""
        inside = (self.laws.places >= low) & (self.laws.places <= high)
        return self._p(float(self.laws.misfit[inside].min())) if inside.any() else 0.0

    def p_plateau_short(self, seconds: float) -> float:
        """p-value of a plateau (h + a) of at most ``seconds``: small where it is shown to be longer."""
        return self._p(self.laws.misfit_with(-1.0, -1.0, -seconds))

    def p_read_most(self) -> float:
        """p-value of reading being at least as long as the host: small where the host is shown to set the most."""
        return self._p(self.laws.misfit_with(-1.0, 1.0, 0.0))

    def _p(self, misfit: float) -> float:
        """Of the least error under a restriction, by the t that the interval goes by."""
        from scipy import stats

        if self.variance is None:
            return 1.0
        excess = max(misfit - float(self.laws.misfit.min()), 0.0) / self.variance
        return 2 * float(stats.t.sf(math.sqrt(excess), self.freedom))

    def seconds(self, tokens: Array) -> Array:
        """The law at ``tokens``, any shape."""
        shape: Array = _shape(np.log(tokens), np.array(math.log(self.tokens)), np.array(self.sharpness))
        return self.host_s + self.read_s * shape


def fit(
    tokens: Sequence[int],
    seconds: Sequence[float],
    scatter: Scatter | None,
    datasheet_s: float | None,
    *,
    in_series: bool = True,
) -> Ridge | None:
    """The ridge of prefill times at ``tokens`` per forward, both of length n; ``None`` for fewer than 4 sizes.

    ``datasheet_s`` is the weights' read time at the datasheet's bandwidth; without it, or without ``scatter``, nothing
    is resolved. Interval: T* whose relative squared error is at most the least one plus v·t², where v is the noise
    pooled with the misfit, or the misfit alone where F says that the law misses. ``in_series`` False is the law without
    h, right only for a host that never makes the device wait.
    """
    from scipy import stats

    sizes = sorted(set(tokens))
    if len(sizes) < 4:
        return None
    floor = FLOOR * (datasheet_s or 0.0)
    scan = _scan(np.asarray(tokens, dtype=float), np.asarray(seconds, dtype=float), floor, in_series)
    places, misfit = scan.places, scan.misfit
    at, sharp = np.unravel_index(misfit.argmin(), misfit.shape)
    least = max(float(misfit[at, sharp]), 0.0)
    low, high, misses, allowed = 0.0, math.inf, False, math.inf
    variance, freedom = None, 1.0
    if scatter is not None:
        left = max(len(tokens) - PARAMETERS + (not in_series), 1)
        misses = least / left > scatter.variance * stats.f.ppf(0.95, left, scatter.freedom)
        variance, freedom = least / left, float(left)
        if not misses:
            freedom = scatter.freedom + left
            variance = max((scatter.variance * scatter.freedom + least) / freedom, scatter.variance)
        allowed = least + variance * float(stats.t.ppf(0.975, freedom)) ** 2
        rows = np.flatnonzero((misfit <= allowed).any(axis=1))
        step = float(places[1] / places[0])
        low, high = float(places[rows[0]]) / step, float(places[rows[-1]]) * step
    host_most, read_least, plateau_least, share = scan.bounds(allowed, floor, min(seconds))
    found = float(places[at])
    why, add = _doubt(tokens, seconds, found)
    if scatter is None:
        why, add = "one start: nothing says how large the noise is", ()
    elif datasheet_s is None:
        why, add = "no datasheet bounds the time to read the weights", ()
    elif not why and (low < places[0] or high > places[-1] or high / low > WIDEST):
        why = f"between {low:.0f} and {high:.0f}: host time and a soft turn look alike"
    return Ridge(
        tokens=found,
        low=low,
        high=high,
        host_s=float(scan.host[at, sharp]),
        host_most_s=host_most,
        read_s=float(scan.read[at, sharp]),
        read_least_s=read_least,
        plateau_least_s=plateau_least,
        read_share_most=share,
        sharpness=float(SHARPNESS[sharp]),
        misses=bool(misses),
        turn=_turn(sizes, tokens, seconds, scatter),
        why=why,
        add=add,
        laws=scan,
        variance=variance,
        freedom=freedom,
    )


def _shape(log_tokens: Array, log_ridge: Array, sharpness: Array) -> Array:
    found: Array = np.exp(np.logaddexp(0.0, sharpness * (log_tokens - log_ridge)) / sharpness)
    return found


def _scan(tokens: Array, seconds: Array, floor: float, in_series: bool) -> Laws:
    """Every law with its best h and a.

    Three candidates for (h, a): inside the bounds, h = 0, and a = floor; the best that the bounds allow is taken.
    """
    logs = np.log(tokens)
    places = np.exp(np.linspace(logs.min() - BEYOND, logs.max() + BEYOND, STEPS + 1))
    shape = _shape(logs, np.log(places)[:, None, None], SHARPNESS[None, :, None])
    weight = 1 / seconds
    risen = shape * weight
    aa, ab, bb = float((weight * weight).sum()), (weight * risen).sum(-1), (risen * risen).sum(-1)
    a1, b1 = float(weight.sum()), risen.sum(-1)

    def squares(host: Array, read: Array) -> Array:
        cross = 2 * host * read * ab - 2 * (host * a1 + read * b1)
        found: Array = len(seconds) + cross + host * host * aa + read * read * bb
        return found

    none = np.zeros_like(bb)
    read = np.maximum(b1 / bb, floor)
    best, host = squares(none, read), none
    moments = (aa, ab, bb)
    if not in_series:
        return Laws(places=places, misfit=best, host=host, read=read, moments=moments)
    solvable = aa * bb - ab * ab
    safe = np.where(solvable > 1e-14 * aa * bb, solvable, np.inf)  # one direction alone: then h and a are 0
    free_host, free_read = (a1 * bb - b1 * ab) / safe, (aa * b1 - ab * a1) / safe
    allowed = (free_host >= 0) & (free_read >= floor) & np.isfinite(safe)
    bound_host = np.maximum((a1 - floor * ab) / aa, 0.0)
    for also_host, also_read, possible in (
        (free_host, free_read, allowed),
        (bound_host, np.full_like(bb, floor), np.ones_like(allowed)),
    ):
        better = possible & (squares(also_host, also_read) < best)
        best = np.where(better, squares(also_host, also_read), best)
        host, read = np.where(better, also_host, host), np.where(better, also_read, read)
    return Laws(places=places, misfit=best, host=host, read=read, moments=moments)


def _doubt(tokens: Sequence[int], seconds: Sequence[float], found: float) -> tuple[str, tuple[int, ...]]:
    """Why the sizes cannot show a turn at ``found``, and the sizes to add; an empty text where they can."""
    sizes = sorted(set(tokens))
    below = [size for size in sizes if size <= found / 2]
    if not below:
        return "no plateau is seen below it", (max(1, round(sizes[0] / 4)), max(1, round(sizes[0] / 2)))
    if len(below) < 2:
        return "only one size lies well below it", between(sizes[0], sizes[1])
    if sum(size >= 2 * found for size in sizes) < 2:
        timed = list(zip(tokens, seconds, strict=True))
        slowest = max(time for size, time in timed if size == sizes[-1])
        rises = slowest > RISEN * max(time for size, time in timed if size in below)
        few = "time rises at the largest sizes, but fewer than two lie well beyond it"
        add = (2 * sizes[-1], 4 * sizes[-1])
        return few if rises else "time does not yet rise with the tokens beyond it", add
    return "", ()


def _turn(
    sizes: Sequence[int], tokens: Sequence[int], seconds: Sequence[float], scatter: Scatter | None
) -> Threshold:
    """Where time passes ``RISEN`` × the smallest size's; cells of one size count as one."""
    from scipy import stats

    logs = np.log(np.asarray(seconds, dtype=float))
    owners = np.asarray(tokens)
    means = np.array([logs[owners == size].mean() for size in sizes])
    draws = None
    if scatter is not None:
        counts = np.array([(owners == size).sum() for size in sizes])
        wide = float(stats.t.ppf(0.975, scatter.freedom) / stats.norm.ppf(0.975))
        noise = np.random.default_rng(0).standard_normal((DRAWS, len(sizes)))
        noise *= wide * np.sqrt(scatter.variance / counts)
        draws = (means + noise) - (means[:1] + noise[:, :1])
    return crossing(sizes, list(means - means[0]), draws, math.log(RISEN))
