"""Effects along a grid of batches, from within the starts of one server, and where they pass a level."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from loadgen.analysis.cells import cell_variances
from loadgen.analysis.ratios import Ratio, ratio_of
from loadgen.analysis.starts import Cell, Pair
from loadgen.analysis.study import Study
from loadgen.analysis.thresholds import Threshold, crossing
from loadgen.analysis.variance import ENOUGH_STARTS, spread_of, t_below
from loadgen.analysis.within import Effects

ONE_START = "one start: what starts differ by in a cell is not known"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Along:
    """Log effects at the batches of ``grid``, with the fewest ``starts`` behind one of them."""

    grid: tuple[int, ...]
    effects: Effects
    starts: int

    @property
    def values(self) -> tuple[float, ...]:
        """The log effects."""
        return self.effects.values

    @property
    def told(self) -> bool:
        """Whether anything says how large the noise is."""
        return self.effects.variances is not None

    def crossing(self, level: float) -> Threshold:
        """The first batch from which on the effect is at least ``level``."""
        return crossing(self.grid, self.values, self.effects.draws, level)

    def p_risen(self, at: int, level: float) -> float:
        """p-value of "already at ``level`` at the ``at``-th batch": small where it is shown below. 1 unknown."""
        return self._tail(at, self.values[at] - level)

    def p_flat(self, at: int, level: float) -> float:
        """p-value of "not above ``level`` at the ``at``-th batch": small where it is shown above. 1 unknown."""
        return self._tail(at, level - self.values[at])

    def _tail(self, at: int, excess: float) -> float:
        if self.effects.variances is None or self.effects.df is None:
            return 1.0
        variance = float(self.effects.variances[at])
        if variance == 0:
            return 1.0 if excess >= 0 else 0.0
        return t_below(excess / math.sqrt(variance), self.effects.df)


def along(study: Study, over: Sequence[Cell], under: Sequence[Cell], metric: str) -> Along | None:
    """log(over / under), pair by pair of cells of one server; ``None`` for fewer than 2 pairs with the figure.

    Where no chain of starts joins some cells, only pairs that share a start.
    """
    pairs = [pair for pair in zip(over, under, strict=True) if all(cell.starts(metric) for cell in pair)]
    found = study.effects(pairs, metric) if len(pairs) > 1 else None
    if found is None:
        pairs = [pair for pair in pairs if not np.isnan(pair[0].logs(metric) + pair[1].logs(metric)).all()]
        found = study.effects(pairs, metric) if len(pairs) > 1 else None
    if found is None:
        return None
    starts = min(cell.starts(metric) for pair in pairs for cell in pair)
    return Along(grid=tuple(top.key.batch for top, _ in pairs), effects=found, starts=starts)


def own_ratios(study: Study, pairs: Sequence[Pair], metric: str) -> list[Ratio | None]:
    """over / under in each pair of cells of one server, ``None`` without the figure.

    From 3 starts on by the larger of the pooled variance of such contrasts and a cell's own, shrunk (``cells``): a
    cell in which most trials were slow says so itself. With fewer, and for pairs that share no start, by the server's.
    """
    known: list[tuple[float, float] | None] = [None] * len(pairs)
    each = np.stack([over.logs(metric) - under.logs(metric) for over, under in pairs], axis=1)
    each = each[(~np.isnan(each)).any(axis=1)]
    if len(each) >= ENOUGH_STARTS and len(pairs) > 1:
        known = cell_variances([each], spread_of(each))
    found: list[Ratio | None] = []
    for at, (pair, variance) in enumerate(zip(pairs, known, strict=True)):
        values = each[:, at][~np.isnan(each[:, at])]
        if variance is None or not len(values):
            found.append(study.mean_ratio([pair], metric))
            continue
        shared = (variance[0] / len(values), variance[1])
        starts = (len(values), len(values))
        found.append(
            ratio_of(float(values.mean()), shared, starts=starts, source="effects within its starts")
        )
    return found
