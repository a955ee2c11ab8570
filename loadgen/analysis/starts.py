"""Servers, their starts and cells: which trials one start served, and its figure in each cell.

A start of a server is the unit of every comparison: all its trials share what that start drew (memory layout, clocks,
autotuned kernels), so more trials of one start do not tell more about another.
"""

from __future__ import annotations

import warnings
from collections import defaultdict
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from loadgen.analysis.cells import cell_variances
from loadgen.analysis.slow import slow
from loadgen.analysis.table import DISTRIBUTIONS, POWER, RATES, Key, Row
from loadgen.analysis.variance import Array, Fit, Spread, fit, spread_of

Class = tuple[str, str, str, str]  # engine, variant, load kind, machine kind: servers of one vary alike


def figure(row: Row, metric: str) -> float | None:
    """A trial's figure: a metric of the table, or ``e2e_s@p99`` for another statistic of a latency."""
    name, _, statistic = metric.partition("@")
    if not statistic:
        return row.values.get(name)
    dist = row.dist(name) if name in row.values else None
    found = getattr(dist, statistic, None)
    return float(found) if found else None


def start_of(row: Row) -> str:
    """The identity of the server start that served a trial.

    Results of earlier versions lack it. There, equal process ids and load times on the same GPUs are one start; where
    not even those are known, a folder is taken for one start of each server (per start that the plan numbers).
    """
    if row.result.start is not None:
        return row.result.start
    engine = row.result.engine
    pid, load_s = engine.get("pid"), engine.get("load_s")
    if load_s is not None:
        return f"pid {pid}, loaded in {load_s} s, on {', '.join(sorted(devices_of(row)))}"
    return f"pid {pid} of {row.source}, start {row.trial.start}"


def devices_of(row: Row) -> frozenset[str]:
    """The UUIDs of all GPUs of the trial's machine, or the machine's host name where it has none."""
    environment = row.environment
    if environment is None:
        return frozenset({row.source})
    return frozenset(str(gpu["uuid"]) for gpu in environment.gpus if gpu.get("uuid")) or frozenset(
        {environment.host}
    )


def machines(rows: Iterable[Row]) -> int:
    """How many machines the trials ran on: environments that share a GPU are one."""
    apart: list[frozenset[str]] = []
    for devices in {devices_of(row) for row in rows}:
        joined = [each for each in apart if each & devices]
        apart = [each for each in apart if not each & devices] + [devices.union(*joined)]
    return len(apart)


def server_of(key: Key) -> Key:
    """The server and the way of loading it, without the work."""
    return replace(key, batch=-1, rate=-1.0, input_tokens=-1, output_tokens=-1, stream=False)


