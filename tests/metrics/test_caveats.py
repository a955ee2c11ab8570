"""Each doubt is raised by what warrants it, with a remedy, and by nothing else."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest

from loadgen.load_records import LoadSpec
from loadgen.metrics import caveats
from loadgen.metrics.distribution import dist
from loadgen.metrics.summary import Accumulator
from loadgen.records import Caveat, ClientNode, ClientQuality, Trial
from loadgen.request_records import Reply, Sample

MS = 1_000_000


def trial(kind: Any = "closed", **more: Any) -> Trial:
    load = {"kind": kind, "input_tokens": 10, "output_tokens": 4, "concurrency": 2, "requests": 40, **more}
    return Trial(id="t", load=LoadSpec(**load))


def sample(seq: int, e2e_ms: float = 100, **more: Any) -> Sample:
    sent = seq * 100 * MS
    end = sent + int(e2e_ms * MS)
    own = {"phase": "measured", "batch_size": 1, "input_tokens": 10, "output_tokens_asked": 4, "due_ns": None}
    own.update({key: more.pop(key) for key in list(more) if key in own})
    reply = {
        "sent_ns": sent,
        "end_ns": end,
        "token_ns": tuple(end - k * 10 * MS for k in (3, 2, 1, 0)),
        "tokens_per_arrival": (1, 1, 1, 1),
        "output_tokens": (4,),
        "counted_by": "ids",
        "usage_output_tokens": 4,
        "usage_prompt_tokens": 10,
        **more,
    }
    return Sample(**own, reply=Reply(seq=seq, **reply))  # type: ignore[arg-type]


def good(n: int = 40) -> list[Sample]:
    return [sample(seq, 100 + seq % 3) for seq in range(n)]


CLIENT = ClientQuality(
    driver="d",
    stamps="kernel",
    cpu_share=0.3,
    loop_lag_s=dist([0.0001] * 9),
    reads=1_000,
    coalesced_reads=3,
    in_flight_target=2,
)


def doubts(
    samples: list[Sample],
    of: Trial | None = None,
    in_flight: float | None = 2.0,
    **client: Any,
) -> dict[str, Caveat]:
    seen = Accumulator()
    for one in samples:
        seen.add(one)
    quality = replace(CLIENT, **client)
    found = caveats.caveats(of or trial(), seen, seen.summary(in_flight, 2), quality)
    assert all(caveat.remedy and caveat.message for caveat in found)
    assert [caveat.client for caveat in found] == sorted((c.client for c in found), reverse=True)
    return {caveat.kind: caveat for caveat in found}


def test_a_good_trial_raises_no_doubt() -> None:
    assert doubts(good()) == {}


def test_few_samples() -> None:
    few = doubts(good(5))
    assert set(few) == {"few-samples"}
    assert few["few-samples"].message == (
        "5 valid samples: the median has no interval within this run, and there is no p90, p95, p99"
    )
    assert "p50 from 6, p90 from 36, p95 from 72, p99 from 368" in few["few-samples"].remedy
    assert doubts(good(6)) == {}


def test_samples_that_hang_on_each_other_are_worth_few() -> None:
    """Four stretches of 16 requests, each stretch of one speed."""
    steps = [sample(seq, 100 + (seq // 16) % 2) for seq in range(64)]
    (told,) = [caveat for kind, caveat in doubts(steps).items() if kind == "few-independent"]
    assert re.search(r"^64 valid samples are worth \d+(\.\d+)? independent ones", told.message)
    assert "few-independent" not in doubts(good(64))


@pytest.mark.parametrize(("kind", "doubted"), [("static", True), ("closed", False), ("poisson", False)])
def test_spread_is_judged_by_the_kind_of_load(kind: str, doubted: bool) -> None:
    samples = [sample(seq, 100 + 30 * (seq % 2)) for seq in range(40)]
    assert ("spread" in doubts(samples, trial(kind))) is doubted


def test_a_slow_first_request_asks_for_more_warm_up() -> None:
    found = doubts([sample(0, 400), *good()[1:]])["slow-first"]
    assert "400" in found.message
    assert "warmup" in found.remedy
    shuffled = [*good()[1:], sample(0, 400)]
    assert "slow-first" in doubts(shuffled)
    assert "slow-first" not in doubts([*good()[:20], sample(20, 400), *good()[21:]])


def test_failures_and_wrong_lengths_are_told_apart() -> None:
    bad = [sample(50, error="WrongLength: asked 4, got 3"), sample(51, error="TimedOut: total")]
    found = doubts(good() + bad)
    assert "1 of 42 replies" in found["wrong-length"].message
    assert "1 of 42 requests failed (TimedOut × 1 (total))" in found["failed-requests"].message
    assert set(doubts([*good(), bad[0]])) == {"wrong-length"}


def test_a_three_way_mismatch_of_counts() -> None:
    found = doubts([*good(), sample(41, usage_output_tokens=5)])["token-mismatch"]
    assert "request 41: asked 4, streamed 4, received 4, usage 5" in found.message
    streamed = doubts([*good(), sample(41, tokens_per_arrival=(1, 1, 1, 2))])["token-mismatch"]
    assert "streamed 5" in streamed.message
    # Chunks that nobody counted by ids are no token count.
    by_usage = sample(41, counted_by="usage", tokens_per_arrival=(1, 1, 1, 0))
    assert doubts([*good(), by_usage]) == {}


def test_other_prompt_lengths_than_sent() -> None:
    found = doubts([sample(seq, usage_prompt_tokens=11) for seq in range(40)])["prompt-mismatch"]
    assert "40 of 40" in found.message
    assert found.message.count("request") == 3


def test_tokens_that_nobody_counted() -> None:
    uncounted = [
        sample(seq, output_tokens=None, counted_by=None, usage_output_tokens=None) for seq in range(20)
    ]
    found = doubts(uncounted)
    assert "20 of 20" in found["tokens-uncounted"].message
    assert set(found) == {"tokens-uncounted"}


def test_replies_that_were_not_streamed_or_came_in_one_piece() -> None:
    whole = [sample(seq, token_ns=(), tokens_per_arrival=()) for seq in range(20)]
    assert set(doubts(whole)) == {"not-streamed"}
    assert doubts(whole, trial(stream=False)) == {}
    piece = [sample(s, token_ns=(s * 100 * MS + 90 * MS,), tokens_per_arrival=(4,)) for s in range(20)]
    assert set(doubts(piece)) == {"one-piece"}

    def flushed(seq: int, gap_ns: int) -> Sample:
        stamps = tuple(seq * 100 * MS + 90 * MS + k * gap_ns for k in range(8))
        eight: dict[str, Any] = {"output_tokens": (8,), "usage_output_tokens": 8, "output_tokens_asked": 8}
        return sample(seq, token_ns=stamps, tokens_per_arrival=(1,) * 8, **eight)

    assert set(doubts([flushed(seq, 50_000) for seq in range(20)])) == {"one-piece"}
    assert doubts([flushed(seq, 150_000) for seq in range(20)]) == {}


@pytest.mark.parametrize("counted_by", ["ids", "usage"])
def test_chunks_of_several_tokens_have_another_pace_than_tokens(counted_by: str) -> None:
    def two(seq: int, **more: Any) -> Sample:
        end = seq * 100 * MS + 100 * MS
        told = (2, 2) if counted_by == "ids" else (1, 1)
        return sample(seq, token_ns=(end - MS, end), tokens_per_arrival=told, counted_by=counted_by, **more)

    found = doubts([two(seq) for seq in range(40)])
    assert set(found) == {"chunked"}
    assert "40 of 40 replies have 2 tokens a chunk" in found["chunked"].message
    several = doubts([two(seq, coalesced=2) for seq in range(40)])  # reads, of who knows how many chunks
    assert set(several) == (set() if counted_by == "ids" else {"chunked"})


def test_more_texts_than_usage_counts_are_a_mismatch() -> None:
    texts = sample(41, counted_by="usage", tokens_per_arrival=(1, 1, 1, 2))
    found = doubts([*good(), texts])
    assert set(found) == {"token-mismatch"}
    assert "request 41: usage 4, yet 5 texts came" in found["token-mismatch"].message


def test_latency_that_grows_is_overload() -> None:
    growing = [sample(seq, 100 + 10 * seq, due_ns=seq * 100 * MS) for seq in range(60)]
    assert "6.9-fold" in doubts(growing, trial("poisson"))["overload"].message
    steady = [sample(seq, 100 + seq % 7, due_ns=seq * 100 * MS) for seq in range(60)]
    assert "overload" not in doubts(steady, trial("poisson"))
    assert "overload" not in doubts(growing, trial("closed"))


def test_late_sends_are_the_clients_fault() -> None:
    late = dist([0.02] * 40)
    found = doubts(good(), trial("poisson"), send_lag_s=late, in_flight_target=None)["send-lag"]
    assert found.client
    assert "20.00 ms" in found.message
    assert doubts(good(), trial("poisson"), send_lag_s=dist([0.0005] * 40), in_flight_target=None) == {}
    # 3 ms late is nothing to a reply of 100 ms that starts after 70
    assert doubts(good(), trial("poisson"), send_lag_s=dist([0.003] * 40), in_flight_target=None) == {}


@pytest.mark.parametrize(
    ("bound_s", "began_s", "kind", "doubted"),
    [
        (20e-6, 0.1e-3, "poisson", False),
        (1.1e-3, 0.1e-3, "poisson", True),
        (20e-6, 1.2e-3, "closed", True),
        (20e-6, 0.1e-3, "constant", True),  # 1 % of its even gaps is 50 µs
    ],
)
def test_nodes_that_do_not_begin_at_once_are_doubted(
    bound_s: float, began_s: float, kind: Any, doubted: bool
) -> None:
    nodes = [
        ClientNode(address=f"127.0.0.{n}", workers=1, bound_s=bound_s, drift_ppm=0.1, began_s=began)
        for n, began in ((2, 0.0), (3, began_s))
    ]
    found = doubts(good(), of=trial(kind, rate=200.0), nodes=tuple(nodes))
    assert ("clock" in found) is doubted
    assert not doubted or not found["clock"].client
    unknown = tuple(replace(node, bound_s=None, drift_ppm=None) for node in nodes)
    assert "nobody compared" in doubts(good(), of=trial(kind, rate=200.0), nodes=unknown)["clock"].message
    assert "clock" not in doubts(good(), of=trial(kind, rate=200.0), nodes=unknown[:1])


def test_a_busy_client_is_the_limit() -> None:
    assert doubts(good(), cpu_share=0.95)["client-cpu"].client


def test_user_stamps_carry_the_loops_lag() -> None:
    found = doubts(good(), stamps="user")
    assert set(found) == {"user-stamps"}
    assert not found["user-stamps"].client
    assert doubts(good(), stamps="user", loop_lag_s=dist([0.05] * 9))["loop-lag"].client
    assert doubts(good(), loop_lag_s=dist([0.05] * 9)) == {}  # the kernel's stamps do not contain it


def test_coalesced_reads() -> None:
    assert set(doubts(good(), coalesced_reads=50)) == {"coalesced"}


def test_in_flight_below_target_names_its_cause() -> None:
    slow = doubts(good(), in_flight=1.5)["in-flight"]
    assert slow.client
    assert "1.5 of 2" in slow.message
    capped = doubts(good(), trial(max_rate=3.0), in_flight=1.5)["in-flight"]
    assert not capped.client
    assert "max_rate" in capped.message
    few = doubts(good(2), in_flight=1.5)["in-flight"]
    assert not few.client
    assert "no more requests than places" in few.message
    failing = doubts(
        [*good(), *(sample(s, error="ConnectFailed: reset") for s in range(50, 60))], in_flight=1.5
    )
    assert not failing["in-flight"].client
    one = doubts([*good(), sample(50, error="ConnectFailed: reset")], in_flight=1.5)
    assert one["in-flight"].client  # one place that was left early does not explain a quarter of them empty
    assert doubts(good(), in_flight=1.95) == {}
    assert doubts(good(), trial("poisson"), in_flight=1.0, in_flight_target=None) == {}


def test_arrival_skew_is_always_told_and_limits_when_large() -> None:
    small = doubts(good(), trial("static", batch_size=4), arrival_skew_s=dist([0.0002] * 5))["arrival-skew"]
    assert not small.client
    assert "200.0 µs" in small.message
    assert doubts(good(), arrival_skew_s=dist([0.02] * 5))["arrival-skew"].client


def test_without_an_outcome_the_samples_are_still_checked() -> None:
    seen = Accumulator()
    assert caveats.caveats(trial(), seen, seen.summary(), None) == []


def test_outputs_that_may_end_early_are_counted_and_told() -> None:
    short = {"output_tokens": (3,), "usage_output_tokens": 3, "tokens_per_arrival": (1, 1, 1, 0)}
    samples = [*good(39), sample(40, **short)]
    seen = Accumulator(at_most=True)
    for one in samples:
        seen.add(one)
    found = {each.kind: each for each in caveats.of_samples(trial().load, seen.observations, seen.summary())}
    assert "1 of 40 outputs ended early, with 3 of" in found["output-at-most"].message
    assert "token-mismatch" not in found


def test_text_whose_tokens_nobody_counted_is_told() -> None:
    seen = Accumulator(text=True)
    for one in [*good(39), sample(40, usage_prompt_tokens=None)]:
        seen.add(one)
    found = {each.kind: each for each in caveats.of_samples(trial().load, seen.observations, seen.summary())}
    assert "in 1 of 40 replies" in found["prompt-uncounted"].message
