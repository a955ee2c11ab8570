"""Distributions of any number of values in bounded memory. Pure."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from loadgen.records import Dist

EXACT_VALUES = 1 << 17  # values kept one by one, 1 MiB; beyond, percentiles are within 2⁻¹² (0.025 %)
_MANTISSA_BITS = 12
_KEY_SHIFT = np.int64(52 - _MANTISSA_BITS)
PERCENTILES = (50, 90, 95, 99)


class Values:
    """Numbers of one quantity, in bounded memory.

    The first ``EXACT_VALUES`` are kept as they are. Then they are folded into buckets of 2⁻¹² relative width (the
    leading bits of the float), while count, mean, standard deviation, minimum and maximum stay exact: at that many
    values the sampling error of any percentile is far above the width of a bucket.
    """

    __slots__ = ("_buckets", "_m2", "_max", "_mean", "_min", "_n", "_recent")

    def __init__(self) -> None:
        self._recent = array("d")
        self._buckets: Counter[int] | None = None
        self._n, self._mean, self._m2 = 0, 0.0, 0.0
        self._min, self._max = float("inf"), float("-inf")

    def add(self, value: float) -> None:
        """Take in a value; beyond ``EXACT_VALUES`` of them only buckets are kept."""
        self._recent.append(value)
        if len(self._recent) >= EXACT_VALUES:
            self._fold()

    def extend(self, values: Iterable[float]) -> None:
        """Take in many values, folded at most once."""
        self._recent.extend(values)
        if len(self._recent) >= EXACT_VALUES:
            self._fold()

    def __len__(self) -> int:
        return self._n + len(self._recent)

    def _fold(self) -> None:
        values = np.array(self._recent)
        del self._recent[:]
        self._absorb(values)
        if self._buckets is None:
            self._buckets = Counter()
        keys, counts = np.unique(_keys(values), return_counts=True)
        for key, count in zip(keys.tolist(), counts.tolist(), strict=True):
            self._buckets[key] += count

    def _absorb(self, values: NDArray[np.float64]) -> None:
        """Merge mean and sum of squares of another part (Chan, Golub and LeVeque, 1979)."""
        n, mean = len(values), float(values.mean())
        m2 = float(((values - mean) ** 2).sum())
        total = self._n + n
        gap = mean - self._mean
        self._m2 += m2 + gap * gap * self._n * n / total
        self._mean += gap * n / total
        self._n = total
        self._min, self._max = min(self._min, float(values.min())), max(self._max, float(values.max()))

    def dist(self, scale: float = 1.0) -> Dist | None:
        """The distribution of the values times ``scale``; None when there are none."""
        if self._buckets is None:
            return dist(np.array(self._recent) * scale)
        if self._recent:
            self._fold()
        keys = sorted(self._buckets)
        counts = np.array([self._buckets[key] for key in keys])
        middles = np.clip(_middles(np.array(keys)), self._min, self._max)
        last_rank = np.cumsum(counts) - 1
        ranks = np.array(PERCENTILES) / 100 * (self._n - 1)
        at = middles[np.searchsorted(last_rank, np.floor(ranks))]
        p50, p90, p95, p99 = (float(value) * scale for value in at)
        return Dist(
            n=self._n,
            mean=self._mean * scale,
            stdev=(self._m2 / (self._n - 1)) ** 0.5 * scale,
            min=self._min * scale,
            p50=p50,
            p90=p90,
            p95=p95,
            p99=p99,
            max=self._max * scale,
        )


def _keys(values: NDArray[np.float64]) -> NDArray[np.int64]:
    """The leading bits of each value as an integer that sorts as the values do."""
    bits = np.abs(values).view(np.int64) >> _KEY_SHIFT
    return np.where(values < 0, -bits, bits)


def _middles(keys: NDArray[np.int64]) -> NDArray[np.float64]:
    """The middle of each key's bucket; the key of zero is zero itself."""
    half = np.where(keys == 0, 0, 1 << int(_KEY_SHIFT - 1))
    size = ((np.abs(keys) << _KEY_SHIFT) + half).view(np.float64)
    return np.where(keys < 0, -size, size)


def dist(values: Sequence[float] | NDArray[np.float64]) -> Dist | None:
    """The distribution of ``values``, percentiles by linear interpolation; None when there are none.

    ``stdev`` is the sample's (n − 1), and None for a single value.
    """
    if len(values) == 0:
        return None
    data = np.asarray(values, dtype=np.float64)
    p50, p90, p95, p99 = (float(value) for value in np.percentile(data, PERCENTILES))
    return Dist(
        n=len(data),
        mean=float(data.mean()),
        stdev=float(data.std(ddof=1)) if len(data) > 1 else None,
        min=float(data.min()),
        p50=p50,
        p90=p90,
        p95=p95,
        p99=p99,
        max=float(data.max()),
    )
