"""The load engine on a clock that only the test moves, with a driver that answers from memory."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from fake_world import MS, FakeDriver, FakeTimer, World, play, prompts_of

from loadgen.errors import BadInput, LoadgenError, WarmupRefused
from loadgen.load import dispatch
from loadgen.load.arrival import Arrival
from loadgen.load.client import run_load
from loadgen.load.sound import length_error
from loadgen.load_records import LoadSpec, Timeouts
from loadgen.metrics.summary import summarise
from loadgen.request_records import Reply, Request, Sample


class SingleCalls(FakeDriver):
    """A protocol without batch calls; each write takes half a millisecond."""

    batches = False

    def start(self, prepared: Request, done: Callable[[Any], None]) -> None:
        assert len(prepared.prompts) == 1
        super().start(prepared, done)
        self.world.now += MS // 2


def load(kind: Any = "closed", **more: Any) -> LoadSpec:
    return LoadSpec(**{"kind": kind, "input_tokens": 4, "output_tokens": 3, "requests": 10, **more})


def measured(samples: list[Sample]) -> list[Sample]:
    return [sample for sample in samples if sample.phase == "measured"]


def test_closed_keeps_exactly_its_places_full() -> None:
    driver = FakeDriver(World(), service=lambda seq: (7 + seq % 5) * MS)
    outcome, samples = play(load(concurrency=4, requests=40, warmup=4), driver)
    assert driver.opened == 4
    assert driver.most == 4
    assert [sample.seq for sample in samples if sample.phase == "warmup"] == [0, 1, 2, 3]
    assert sorted(sample.seq for sample in measured(samples)) == list(range(4, 44))
    assert outcome.in_flight_target == outcome.in_flight_max == 4
    assert outcome.in_flight_mean == pytest.approx(4.0)
    assert (outcome.requests_sent, outcome.requests_failed, outcome.warmup_sent) == (40, 0, 4)
    assert driver.closed


def test_each_request_asks_for_what_the_spec_says() -> None:
    driver = FakeDriver(World())
    _, samples = play(load(batch_size=2, stream=False, warmup=1), driver)
    assert {len(request.prompts) for request in driver.requests.values()} == {2}
    assert {len(row) for request in driver.requests.values() for row in request.prompts} == {4}
    assert {(request.output_tokens, request.stream) for request in driver.requests.values()} == {(3, False)}
    assert driver.requests[0].phase == "warmup"
    assert {(s.batch_size, s.input_tokens, s.output_tokens_asked, s.due_ns) for s in samples} == {
        (2, 4, 3, None)
    }


def test_warm_up_is_drained_before_anything_is_measured() -> None:
    driver = FakeDriver(World(), service=lambda seq: (50 if seq == 0 else 10) * MS)
    _, samples = play(load(concurrency=3, requests=6, warmup=3), driver)
    last_warm_end = max(sample.reply.end_ns for sample in samples if sample.phase == "warmup")
    assert min(sample.reply.sent_ns for sample in measured(samples)) >= last_warm_end


def test_static_is_one_call_at_a_time() -> None:
    driver = FakeDriver(World())
    outcome, samples = play(load("static", batch_size=8, concurrency=5, requests=6), driver)
    assert driver.most == 1
    assert outcome.in_flight_target == 1
    summary = summarise(samples)
    assert summary.output_tokens == 6 * 8 * 3
    assert outcome.quality.arrival_skew_s is None


def test_a_batch_without_batch_calls_is_a_barrier_with_its_skew_told() -> None:
    driver = SingleCalls(World())
    outcome, samples = play(load("static", batch_size=4, requests=3, warmup=1), driver)
    assert driver.opened == 4
    assert driver.most == 4
    assert [sample.batch_size for sample in samples] == [4] * 4
    assert [sample.seq for sample in samples] == [0, 1, 2, 3]
    for sample in samples:
        assert sample.reply.output_tokens == (3, 3, 3, 3)
        assert sum(sample.reply.tokens_per_arrival) == 12
        assert sample.reply.end_ns - sample.reply.sent_ns == 10 * MS + 3 * (MS // 2)
        assert sample.error is None
    skew = outcome.quality.arrival_skew_s
    assert skew is not None
    assert (skew.n, skew.min, skew.max) == (3, pytest.approx(0.0015), pytest.approx(0.0015))
    assert len({seq for seq, _ in driver.started}) == len(driver.started)


def test_a_barrier_batch_has_the_stamps_that_its_driver_found_when_it_opened() -> None:
    class Opening(SingleCalls):
        async def open(self, connections: int) -> None:
            await super().open(connections)
            self.stamps = "kernel"

    driver = Opening(World())
    driver.stamps = "user"
    outcome, _ = play(load("static", batch_size=4, requests=3), driver)
    assert outcome.quality.stamps == "kernel"


def test_one_bad_call_spoils_its_barrier_batch() -> None:
    driver = SingleCalls(World(), spoil=lambda request: {"error": "Refused: 503"} if request.seq == 6 else {})
    _, samples = play(load("static", batch_size=4, requests=3, warmup=0), driver)
    assert [sample.error for sample in samples] == [None, "Refused: 503", None]


def test_open_loop_sends_each_request_when_it_is_due_whatever_the_server_does() -> None:
    driver = FakeDriver(World(), service=lambda seq: 500 * MS)  # fifty times slower than the arrivals
    outcome, samples = play(load("constant", rate=100.0, requests=200, warmup=2), driver)
    due = [sample.due_ns for sample in sorted(measured(samples), key=lambda sample: sample.seq)]
    assert due == [outcome.start_ns + number * 10 * MS for number in range(200)]
    assert all(sample.reply.sent_ns == sample.due_ns for sample in measured(samples))
    assert outcome.in_flight_target is None
    assert outcome.in_flight_max == 50
    assert all(sample.due_ns is None for sample in samples if sample.phase == "warmup")


def test_open_loop_counts_latency_from_due_when_the_client_is_late() -> None:
    class Stalled(FakeDriver):
        def start(self, prepared: Request, done: Callable[[Any], None]) -> None:
            super().start(prepared, done)
            if prepared.seq == 3:
                self.world.now += 95 * MS  # the client's own fault

    driver = Stalled(World())
    outcome, samples = play(load("constant", rate=100.0, requests=20, warmup=0), driver)
    lag = outcome.quality.send_lag_s
    assert lag is not None
    assert lag.max == pytest.approx(0.085)
    late = next(sample for sample in samples if sample.seq == 4)
    summary = summarise([late])
    assert summary.e2e_s is not None
    assert summary.e2e_s.max == pytest.approx(0.095)
    assert [seq for seq, _ in driver.started] == list(range(20))


@pytest.mark.parametrize("kind", ["poisson", "gamma", "ramp"])
def test_the_other_schedules_are_sent_on_time_too(kind: str) -> None:
    driver = FakeDriver(World())
    spec = load(kind, rate=200.0, rate_end=400.0, burstiness=0.5, requests=1_500, warmup=1)
    _, samples = play(spec, driver)
    assert len(measured(samples)) == 1_500
    assert all(sample.reply.sent_ns == sample.due_ns for sample in measured(samples))


def test_a_trace_gives_each_request_its_own_lengths(tmp_path: Any) -> None:
    file = tmp_path / "trace.jsonl"
    rows = [(0.0, 5, 2), (0.05, 9, 7), (0.05, 3, 1)]
    file.write_text(
        "".join(f'{{"offset_s": {at}, "input_tokens": {i}, "output_tokens": {o}}}\n' for at, i, o in rows)
    )
    driver = FakeDriver(World())
    outcome, samples = play(load("trace", trace=str(file), requests=3, warmup=4), driver)
    got = sorted(
        (s.due_ns - outcome.start_ns, s.input_tokens, s.output_tokens_asked) for s in measured(samples)
    )
    assert got == [(0, 5, 2), (50 * MS, 3, 1), (50 * MS, 9, 7)]
    assert [s.input_tokens for s in samples if s.phase == "warmup"] == [5, 9, 3, 5]
    assert len(driver.requests[5].prompts[0]) == 9


def test_a_missing_trace_is_bad_input() -> None:
    with pytest.raises(BadInput, match=r"nowhere\.jsonl"):
        play(load("trace", trace="nowhere.jsonl", warmup=0), FakeDriver(World()))


def test_shares_of_workers_join_to_the_load_of_one() -> None:
    spec = load("poisson", rate=300.0, requests=100, warmup=5, seed=4)

    async def start() -> int:
        return 2_000 * MS

    def dues(share: tuple[int, int]) -> dict[int, int | None]:
        _, samples = play(spec, FakeDriver(World()), share=share, agree_start=start)
        return {sample.seq: sample.due_ns for sample in samples}

    whole = dues((0, 1))
    parts = [dues((worker, 3)) for worker in range(3)]
    assert sum(map(len, parts)) == len(whole) == 105
    assert {seq: due for part in parts for seq, due in part.items()} == whole


def test_a_closed_loop_is_shared_out_and_a_place_for_each_is_asked_for() -> None:
    most = []
    for worker in range(3):
        driver = FakeDriver(World())
        play(load(concurrency=5, requests=30), driver, share=(worker, 3))
        most.append(driver.most)
    assert most == [2, 2, 1]
    with pytest.raises(BadInput, match=r"workers = 3: concurrency is 2"):
        play(load(concurrency=2), FakeDriver(World()), share=(0, 3))
    with pytest.raises(BadInput, match=r"workers = 2: a static load"):
        play(load("static", concurrency=8), FakeDriver(World()), share=(0, 2))


def test_wrong_lengths_are_errors_and_name_the_sequence() -> None:
    def spoil(request: Request) -> dict[str, Any]:
        return {
            1: {"output_tokens": (3, 2)},
            2: {"output_tokens": (3,)},
            3: {"output_tokens": (4, 3)},
            4: {"output_tokens": None, "counted_by": None},
            5: {"output_tokens": (0, 0), "error": "TimedOut: total"},
            6: {"output_tokens": None, "counted_by": None, "usage_output_tokens": 5},
        }.get(request.seq, {})

    driver = FakeDriver(World(), spoil=spoil)
    outcome, samples = play(load(batch_size=2, requests=7, warmup=0), driver)
    assert [sample.error for sample in samples] == [
        None,
        "WrongLength: asked 3, got 2 (sequence 1)",
        "WrongLength: asked 2 sequences, got 1",
        "WrongLength: asked 3, got 4 (sequence 0)",
        None,
        "TimedOut: total",
        "WrongLength: asked 2 × 3 tokens, usage says 5 in all",
    ]
    assert outcome.requests_failed == 5
    summary = summarise(samples)
    assert summary.errors == {"WrongLength": 4, "TimedOut": 1}
    assert summary.output_tokens_per_s is None  # nobody counted sequence 4's


def test_failing_requests_do_not_end_the_load() -> None:
    driver = FakeDriver(World(), spoil=lambda request: {"error": "ConnectFailed: refused"}, at_once=True)
    outcome, samples = play(load(concurrency=3, requests=2_000), driver)
    assert outcome.requests_failed == 2_000
    assert len(samples) == 2_002
    assert (outcome.warmup_sent, outcome.warmup_failed) == (1, 1)


def test_a_warm_up_that_was_not_served_is_sent_once_more() -> None:
    """A server that ran out of memory at the first request has made room since, and is as cold as before."""
    driver = FakeDriver(World(), spoil=lambda request: {"error": "Refused: 500"} if request.seq == 1 else {})
    outcome, samples = play(load(concurrency=2, requests=5, warmup=2), driver)
    assert [sample.phase for sample in samples] == ["warmup"] * 4 + ["measured"] * 5
    assert len({sample.reply.seq for sample in samples}) == 9
    assert (outcome.warmup_sent, outcome.warmup_failed) == (2, 0)
    assert (outcome.requests_sent, outcome.requests_failed) == (5, 0)
    for spoilt, error in ((1, {"output_tokens": (1,)}), (0, {"error": "Refused: 500"})):
        warm = FakeDriver(
            World(), spoil=lambda request, at=spoilt, how=error: how if request.seq == at else {}
        )
        _, samples = play(load(concurrency=1, requests=5, warmup=2), warm)
        assert len(samples) == 7, "a short answer warms up as well, and so does one that follows a failure"


def test_a_driver_that_answers_from_within_start_does_not_recurse() -> None:
    driver = FakeDriver(World(), at_once=True)
    _, samples = play(load(concurrency=2, requests=20_000), driver)
    assert len(samples) == 20_001


def test_bodies_are_prepared_ahead_but_not_all_at_once() -> None:
    driver = FakeDriver(World())
    play(load(concurrency=4, requests=3_000), driver)
    assert 4 < driver.prepared_ahead <= dispatch.LOOKAHEAD + 4


def test_no_background_work_is_begun_that_would_hold_up_what_is_due() -> None:
    """Either kind of it takes 150 µs here; of a long prompt more is expected."""
    world = World()

    class Slow(FakeDriver):
        def prepare(self, request: Request) -> Request:
            world.now += 150_000
            return super().prepare(request)

        def decode(self, raw: Any) -> Reply:
            world.now += 150_000
            return super().decode(raw)

    def left(due_in_ns: int) -> tuple[int, int]:
        """Replies undecoded and bodies prepared behind a slice, where the next request is due so soon."""
        one._due_ns = world.now + due_in_ns
        one._slice()
        return len(one._raws), driver.prepared

    driver = Slow(world, silent=lambda seq: True)
    one = dispatch.Dispatcher(
        phase="measured",
        load=load("trace", input_tokens=4_000),
        driver=driver,
        arrivals=(Arrival(n, n * MS, 4_000, 3) for n in range(1_000)),
        first_seq=0,
        prompts=lambda seq, tokens: ((0,) * tokens,),
        on_sample=lambda sample, in_flight: None,
        on_reply=lambda reply, due_ns: None,
        clock=world.clock,
        places=None,
    )
    one.prepare()
    ready = driver.prepared
    for _ in range(60):
        seq, arrival, prepared = one._ready.popleft()
        one._send(seq, arrival, prepared, None)
        one._raws.append((prepared, world.now, world.now))
    for _ in range(8):  # what a piece takes is known
        left(10 * MS)
    undecoded = len(one._raws)
    assert 0 < undecoded < 50
    assert left(200_000) == (undecoded, ready), "one would end in time, two would not: too close"
    assert left(350_000) == (undecoded - 1, ready)
    while one._raws:
        left(10 * MS)
    prepared_now = driver.prepared
    assert prepared_now < ready + 60
    assert left(350_000) == (0, prepared_now), "a long prompt takes longer than a reply"
    assert left(10 * MS)[1] > prepared_now


def test_nothing_is_kept_of_what_was_handed_out() -> None:
    seen = 0

    def on_sample(sample: Sample, in_flight: int) -> None:
        nonlocal seen
        seen += 1
        assert in_flight <= 8

    driver = FakeDriver(World())
    play(load(concurrency=8, requests=5_000, warmup=3), driver, on_sample=on_sample)
    assert seen == 5_003


def test_a_rate_cap_holds_requests_back() -> None:
    driver = FakeDriver(World(), at_once=True)
    outcome, samples = play(load(concurrency=4, requests=12, warmup=1, max_rate=400.0), driver)
    assert len(samples) == 13
    assert outcome.in_flight_max == 1


def test_a_driver_that_never_answers_cannot_hang_the_trial(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatch, "GUARD_S", 0.05)
    world = World()
    driver = FakeDriver(world, silent=lambda seq: seq == 7)
    samples: list[Sample] = []
    spec = load(concurrency=2, requests=20, timeouts=Timeouts(connect_s=0.01, total_s=0.01))
    with pytest.raises(LoadgenError, match="fake driver left 1 requests unanswered"):
        play(spec, driver, on_sample=lambda sample, _: samples.append(sample))
    assert len(samples) == 20  # all others
    assert driver.closed


def test_what_on_sample_raises_ends_the_load() -> None:
    driver = FakeDriver(World())

    def full_disk(sample: Sample, in_flight: int) -> None:
        raise OSError("no space left")

    with pytest.raises(OSError, match="no space left"):
        play(load(), driver, on_sample=full_disk)
    assert driver.closed


def test_cancelled_it_hands_out_what_has_come_and_closes() -> None:
    driver = FakeDriver(World(), silent=lambda seq: seq >= 30)
    spec = load(concurrency=3, requests=1_000, warmup=0)
    samples: list[Sample] = []

    async def main() -> None:
        task = asyncio.current_task()
        assert task is not None

        def on_sample(sample: Sample, _: int) -> None:
            samples.append(sample)
            if sample.seq == 20:
                task.cancel()

        await run_load(
            spec,
            driver,
            prompts_of(spec),
            on_sample,
            clock=driver.world.clock,
            timers=lambda callback: FakeTimer(driver.world, callback),
        )

    with pytest.raises(asyncio.CancelledError):
        asyncio.run(main())
    assert driver.closed
    assert len(samples) >= 21
    assert len(driver.started) < 1_000


def test_the_clients_own_figures_are_of_the_measured_phase() -> None:
    driver = FakeDriver(World(), service=lambda seq: 400 * MS)
    outcome, _ = play(load(concurrency=2, requests=10, warmup=6), driver)
    quality = outcome.quality
    assert (quality.reads, quality.coalesced_reads) == (20, 10)
    assert quality.stamp_lag_s is not None
    assert quality.stamp_lag_s.n == 10
    assert quality.loop_lag_s is not None
    assert 40 <= quality.loop_lag_s.n <= 45  # 2 s of load, twenty looks a second
    assert quality.loop_lag_s.max == 0
    assert quality.send_lag_s is None
    assert quality.cpu_s is not None
    assert quality.loop == "asyncio + fake"
    assert quality.rss_bytes is not None
    assert (quality.driver, quality.stamps, quality.workers) == ("fake", "kernel", 1)


def test_no_warm_up_and_no_requests_are_fine() -> None:
    outcome, samples = play(load(warmup=0, requests=0), FakeDriver(World()))
    assert samples == []
    assert outcome.in_flight_mean is None
    assert outcome.in_flight_max is None
    assert summarise(samples).e2e_s is None


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatch, "SLICE_GAP_S", 0)


def test_a_warm_up_that_is_wholly_refused_ends_the_load_at_once() -> None:
    driver = FakeDriver(World(), spoil=lambda request: {"error": "Refused: 400 Bad Request: no"})
    with pytest.raises(WarmupRefused, match="400 Bad Request: no"):
        play(load(concurrency=2, requests=500, warmup=2), driver)
    assert len(driver.started) == 4, "the warm-up and its repeat"


@pytest.mark.parametrize(("count", "error"), [(4, None), (1, None), (5, "got 5"), (0, "got 0")])
def test_an_output_that_may_end_early_is_kept_with_the_length_it_has(count: int, error: str | None) -> None:
    reply = Reply(seq=0, sent_ns=0, end_ns=1, output_tokens=(count,))
    found = length_error(reply, 1, 4, at_most=True)
    assert (found is None) if error is None else error in str(found)
    assert (length_error(reply, 1, 4) is None) == (count == 4)
    whole = Reply(seq=0, sent_ns=0, end_ns=1, usage_output_tokens=count)
    assert (length_error(whole, 1, 4, at_most=True) is None) == (error is None)


@pytest.mark.parametrize("exact", [True, False])
def test_a_prompt_that_the_server_counts_otherwise_is_an_error_where_lengths_must_be_exact(
    exact: bool,
) -> None:
    spoil = lambda request: {"usage_prompt_tokens": 5 if request.seq % 2 else len(request.prompts[0])}  # noqa: E731
    outcome, samples = play(load(requests=6), FakeDriver(World(), spoil=spoil), exact=exact)
    errors = {sample.seq % 2: sample.error for sample in measured(samples)}
    words = "WrongLength: sent 1 × 4 tokens, the server counted 5"
    assert errors == {0: None, 1: words if exact else None}
    assert outcome.requests_failed == (3 if exact else 0)
