"""How much a server's figures vary: from start to start, and from start to start within a cell.

A start's figure in a cell, as a natural logarithm, is cell + start + rest; the rest holds start × cell and the trials.
Every quantity of interest is a weighted sum of such figures, and its variance is

    W_S·σ²_S + W_C·σ²_C,   W_S = Σ over starts (Σ over cells of the weights)²,   W_C = Σ weights².

Both variances are estimated by moments (Henderson 1953), the degrees of freedom by Satterthwaite (1946).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

CONFIDENCE = 0.95
LENT = 0.5  # what a degree of freedom of another server counts: variances differ between servers
ENOUGH_STARTS = 3  # from so many starts a side on, nothing is borrowed
FEWEST_DF = 2.0  # below which an interval by one pooled variance would be fiction
ROUNDING = 1e-9  # what a weight that cancels out may leave


def t_quantile(probability: float, df: float) -> float:
    """Quantile of Student's t with ``df`` > 0 degrees of freedom, fractions included."""
    from scipy import special

    return float(special.stdtrit(df, probability))


def t_below(value: float, df: float) -> float:
    """The probability that Student's t with ``df`` degrees of freedom is at most ``value``."""
    from scipy import special

    return float(special.stdtr(df, value))


def f_quantile(probability: float, over: float, under: float) -> float:
    """Quantile of Fisher's F with ``over`` and ``under`` degrees of freedom."""
    from scipy import special

    return float(special.fdtri(over, under, probability))


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """Sums of squares about cell + start, of one server or pooled over ``servers``; natural logarithms.

    ``starts``: Σ of the starts' squared offsets, with ``df`` degrees of freedom; ``share``: Σ of the offsets' variances
    where the rest's is 1, which is df over the number of cells on a full grid; ``rest``: Σ of squared residuals, with
    ``rest_df``.
    """

    starts: float = 0.0
    df: float = 0.0
    share: float = 0.0
    rest: float = 0.0
    rest_df: float = 0.0
    servers: int = 0

    def __add__(self, other: Spread) -> Spread:
        return Spread(
            starts=self.starts + other.starts,
            df=self.df + other.df,
            share=self.share + other.share,
            rest=self.rest + other.rest,
            rest_df=self.rest_df + other.rest_df,
            servers=self.servers + other.servers,
        )

    def counted(self, weight: float) -> Spread:
        """The same spread, each degree of freedom counted as ``weight`` of one."""
        return Spread(
            starts=self.starts * weight,
            df=self.df * weight,
            share=self.share * weight,
            rest=self.rest * weight,
            rest_df=self.rest_df * weight,
            servers=self.servers,
        )

    @property
    def of_starts(self) -> float:
        """M1: the variance of a start's mean over its cells; NaN without a degree of freedom."""
        return self.starts / self.df if self.df else math.nan

    @property
    def of_rest(self) -> float:
        """M2: the variance of start × cell, trials included; NaN without a degree of freedom."""
        return self.rest / self.rest_df if self.rest_df else math.nan

    @property
    def between_starts(self) -> float:
        """σ²_S: the variance of what a start's cells have in common; NaN without a degree of freedom."""
        rest = self.of_rest if self.rest_df else 0.0
        return max(self.of_starts - self.share / self.df * rest, 0.0) if self.df else math.nan

    def variance(self, of_starts: float, of_cells: float) -> tuple[float, float] | None:
        """W_S·σ²_S + W_C·σ²_C for the weights W_S and W_C, with its degrees of freedom; ``None`` when unknown.

        On a full grid's own mean that is W_S·M1, with M1's degrees. Holes, or a claim of fewer cells, leave some of M2
        in it; nothing is taken off for a claim of more cells. Never below W_C·M2.
        """
        left = of_cells - of_starts * (self.share / self.df if self.df else 0.0)
        left = max(left, 0.0) if of_starts > ROUNDING * of_cells else of_cells
        parts = []
        if of_starts > ROUNDING * of_cells:
            if not self.df:
                return None
            parts.append((of_starts * self.of_starts, self.df))
        if left > ROUNDING * of_cells:
            if not self.rest_df:
                return None  # one cell alone: its start × cell cannot be told from its start
            parts.append((left * self.of_rest, self.rest_df))
        found = _satterthwaite(sum(part for part, _ in parts), parts)
        if found is not None and len(parts) == 2 and of_cells < of_starts * (1 - ROUNDING):
            least = of_cells * self.of_rest
            return found if found[0] >= least else (least, self.df)
        return found


def _satterthwaite(variance: float, parts: Sequence[tuple[float, float]]) -> tuple[float, float] | None:
    """The variance with the degrees of freedom of a sum of mean squares, each part (variance, df)."""
    spread = sum(part**2 / df for part, df in parts)
    if not parts:
        return None
    if spread == 0:
        return variance, min(df for _, df in parts)
    return variance, variance**2 / spread


