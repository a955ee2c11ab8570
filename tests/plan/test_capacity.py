"""Searches on simulated servers, by the code that real ones run through."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
from simulated_search import SLOW, run, search
from simulated_server import Servers, result_of

from loadgen.metrics.objectives import attained, slo_of_options
from loadgen.plan.capacity import MOST_TRIALS, Step, next_step, replay
from loadgen.plan.capacity_estimate import UNTOLD_EFFECT, Done, design_effect, of_role
from loadgen.plan.capacity_outcome import outcome, words
from loadgen.records import NONE_ENDED, Caveat, Failure, TrialResult
from loadgen.search_records import CapacitySearch
from loadgen.slo_records import Attained, GoalKept
from loadgen.units import show_number


@cache
def usual() -> tuple[CapacitySearch, tuple[Done, ...]]:
    asked = search(confirm=True)
    return asked, tuple(run(asked))


def test_it_goes_from_one_request_to_windows_about_the_capacity() -> None:
    asked, done = usual()
    roles = [each.role for each in done]
    assert roles[:3] == ["alone", "saturated", "bracket"]
    assert roles[-7:] == ["window"] * 6 + ["confirm"]
    assert len(done) <= MOST_TRIALS
    ids = [each.result.trial.id for each in done]
    assert len(set(ids)) == len(ids)
    loads = [each.result.trial.load for each in done if each.role == "window"]
    assert {(load.duration_s, load.lead_in_s, load.kind) for load in loads} == {(60.0, 15.0, "poisson")}
    found = outcome(asked, done, "e")
    assert found.ended == "found"
    assert found.low is not None
    assert found.capacity is not None
    assert found.high is not None
    assert found.low < found.capacity < found.high
    assert found.binding == "tpot"
    assert "tpot binds" in words(found)
    assert found.p_confirm is not None
    assert [role for role, _ in found.trials] == roles


def test_what_it_finds_is_the_servers_capacity() -> None:
    asked, done = usual()
    found = outcome(asked, done, "e")
    assert found.capacity is not None

    def at(rate: float) -> float:
        trial = done[-1].result.trial
        load = replace(trial.load, rate=rate, duration_s=2000.0, lead_in_s=60.0, seed=99)
        whole = result_of(replace(trial, load=load), SLOW, stop_growing=False).attained
        assert whole is not None
        assert whole.share is not None
        return whole.share

    assert at(found.capacity * 0.93) > 0.9 > at(found.capacity * 1.07)


def test_a_search_that_was_stopped_asks_for_the_same_trials() -> None:
    asked, done = usual()
    every = {each.result.trial.id: each.result for each in done}
    for count in range(len(done)):
        stored = dict(list(every.items())[:count])
        before, step = replay(asked, stored)
        assert [each.result.trial.id for each in before] == list(stored)
        assert step is not None
        assert step.trial.id == done[count].result.trial.id
    assert replay(asked, every)[1] is None


def test_one_request_at_a_time_comes_from_one_process() -> None:
    asked = search()
    many = replace(asked.point.load, workers=4)
    first = next_step(replace(asked, point=replace(asked.point, load=many)), [])
    assert first is not None
    assert (first.trial.load.concurrency, first.trial.load.workers) == (1, 1)
    _, done = usual()
    second = next_step(replace(asked, point=replace(asked.point, load=many)), done[:1])
    assert second is not None
    assert (second.trial.load.concurrency, second.trial.load.workers) == (256, 4)


def test_results_of_other_objectives_are_not_taken() -> None:
    every = {each.result.trial.id: each.result for each in usual()[1]}
    other = search("tpot=50ms", "share=90%")
    assert replay(other, every)[0] == []


def test_what_one_request_alone_misses_has_no_capacity() -> None:
    asked = search("ttft=20ms", "e2e=60s")
    done = run(asked)
    assert [each.role for each in done] == ["alone"]
    found = outcome(asked, done, "e")
    assert (found.ended, found.why, found.capacity) == ("none", "one request alone misses ttft", None)
    assert "none: one request alone misses ttft" in words(found)


def test_it_stops_when_the_interval_is_narrow_enough() -> None:
    assert len([each for each in run(search(within=0.9)) if each.role == "window"]) == 3


def test_concurrency_is_searched_in_whole_numbers() -> None:
    asked = search(variable="concurrency")
    done = run(asked)
    levels = [each.level for each in done if each.role == "window"]
    assert all(level == int(level) for level in levels)
    assert len(set(levels)) > 2
    found = outcome(asked, done, "e")
    assert found.capacity is not None
    # A step of 20 ms at most within the 60: 40 + 1 for each at work + 6.4 for a prompt that joins.
    assert 8 < found.capacity < 20
    assert "in flight" in words(found)


@pytest.mark.parametrize("more", [{}, {"saturating": 8}, {"near": 40.0}, {"confirm": True}])
def test_what_is_kept_with_any_number_in_flight_has_no_capacity(more: dict[str, Any]) -> None:
    """A fit told 374 [373, 376], 132, 1,874: how far each of these searches had looked."""
    asked = search("tpot=200ms", "share=90%", variable="concurrency", window_s=10.0, lead_in_s=2.0, **more)
    found = outcome(asked, done := run(asked), "e")
    assert not of_role(done, "confirm")
    most = max(each.level for each in of_role(done, "bracket", "window"))
    assert (found.ended, found.capacity) == ("failed", None)
    assert f"not found: all was kept up to {show_number(most)} in flight" in words(found)


def test_a_number_in_flight_that_waiting_misses_is_found_where_it_is_named() -> None:
    """64 slots that end 38.8 a second: 20 s of waiting are for 840 in flight, and 375 were looked at."""
    at = {"variable": "concurrency", "window_s": 40.0, "lead_in_s": 20.0}
    asked = search("ttft=20s", "share=90%", **at)
    assert "look higher: near" in (outcome(asked, run(asked), "e").why or "")
    there = search("ttft=20s", "share=90%", near=900.0, **at)
    assert outcome(there, run(there), "e").capacity == pytest.approx(840, rel=0.05)


def test_a_rate_is_not_found_where_every_trial_missed() -> None:
    """A fit told 1.32 [1.32, 1.38], at which half of the requests kept what 90 % must."""
    asked = search("tpot=42ms", "share=90%")
    done = run(asked)
    assert not any(each.passed for each in of_role(done, "bracket", "window"))
    found = outcome(asked, done, "e")
    assert (found.ended, found.capacity) == ("failed", None)
    assert "none was kept down to 1.32 req/s" in (found.why or "")


def test_the_lowest_of_several_goals_decides() -> None:
    asked = search("tpot=60ms@90%", "e2e=20s@99%")
    found = outcome(asked, run(asked), "e")
    assert found.capacity is not None
    assert len(found.goals) == 2
    assert found.capacity == pytest.approx(min(each.capacity for each in found.goals), rel=0.01)
    assert found.binding == "tpot"


def limited(step: Step, result: TrialResult) -> TrialResult:
    if step.role != "window":
        return result
    return replace(result, caveats=(Caveat(kind="send-lag", message="", remedy="", client=True),))


def test_what_the_client_limited_is_void() -> None:
    asked = search()
    found = outcome(asked, done := run(asked, change=limited), "e")
    assert found.ended == "client"
    assert sum(each.role == "window" for each in done) == 2


def test_a_server_that_does_not_start_ends_it() -> None:
    def broken(_: Step, result: TrialResult) -> TrialResult:
        return replace(
            result, failure=Failure(error="ServerDied", message="gone\nlog", phase="start"), attained=None
        )

    asked = search()
    done = run(asked, change=broken)
    found = outcome(asked, done, "e")
    assert (len(done), found.ended, found.why) == (1, "failed", "ServerDied: gone")


def test_a_saturating_load_of_which_none_ends_says_nothing() -> None:
    def stuck(step: Step, result: TrialResult) -> TrialResult:
        if step.role != "saturated":
            return result
        failure = Failure(error=NONE_ENDED, message="no measured request ended", phase="load")
        return replace(result, failure=failure, summary=None, attained=None)

    asked = search()
    done = run(asked, change=stuck)
    found = outcome(asked, done, "e")
    assert done[2].level == pytest.approx(0.7 / (done[0].e2e_s or 0), rel=0.01)  # from one at a time upwards
    assert found.ended == "found"


def test_a_load_that_breaks_the_server_counts_as_too_high() -> None:
    def broken(step: Step, result: TrialResult) -> TrialResult:
        if (step.trial.load.rate or 0) < 14:
            return result
        assert result.trial.slo is not None
        none = attained(result.trial.slo, np.zeros(900, np.uint8), 60.0)
        failure = Failure(error="TimedOut", message="", phase="load")
        return replace(result, failure=failure, summary=None, attained=none)

    asked = search("tpot=90ms", "share=90%")
    found = outcome(asked, run(asked, change=broken), "e")
    assert found.high is not None
    assert found.high < 25


def test_how_misses_hang_together_is_told_by_loads_about_the_goal() -> None:
    def window(missed: int, worth: float) -> Attained:
        slo = slo_of_options(("e2e=1s", "share=99%"))
        assert slo is not None
        kept = GoalKept(kept=2000 - missed, independent=worth, low=0.0, high=1.0)
        return Attained(
            slo=slo, due=2000, good=2000 - missed, kept={"e2e": 2000 - missed}, goals=(kept,), window_s=90.0
        )

    near, far, few = window(20, 200.0), window(900, 5.0), window(2, 2000.0)
    assert design_effect([near, far, few], 0) == 10
    assert design_effect([far, few], 0) == UNTOLD_EFFECT


def test_few_slots_are_told_by_a_caveat() -> None:
    asked = search("e2e=12s", window_s=None, lead_in_s=None)
    done = run(asked, Servers())
    assert "few-slots" in kinds_with_most(asked, done, 1.0)


def test_a_saturating_trial_in_which_little_ended_says_nothing_of_slots() -> None:
    """FastGen on an H200 ended 2.5 requests a second in it, and 7.4 in a window."""
    asked, done = usual()
    assert "few-slots" not in kinds_with_most(asked, done, 1.0)
    assert "few-slots" not in kinds_with_most(asked, done, 0.1)


def kinds_with_most(asked: CapacitySearch, done: Sequence[Done], times: float) -> set[str]:
    """Kinds of doubts where the saturating trial had ended so many times its requests."""
    summary = done[1].result.summary
    assert done[1].role == "saturated"
    assert summary is not None
    assert summary.requests_per_s is not None
    less = replace(summary, requests_per_s=summary.requests_per_s * times)
    changed = [*done[:1], replace(done[1], result=replace(done[1].result, summary=less)), *done[2:]]
    return {each.kind for each in outcome(asked, changed, "e").caveats}


def test_a_search_that_knows_where_to_look_goes_straight_to_its_windows() -> None:
    whole, done = usual()
    known = outcome(whole, done, "e").capacity
    assert known is not None
    asked = search(near=known)
    near = run(asked)
    assert [each.role for each in near] == ["alone"] + ["window"] * 6
    assert near[0].result.trial.load.duration_s == pytest.approx(60 * 20 / 90, abs=1e-3)
    assert near[1].level == pytest.approx(known, rel=0.005)
    found = outcome(asked, near, "e")
    assert found.low is not None
    assert found.high is not None
    assert found.low < known < found.high
    assert asked == replace(asked, near=None)  # a search is what it looks for, not where


@pytest.mark.parametrize("off", [1e-6, 0.01, 0.1, 0.5, 2.0, 10.0, 100.0])
def test_a_wrong_idea_of_where_it_is_misleads_no_search(off: float) -> None:
    """Far beyond it all windows missed, and the fit told the lowest load that it looked at, to 1 %."""
    whole, done = usual()
    known = outcome(whole, done, "e").capacity
    assert known is not None
    asked = search(near=off * known, confirm=off == 0.1)
    tried = run(asked)
    assert len(tried) <= MOST_TRIALS
    found = outcome(asked, tried, "e")
    assert not {"slo-bracket", "few-slots"} & {caveat.kind for caveat in found.caveats}
    assert found.capacity == pytest.approx(known, rel=0.15)
    assert found.low is not None
    assert found.high is not None
    assert found.low < known < found.high


def test_requests_in_flight_are_searched_near_a_number_too() -> None:
    asked = search(variable="concurrency", near=15.0, window_s=None, lead_in_s=None)
    done = run(asked)
    loads = [each.result.trial.load for each in done]
    assert [load.concurrency for load in loads[:2]] == [1, 15]
    assert all((load.duration_s or 0) >= 90 for load in loads[1:])
    assert outcome(asked, done, "e").ended == "found"
    for wrong in (0.1, 300.0):
        far = search(variable="concurrency", near=wrong)
        assert outcome(far, run(far), "e").capacity == pytest.approx(13.4, rel=0.03)


def test_a_search_that_was_told_where_to_look_does_not_take_its_windows_for_the_most_there_is() -> None:
    near, few = search(near=13.0), search("ttft=2s", near=12.5)
    for asked, server, told in ((near, SLOW, False), (few, replace(SLOW, slots=8), True)):
        done = run(asked, server)
        assert not [each for each in done if each.role == "saturated"]
        assert ("few-slots" in {each.kind for each in outcome(asked, done, "e").caveats}) == told


def test_starts_draw_arrivals_of_their_own() -> None:
    asked = search(near=12.0)
    again = replace(asked, point=replace(asked.point, start=1))
    alone = [run(each)[:2] for each in (asked, again)]
    loads = [[each.result.trial.load for each in done] for done in alone]
    assert loads[0][1].rate == loads[1][1].rate
    assert {load.seed for load in loads[0]}.isdisjoint(load.seed for load in loads[1])


def test_windows_stay_where_something_was_tried() -> None:
    """Above windows that all passed, a fit alone sees no end: FastGen on two GPUs was asked for 12.9 requests a second
    right after 6.8 had passed, where a short trial had failed at 8.6."""
    asked = search()
    done = run(asked)
    for count in range(1, len(done)):
        before, level = done[:count], done[count].level
        tried = [each for each in before if each.role in ("bracket", "window")]
        failed = [each.level for each in tried if not each.passed]
        passed = [each.level for each in tried if each.passed]
        if done[count].role == "window":
            assert min(passed) / 1.09 < level < max(failed) * 1.09
            above = [each for each in failed if each > max(passed)]
            assert level <= (min(above) if above else max(passed) * 1.6) * 1.081


def test_the_first_windows_beyond_a_named_load_are_close_to_it() -> None:
    asked = search(near=10.0)  # far below
    levels = [each.level for each in run(asked)[1:]]
    assert levels[0] == 10.0
    assert 10.0 < levels[1] <= 10.0 * 1.15 * 1.081
    assert levels[1] < levels[2] <= levels[1] * 1.15**2 * 1.09