class Server:
    """The trials of one server under one kind of load, as starts × cells × repeats.

    ``starts`` are in the order in which they began; ``cells`` are the columns of every grid.
    """

    def __init__(self, key: Key, rows: Sequence[Row]) -> None:
        self.key = key
        self.rows = tuple(sorted(rows, key=lambda row: (row.started_h or 0.0, row.run)))
        self.starts = tuple(dict.fromkeys(start_of(row) for row in self.rows))
        self.cells = {cell: at for at, cell in enumerate(dict.fromkeys(row.key for row in self.rows))}
        self._places = {start: at for at, start in enumerate(self.starts)}
        self._trials: dict[str, Array] = {}
        self._means: dict[str, Array] = {}
        self._spreads: dict[str, Spread] = {}
        self._fits: dict[str, Fit] = {}
        self._by_cell: dict[str, list[tuple[float, float] | None]] = {}

    @property
    def engine_class(self) -> Class:
        """The class whose servers may lend each other their spread."""
        return self.key.label, self.key.variant, self.key.kind, self.key.machine

    def place(self, row: Row) -> int:
        """Which of its starts served a trial."""
        return self._places[start_of(row)]

    def hours(self) -> Array:
        """When each start ran: the mean over its trials, NaN where a trial lacks its time."""
        times: list[list[float]] = [[] for _ in self.starts]
        for row in self.rows:
            times[self.place(row)].append(np.nan if row.started_h is None else row.started_h)
        return np.array([np.mean(each) for each in times])

    def trials(self, metric: str) -> Array:
        """Log figures of undisturbed trials, shape (starts, cells, repeats), NaN where there is none."""
        if metric not in self._trials:
            held: dict[tuple[int, int], list[float]] = defaultdict(list)
            for row in self.rows:
                value = figure(row, metric)
                if value is not None:
                    held[self.place(row), self.cells[row.key]].append(value)
            most = max(map(len, held.values()), default=1)
            found = np.full((len(self.starts), len(self.cells), most), np.nan)
            for (start, cell), values in held.items():
                found[start, cell, : len(values)] = np.log(values)
            self._trials[metric] = np.where(slow(_as_time(found, metric)), np.nan, found)
        return self._trials[metric]

    def slow_trials(self, metric: str) -> tuple[int, int]:
        """How many trials were set apart, and how many there are."""
        measured = sum(figure(row, metric) is not None for row in self.rows)
        return measured - int((~np.isnan(self.trials(metric))).sum()), measured

    def means(self, metric: str) -> Array:
        """The mean log figure of each start in each cell, shape (starts, cells), NaN where it ran none."""
        if metric not in self._means:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", RuntimeWarning)  # a start may lack a cell
                self._means[metric] = np.nanmean(self.trials(metric), axis=2)
        return self._means[metric]

    def spread(self, metric: str) -> Spread:
        """The spread of its starts over all that they have in common."""
        if metric not in self._spreads:
            self._spreads[metric] = spread_of(self.means(metric))
        return self._spreads[metric]

    def fit(self, metric: str) -> Fit:
        """Its cells without what starts have in common: for what is compared within starts."""
        if metric not in self._fits:
            self._fits[metric] = fit(self.means(metric))
        return self._fits[metric]

    def cell_variance(self, cell: Key, metric: str) -> tuple[float, float] | None:
        """The variance of one start's figure in a cell, with its degrees of freedom; ``None`` where nothing tells."""
        if metric not in self._by_cell:
            self._by_cell[metric] = cell_variances([self.means(metric)], self.spread(metric))
        return self._by_cell[metric][self.cells[cell]]

    def trial_variance(self, metric: str) -> tuple[float, int]:
        """The variance between trials of one start in one cell, and its degrees of freedom (0: unknown)."""
        trials = self.trials(metric)
        df = int(np.maximum((~np.isnan(trials)).sum(axis=2) - 1, 0).sum())
        squares = float(np.nansum((trials - self.means(metric)[:, :, None]) ** 2))
        return (squares / df if df else np.nan), df


def _as_time(logs: Array, metric: str) -> Array:
    """Log figures that rise as a trial gets slower; nothing of memory and power stands apart."""
    name = metric.partition("@")[0]
    if name in DISTRIBUTIONS:
        return logs
    return -logs if name in RATES or name == POWER else np.full_like(logs, np.nan)


def full_enough(grid: Array) -> Array:
    """The starts that have half of the cells or more, of those that any start has."""
    seen = ~np.isnan(grid)
    used = seen.any(axis=0)
    kept: Array = grid[seen[:, used].sum(axis=1) * 2 >= used.sum()]
    return kept


def servers(rows: Iterable[Row]) -> dict[Key, Server]:
    """The servers behind the rows, by ``server_of``."""
    found: dict[Key, list[Row]] = defaultdict(list)
    for row in rows:
        found[server_of(row.key)].append(row)
    return {key: Server(key, group) for key, group in sorted(found.items())}


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Cell:
    """The usable trials of one point, and the server that they are of."""

    key: Key
    rows: tuple[Row, ...]
    server: Server

    def values(self, metric: str) -> list[float]:
        """The trials' values of a metric (see ``figure``); those that lack it are left out."""
        return [value for row in self.rows if (value := figure(row, metric)) is not None]

    def logs(self, metric: str) -> Array:
        """The mean log figure of each start of its server, NaN where it ran none."""
        found: Array = self.server.means(metric)[:, self.server.cells[self.key]]
        return found

    def starts(self, metric: str) -> int:
        """From how many starts the figure is known."""
        return int((~np.isnan(self.logs(metric))).sum())


Pair = tuple[Cell, Cell]  # numerator and denominator


def lenders(
    servers: Iterable[Server], claimants: Iterable[Server], metric: str
) -> dict[Hashable, list[Spread]]:
    """The spreads of the servers that take no part in a claim, by class."""
    found: dict[Hashable, list[Spread]] = defaultdict(list)
    apart = {id(each) for each in claimants}
    for server in servers:
        if id(server) not in apart:
            found[server.engine_class].append(server.spread(metric))
    return found


def log_of(cell: Cell, metric: str) -> float:
    """The mean log figure over its starts."""
    return float(np.nanmean(cell.logs(metric)))


def running(grid: Array) -> Array:
    """The starts that ran any of the cells."""
    kept: Array = grid[(~np.isnan(grid)).any(axis=1)]
    return kept
