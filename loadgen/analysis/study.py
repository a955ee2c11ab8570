"""Cells: the repeats of one point of a sweep, with intervals, in series along one axis."""

from __future__ import annotations

import zlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from loadgen.analysis.requests import latencies
from loadgen.analysis.statistics import (
    Array,
    Drift,
    Estimate,
    Noise,
    Pool,
    block_error,
    drift,
    estimate,
    interval,
    noise,
    residuals,
    within_trial,
)
from loadgen.analysis.table import POWER, Key, Row

# Of a server's own repeats. Engines differ in noise by tens of times (one replays a graph, the next launches every
# kernel from Python), so another's repeats are a last resort: Student's t tells what few of its own leave open.
ENOUGH_FREEDOM = 3
# What a key's field becomes when it is the axis of a series: a value that no trial has.
BLANK = {"batch": -1, "input_tokens": -1, "output_tokens": -1, "tp": -1, "pp": -1, "label": "", "machine": ""}
WORK = ("kind", "batch", "rate", "input_tokens", "output_tokens")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Cell:
    """The usable repeats of one point."""

    key: Key
    rows: tuple[Row, ...]

    def values(self, metric: str) -> list[float]:
        """The repeats' values of a metric; those that lack it are left out."""
        return [row.values[metric] for row in self.rows if metric in row.values]

    def by_round(self, metric: str) -> dict[str, float]:
        """The figures of the repeats that ran side by side with rivals."""
        return {row.round: row.values[metric] for row in self.rows if row.round and metric in row.values}


@dataclass(frozen=True, slots=True, kw_only=True)
class Ratio:
    """A quotient of two figures with its 95 % interval (``None`` without repeats)."""

    value: float
    low: float | None
    high: float | None

    def above(self, level: float) -> bool:
        """Whether the whole interval lies above ``level``; never without an interval."""
        return self.low is not None and self.low > level

    def below(self, level: float) -> bool:
        """Whether the whole interval lies below ``level``; never without an interval."""
        return self.high is not None and self.high < level


def quotient(top: Estimate | None, bottom: Estimate | None) -> Ratio | None:
    """top / bottom, ``None`` when either is missing."""
    if top is None or bottom is None:
        return None
    if top.draws is None or bottom.draws is None:
        return Ratio(value=top.value / bottom.value, low=None, high=None)
    low, high = np.exp(interval(top.draws - bottom.draws))
    return Ratio(value=top.value / bottom.value, low=float(low), high=float(high))


def mean_quotient(pairs: Sequence[tuple[Estimate, Estimate]]) -> Ratio:
    """The geometric mean of top / bottom over (top, bottom) pairs, of which there is at least one."""
    return _mean([_log_quotient(top, bottom) for top, bottom in pairs])


def _log_quotient(top: Estimate, bottom: Estimate) -> LogRatio:
    known = top.draws is not None and bottom.draws is not None
    draws = top.with_draws() - bottom.with_draws() if known else None
    return float(np.log(top.value / bottom.value)), draws


def _mean(quotients: Sequence[LogRatio]) -> Ratio:
    value = float(np.exp(np.mean([centre for centre, _ in quotients])))
    known = [draws for _, draws in quotients if draws is not None]
    if len(known) < len(quotients):
        return Ratio(value=value, low=None, high=None)
    low, high = np.exp(interval(np.mean(known, axis=0)))
    return Ratio(value=value, low=float(low), high=float(high))


LogRatio = tuple[float, Array | None]  # the logarithm of a quotient, and its draws
RequestErrors = dict[
    str, tuple[float, float] | None
]  # by trial: relative error of the mean, over the naive one


