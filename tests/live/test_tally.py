"""The running trial's tally: what counts, what is unknown, and how many kept the objectives."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from loadgen.live.tally import RECENT, Kept, Tally
from loadgen.metrics.objectives import make_slo


def test_the_tally_counts_good_measured_samples_only(build: Any) -> None:
    tally = Tally()
    tally.fold(build.sample(0, e2e_ms=9000, phase="warmup"), 1)
    tally.fold(build.sample(1, sent_ms=0, e2e_ms=100, ttft_ms=10, tokens=(20, 20)), 2)
    tally.fold(build.sample(2, sent_ms=100, e2e_ms=300, ttft_ms=30, tokens=(20, 20)), 1)
    tally.fold(build.sample(3, sent_ms=100, e2e_ms=7000, error="TimedOut: total: 7 s"), 0)
    live = tally.figures()
    assert (live.warmup, live.ok, live.failed, live.in_flight) == (1, 2, 1, 0)
    assert live.e2e_p50_s == pytest.approx(0.2)
    assert live.ttft_p50_s == pytest.approx(0.02)
    assert live.tokens_per_s == pytest.approx(80 / 7.1)  # the failed one's time counts
    assert live.errors == {"TimedOut": 1}


def test_open_loop_latency_runs_from_the_due_time(build: Any) -> None:
    tally = Tally()
    tally.fold(build.sample(sent_ms=1000, due_ms=500, e2e_ms=100, ttft_ms=10), 1)
    assert tally.figures().e2e_p50_s == pytest.approx(0.6)
    assert tally.figures().ttft_p50_s == pytest.approx(0.51)


def test_nothing_measured_is_none(build: Any) -> None:
    tally = Tally()
    tally.fold(build.sample(error="ConnectFailed: refused"), 0)
    live = tally.figures()
    assert (live.e2e_p50_s, live.ttft_p50_s, live.tokens_per_s) == (None, None, None)
    tally.fold(build.sample(ttft_ms=None), 0)
    assert tally.figures().ttft_p50_s is None


def test_a_sample_without_a_token_count_adds_none(build: Any) -> None:
    sample = build.sample()
    tally = Tally()
    tally.fold(replace(sample, reply=replace(sample.reply, output_tokens=None)), 0)
    assert tally.figures().tokens_per_s is None
    tally.fold(build.sample(1), 0)
    assert tally.figures().tokens_per_s is None  # of one counted and one uncounted reply nothing is known


def test_the_tally_stays_small(build: Any) -> None:
    tally = Tally()
    for seq in range(10 * RECENT):
        tally.fold(build.sample(seq), 1)
    assert tally.ok == 10 * RECENT
    assert len(tally.figures().recent_e2e_s) == RECENT


def test_the_first_error_of_each_class_is_told_in_its_own_words(build: Any) -> None:
    tally = Tally()
    for words in (
        "Refused: 400 Bad Request: no\x1b[2J",
        "Refused: 400 Bad Request: later",
        "TimedOut: total",
    ):
        tally.fold(build.sample(error=words), 0)
    assert (
        tally.figures().told
        == "2 × Refused: 400 Bad Request: no\N{REPLACEMENT CHARACTER}[2J, 1 × TimedOut: total"
    )


def test_the_share_that_kept_the_objectives_is_told_as_they_end(build: Any) -> None:
    slo = make_slo({"ttft": "20ms", "e2e": "250ms"})
    assert slo is not None
    tally = Tally(kept=Kept(slo))
    assert tally.figures().kept_text == ""
    tally.fold(build.sample(0, e2e_ms=900, phase="warmup"), 1)
    for seq, (e2e_ms, error) in enumerate(((100, None), (200, None), (300, None), (100, "TimedOut: total"))):
        tally.fold(build.sample(seq, e2e_ms=e2e_ms, error=error), 1)
    live = tally.figures()
    assert live.kept == {"all": 0.5, "ttft": 0.75, "e2e": 0.5}, "a failed request is a miss"
    assert live.kept_text == "kept 50.0 % (ttft 75.0 %, e2e 50.0 %)"
    alone = make_slo({"ttft": "20ms"})
    assert alone is not None
    unstreamed = Tally(kept=Kept(alone))
    unstreamed.fold(build.sample(0, ttft_ms=None), 1)
    assert unstreamed.figures().kept == {}, "a reply in one piece has no first token"
