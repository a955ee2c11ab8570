"""Distributions of any number of values in bounded memory. Pure."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from loadgen.metrics.percentiles import PERCENTILES, design_effect, nearest_rank, percentile, ranks
from loadgen.records import Dist

EXACT_VALUES = 1 << 17  # values kept one by one, 1 MiB; beyond, percentiles are within 2⁻¹² (0.025 %)
_MANTISSA_BITS = 12
_KEY_SHIFT = np.int64(52 - _MANTISSA_BITS)
_HEAD = 1 << 14  # values, in their order, that tell the correlation of a folded distribution


class Values:
    """Numbers of one quantity, in bounded memory.

    The first ``EXACT_VALUES`` are kept as they are. Then they are folded into buckets of 2⁻¹² relative width (the
    leading bits of the float), while count, mean, standard deviation, minimum and maximum stay exact: at that many
    values the sampling error of any percentile is far above the width of a bucket.
    """

    __slots__ = ("_buckets", "_head", "_m2", "_max", "_mean", "_min", "_n", "_recent")

    def __init__(self) -> None:
        self._recent = array("d")
        self._buckets: Counter[int] | None = None
        self._head = np.array([])
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
            self._head = values[:_HEAD]
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
        middles = np.clip(_middles(np.array(keys)), self._min, self._max) * scale
        last_rank = np.cumsum([self._buckets[key] for key in keys])
        return _dist(
            n=self._n,
            mean=self._mean * scale,
            stdev=(self._m2 / (self._n - 1)) ** 0.5 * scale,
            least=self._min * scale,
            most=self._max * scale,
            at=lambda rank: float(middles[np.searchsorted(last_rank, rank)]),
            in_order=self._head * scale,
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
    """The distribution of ``values``, in the order they came; None when there are none.

    ``stdev`` is the sample's (n − 1), and None for a single value.
    """
    if len(values) == 0:
        return None
    data = np.asarray(values, dtype=np.float64)
    ordered = np.sort(data)
    return _dist(
        n=len(data),
        mean=float(data.mean()),
        stdev=float(data.std(ddof=1)) if len(data) > 1 else None,
        least=float(ordered[0]),
        most=float(ordered[-1]),
        at=lambda rank: float(ordered[rank - 1]),
        in_order=data,
    )


def _dist(
    *,
    n: int,
    mean: float,
    stdev: float | None,
    least: float,
    most: float,
    at: Callable[[int], float],
    in_order: NDArray[np.float64],
) -> Dist:
    """``at`` gives the value of a rank (from 1); ``in_order`` tells how far values hang on those before them."""
    p50, p90, p95, p99 = (at(nearest_rank(n, percent)) for percent in PERCENTILES.values())
    plain = Dist(n=n, mean=mean, stdev=stdev, min=least, p50=p50, p90=p90, p95=p95, p99=p99, max=most)
    told: dict[str, float | None] = {name: percentile(plain, name) for name in PERCENTILES}
    effects = {name: design_effect(in_order, value) for name, value in told.items() if value is not None}
    intervals = {}
    for name, effect in effects.items():
        low, high = ranks(n, PERCENTILES[name], effect)
        if low is not None:
            intervals[name] = (at(low), None if high is None else at(high))
    return replace(
        plain,
        p90=told["p90"],
        p95=told["p95"],
        p99=told["p99"],
        intervals=intervals,
        independent=n / max(effects.values()),
    )
