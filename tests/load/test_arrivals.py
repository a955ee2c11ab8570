"""Schedules: the distributions are what their names say, and sharing them changes nothing."""

from __future__ import annotations

from itertools import islice
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from loadgen.errors import BadInput
from loadgen.load.arrivals import CHUNK, schedule, share
from loadgen.load_records import LoadSpec
from loadgen.traces.rows import TraceRow


def load(kind: Any, **more: Any) -> LoadSpec:
    return LoadSpec(**{"kind": kind, "input_tokens": 8, "output_tokens": 4, "rate": 50.0, **more})


def offsets_s(spec: LoadSpec) -> np.ndarray:
    return np.array([arrival.offset_ns for arrival in schedule(spec)]) / 1e9


def test_constant_is_constant_and_does_not_drift() -> None:
    due = [arrival.offset_ns for arrival in schedule(load("constant", rate=3.0, requests=200_000))]
    assert due[0] == 0
    gaps = np.diff(np.array(due))
    assert set(gaps.tolist()) == {333_333_333, 333_333_334}
    assert due[150_000] == 50_000 * 10**9  # to the nanosecond after 14 hours


def test_poisson_gaps_are_exponential() -> None:
    gaps = np.diff(offsets_s(load("poisson", requests=20_000, seed=1)), prepend=0.0)
    assert stats.kstest(gaps, stats.expon(scale=1 / 50).cdf).pvalue > 0.01
    # The same number in equal windows: variance equals mean, which rescaled or sorted gaps would not give.
    counts = np.bincount((offsets_s(load("poisson", requests=20_000, seed=1)) // 1).astype(int))[:-1]
    assert counts.var() / counts.mean() == pytest.approx(1.0, abs=0.25)


@pytest.mark.parametrize("burstiness", [0.5, 1.0, 4.0])
def test_gamma_has_the_mean_and_burstiness_asked_for(burstiness: float) -> None:
    gaps = np.diff(offsets_s(load("gamma", requests=50_000, burstiness=burstiness)), prepend=0.0)
    assert gaps.mean() == pytest.approx(1 / 50, rel=0.03)
    assert gaps.std() / gaps.mean() == pytest.approx(1 / burstiness**0.5, rel=0.03)
    assert stats.kstest(gaps, stats.gamma(burstiness, scale=1 / (50 * burstiness)).cdf).pvalue > 0.01


@pytest.mark.parametrize(("first", "last"), [(10.0, 100.0), (100.0, 10.0), (50.0, 50.0), (50.0, 50.0 + 1e-9)])
def test_ramp_has_the_cumulative_count_of_a_linear_rate(first: float, last: float) -> None:
    requests = 5_000
    due = offsets_s(load("ramp", rate=first, rate_end=last, requests=requests))
    duration = 2 * requests / (first + last)
    assert (np.diff(due) > 0).all()
    assert due[0] == 0
    assert due[-1] < duration
    expected = first * due + (last - first) / duration * due**2 / 2
    assert np.allclose(expected, np.arange(requests), atol=1e-4)


@pytest.mark.parametrize("kind", ["constant", "poisson", "gamma", "ramp", "closed"])
@pytest.mark.parametrize("workers", [1, 2, 3, 7])
def test_the_merged_schedule_of_workers_is_the_schedule_of_one(kind: str, workers: int) -> None:
    spec = load(kind, requests=1_000, burstiness=0.5, rate_end=80.0, seed=3)
    whole = list(schedule(spec))
    parts = [arrival for worker in range(workers) for arrival in share(schedule(spec), worker, workers)]
    assert sorted(parts) == whole
    assert len(whole) == 1_000


def test_chunks_join_without_a_seam() -> None:
    spec = load("poisson", requests=CHUNK + 1_000, rate=1_000.0)
    due = [arrival.offset_ns for arrival in schedule(spec)]
    assert len(due) == CHUNK + 1_000
    assert due == sorted(due)
    assert due[CHUNK] - due[CHUNK - 1] < 10_000_000


def test_a_huge_schedule_starts_at_once() -> None:
    first = list(islice(schedule(load("poisson", requests=10**12)), 3))
    assert [arrival.number for arrival in first] == [0, 1, 2]


def test_seeds_decide_the_schedule() -> None:
    one, again, other = (list(schedule(load("poisson", requests=50, seed=seed))) for seed in (1, 1, 2))
    assert one == again
    assert one != other


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        (load("constant", rate=None), "rate = None"),
        (load("poisson", rate=0.0), "rate = 0.0"),
        (load("ramp", rate_end=None), "rate_end = None"),
        (load("gamma", burstiness=-1.0), "burstiness = -1.0"),
        (load("constant", rate=float("nan")), "rate = nan"),
    ],
)
def test_an_impossible_schedule_is_one_clear_error(spec: LoadSpec, words: str) -> None:
    with pytest.raises(BadInput, match=words):
        list(schedule(spec))


ROWS = [TraceRow(0, 5, 6), TraceRow(250, 5, 7), TraceRow(250, 8, 6, None, (3, 1)), TraceRow(1000, 5, 6)]


def test_a_trace_is_replayed_as_written() -> None:
    rows = list(schedule(load("trace", trace="t.jsonl", requests=3, rate=None), ROWS))
    assert [row[:5] for row in rows] == [(0, 0, 5, 6, ()), (1, 250, 5, 7, ()), (2, 250, 8, 6, (3, 1))]
    assert len(list(schedule(load("trace", requests=0), ROWS))) == 4


def test_a_trace_that_is_too_short_says_so() -> None:
    with pytest.raises(BadInput, match="requests = 9: the trace has 4"):
        list(schedule(load("trace", trace="t.jsonl", requests=9), ROWS))


@given(st.integers(0, 300), st.integers(1, 9))
def test_shares_partition_anything(count: int, workers: int) -> None:
    parts = [list(share(range(count), worker, workers)) for worker in range(workers)]
    assert sorted(item for part in parts for item in part) == list(range(count))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1
