"""What cells of servers say together: ratios over pairs of cells, and mean figures.

Every claim is a weighted sum of start means; ``variance`` and ``ratios`` say how sure it is. Servers that are not part
of the claim lend their spread where the claim's own have too few starts.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from loadgen.analysis import cells as many
from loadgen.analysis.ratios import Part, Ratio, beside_trend, paired, ratio_of, trimmed, weighted
from loadgen.analysis.starts import Cell, Pair, Server, full_enough, lenders, log_of, machines, running
from loadgen.analysis.table import Key
from loadgen.analysis.variance import ENOUGH_STARTS, Array, spread_of
from loadgen.analysis.within import effects

TREND_STARTS = 4  # a side: so many tell a trend over the session from a difference
WORK = ("kind", "batch", "rate", "input_tokens", "output_tokens")


def mean_ratio(pairs: Sequence[Pair], metric: str, servers: Iterable[Server]) -> Ratio | None:
    """The geometric mean of over / under over the pairs that have the figure; ``None`` where none has it."""
    known = [pair for pair in pairs if all(cell.starts(metric) for cell in pair)]
    if not known:
        return None
    sides = {(over.server, under.server) for over, under in known}
    found = None
    if len(sides) == 1:
        within = known[0][0].server is known[0][1].server
        found = (
            _within(known, metric, servers)
            if within
            else _side_by_side(known, metric) or _beside_trend(known, metric)
        )
    found = found or _weighted(known, metric, servers)
    rows = [[row for pair in known for row in pair[side].rows] for side in (0, 1)]
    return replace(found, machines=(machines(rows[0]), machines(rows[1])))


def _within(pairs: Sequence[Pair], metric: str, servers: Iterable[Server]) -> Ratio | None:
    """The ratio of cells of one server by what its starts say within themselves; ``None`` where no start joins them."""
    found = effects(pairs, metric, servers)
    if found is None or found.mean_variance is None or found.df is None:
        return None
    count = min(cell.starts(metric) for pair in pairs for cell in pair)
    return ratio_of(
        float(np.mean(found.values)),
        (found.mean_variance, found.df),
        starts=(count, count),
        source="start × cell within the same starts",
    )


def mean_figure(cells: Sequence[Cell], metric: str, servers: Iterable[Server]) -> Ratio | None:
    """The geometric mean of the cells' figures, as a ratio over 1; ``None`` where none has it."""
    known = [(cell, None) for cell in cells if cell.starts(metric)]
    if not known:
        return None
    found = _weighted(known, metric, servers)
    rows = [row for cell, _ in known for row in cell.rows]
    return replace(found, starts=(found.starts[0], 0), machines=(machines(rows), 0))


def cell_figure(cell: Cell, metric: str, servers: Iterable[Server]) -> Ratio | None:
    """The cell's figure over its starts, as a ratio over 1: by its server's spread, or with one start by a loan."""
    logs = cell.logs(metric)
    logs = logs[~np.isnan(logs)]
    if len(logs) < 2:
        return mean_figure([cell], metric, servers)
    known = cell.server.cell_variance(cell.key, metric)
    found = ratio_of(
        float(logs.mean()),
        None if known is None else (known[0] / len(logs), known[1]),
        starts=(len(logs), 0),
        source="spread between its starts",
    )
    return replace(found, machines=(machines(cell.rows), 0))


def _weighted(pairs: Sequence[tuple[Cell, Cell | None]], metric: str, servers: Iterable[Server]) -> Ratio:
    """The claim as parts of servers: each cell's weight is shared evenly by the starts that have it."""
    weights: dict[Server, dict[Key, float]] = defaultdict(lambda: defaultdict(float))
    for over, under in pairs:
        weights[over.server][over.key] += 1 / len(pairs)
        if under is not None:
            weights[under.server][under.key] -= 1 / len(pairs)
    parts, counts = [], {}
    for server, by_key in weights.items():
        columns = [server.cells[key] for key in by_key]
        grid = _with_all_cells(server.means(metric)[:, columns])
        counts[server] = len(grid)
        seen = ~np.isnan(grid)
        shared = np.where(seen, np.array(list(by_key.values())) / seen.sum(axis=0), 0.0)
        whole = len(columns) > 1 and seen.all() and len(grid) == len(server.starts)
        spread = spread_of(grid) if whole else server.spread(metric)
        parts.append(Part(grid=grid, weights=shared, kind=server.engine_class, spread=spread))
    starts = (
        min(counts[over.server] for over, _ in pairs),
        min((counts[under.server] for _, under in pairs if under is not None), default=0),
    )
    lent = lenders(servers, weights, metric)
    found = weighted(parts, lent, starts)
    if starts == (1, 1) and found.told and len(weights) == 2:
        # One start a side cannot tell a slow trial from a slow cell: the middle cells speak.
        apart = [log_of(over, metric) - log_of(under, metric) for over, under in pairs if under is not None]
        found = weighted(parts, lent, starts, trimmed(np.array(apart)))
    return found


def _with_all_cells(grid: Array) -> Array:
    """The starts that have half of the cells or more; all that have any, where that would lose a cell."""
    kept = full_enough(grid)
    if not (~np.isnan(kept)).any(axis=0).all():
        kept = grid[(~np.isnan(grid)).any(axis=1)]
    return kept


