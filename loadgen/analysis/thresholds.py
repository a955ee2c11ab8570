"""Where a curve crosses a level: by a stated method, with an interval, or "not resolvable" and the points to add.

A grid that steps from 8 to 16 cannot say 11: the interval of a crossing is never narrower than the step it lies in.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from loadgen.analysis.statistics import CONFIDENCE, Array, interval, isotonic, student

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
    low_at, high_at = (round(bound) for bound in interval(spread.astype(float)))
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Best:
    """The grid point of the highest value, and those that the noise cannot tell from it (95 % of the draws)."""

    at: int
    tied: tuple[int, ...]
    at_edge: bool


def best(grid: Sequence[int], values: Sequence[float], draws: Array | None) -> Best:
    """Where ``values`` peak; with no draws every point may be the best."""
    at = int(np.argmax(values))
    if draws is None:
        return Best(at=grid[at], tied=tuple(grid), at_edge=at == len(grid) - 1)
    counts = np.bincount(np.argmax(draws, axis=1), minlength=len(grid))
    order = np.argsort(-counts)
    share = np.cumsum(counts[order]) / len(draws)
    kept = order[: int(np.searchsorted(share, 0.95)) + 1]
    return Best(at=grid[at], tied=tuple(sorted(grid[each] for each in kept)), at_edge=at == len(grid) - 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ridge:
    """t(T) = (aᵏ + (bT)ᵏ)^(1/k): a plateau of ``plateau_s`` turns into ``per_token_s``·T at T = ``tokens`` = a/b.

    ``fastest_plateau_s`` is the least time measured at a size well below the ridge, ``None`` without such a size or
    where time does not rise beyond: what sets the plateau can be told even where the ridge's place cannot.
    """

    tokens: float
    low: float
    high: float
    plateau_s: float
    per_token_s: float
    sharpness: float
    resolved: bool
    why: str
    add: tuple[int, ...] = ()
    fastest_plateau_s: float | None = None


RISEN = 1.25  # times the plateau: time has begun to rise
SCAN, BEYOND = 800, 1.5  # steps of the scan over ridges, and how far it goes beyond the sizes (natural log)
SHARPNESS = (1.0, 1.4, 2.0, 2.8, 4.0, 8.0, 16.0)  # 1: the two times add up; 16: the larger one alone counts


def ridge(tokens: Sequence[int], seconds: Sequence[float], draws: Array | None) -> Ridge | None:
    """The measured ridge of prefill time against tokens per forward; ``None`` for fewer than 4 sizes.

    Fitted by least squares on logarithms, the turn's sharpness k included. The interval holds the refits to all draws
    (noise), the ridges whose fit is not worse than the best by more than its own misfit allows, and the refits without
    each size in turn: real prefills are neither flat below nor straight above, whatever the noise.
    Resolved only when two sizes or more lie at least twice beyond the ridge on both sides: else a or b is a guess.
    """
    sizes = sorted(set(tokens))
    if len(sizes) < 4:
        return None
    at = np.log(np.asarray(tokens, dtype=float))
    points = np.log(np.asarray(seconds, dtype=float))[None, :]
    all_draws = points if draws is None else np.concatenate([points, draws[:200]])
    log_a, log_ridge, sharp = _fit_ridges(at, all_draws)
    found = float(np.exp(log_ridge[0]))
    low, high = 0.0, math.inf
    if draws is not None:
        left, right = interval(log_ridge[1:])
        step = float(np.ptp(at) + 2 * BEYOND) / SCAN  # the scan itself cannot place it closer
        places = [left, right, *_model_spread(at, points)]
        low, high = math.exp(min(places) - step), math.exp(max(places) + step)
    plateau = float(np.exp(log_a[0]))
    smallest, largest = sizes[0], sizes[-1]
    below = [each for each in sizes if each <= found / 2]
    slowest = max(time for size, time in zip(tokens, seconds, strict=True) if size == largest)
    flat = [time for size, time in zip(tokens, seconds, strict=True) if size in below]
    rises = bool(flat) and slowest > RISEN * max(flat)
    why = ""
    add: tuple[int, ...] = ()
    if draws is None:
        why = "no repeats: nothing says how large the noise is"
    elif len(below) < 2:
        why, add = "no plateau is seen below it", (max(1, round(smallest / 4)), max(1, round(smallest / 2)))
        if below:
            why, add = "only one size lies well below it", between(sizes[0], sizes[1])
    elif sum(each >= 2 * found for each in sizes) < 2:
        few = "time rises at the largest sizes, but fewer than two lie well beyond it"
        why = few if rises else "time does not yet rise with the tokens beyond it"
        add = (2 * largest, 4 * largest)
    elif high / low > WIDEST:
        why = f"the noise and the fit leave it between {low:.0f} and {high:.0f}"
    return Ridge(
        tokens=found,
        low=low,
        high=high,
        plateau_s=plateau,
        per_token_s=plateau / found,
        sharpness=float(sharp[0]),
        resolved=not why,
        why=why,
        add=add,
        fastest_plateau_s=min(flat) if rises else None,
    )


def _model_spread(at: Array, points: Array) -> list[float]:
    """Log ridges that the model's misfit leaves possible, shape of ``points`` (1, K): the outermost ones.

    By profile: misfit² up to the best's times 1 + t²/(sizes − 3); and by leaving out each size, where four are left.
    """
    sizes = np.unique(at)
    shape, owner = _shapes(at)
    misfit = ((points - points.mean() - (shape - shape.mean(axis=1, keepdims=True))) ** 2).sum(axis=1)
    freedom = len(sizes) - 3
    allowed = misfit.min() * (1 + student((1 + CONFIDENCE) / 2, freedom) ** 2 / freedom)
    places = [float(place) for place in owner[misfit <= allowed, 0]]
    if len(sizes) > 4:
        for size in sizes:
            kept = at != size
            places.append(float(_fit_ridges(at[kept], points[:, kept])[1][0]))
    return [min(places), max(places)]


def _shapes(at: Array) -> tuple[Array, Array]:
    """Log time over plateau of all candidate curves at the sizes, (C, K), and their log ridge and sharpness (C, 2)."""
    candidates = np.linspace(at.min() - BEYOND, at.max() + BEYOND, SCAN + 1)
    sharpness, centre = (grid.ravel() for grid in np.meshgrid(SHARPNESS, candidates, indexing="ij"))
    shape = np.logaddexp(0.0, sharpness[:, None] * (at - centre[:, None])) / sharpness[:, None]
    return shape, np.stack([centre, sharpness], axis=1)


def _fit_ridges(at: Array, draws: Array) -> tuple[Array, Array, Array]:
    """For each row of log times: log plateau, log ridge and sharpness. A scan over ridges; the plateau is then linear.

    log t = log a + log(1 + (T/T*)ᵏ)/k, so for a given T* and k the best log a is a mean.
    """
    shape, owners = _shapes(at)
    centred = shape - shape.mean(axis=1, keepdims=True)
    rows = draws - draws.mean(axis=1, keepdims=True)
    errors = (centred**2).sum(axis=1)[None, :] - 2 * rows @ centred.T  # + a constant of the row
    picks = errors.argmin(axis=1)
    owner = owners[picks]
    log_a = draws.mean(axis=1) - shape[picks].mean(axis=1)
    return log_a, owner[:, 0], owner[:, 1]
