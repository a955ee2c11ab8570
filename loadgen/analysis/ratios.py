"""The quotient of two systems' figures: from start means, by Student's t.

The unit is the server's start. One variance serves all servers of one class; unlike classes have each their own (Welch
1947). Starts of both sides that ran side by side are pairs, and from 3 pairs on the pair is the unit.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from loadgen.analysis.variance import (
    CONFIDENCE,
    FEWEST_DF,
    ROUNDING,
    Array,
    Spread,
    pooled,
    spread_of,
    summed,
    t_below,
    t_quantile,
)

TRIMMED = 0.2  # of the cells, at each end, where one start a side cannot tell a slow trial from a slow cell
ONE_START = "one start each: not told"


@dataclass(frozen=True, slots=True, kw_only=True)
class Ratio:
    """A quotient of two figures with its 95 % interval.

    ``se`` is the standard error of its natural logarithm, with ``df`` degrees of freedom; both and the interval are
    ``None`` where the spread between starts is unknown. ``starts`` and ``machines`` count those behind numerator and
    denominator; ``source`` says where the spread came from, or why there is none. ``adjusted``: the p-value after Holm
    over all cells of one claim, for the ratio of a cell.
    """

    value: float
    low: float | None = None
    high: float | None = None
    se: float | None = None
    df: float | None = None
    starts: tuple[int, int] = (0, 0)
    machines: tuple[int, int] = (0, 0)
    source: str = ""
    adjusted: float | None = None

    @property
    def told(self) -> bool:
        """Whether there is an interval."""
        return self.se is not None

    def above(self, level: float) -> bool:
        """Whether the whole interval lies above ``level``; never without an interval."""
        return self.low is not None and self.low > level

    def below(self, level: float) -> bool:
        """Whether the whole interval lies below ``level``; never without an interval."""
        return self.high is not None and self.high < level

    def p_above(self, level: float) -> float:
        """One-sided p-value of "not above ``level``": below 0.05 the ratio is shown to be above. 1 without interval."""
        return self._tail(math.log(self.value / level))

    def p_below(self, level: float) -> float:
        """One-sided p-value of "not below ``level``". 1 without an interval."""
        return self._tail(-math.log(self.value / level))

    def _tail(self, excess: float) -> float:
        if self.se is None or self.df is None:
            return 1.0
        if self.se == 0:
            return 0.0 if excess > 0 else 1.0
        return t_below(-excess / self.se, self.df)

    @property
    def p(self) -> float:
        """Two-sided p-value of "no difference". 1 without an interval."""
        return min(1.0, 2 * min(self.p_above(1), self.p_below(1)))

    @property
    def differs(self) -> bool:
        """Whether a difference is shown at 5 %: for a cell of several, after Holm."""
        return (self.p if self.adjusted is None else self.adjusted) < 1 - CONFIDENCE

    def p_within(self, margin: float) -> float:
        """p-value of "not within ×÷(1 + margin)": two one-sided tests (Schuirmann 1987); 1 without an interval."""
        return max(self.p_above(1 / (1 + margin)), self.p_below(1 + margin))

    def p_outside(self, margin: float) -> float:
        """One-sided p-value of "not beyond ×÷(1 + margin)". 1 without an interval."""
        return min(self.p_above(1 + margin), self.p_below(1 / (1 + margin)))

    @property
    def inverse(self) -> Ratio:
        """Denominator over numerator."""
        low, high = (None if bound is None else 1 / bound for bound in (self.high, self.low))
        return replace(
            self,
            value=1 / self.value,
            low=low,
            high=high,
            starts=self.starts[::-1],
            machines=self.machines[::-1],
        )


def ratio_of(
    log_ratio: float,
    known: tuple[float, float] | None,
    *,
    starts: tuple[int, int] = (0, 0),
    source: str = "",
    fewest_df: float = 1.0,
) -> Ratio:
    """The ratio from its logarithm and (variance, df); without an interval where those are unknown, or df too few."""
    value = math.exp(log_ratio)
    if known is None or known[1] < fewest_df:
        few = "one start: how starts differ is not known"
        why = few if starts == (1, 0) else ONE_START if max(starts) <= 1 else "too few starts: not told"
        return Ratio(value=value, starts=starts, source=why)
    se, df = math.sqrt(known[0]), known[1]
    reach = t_quantile((1 + CONFIDENCE) / 2, df) * se
    return Ratio(
        value=value,
        low=math.exp(log_ratio - reach),
        high=math.exp(log_ratio + reach),
        se=se,
        df=df,
        starts=starts,
        source=source,
    )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Part:
    """One server's part in a claim: its log figures (starts, cells), NaN for holes, and their weights, 0 at holes.

    Weights are positive where it stands in the numerator. ``kind`` is equal for servers of one class. ``spread``: of
    more of its cells than the claim's, where those are too few.
    """

    grid: Array
    weights: Array
    kind: Hashable
    spread: Spread | None = None


def weighted(
    parts: Sequence[Part],
    others: Mapping[Hashable, Sequence[Spread]],
    starts: tuple[int, int],
    log_ratio: float | None = None,
) -> Ratio:
    """The ratio whose logarithm is the weighted sum over all parts; ``others`` may lend their spread, by class.

    Cells of one server's starts that stand against each other cancel what those starts have in common.
    """
    total = sum(float(np.where(part.weights != 0, part.grid * part.weights, 0.0).sum()) for part in parts)
    found, sources = [], []
    kinds = list(dict.fromkeys(part.kind for part in parts))
    for kind in kinds:
        members = [part for part in parts if part.kind == kind]
        of_starts = sum(float((part.weights.sum(axis=1) ** 2).sum()) for part in members)
        of_cells = sum(float((part.weights**2).sum()) for part in members)
        own = [part.spread or spread_of(part.grid) for part in members]
        within = of_starts <= ROUNDING * of_cells
        fewest = min(len(part.grid) for part in members)
        for starts_a_side in (fewest, 1):  # 1: its own starts share too few cells to tell, so all may lend
            spread, source = pooled(own, others.get(kind, ()), starts_a_side, within=within)
            known = spread.variance(of_starts, of_cells)
            if known is not None and known[1] >= FEWEST_DF:
                break
        found.append(known)
        sources.append(source)
    return ratio_of(
        total if log_ratio is None else log_ratio,
        summed(found),
        starts=starts,
        source="; ".join(dict.fromkeys(sources)),
        fewest_df=FEWEST_DF if len(kinds) == 1 else 1.0,
    )


def evenly(grid: Array, share: float = 1.0) -> Array:
    """Weights of the mean over cells of the means over starts, ``share`` in all; every cell has a start."""
    seen = ~np.isnan(grid)
    weights: Array = np.where(seen, share / (grid.shape[1] * seen.sum(axis=0)), 0.0)
    return weights


def trimmed(differences: Array) -> float:
    """The mean over cells without the lowest and highest fifth."""
    ordered = np.sort(differences)
    cut = int(TRIMMED * len(ordered))
    return float(ordered[cut : len(ordered) - cut].mean())


def paired(a: Array, b: Array) -> Ratio:
    """B over A where row by row the starts ran side by side on one machine; 3 pairs or more."""
    apart = b - a
    part = Part(grid=apart, weights=evenly(apart), kind="pairs")
    return replace(weighted([part], {}, (len(b), len(a))), source=f"{len(b)} pairs of starts side by side")


def beside_trend(a: Array, b: Array, hours: Array) -> Ratio | None:
    """B over A where both drift alike over time, by least squares on start means: one degree of freedom goes to it.

    ``hours`` of A's starts, then B's. ``None`` where time and side cannot be told apart.
    """
    means = np.concatenate([a.mean(axis=1), b.mean(axis=1)])
    design = np.stack(
        [np.ones(len(means)), np.repeat([0.0, 1.0], [len(a), len(b)]), hours - hours.mean()], axis=1
    )
    found, _, rank, _ = np.linalg.lstsq(design, means, rcond=None)
    df = len(means) - design.shape[1]
    if rank < design.shape[1] or df < FEWEST_DF:
        return None
    variance = float(((means - design @ found) ** 2).sum()) / df * np.linalg.inv(design.T @ design)[1, 1]
    source = "spread between its own starts beside a trend over their time"
    return ratio_of(float(found[1]), (float(variance), df), starts=(len(b), len(a)), source=source)
