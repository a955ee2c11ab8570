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
MEDIAN_TO_SD = 1.4826 / math.sqrt(2)  # of normal differences, for the deviation of one of the two


def slow(trials: Array) -> NDArray[np.bool_]:
    """Which trials stand apart; ``trials`` are log times of one server, shape (starts, cells, repeats), NaN for none.

    A trial stands apart that lies above the median of its cell, the starts' own medians taken out, by more than 30 %
    and by more than 8 robust standard deviations; the cell must have 3 trials. Where the median itself is slow, because
    one trial lies as far below it, and with one start: that lies so far above the least of its cell.
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
        far = max(FAR, SDS * _scale(kept))
        left = kept - np.nanmedian(kept, axis=(0, 2), keepdims=True)
        least = np.nanmin(left, axis=(0, 2), keepdims=True)
    # Nothing makes a trial fast, but chance makes two of three slow.
    left = left - np.where((least < -far) | one, least, 0.0)
    with np.errstate(invalid="ignore"):
        apart[:, enough] = left > far
    return apart


def _scale(trials: Array) -> float:
    """A robust standard deviation: from the median difference of two trials of one cell, starts' medians taken out.

    That is unbiased for any number of trials; deviations from the median of 3 are a third zeros, and tell 0.6 of it.
    """
    by_cell = np.moveaxis(trials, 1, 0).reshape(trials.shape[1], -1)
    one, other = np.triu_indices(by_cell.shape[1], 1)
    return MEDIAN_TO_SD * float(np.nanmedian(np.abs(by_cell[:, one] - by_cell[:, other])))


def share_differs(a: tuple[int, int], b: tuple[int, int]) -> float:
    """Fisher's exact test, two-sided: the p-value of equal shares of slow trials; each side is (slow, all)."""
    from scipy.stats import fisher_exact

    table = [[a[0], a[1] - a[0]], [b[0], b[1] - b[0]]]
    return float(fisher_exact(table).pvalue)