class Study:
    """The usable rows of some results, as cells. Every random draw is seeded by what it is for.

    ``errors`` keeps what was read from samples, which are large, for the next study of the same rows.
    """

    def __init__(
        self, rows: Iterable[Row], whole: Study | None = None, errors: RequestErrors | None = None
    ) -> None:
        found: dict[Key, list[Row]] = defaultdict(list)
        for row in rows:
            if row.usable:
                found[row.key].append(row)
        self.cells = {key: Cell(key=key, rows=tuple(group)) for key, group in sorted(found.items())}
        self._whole = whole or self
        self._errors = {} if errors is None else errors
        self._pools: dict[tuple[str, object], Pool] = {}
        self._estimates: dict[tuple[str, Key], Estimate | None] = {}

    def narrowed(self, rows: Iterable[Row]) -> Study:
        """A study of some of these rows that keeps the intervals of the whole."""
        return Study(rows, self._whole)

    def series(self, *axes: str, where: Callable[[Key], bool] = lambda _key: True) -> dict[Key, list[Cell]]:
        """Cells that differ in nothing but ``axes``, sorted by those, by their common key (axes blanked)."""
        groups: dict[Key, list[Cell]] = defaultdict(list)
        blanks = {axis: BLANK[axis] for axis in axes}
        for key, cell in self.cells.items():
            if where(key):
                groups[replace(key, **blanks)].append(cell)  # type: ignore[arg-type]
        for cells in groups.values():
            cells.sort(key=lambda cell: tuple(getattr(cell.key, axis) for axis in axes))
        return dict(groups)

    def estimate(self, cell: Cell, metric: str) -> Estimate | None:
        """The cell's figure, ``None`` when it was not measured there."""
        if self._whole is not self:
            return self._whole.estimate(cell, metric)
        known = (metric, cell.key)
        if known not in self._estimates:
            self._estimates[known] = self._estimate(cell, metric)
        return self._estimates[known]

    def _estimate(self, cell: Cell, metric: str) -> Estimate | None:
        values = cell.values(metric)
        if not values:
            return None
        rng = _rng(metric, cell.key)
        pool = self._pool(cell, metric)
        if not pool.speaks and len(values) == 1:
            error = self._request_error(cell.rows[0], metric, rng)
            if error is not None:
                return within_trial(values[0], error, rng)
        return estimate(values, pool, rng)

    def _pool(self, cell: Cell, metric: str) -> Pool:
        """Residuals of the cell's own server; with too few, of its engine at any split; else of the whole sweep."""
        own = _server(cell.key)
        for like in (own, own[:3]):
            pool = self._residuals(metric, like)
            if pool.freedom >= ENOUGH_FREEDOM:
                return pool
        return self._residuals(metric, ())

    def _residuals(self, metric: str, server: tuple[object, ...]) -> Pool:
        """Of the servers whose machine, label, model, tp and pp begin like these."""
        known = (metric, server)
        if known not in self._pools:
            groups = [
                cell.values(metric)
                for cell in self.cells.values()
                if _server(cell.key)[: len(server)] == server
            ]
            self._pools[known] = residuals(groups)
        return self._pools[known]

    def _request_error(self, row: Row, metric: str, rng: np.random.Generator) -> float | None:
        """Relative standard error of one run's figure from its own requests, blocks where they are correlated."""
        if row.run not in self._errors:
            times = latencies(row.results, row.id)
            self._errors[row.run] = None if times is None else block_error(times, rng)
        blocks = self._errors[row.run]
        if blocks is None:
            return None
        relative, inflation = blocks
        if metric == POWER:
            return 2 * relative  # throughput and latency of one run move together
        dist = row.dist(metric)
        if dist is not None and dist.stdev is not None and dist.n > 1 and metric != "e2e_s":
            return float(dist.stdev / dist.mean / dist.n**0.5 * inflation)
        return relative

    def noise(self, metric: str, where: Callable[[Key], bool] = lambda _key: True) -> Noise | None:
        """The noise floor between runs, ``None`` when it was not measured (no repeats)."""
        groups = [cell.values(metric) for key, cell in self.cells.items() if where(key)]
        return noise(groups, _rng("noise", metric))

    def drift(self, metric: str) -> Drift | None:
        """The trend over the sweep's hours, ``None`` without repeats."""
        times = [
            row.started_h for cell in self.cells.values() for row in cell.rows if row.started_h is not None
        ]
        if not times:
            return None
        groups = [
            [
                (row.started_h - times[0], row.values[metric])
                for row in cell.rows
                if row.started_h is not None and metric in row.values
            ]
            for cell in self.cells.values()
        ]
        return drift(groups, max(times) - min(times), _rng("drift", metric))

    def ratio(self, over: Cell, under: Cell, metric: str) -> Ratio | None:
        """over / under, ``None`` when either lacks the figure."""
        return self.mean_ratio([(over, under)], metric)

    def mean_ratio(self, pairs: Sequence[tuple[Cell, Cell]], metric: str) -> Ratio | None:
        """The geometric mean of over / under over the pairs that have the figure."""
        found = [self._difference(over, under, metric) for over, under in pairs]
        known = [quotient for quotient in found if quotient is not None]
        return _mean(known) if known else None

    def _difference(self, over: Cell, under: Cell, metric: str) -> LogRatio | None:
        paired = self.paired(over, under, metric)
        if paired is not None:
            return float(np.log(paired.value)), paired.draws
        top, bottom = self.estimate(over, metric), self.estimate(under, metric)
        return None if top is None or bottom is None else _log_quotient(top, bottom)

    def paired(self, over: Cell, under: Cell, metric: str) -> Estimate | None:
        """over / under from the rounds in which both ran side by side: what struck a whole round cancels out.

        Deviations from a cell's mean quotient are pooled over all work that the two servers did in rounds. ``None``
        without rounds in common, or with too few to tell an interval.
        """
        quotients = _by_round(over, under, metric)
        if not quotients:
            return None
        found = estimate(
            quotients,
            self._whole._rounds(over.key, under.key, metric),
            _rng("rounds", metric, over.key, under.key),
        )
        return None if found.draws is None else replace(found, how=f"{found.how}, paired by round")

    def _rounds(self, over: Key, under: Key, metric: str) -> Pool:
        """How quotients of two servers deviate from round to round, over all their work."""
        sides = (_side(over), _side(under))
        known = (f"rounds of {metric}", sides)
        if known not in self._pools:
            groups = []
            for key, cell in self.cells.items():
                if _side(key) == sides[0]:
                    rival = self.cells.get(replace(under, **{name: getattr(key, name) for name in WORK}))
                    groups.append(_by_round(cell, rival, metric) if rival else [])
            self._pools[known] = residuals(groups)
        return self._pools[known]

    def rounds(self) -> int:
        """How many rounds there were: the same work on rivals, one right after the other."""
        names = [row.round for cell in self.cells.values() for row in cell.rows if row.round]
        return sum(count > 1 for count in Counter(names).values())


def _by_round(over: Cell, under: Cell, metric: str) -> list[float]:
    top, bottom = over.by_round(metric), under.by_round(metric)
    return [top[name] / bottom[name] for name in top if name in bottom]


def _side(key: Key) -> Key:
    """The server alone."""
    return replace(key, kind="", batch=-1, rate=-1.0, input_tokens=-1, output_tokens=-1)


def _server(key: Key) -> tuple[str, str, str, int, int]:
    return key.machine, key.label, key.model, key.tp, key.pp


def _rng(*what: object) -> np.random.Generator:
    return np.random.default_rng(zlib.crc32(repr(what).encode()))
