"""What cells of the same starts say against each other: effects along a grid, for thresholds, peaks and turns."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from loadgen.analysis.contrasts import effect_draws
from loadgen.analysis.starts import Cell, Pair, Server, lenders, running
from loadgen.analysis.table import Key
from loadgen.analysis.variance import FEWEST_DF, Array, Spread, pooled, spread_of


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Effects:
    """Log effects along a grid, all of one server: what its starts have in common cancels.

    ``variances`` of each and ``mean_variance`` of their mean, with ``df``, and ``draws`` of shape (draws, grid), are
    ``None`` where start × cell is unknown.
    """

    values: tuple[float, ...]
    variances: Array | None = None
    mean_variance: float | None = None
    df: float | None = None
    draws: Array | None = None


def effects(pairs: Sequence[Pair], metric: str, servers: Iterable[Server]) -> Effects | None:
    """log(over / under) of each pair of cells of one server; ``None`` where a figure is missing.

    Where every start has all pairs, and no two share a cell: by the variance between starts of the effects themselves,
    pooled over the grid. Else, and with one start, by that of start × cell, and that of starts where none joins them.
    """
    server = pairs[0][0].server
    if not all(cell.starts(metric) for pair in pairs for cell in pair):
        return None
    contrasts = np.zeros((len(pairs), len(server.cells)))
    for at, (over, under) in enumerate(pairs):
        contrasts[at, server.cells[over.key]] += 1
        contrasts[at, server.cells[under.key]] -= 1
    keys = list(dict.fromkeys(cell.key for pair in pairs for cell in pair))
    apart = running(np.stack([over.logs(metric) - under.logs(metric) for over, under in pairs], axis=1))
    whole = len(keys) == 2 * len(pairs) and len(apart) > 1 and not np.isnan(apart).any()
    if not whole:
        return _told(contrasts, server, metric, _spread(server, keys, metric, servers))
    squares = float(((apart - apart.mean(axis=0)) ** 2).sum())
    halved = Spread(
        rest=squares / 2, rest_df=(len(apart) - 1) * len(pairs)
    )  # a contrast's variance is twice a cell's
    return _told(contrasts, server, metric, halved)


def levels(cells: Sequence[Cell], metric: str, servers: Iterable[Server]) -> Effects | None:
    """Log figures of cells of one server, told against each other; ``None`` where one is missing."""
    server = cells[0].server
    if not all(cell.starts(metric) for cell in cells):
        return None
    contrasts = np.zeros((len(cells), len(server.cells)))
    contrasts[np.arange(len(cells)), [server.cells[cell.key] for cell in cells]] = 1
    spread = _spread(server, [cell.key for cell in cells], metric, servers)
    return _told(contrasts, server, metric, spread)


def _told(contrasts: Array, server: Server, metric: str, spread: Spread) -> Effects:
    """Contrasts (effects, cells) of the fit, with draws where the spread tells."""
    fitted = server.fit(metric)
    values = contrasts @ fitted.cells
    used = contrasts.any(axis=0)
    alone = spread.rest_df < FEWEST_DF
    covariance = np.zeros_like(fitted.covariance) if alone else spread.of_rest * fitted.covariance
    df = spread.rest_df
    if len(set(fitted.groups[used])) > 1:
        together = fitted.groups[:, None] == fitted.groups[None, :]
        covariance = covariance + spread.between_starts * together / np.maximum(fitted.starts, 1)
        alone, df = alone or spread.df < FEWEST_DF, min(df, spread.df)
    if alone:
        return Effects(values=tuple(map(float, values)))
    covariance = contrasts @ covariance @ contrasts.T
    roots, axes = np.linalg.eigh(covariance)
    noise = effect_draws([0.0] * len(values), 1.0, df, _rng(metric, server.key, contrasts.tolist()))
    return Effects(
        values=tuple(map(float, values)),
        variances=np.diag(covariance),
        mean_variance=float(covariance.mean()),
        df=df,
        draws=values + noise @ (axes * np.sqrt(np.maximum(roots, 0.0))).T,
    )


def _spread(server: Server, keys: Sequence[Key], metric: str, servers: Iterable[Server]) -> Spread:
    """Over these cells where every start has them, else over all that its starts have in common; with loans."""
    grid = running(server.means(metric)[:, [server.cells[key] for key in keys]])
    whole = len(grid) == len(server.starts) and len(keys) > 2 and not np.isnan(grid).any()
    own = spread_of(grid) if whole else server.spread(metric)
    others = lenders(servers, [server], metric).get(server.engine_class, [])
    return pooled([own], others, len(grid), within=True)[0]


def _rng(*what: object) -> np.random.Generator:
    return np.random.default_rng(zlib.crc32(repr(what).encode()))
