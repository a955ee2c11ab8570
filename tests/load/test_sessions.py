"""Conversations by their numbers: how many turns, of which lengths, with how much thinking, on any worker."""

from __future__ import annotations

from itertools import islice
from typing import Any

from loadgen.load.arrivals import schedule, share
from loadgen.load_records import LoadSpec
from loadgen.workload_records import Prefixes, Sessions, Spread


def fixed(value: int) -> Spread:
    return Spread(kind="uniform", least=value, most=value)


def load(requests: int = 60, **more: Any) -> LoadSpec:
    talk = {"users": 4, "turns": Spread(kind="uniform", least=1, most=6), "think_ms": fixed(500)}
    talk |= {key: more.pop(key) for key in ("users", "turns", "think_ms", "max_context") if key in more}
    shape = {
        "kind": "sessions",
        "input_tokens": 10,
        "output_tokens": 5,
        "requests": requests,
        "seed": 3,
        **more,
    }
    return LoadSpec(**shape, sessions=Sessions(**talk))


def turns(spec: LoadSpec) -> list[Any]:
    return [turn for first in schedule(spec) for turn in (first, *first.then)]


def test_turns_are_numbered_through_and_each_holds_what_came_before() -> None:
    found = list(schedule(load()))
    every = turns(load())
    assert [turn.number for turn in every] == list(range(60))
    assert {1 + len(first.then) for first in found[:-1]} == {1, 2, 3, 4, 5, 6}
    for first in found:
        assert (first.think_ns, first.context_tokens, first.session) == (0, 0, found.index(first))
        assert [turn.context_tokens for turn in first.then] == [15 * (k + 1) for k in range(len(first.then))]
        assert {turn.think_ns for turn in first.then} <= {500_000_000}
    assert [len(turns(load(requests))) for requests in (1, 2, 61)] == [1, 2, 61]
    assert turns(load(61))[:60] == every, "more requests leave those before them alone"


def test_sessions_are_the_same_on_any_number_of_workers_and_whole_on_each() -> None:
    spec = load(input_spread=Spread(kind="lognormal", least=1, most=90, median=10, sigma=1))
    alone = list(schedule(spec))
    assert (
        sorted((one for k in range(3) for one in share(schedule(spec), k, 3)), key=lambda one: one.number)
        == alone
    )
    other = load(input_spread=spec.input_spread, seed=4)
    assert [len(one.then) for one in schedule(other)] != [len(one.then) for one in alone]


def test_a_session_ends_before_it_outgrows_the_context() -> None:
    spec = load(turns=fixed(50), max_context=100, output_spread=Spread(kind="uniform", least=1, most=9))
    for first in list(schedule(spec))[:-1]:
        last = first.then[-1]
        assert 100 - 19 < last.context_tokens + last.input_tokens + last.output_tokens <= 100
    assert len(turns(load(turns=fixed(50), max_context=12, requests=7))) == 7, "each has one turn at least"


def test_a_prefix_stands_before_the_first_turn_alone() -> None:
    spec = load(prefixes=Prefixes(groups=2, tokens=40))
    found = list(schedule(spec))
    assert {first.input_tokens for first in found} == {50}
    assert {first.blocks for first in found} == {(0,), (1,)}
    assert {turn.blocks for first in found for turn in first.then} == {()}
    assert {first.then[0].context_tokens for first in found if first.then} == {55}
    assert spec.longest == 55


def test_a_duration_has_no_last_session() -> None:
    endless = list(islice(schedule(load(0, duration_s=5.0)), 200))
    assert len(endless) == 200
