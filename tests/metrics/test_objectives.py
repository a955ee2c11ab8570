from __future__ import annotations

from typing import Any

import pytest

from loadgen.errors import BadInput
from loadgen.metrics.objectives import Judge, make_slo, parse_share, slo_of_options, slo_words
from loadgen.request_records import Reply, Sample
from loadgen.slo_records import Attained, Goal, Objective, Slo

MS = 1_000_000


def slo(*given: str) -> Slo:
    found = slo_of_options(given)
    assert found is not None
    return found


def sample(due: int | None = 90, phase: Any = "measured", **more: Any) -> Sample:
    """Sent at 100 ms, tokens at 150, 170, 200 and 210 ms."""
    reply: dict[str, Any] = {
        "seq": 0,
        "sent_ns": 100 * MS,
        "end_ns": 215 * MS,
        "token_ns": (150 * MS, 170 * MS, 200 * MS, 210 * MS),
        "tokens_per_arrival": (1, 1, 1, 1),
        "output_tokens": (4,),
    }
    return Sample(
        phase=phase,
        batch_size=1,
        input_tokens=10,
        output_tokens_asked=4,
        due_ns=None if due is None else due * MS,
        reply=Reply(**{**reply, **more}),
    )


def judged(given: Slo, *samples: Sample, unfinished: int = 0) -> Attained:
    judge = Judge(given)
    for each in samples:
        judge.add(each)
    found = judge.attained(10.0, unfinished)
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("bound", "good"),
    [
        ("ttft=60ms", True),  # from when it was due, not from when it was sent
        ("ttft=59ms", False),
        ("e2e=120ms", True),
        ("e2e=119ms", False),
        ("tpot=20ms", True),
        ("tpot=19ms", False),
        ("itl_max=0.03s", True),
        ("itl_max=29ms", False),
    ],
)
def test_each_objective_bounds_its_time(bound: str, good: bool) -> None:
    assert Judge(slo(bound)).add(sample()) is good


def test_a_closed_loop_has_no_due_times() -> None:
    assert Judge(slo("ttft=50ms")).add(sample(due=None))


def test_all_must_hold_and_each_is_counted() -> None:
    found = judged(slo("ttft=60ms", "e2e=100ms"), sample(), sample(), sample(token_ns=(95 * MS,) * 4))
    assert (found.due, found.good, found.kept) == (3, 1, {"ttft": 3, "e2e": 1})
    assert found.share == pytest.approx(1 / 3)
    assert found.goodput_per_s == pytest.approx(0.1)
    assert found.binding == "e2e"
    assert found.met is False


@pytest.mark.parametrize("error", ["Refused: 429", "TimedOut: no first byte in 600 s", "WrongLength: 3"])
def test_what_failed_and_what_did_not_end_are_misses(error: str) -> None:
    found = judged(slo("ttft=1s"), sample(), sample(error=error), unfinished=2)
    assert (found.due, found.good, found.kept) == (4, 1, {"ttft": 1})


def test_a_share_of_its_own_makes_a_goal_of_its_own() -> None:
    given = slo("ttft=60ms@50%", "tpot=20ms", "e2e=1s", "share=90%")
    assert given.goals == (
        Goal(objectives=("tpot", "e2e"), share=0.9),
        Goal(objectives=("ttft",), share=0.5),
    )
    late = sample(due=20)
    found = judged(given, sample(), late)
    assert [each.kept for each in found.goals] == [2, 1]
    assert found.met is True
    assert judged(given, sample(), late, late).met is False
    assert slo_words(given) == "tpot ≤ 20.00 ms, e2e ≤ 1.00 s (90 % together), ttft ≤ 60.00 ms (50 %)"


def test_the_binding_objective_is_that_whose_allowed_misses_are_used_up_most() -> None:
    given = slo("ttft=60ms@99%", "e2e=100ms@50%")
    late = sample(due=0, token_ns=(80 * MS, 90 * MS))  # misses ttft alone
    assert judged(given, *[sample()] * 3, late).binding == "ttft"
    assert judged(given, *[sample(token_ns=(95 * MS,) * 4)] * 4).binding is None


def test_what_cannot_be_told_is_no_share() -> None:
    piece = sample(token_ns=(150 * MS,), tokens_per_arrival=(4,))
    found = judged(slo("tpot=20ms"), sample(), piece)
    assert (found.unknown, found.share, found.goodput_per_s, found.met) == (1, None, None, None)
    few = judged(slo("tpot=20ms"), *[sample()] * 39, piece)
    assert (few.unknown, few.good, few.share, few.kept) == (1, 39, 39 / 40, {"tpot": 39})
    assert judged(slo("ttft=60ms"), piece).share == 1.0
    assert judged(slo("ttft=60ms"), sample(token_ns=(), tokens_per_arrival=())).unknown == 1
    one = sample(token_ns=(150 * MS,), tokens_per_arrival=(1,), output_tokens=(1,))
    assert judged(slo("tpot=20ms", "itl_max=1ms"), one).good == 1  # one token has no pace to keep


def test_misses_are_taken_in_the_order_in_which_requests_were_due() -> None:
    judge = Judge(slo("e2e=1s"))
    order = [(due, due >= 100) for due in range(200)]
    for due, late in sorted(order, key=lambda each: each[0] % 7):
        judge.add(sample(due=due, token_ns=((due + (2000 if late else 5)) * MS,)))
    found = judge.attained(1.0)
    assert found is not None
    assert found.goals[0].independent < 20


def test_without_requests_there_is_nothing() -> None:
    assert Judge(slo("e2e=1s")).attained(1.0) is None
    assert slo_of_options([]) is None


def test_bounds_are_read_as_people_write_them() -> None:
    assert slo("ttft=500ms", "e2e=1m30s@99%").objectives == (
        Objective(name="ttft", limit_s=0.5),
        Objective(name="e2e", limit_s=90.0, share=0.99),
    )
    assert (parse_share("95%"), parse_share("0.95"), parse_share(" 99.9 % ")) == (0.95, 0.95, 0.999)
    assert slo("ttft=1s").share == 0.95
    assert make_slo({"tpot": "20ms"}, 0.9) == slo("tpot=20ms", "share=90%")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["ttft"], "--slo ttft: not NAME=BOUND"),
        (["tfft=1s"], "no objective .accepted: ttft, tpot, e2e, itl_max, share"),
        (["ttft=1s", "ttft=2s"], "given twice"),
        (["ttft=soon"], "'soon': not a bound"),
        (["ttft=500"], "'500': not a bound .accepted: a time such as \"500ms\""),
        (["ttft=500@99%"], "not a bound"),
        (["ttft=0ms"], "not a bound"),
        (["ttft=nan"], "not a bound"),
        (["ttft=1s@100%"], "'100%': not a share of requests .accepted: 50% to 99.9%"),
        (["ttft=1s@"], "not a share"),
        (["ttft=1s", "share=20%"], "not a share"),
        (["ttft=1s", "share=nan"], "not a share"),
        (["share=90%"], "of no objective"),
    ],
)
def test_what_cannot_be_read_is_refused(given: list[str], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        slo_of_options(given)
