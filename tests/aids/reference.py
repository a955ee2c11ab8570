"""Two small systems whose every statistic was worked out once, by an independent implementation."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from loadgen.analysis.ratios import Part, Ratio, evenly, weighted
from loadgen.analysis.variance import Array, Spread

# Two starts a side in three cells, natural logarithms.
A = np.log([[100.0, 200.0, 400.0], [101.0, 203.0, 402.0]])
B = np.log([[104.0, 207.0, 418.0], [106.0, 213.0, 419.0]])
LENDERS = [
    Spread(starts=squares, df=df, share=df / 3, servers=1)
    for squares, df in ((2 * 0.0054**2, 2), (3e-5, 1), (1e-4, 1))
]


def overall(a: Array, b: Array, others: Sequence[Spread] = ()) -> Ratio:
    """B over A, servers of one class; ``others`` of the class may lend."""
    parts = [Part(grid=b, weights=evenly(b), kind=""), Part(grid=a, weights=evenly(a, -1.0), kind="")]
    return weighted(parts, {"": others}, (len(b), len(a)))


def unlike(a: Array, b: Array) -> Ratio:
    """B over A, servers of two classes."""
    parts = [Part(grid=b, weights=evenly(b), kind="b"), Part(grid=a, weights=evenly(a, -1.0), kind="a")]
    return weighted(parts, {}, (len(b), len(a)))