def _side_by_side(pairs: Sequence[Pair], metric: str) -> Ratio | None:
    """The ratio by pairs of starts that ran in rounds together; ``None`` for fewer than 3 such pairs."""
    over, under = pairs[0][0].server, pairs[0][1].server
    partners = _partners(over, under)
    if over is under or len(partners) < ENOUGH_STARTS:
        return None
    rows = [[starts[side] for starts in partners] for side in (0, 1)]
    grids = [np.stack([pair[side].logs(metric)[rows[side]] for pair in pairs], axis=1) for side in (0, 1)]
    apart = grids[0] - grids[1]
    if np.isnan(apart).all(axis=1).any() or np.isnan(apart).all(axis=0).any():
        return None
    return paired(grids[1], grids[0])


def _beside_trend(pairs: Sequence[Pair], metric: str) -> Ratio | None:
    """The ratio of servers of one class beside a trend that both share; ``None`` with holes or fewer than 4 starts.

    Only of one session: on one machine, the sides in turn or with no longer a pause between them than either took.
    """
    if pairs[0][0].server.engine_class != pairs[0][1].server.engine_class:
        return None
    grids: list[Array] = []
    times: list[Array] = []
    for side in (0, 1):
        logs = np.stack([pair[side].logs(metric) for pair in pairs], axis=1)
        ran = ~np.isnan(logs).all(axis=1)
        grids.append(logs[ran])
        times.append(pairs[0][side].server.hours()[ran])
    if min(map(len, grids)) < TREND_STARTS or any(np.isnan(each).any() for each in (*grids, *times)):
        return None
    first, last = [each.min() for each in times], [each.max() for each in times]
    pause = max(first[0] - last[1], first[1] - last[0])
    rows = (row for pair in pairs for cell in pair for row in cell.rows)
    if pause > min(last[0] - first[0], last[1] - first[1]) or machines(rows) > 1:
        return None
    return beside_trend(grids[1], grids[0], np.concatenate([times[1], times[0]]))


def _partners(over: Server, under: Server) -> list[tuple[int, int]]:
    """The starts of both that ran in rounds together, each with one partner; empty where some start has none."""
    met: dict[int, set[int]] = defaultdict(set)
    rounds: dict[str, set[int]] = defaultdict(set)
    for row in under.rows:
        if row.round:
            rounds[row.round].add(under.place(row))
    for row in over.rows:
        if row.round in rounds:
            met[over.place(row)] |= rounds[row.round]
    found = [(start, others.pop()) for start, others in sorted(met.items()) if len(others) == 1]
    whole = len(found) == len(over.starts) == len(under.starts)
    return found if whole and len({other for _, other in found}) == len(found) else []


def cell_ratios(pairs: Sequence[Pair], metric: str, servers: Iterable[Server]) -> list[Ratio | None]:
    """Over / under in each pair, ``None`` without the figure; p-values are Holm's over all of them.

    Cells of one start a side are never told, cells of the same starts by start × cell alone.
    """
    found: list[Ratio | None] = [None] * len(pairs)
    groups: dict[tuple[Server, Server], list[int]] = defaultdict(list)
    for at, pair in enumerate(pairs):
        if all(cell.starts(metric) for cell in pair):
            groups[pair[0].server, pair[1].server].append(at)
    for (over, under), places in groups.items():
        if over is under:
            ratios = [mean_ratio([pairs[at]], metric, servers) for at in places]
        else:
            grids = [
                running(np.stack([pairs[at][side].logs(metric) for at in places], axis=1)) for side in (0, 1)
            ]
            alike = over.engine_class == under.engine_class
            ratios = [*many.cell_ratios(grids[1], grids[0], alike=alike)]
        for at, ratio in zip(places, ratios, strict=True):
            found[at] = ratio
    told = iter(many.adjusted([ratio for ratio in found if ratio is not None]))
    return [None if ratio is None else next(told) for ratio in found]


def cell_ratio(over: Cell, under: Cell, metric: str, servers: Iterable[Server]) -> Ratio | None:
    """Over / under in one cell alone, ``None`` without the figure: by the spread of all work that both servers did."""
    if over.server is under.server:
        return mean_ratio([(over, under)], metric, servers)
    if not (over.starts(metric) and under.starts(metric)):
        return None
    columns = {key: under.server.cells.get(replace(under.key, **work(key))) for key in over.server.cells}
    columns[over.key] = under.server.cells[under.key]
    grids = [
        over.server.means(metric)[
            :, [over.server.cells[key] for key, at in columns.items() if at is not None]
        ],
        under.server.means(metric)[:, [at for at in columns.values() if at is not None]],
    ]
    shared = (~np.isnan(grids[0])).any(axis=0) & (~np.isnan(grids[1])).any(axis=0)
    wanted = [key for key, at in columns.items() if at is not None].index(over.key)
    alike = over.server.engine_class == under.server.engine_class
    a, b = running(grids[1][:, shared]), running(grids[0][:, shared])
    return many.cell_ratios(a, b, alike=alike)[int(shared[:wanted].sum())]


def work(key: Key) -> dict[str, Any]:
    """The fields of a key that say what was done, and not by whom."""
    return {name: getattr(key, name) for name in WORK}
