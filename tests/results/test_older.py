"""Summaries of earlier versions: what was flattered is put right from the samples, or left out without any."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from loadgen.metrics.summary import summarise
from loadgen.records import TrialResult
from loadgen.request_records import Reply, Sample
from loadgen.results.store import Store, open_results

S = 1_000_000_000


def request(
    seq: int, start_s: int, end_s: int, *, phase: Any = "measured", error: str | None = None
) -> Sample:
    counted = None if error else (10,)
    reply = Reply(seq=seq, sent_ns=start_s * S, end_ns=end_s * S, output_tokens=counted, error=error)
    return Sample(
        phase=phase, batch_size=1, input_tokens=20, output_tokens_asked=10, due_ns=None, reply=reply
    )


SAMPLES = [
    request(0, 0, 5, phase="warmup"),
    *(request(1 + at, 5 + at, 6 + at) for at in range(9)),
    request(10, 14, 74, error="TimedOut: no first byte"),
    request(11, 74, 134, error="TimedOut: no first byte"),
]


@pytest.fixture
def older(build: Any) -> TrialResult:
    """As a version before stored it: 9 s and 10 tok/s, where the load took 129 s."""
    result: TrialResult = build.result(
        build.trial(1), 1.0, requests_ok=9, requests_failed=2, errors={"TimedOut": 2}, duration_s=9.0,
        output_tokens=90, output_tokens_per_s=10.0, total_tokens_per_s=30.0, requests_per_s=1.0,
    )  # fmt: skip
    return result


def stored(folder: Path, result: TrialResult, samples: list[Sample]) -> TrialResult:
    with Store.create(folder, {"name": "x"}) as store:
        if samples:
            writer = store.sample_writer(result.trial.id)
            for sample in samples:
                writer.add(sample)
            writer.close()
        store.append(result)
    (found,) = open_results(folder).results()
    return found


def test_rates_run_over_the_time_of_all_requests(tmp_path: Path, older: TrialResult) -> None:
    summary = stored(tmp_path / "x", older, SAMPLES).summary
    assert summary is not None
    assert (summary.duration_s, summary.e2e_s) == (129.0, older.summary and older.summary.e2e_s)
    now = summarise(SAMPLES)
    for name in ("output_tokens_per_s", "total_tokens_per_s", "requests_per_s"):
        assert getattr(summary, name) == pytest.approx(getattr(now, name)), name
    assert summary.output_tokens_per_s == pytest.approx(0.6977, rel=1e-3)


def test_without_samples_no_rate_is_known(tmp_path: Path, older: TrialResult) -> None:
    summary = stored(tmp_path / "x", older, []).summary
    assert summary is not None
    assert {summary.duration_s, summary.output_tokens_per_s, summary.requests_per_s} == {None}
    assert summary.failed_share == pytest.approx(2 / 11)


def test_tokens_that_nobody_counted_are_no_zero(tmp_path: Path, build: Any) -> None:
    uncounted = {"output_tokens": 0, "output_tokens_per_s": None, "total_tokens_per_s": None}
    summary = stored(tmp_path / "x", build.result(build.trial(1), 1.0, **uncounted), []).summary
    assert summary is not None
    assert summary.output_tokens is None


def test_what_this_version_stored_and_what_lost_nothing_stay(
    tmp_path: Path, build: Any, older: TrialResult
) -> None:
    assert older.summary is not None
    now = replace(older, summary=replace(older.summary, definitions=2))
    assert stored(tmp_path / "now", now, SAMPLES) == now
    whole = build.result(build.trial(1))
    assert stored(tmp_path / "whole", whole, []) == whole
