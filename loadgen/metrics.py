"""Samples → Summary. Drivers stamp; this is the one place that subtracts.

Definitions (sources in the README's table of words): *start* is the due time in open loop, else the time sent;
E2E runs from start to the last token, TTFT from start to the first; TPOT = (E2E − TTFT)/(n − 1). Warm-up samples and
failed ones give no latency. What cannot be told from a sample is left out of its distribution, never put in as 0.
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from loadgen.records import Dist, Sample, Summary
from loadgen.units import NS_PER_S, seconds

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
        self._recent.append(value)
        if len(self._recent) >= EXACT_VALUES:
            self._fold()

    def extend(self, values: Iterable[float]) -> None:
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


def start_ns(sample: Sample) -> int:
    """Where latency begins: when the request was due in open loop, else when it was sent."""
    return sample.reply.sent_ns if sample.due_ns is None else sample.due_ns


def e2e_ns(sample: Sample) -> int:
    """Start → last token; without streaming, start → end of the reply."""
    reply = sample.reply
    return (reply.token_ns[-1] if reply.token_ns else reply.end_ns) - start_ns(sample)


def tokens_per_sequence(sample: Sample) -> float | None:
    """Output tokens of one sequence (the mean over a batch); None when nobody counted them."""
    counted = sample.reply.output_tokens
    return sum(counted) / len(counted) if counted else None


def token_gaps_ns(sample: Sample) -> list[int]:
    """ITL: the gaps between token arrivals. A chunk of k tokens is one gap.

    In a batch the sequences' tokens arrive side by side, and the gaps between neighbours say nothing about any
    sequence; there an arrival counts once it brings every sequence, on average, one token further.
    """
    reply, batch = sample.reply, sample.batch_size
    if batch == 1:
        stamps: Sequence[int] = reply.token_ns
    else:
        steps, tokens = [], 0
        for at_ns, count in zip(reply.token_ns, reply.tokens_per_arrival, strict=True):
            if (tokens + count) // batch > tokens // batch:
                steps.append(at_ns)
            tokens += count
        stamps = steps
    return [later - earlier for earlier, later in pairwise(stamps)]


def error_class(error: str) -> str:
    """``TimedOut`` of ``TimedOut: no first byte in 600 s``."""
    return error.split(":", 1)[0]


class Accumulator:
    """Takes samples one by one and forgets them; ``summary`` may be asked for at any time."""

    def __init__(self) -> None:
        self._ok = 0
        self._errors: Counter[str] = Counter()
        self._first_sent_ns: int | None = None
        self._last_end_ns = 0
        self._input_tokens = self._output_tokens = 0
        self._uncounted = 0
        self._e2e, self._ttft, self._tpot, self._itl = Values(), Values(), Values(), Values()
        self._per_token, self._send_lag = Values(), Values()

    def add(self, sample: Sample) -> None:
        """Take a sample; warm-up is left out."""
        if sample.phase != "measured":
            return
        reply = sample.reply
        if reply.error is not None:
            self._errors[error_class(reply.error)] += 1
            return
        self._ok += 1
        if self._first_sent_ns is None or reply.sent_ns < self._first_sent_ns:
            self._first_sent_ns = reply.sent_ns
        self._last_end_ns = max(self._last_end_ns, reply.end_ns)
        self._input_tokens += sample.input_tokens * sample.batch_size
        start, e2e = start_ns(sample), e2e_ns(sample)
        self._e2e.add(e2e)
        if sample.due_ns is not None:
            self._send_lag.add(reply.sent_ns - sample.due_ns)
        tokens = tokens_per_sequence(sample)
        if reply.output_tokens is None or tokens is None:
            self._uncounted += 1
        else:
            self._output_tokens += sum(reply.output_tokens)
            if tokens:
                self._per_token.add(e2e / tokens)
        if reply.token_ns:
            ttft = reply.token_ns[0] - start
            self._ttft.add(ttft)
            # A reply that came in one piece shows no pace: 0 would be a wrong number that looks right.
            if len(reply.token_ns) > 1 and tokens is not None and tokens >= 2:
                self._tpot.add((e2e - ttft) / (tokens - 1))
                self._itl.extend(token_gaps_ns(sample))

    def summary(self, in_flight_mean: float | None = None, in_flight_max: int | None = None) -> Summary:
        """The figures so far. Token rates are None when a sample's tokens were counted by nobody."""
        duration_s = None
        if self._first_sent_ns is not None and self._last_end_ns > self._first_sent_ns:
            duration_s = seconds(self._last_end_ns - self._first_sent_ns)

        def rate(count: int, known: bool = True) -> float | None:
            return count / duration_s if duration_s is not None and known else None

        counted = self._uncounted == 0
        to_s = 1 / NS_PER_S
        return Summary(
            requests_ok=self._ok,
            requests_failed=self._errors.total(),
            errors=dict(self._errors),
            duration_s=duration_s,
            e2e_s=self._e2e.dist(to_s),
            ttft_s=self._ttft.dist(to_s),
            tpot_s=self._tpot.dist(to_s),
            itl_s=self._itl.dist(to_s),
            latency_per_output_token_s=self._per_token.dist(to_s),
            send_lag_s=self._send_lag.dist(to_s),
            output_tokens=self._output_tokens,
            input_tokens=self._input_tokens,
            output_tokens_per_s=rate(self._output_tokens, counted),
            total_tokens_per_s=rate(self._output_tokens + self._input_tokens, counted),
            requests_per_s=rate(self._ok),
            in_flight_mean=in_flight_mean,
            in_flight_max=in_flight_max,
        )


def summarise(
    samples: Iterable[Sample], in_flight_mean: float | None = None, in_flight_max: int | None = None
) -> Summary:
    """The figures of one trial's samples."""
    accumulator = Accumulator()
    for sample in samples:
        accumulator.add(sample)
    return accumulator.summary(in_flight_mean, in_flight_max)


def in_flight(sent_ns: Sequence[int], end_ns: Sequence[int]) -> tuple[float | None, int | None]:
    """Requests in flight, from the stamps of all measured requests: time-weighted mean, and maximum.

    The mean runs from the first send to the last: afterwards a load only drains. Where all were sent at once (fewer
    requests than places) it runs to the last end. A request counts from sent to end, so time that the client took
    between a completion and the next send shows as a mean below the target.
    """
    if len(sent_ns) == 0:
        return None, None
    origin = min(sent_ns)  # small numbers, so that sums stay exact
    sent, end = (np.sort(np.asarray(stamps, np.int64)) - origin for stamps in (sent_ns, end_ns))
    # At each send: those sent so far, less those ended before it.
    depth = np.arange(1, len(sent) + 1) - np.searchsorted(end, sent, side="right")
    until = int(sent[-1]) if end[0] < sent[-1] else int(end[-1])
    if until <= 0:
        return None, int(depth.max())
    inside = np.minimum(end, until).sum(dtype=np.float64) - sent.sum(dtype=np.float64)
    return float(inside) / until, int(depth.max())
