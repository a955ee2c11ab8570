"""Every figure of a summary, from samples whose right answer is worked out by hand."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadgen.metrics.distribution import EXACT_VALUES, Values, dist
from loadgen.metrics.in_flight import FlightTime, in_flight
from loadgen.metrics.summary import Accumulator, summarise, token_gaps_ns
from loadgen.request_records import Reply, Sample

MS = 1_000_000


def sample(seq: int = 0, **more: Any) -> Sample:
    """One request sent at 100 ms, tokens at 150, 170, 190 and 210 ms, end of the reply at 215 ms."""
    own = {"phase": "measured", "batch_size": 1, "input_tokens": 10, "output_tokens_asked": 4, "due_ns": None}
    reply: dict[str, Any] = {
        "sent_ns": 100 * MS,
        "end_ns": 215 * MS,
        "token_ns": (150 * MS, 170 * MS, 190 * MS, 210 * MS),
        "tokens_per_arrival": (1, 1, 1, 1),
        "output_tokens": (4,),
        "counted_by": "ids",
    }
    own.update({key: more.pop(key) for key in list(more) if key in own})
    return Sample(**own, reply=Reply(seq=seq, **{**reply, **more}))  # type: ignore[arg-type]


def mean(value: Any) -> float:
    assert value is not None
    return float(value.mean)


def test_one_streamed_request() -> None:
    summary = summarise([sample()])
    assert mean(summary.e2e_s) == pytest.approx(0.110)  # to the last token, not to the end of the reply
    assert mean(summary.ttft_s) == pytest.approx(0.050)
    assert mean(summary.tpot_s) == pytest.approx(0.020)
    assert mean(summary.latency_per_output_token_s) == pytest.approx(0.110 / 4)
    assert summary.itl_s is not None
    assert (summary.itl_s.n, summary.itl_s.min, summary.itl_s.max) == (3, 0.02, 0.02)
    assert summary.duration_s == pytest.approx(0.115)
    assert summary.output_tokens_per_s == pytest.approx(4 / 0.115)
    assert summary.total_tokens_per_s == pytest.approx(14 / 0.115)
    assert summary.requests_per_s == pytest.approx(1 / 0.115)
    assert summary.send_lag_s is None


def test_open_loop_measures_from_due_and_keeps_the_send_lag() -> None:
    summary = summarise([sample(due_ns=90 * MS)])
    assert mean(summary.e2e_s) == pytest.approx(0.120)
    assert mean(summary.ttft_s) == pytest.approx(0.060)
    assert mean(summary.tpot_s) == pytest.approx(0.020)
    assert mean(summary.send_lag_s) == pytest.approx(0.010)
    assert summary.duration_s == pytest.approx(0.115)  # throughput runs from the first send


def test_without_streaming_there_is_no_ttft() -> None:
    summary = summarise([sample(token_ns=(), tokens_per_arrival=())])
    assert mean(summary.e2e_s) == pytest.approx(0.115)
    assert summary.ttft_s is None
    assert summary.tpot_s is None
    assert summary.itl_s is None
    assert mean(summary.latency_per_output_token_s) == pytest.approx(0.115 / 4)


def test_a_reply_in_one_piece_shows_no_pace() -> None:
    summary = summarise([sample(token_ns=(200 * MS,), tokens_per_arrival=(4,))])
    assert mean(summary.ttft_s) == pytest.approx(0.1)
    assert summary.tpot_s is None
    assert summary.itl_s is None


def test_one_token_has_no_tpot() -> None:
    summary = summarise([sample(token_ns=(150 * MS,), tokens_per_arrival=(1,), output_tokens=(1,))])
    assert summary.tpot_s is None


def test_a_chunk_of_several_tokens_is_one_gap() -> None:
    one = sample(token_ns=(150 * MS, 190 * MS), tokens_per_arrival=(2, 2))
    assert token_gaps_ns(one) == [40 * MS]
    assert mean(summarise([one]).tpot_s) == pytest.approx(0.040 / 3)


def test_gaps_of_a_batch_are_steps_not_neighbours() -> None:
    stamps = tuple(at * MS for at in (150, 151, 152, 170, 171, 172, 190, 191, 192))
    batch = sample(batch_size=3, token_ns=stamps, tokens_per_arrival=(1,) * 9, output_tokens=(3, 3, 3))
    assert token_gaps_ns(batch) == [20 * MS, 20 * MS]
    together = sample(
        batch_size=3, token_ns=stamps[::3], tokens_per_arrival=(3, 3, 3), output_tokens=(3,) * 3
    )
    assert token_gaps_ns(together) == [20 * MS, 20 * MS]


def test_a_static_batch_counts_all_its_sequences() -> None:
    batch = sample(batch_size=3, output_tokens=(4, 4, 4))
    summary = summarise([batch])
    assert (summary.output_tokens, summary.input_tokens) == (12, 30)
    assert summary.output_tokens_per_s == pytest.approx(12 / 0.115)
    assert mean(summary.latency_per_output_token_s) == pytest.approx(
        0.110 / 4
    )  # a sequence waits for its own 4
    assert mean(summary.tpot_s) == pytest.approx(0.020)


def test_ttft_of_a_batch_is_that_of_its_last_sequence_and_tpot_the_pace_behind_it() -> None:
    late = summarise([sample(batch_size=2, output_tokens=(3, 3), begun_ns=170 * MS)])
    assert mean(late.ttft_s) == pytest.approx(0.070)
    assert mean(late.tpot_s) == pytest.approx(0.040 / 2)
    at_once = summarise([sample(batch_size=2, output_tokens=(3, 3), begun_ns=210 * MS)])
    assert at_once.tpot_s is None, "the last began with the last arrival: no pace was seen"


def test_failed_requests_are_counted_by_class_and_give_no_latency() -> None:
    bad = [
        sample(1, error="TimedOut: no first byte in 1 s", end_ns=9_000 * MS),
        sample(2, error="WrongLength: asked 4, got 3"),
        sample(3, error="TimedOut: total 5 s"),
    ]
    summary = summarise([sample(), *bad])
    assert summary.errors == {"TimedOut": 2, "WrongLength": 1}
    assert (summary.requests_ok, summary.requests_failed) == (1, 3)
    assert summary.e2e_s is not None
    assert summary.e2e_s.n == 1
    assert summary.output_tokens == 4


def test_the_time_of_failed_requests_is_the_loads_time() -> None:
    """Nine requests of 10 tokens, each after the other in 1 s, and two that time out after 60 s."""
    good = [
        sample(at, sent_ns=at * 1_000 * MS, end_ns=(at + 1) * 1_000 * MS, output_tokens=(10,))
        for at in range(9)
    ]
    lost = [
        sample(
            9 + at,
            sent_ns=(9 + 60 * at) * 1_000 * MS,
            end_ns=(69 + 60 * at) * 1_000 * MS,
            error="TimedOut: x",
        )
        for at in range(2)
    ]
    summary = summarise([*good, *lost])
    assert summary.duration_s == pytest.approx(129)
    assert summary.output_tokens_per_s == pytest.approx(90 / 129)  # 0.70, not 10
    assert summary.requests_per_s == pytest.approx(9 / 129)


def test_nothing_measured_is_none_never_zero() -> None:
    summary = summarise([sample(phase="warmup"), sample(error="Refused: 500")])
    assert summary.requests_ok == 0
    figures = ("e2e_s", "ttft_s", "tpot_s", "itl_s", "latency_per_output_token_s", "send_lag_s", "duration_s")
    rates = ("output_tokens_per_s", "total_tokens_per_s", "requests_per_s", "in_flight_mean", "in_flight_max")
    assert {getattr(summary, name) for name in figures + rates} == {None}


def test_tokens_that_nobody_counted_give_no_token_rate() -> None:
    summary = summarise([sample(), sample(1, output_tokens=None, counted_by=None)])
    assert summary.requests_ok == 2
    assert summary.output_tokens is None
    assert summary.output_tokens_per_s is None
    assert summary.total_tokens_per_s is None
    assert summary.requests_per_s is not None
    assert summary.tpot_s is not None
    assert summary.tpot_s.n == 1


def test_throughput_runs_from_first_send_to_last_end_in_any_order() -> None:
    late = sample(1, sent_ns=300 * MS, end_ns=1_100 * MS, token_ns=(), tokens_per_arrival=())
    for order in ([sample(), late], [late, sample()]):
        assert summarise(order).output_tokens_per_s == pytest.approx(8 / 1.0)


def test_dist_by_hand() -> None:
    figures = dist([4.0, 1.0, 3.0, 2.0])
    assert figures is not None
    assert (figures.min, figures.max, figures.p50, figures.mean) == (1.0, 4.0, 2.0, 2.5)
    assert figures.p90 is None
    assert figures.stdev == pytest.approx(math.sqrt(5 / 3))
    assert dist([]) is None
    one = dist([7.0])
    assert one is not None
    assert (one.stdev, one.p50, one.p99) == (None, 7.0, None)


@pytest.mark.parametrize("count", [EXACT_VALUES - 1, EXACT_VALUES, 3 * EXACT_VALUES + 17])
def test_folded_values_stay_within_a_bucket(count: int) -> None:
    data = np.random.default_rng(5).lognormal(16, 1.5, count)
    data[:100] = 0.0
    data[100:200] *= -1
    values = Values()
    for value in data.tolist():
        values.add(value)
    got, true = values.dist(1e-9), dist(data * 1e-9)
    assert got is not None
    assert true is not None
    assert len(values) == got.n == count
    for name in ("mean", "stdev", "min", "max"):
        assert getattr(got, name) == pytest.approx(getattr(true, name), rel=1e-9), name
    for name in ("p50", "p90", "p95", "p99"):
        assert getattr(got, name) == pytest.approx(getattr(true, name), rel=3e-4), name


@given(st.lists(st.floats(-1e12, 1e12, allow_subnormal=False), min_size=2, max_size=200))
def test_folding_keeps_order_and_bounds(data: list[float]) -> None:
    values = Values()
    values.extend(data)
    values._fold()
    got = values.dist()
    assert got is not None
    told = [value for value in (got.p50, got.p90, got.p95, got.p99) if value is not None]
    assert [got.min, *told, got.max] == sorted([got.min, *told, got.max])
    middle = sorted(data)[(len(data) - 1) // 2]
    assert got.p50 == pytest.approx(middle, rel=3e-4, abs=1e-300)


def test_summary_may_be_asked_for_again_and_again() -> None:
    accumulator = Accumulator()
    accumulator.add(sample())
    first = accumulator.summary()
    assert accumulator.summary() == first
    accumulator.add(sample(1))
    assert accumulator.summary(1.5, 2).in_flight_max == 2


def test_in_flight_by_hand() -> None:
    # two places, each busy 9 of 10: the client takes 1 between a completion and the next send
    sent = [0, 0, 10, 10, 20, 20]
    end = [9, 9, 19, 19, 29, 29]
    average, most = in_flight(sent, end)
    assert average == pytest.approx(2 * 18 / 20)
    assert most == 2


def test_in_flight_of_a_single_burst_runs_to_its_end() -> None:
    assert in_flight([0, 0], [10, 20]) == (pytest.approx(1.5), 2)
    assert in_flight([5], [15]) == (1.0, 1)
    assert in_flight([], []) == (None, None)


@given(st.lists(st.tuples(st.integers(0, 500), st.integers(1, 100)), min_size=2, max_size=40))
def test_in_flight_equals_a_step_by_step_count(spans: list[tuple[int, int]]) -> None:
    sent = [start for start, _ in spans]
    end = [start + length for start, length in spans]
    until = max(sent) if min(end) < max(sent) else max(end)
    depth = [sum(s <= at < e for s, e in zip(sent, end, strict=True)) for at in range(min(sent), until)]
    average, most = in_flight(sent, end)
    assert average == pytest.approx(sum(depth) / len(depth))
    fed = FlightTime()
    last = max(sent)
    for start, stop in zip(sent, end, strict=True):
        fed.add(start, stop, more=stop <= last)
    assert fed.mean() == pytest.approx(average)
    at_sends = [sum(s <= at < e for s, e in zip(sent, end, strict=True)) for at in sent]
    assert most == max(at_sends)


def test_a_chats_own_answer_begins_behind_its_reasoning() -> None:
    summary = summarise([sample(first_answer_ns=190 * MS)])
    assert mean(summary.ttft_s) == pytest.approx(0.050)
    assert mean(summary.first_answer_s) == pytest.approx(0.090)
    assert summarise([sample()]).first_answer_s is None


def test_input_that_went_out_as_text_is_what_the_server_counted() -> None:
    text, ids = Accumulator(text=True), Accumulator()
    for one in (sample(usage_prompt_tokens=13), sample(1)):
        text.add(one)
        ids.add(one)
    assert (text.summary().input_tokens, ids.summary().input_tokens) == (23, 20)


def test_the_first_error_of_each_class_is_kept_of_the_warm_up_too() -> None:
    seen = Accumulator()
    for one in (
        sample(phase="warmup", error="Refused: 400: one"),
        sample(1, error="Refused: 400: two"),
        sample(2, error="TimedOut: total"),
    ):
        seen.add(one)
    assert seen.firsts == {"Refused": "Refused: 400: one", "TimedOut": "TimedOut: total"}


def test_tokens_of_a_prefix_cache_are_summed_over_the_replies_that_tell() -> None:
    summary = summarise(
        [
            sample(cached_tokens=6),
            sample(1, cached_tokens=0),
            sample(2),
            sample(3, cached_tokens=9, error="Refused: 500"),
        ]
    )
    assert (summary.cached_tokens, summary.cached_of_tokens) == (6, 20)
    assert summarise([sample()]).cached_tokens is None
