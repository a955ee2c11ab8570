"""Loads that a duration bounds: which requests count, when sending ends, and what came within the window."""

from __future__ import annotations

from itertools import islice
from typing import Any

import pytest
from fake_world import MS, FakeDriver, World, play

from loadgen.load import dispatch
from loadgen.load.arrivals import schedule
from loadgen.load.sending import Sending
from loadgen.load_records import LoadSpec
from loadgen.metrics.summary import summarise
from loadgen.request_records import Sample


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatch, "SLICE_GAP_S", 0)


def load(kind: Any = "closed", **more: Any) -> LoadSpec:
    shape = {"kind": kind, "input_tokens": 4, "output_tokens": 3, "requests": 0, "warmup": 2}
    return LoadSpec(**{**shape, "duration_s": 1.0, "lead_in_s": 0.5, **more})


def by_phase(samples: list[Sample], phase: str) -> list[Sample]:
    return sorted((one for one in samples if one.phase == phase), key=lambda one: one.seq)


def test_an_open_loop_counts_what_is_due_in_its_window() -> None:
    driver = FakeDriver(World(), service=lambda seq: 35 * MS)
    outcome, samples = play(load("constant", rate=100.0), driver)
    began = outcome.start_ns

    def due(phase: str) -> list[int]:
        return [(one.due_ns or 0) - began for one in by_phase(samples, phase)]

    assert due("lead_in") == [10 * MS * number for number in range(50)]
    assert due("measured") == [10 * MS * number for number in range(50, 150)]
    # The last counted one is due at 1,490 ms and ends at 1,525: what is due before that still goes out.
    assert due("drain") == [1500 * MS, 1510 * MS, 1520 * MS]
    assert [one.seq for one in by_phase(samples, "warmup")] == [0, 1]
    assert by_phase(samples, "lead_in")[0].seq == 4  # behind the numbers of a second warm-up
    assert outcome.requests_sent == 153


def test_a_closed_loop_keeps_its_places_full_until_the_last_counted_one_has_ended() -> None:
    driver = FakeDriver(World(), service=lambda seq: (40 if seq % 7 else 90) * MS)
    outcome, samples = play(load(concurrency=4), driver)
    window = load(concurrency=4).window(outcome.start_ns)
    assert window is not None
    measured = by_phase(samples, "measured")
    assert all(window.holds(one.reply.sent_ns) for one in measured)
    assert all(one.reply.sent_ns < window.start_ns for one in by_phase(samples, "lead_in"))
    drained = by_phase(samples, "drain")
    assert drained
    assert all(window.end_ns <= one.reply.sent_ns <= window.end_ns + 40 * MS for one in drained)
    assert driver.most == 4
    assert summarise(samples, window=window).in_flight_mean == pytest.approx(4.0)


def test_the_drain_sends_for_one_median_latency_at_most() -> None:
    driver = FakeDriver(World(), service=lambda seq: 5_000 * MS if seq == 150 else 20 * MS)
    outcome, samples = play(load("constant", rate=100.0), driver)
    assert [(one.due_ns or 0) - outcome.start_ns for one in by_phase(samples, "drain")] == [
        1500 * MS,
        1510 * MS,
    ]
    assert len(by_phase(samples, "measured")) == 100  # the slow one is waited for


def test_a_static_load_begins_no_batch_behind_its_time_and_counts_whole_ones() -> None:
    driver = FakeDriver(World(), service=lambda seq: 300 * MS)
    outcome, samples = play(load("static", batch_size=2, lead_in_s=0.0), driver)
    assert [one.reply.sent_ns - outcome.start_ns for one in by_phase(samples, "measured")] == [
        0, 300 * MS, 600 * MS, 900 * MS
    ]  # fmt: skip
    assert load("static", lead_in_s=0.0).window(0) is None
    assert summarise(samples).duration_s == pytest.approx(1.2)


def test_a_ramp_lasts_as_long_as_it_is_told() -> None:
    driver = FakeDriver(World())
    outcome, samples = play(load("ramp", rate=10.0, rate_end=190.0, lead_in_s=0.0, duration_s=2.0), driver)
    due = [(one.due_ns or 0) - outcome.start_ns for one in by_phase(samples, "measured")]
    assert len(due) == 200
    assert due[-1] < 2_000 * MS
    assert len([at for at in due if at < 1_000 * MS]) == 55  # 10/s → 100/s
    assert by_phase(samples, "drain") == []


def test_a_throttled_closed_loop_ends_in_time() -> None:
    driver = FakeDriver(World(), service=lambda seq: 10 * MS)
    spec = load(concurrency=2, duration_s=0.02, lead_in_s=0.01, max_rate=10_000.0)
    _, samples = play(spec, driver)
    assert by_phase(samples, "measured")


def test_workers_share_the_window() -> None:
    spec = load("poisson", rate=400.0, seed=3)
    whole = play(spec, FakeDriver(World()))
    parts = [play(spec, FakeDriver(World()), share=(worker, 3)) for worker in range(3)]

    def due(of: tuple[Any, list[Sample]]) -> set[tuple[int, int]]:
        return {(one.seq, (one.due_ns or 0) - of[0].start_ns) for one in by_phase(of[1], "measured")}

    assert set().union(*map(due, parts)) == due(whole)
    assert all(due(part) for part in parts)


def test_a_duration_changes_nothing_about_when_requests_are_due() -> None:
    bound = load("gamma", rate=50.0, burstiness=0.5)
    counted = load("gamma", rate=50.0, burstiness=0.5, requests=300, duration_s=None, lead_in_s=0.0)
    assert list(islice(schedule(bound), 300)) == list(schedule(counted))


def test_nothing_counted_means_no_drain() -> None:
    sending = Sending(load(lead_in_s=0.0, duration_s=0.001))
    assert (sending.phase(0), sending.phase(1_000_000)) == ("measured", "drain")
    assert sending.goes_on(999_999)
    assert not sending.goes_on(1_000_000)