def summed(parts: Sequence[tuple[float, float] | None]) -> tuple[float, float] | None:
    """The sum of independent variances, each with its df (Welch 1947); ``None`` where one is unknown."""
    known = [part for part in parts if part is not None]
    if len(known) < len(parts):
        return None
    return _satterthwaite(sum(variance for variance, _ in known), known)


def spread_of(grid: Array) -> Spread:
    """The spread of one server; ``grid`` holds log figures, shape (starts, cells), NaN where a start lacks a cell.

    With holes the starts' offsets are those of the additive fit by least squares.
    """
    seen = ~np.isnan(grid)
    if len(grid) < 2 or not seen.any():
        return Spread(servers=1)
    cells = seen.sum(axis=0)
    kept = cells > 0
    grid, seen, cells = grid[:, kept], seen[:, kept], cells[kept]
    filled = np.where(seen, grid, 0.0)
    centred = np.where(seen, filled - filled.sum(axis=0) / cells, 0.0)
    if seen.all():
        offsets = centred.mean(axis=1)
        inverse = np.eye(len(grid)) / grid.shape[1]
        rank = len(grid) - 1
        share = rank / grid.shape[1]
    else:
        # Starts' normal equations with the cells eliminated; the pseudo-inverse sets the offsets' sum to 0.
        normal = np.diag(seen.sum(axis=1).astype(float)) - (seen / cells) @ seen.T
        inverse = np.linalg.pinv(normal, hermitian=True)
        offsets = inverse @ centred.sum(axis=1)
        rank = int(np.linalg.matrix_rank(normal, hermitian=True))
        share = float(np.trace(inverse))
    left = np.where(seen, centred - offsets[:, None], 0.0)
    left = np.where(seen, left - left.sum(axis=0) / cells, 0.0)
    rest_df = int(seen.sum()) - grid.shape[1] - rank
    return Spread(
        starts=float((offsets**2).sum()),
        df=rank,
        share=share,
        rest=float((left**2).sum()) if rest_df else 0.0,
        rest_df=rest_df,
        servers=1,
    )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Fit:
    """Cells' log figures at their starts' mean, by least squares on cell + start.

    ``covariance`` is for a rest of variance 1. No start joins cells of two ``groups``: between those the starts' own
    variance comes in, σ²_S over the group's number of ``starts``.
    """

    cells: Array
    covariance: Array
    groups: NDArray[np.int64]
    starts: NDArray[np.int64]


def fit(grid: Array) -> Fit:
    """The additive fit of one server's log figures, shape (starts, cells), NaN where a start lacks a cell."""
    seen = ~np.isnan(grid)
    starts, cells = seen.shape
    joined = seen.T.astype(int) @ seen.astype(int)  # cells that share a start, and what those share in turn
    for _ in range(cells.bit_length()):
        joined = np.minimum(joined @ joined, 1)
    row, column = np.nonzero(seen)
    design = np.zeros((len(row), starts + cells))
    design[np.arange(len(row)), row] = 1
    design[np.arange(len(row)), starts + column] = 1
    inverse = np.linalg.pinv(design.T @ design, hermitian=True)
    members = (joined @ seen.T > 0).astype(float)  # (cells, starts): those of the cell's group
    counts = members.sum(axis=1)
    at_mean = np.hstack([members / np.maximum(counts, 1)[:, None], np.eye(cells)])
    return Fit(
        cells=at_mean @ inverse @ design.T @ grid[row, column],
        covariance=at_mean @ inverse @ at_mean.T,
        groups=joined.argmax(axis=1),
        starts=counts.astype(int),
    )


def pooled(
    own: Sequence[Spread], others: Sequence[Spread], fewest: int, *, within: bool = False
) -> tuple[Spread, str]:
    """The spread that a claim goes by, and where it came from, in words.

    ``own``: of the servers compared. ``others``: of further servers of the same class (engine, variant, load, machine),
    which lend theirs at half their degrees of freedom where a side has fewer than 3 starts (``fewest``) or these share
    too few cells, unless its own spread is larger than theirs beyond chance. ``within``: the claim compares cells of
    the same starts.
    """
    mine = sum(own, Spread())
    lenders = [each for each in others if each.df > 0]
    theirs = sum(lenders, Spread())
    enough = fewest >= ENOUGH_STARTS and (mine.rest_df if within else mine.df) >= FEWEST_DF
    if enough or not lenders:
        return mine, "spread between its own starts"
    over, over_df, under, under_df = (
        (mine.of_rest, mine.rest_df, theirs.of_rest, theirs.rest_df)
        if within
        else (mine.of_starts, mine.df, theirs.of_starts, theirs.df)
    )
    if over_df and under_df and over > under * f_quantile(CONFIDENCE, over_df, under_df):
        return mine, "spread between its own starts, which is wider than that of other servers"
    plural = "s" if len(lenders) > 1 else ""
    lent = f"borrowed from {len(lenders)} server{plural} ({theirs.df:g} df counted as {theirs.df * LENT:g})"
    return mine + theirs.counted(LENT), f"spread between starts {lent}"
