"""The usable trials of some results, as cells of servers, in series along one axis."""

from __future__ import annotations

import zlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

import numpy as np

from loadgen.analysis import claims, within
from loadgen.analysis.ratios import Ratio
from loadgen.analysis.starts import Cell, Pair, Server, server_of, servers
from loadgen.analysis.statistics import Drift, Estimate, Noise, drift, noise
from loadgen.analysis.table import Key, Row

# What a key's field becomes when it is the axis of a series: a value that no trial has.
BLANK = {"batch": -1, "input_tokens": -1, "output_tokens": -1, "tp": -1, "pp": -1, "label": "", "machine": ""}


class Study:
    """The usable rows of some results, as cells and the servers they are of.

    Every random draw is seeded by what it is for.
    """

    def __init__(self, rows: Iterable[Row]) -> None:
        usable = [row for row in rows if row.usable]
        found: dict[Key, list[Row]] = defaultdict(list)
        for row in usable:
            found[row.key].append(row)
        self._servers = servers(usable)
        self.cells = {
            key: Cell(key=key, rows=tuple(group), server=self._servers[server_of(key)])
            for key, group in sorted(found.items())
        }

    @property
    def servers(self) -> list[Server]:
        """All servers, those of the whole where the study is narrowed."""
        return list(self._servers.values())

    def narrowed(self, keys: Iterable[Key]) -> Study:
        """A study of some of the cells, which still goes by the spread of all servers."""
        found = Study(())
        found._servers = self._servers
        found.cells = {key: self.cells[key] for key in sorted(keys)}
        return found

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
        """The cell's figure over its starts, ``None`` when it was not measured there."""
        found = claims.cell_figure(cell, metric, self.servers)
        if found is None:
            return None
        return Estimate(
            value=found.value,
            low=found.low,
            high=found.high,
            repeats=len(cell.values(metric)),
            starts=found.starts[0],
            how=found.source if found.told else f"no interval: {found.source}",
        )

    def mean_figure(self, cells: Sequence[Cell], metric: str) -> Ratio | None:
        """The geometric mean of the cells' figures, as a ratio over 1."""
        return claims.mean_figure(cells, metric, self.servers)

    def ratio(self, over: Cell, under: Cell, metric: str) -> Ratio | None:
        """over / under in one cell, told by all that both servers did; ``None`` when either lacks the figure."""
        return claims.cell_ratio(over, under, metric, self.servers)

    def cell_ratios(self, pairs: Sequence[Pair], metric: str) -> list[Ratio | None]:
        """over / under in each of the cells of one claim, with Holm's p-values over all of them."""
        return claims.cell_ratios(pairs, metric, self.servers)

    def mean_ratio(self, pairs: Sequence[Pair], metric: str) -> Ratio | None:
        """The geometric mean of over / under over the pairs that have the figure."""
        return claims.mean_ratio(pairs, metric, self.servers)

    def effects(self, pairs: Sequence[Pair], metric: str) -> within.Effects | None:
        """log(over / under) of pairs of cells of one server, from within its starts."""
        return within.effects(pairs, metric, self.servers)

    def levels(self, cells: Sequence[Cell], metric: str) -> within.Effects | None:
        """Log figures of cells of one server but for what its starts have in common."""
        return within.levels(cells, metric, self.servers)

    def noise(self, metric: str, where: Callable[[Key], bool] = lambda _key: True) -> Noise | None:
        """The noise between trials of one start, ``None`` when it was not measured (no repeats)."""
        groups: list[list[float]] = []
        for key, cell in self.cells.items():
            if where(key):
                trials = np.exp(cell.server.trials(metric)[:, cell.server.cells[key]])
                groups += [[float(each) for each in start if not np.isnan(each)] for start in trials]
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

    def rounds(self) -> int:
        """How many rounds there were: the same work on rivals, one right after the other."""
        names = [row.round for cell in self.cells.values() for row in cell.rows if row.round]
        return sum(count > 1 for count in Counter(names).values())


def _rng(*what: object) -> np.random.Generator:
    return np.random.default_rng(zlib.crc32(repr(what).encode()))
