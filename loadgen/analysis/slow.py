"""Trials that something else made slow: set apart, counted, and said; what is left speaks of undisturbed trials."""

from __future__ import annotations

import math
import warnings

import numpy as np
from numpy.typing import NDArray

from loadgen.analysis.variance import Array

FAR = math.log(1.3)  # above the typical trial, natural logarithm
SDS = 8.0  # robust standard deviations above it; 5 would cut half a tail off an engine that is merely noisy
LEAST_TRIALS = 3  # of a cell, over all starts of a side
MAD_TO_SD = 1.4826


def slow(trials: Array) -> NDArray[np.bool_]:
    """Which trials stand apart; ``trials`` are log times of one server, shape (starts, cells, repeats), NaN for none.

    A trial stands apart that lies above the median of its cell, the starts' own medians taken out, by more than 30 %
    and by more than 8 robust standard deviations; the cell must have 3 trials. With one start: that lies so far above
    the least of its cell's repeats.
    """
    counts = (~np.isnan(trials)).sum(axis=(0, 2))
    apart = np.zeros(trials.shape, dtype=bool)
    one = len(trials) == 1
    enough = counts >= (2 if one else LEAST_TRIALS)
    if not enough.any():
        return apart
    kept = trials[:, enough]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # a start may lack all of these cells
        if not one:
            about = kept - np.nanmedian(kept, axis=(0, 2), keepdims=True)
            kept = kept - np.nanmedian(about, axis=(1, 2), keepdims=True)
        left = kept - np.nanmedian(kept, axis=(0, 2), keepdims=True)
    count = float(np.median(counts[enough]))
    sd = MAD_TO_SD * float(np.nanmedian(np.abs(left))) * math.sqrt(count / (count - 1))
    if one:
        left = kept - np.nanmin(kept, axis=(0, 2), keepdims=True)
    with np.errstate(invalid="ignore"):
        apart[:, enough] = left > max(FAR, SDS * sd)
    return apart


def share_differs(a: tuple[int, int], b: tuple[int, int]) -> float:
    """Fisher's exact test, two-sided: the p-value of equal shares of slow trials; each side is (slow, all)."""
    from scipy.stats import fisher_exact

    table = [[a[0], a[1] - a[0]], [b[0], b[1] - b[0]]]
    return float(fisher_exact(table).pvalue)
