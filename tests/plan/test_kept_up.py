"""A pace alone is kept at any rate by an engine that admits so many at once: the server's own limit is the capacity."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from simulated_search import run, search

from loadgen.plan.capacity_estimate import of_role
from loadgen.plan.capacity_outcome import outcome
from loadgen.plan.kept_up import judged, unbound

MOST = 38.8  # requests a second that SLOW ends when there is always one waiting


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"window_s": None, "lead_in_s": None},  # by rule, where a growing queue is seen
        {"window_s": 10.0, "lead_in_s": 2.0},  # too short to see it
        {"near": 40.0},
        {"near": 120.0},
        {"near": 12.0},
    ],
)
def test_a_rate_that_the_server_does_not_keep_up_with_is_beyond_capacity(more: dict[str, Any]) -> None:
    asked = search("tpot=200ms", "share=90%", **more)
    done = run(asked)
    assert all(each.counted is not None and each.counted.met for each in of_role(done, "window"))
    found = outcome(asked, done, "e")
    assert found.capacity == pytest.approx(MOST, rel=0.08)
    assert found.binding is None
    assert "slo-unbound" in {each.kind for each in found.caveats}


def test_what_was_kept_up_with_is_left_as_it_was() -> None:
    asked = search("ttft=500ms", "tpot=200ms", "share=90%")
    done = run(asked)
    after = judged(done)
    near = [each for each in of_role(done, "window") if each.level < 0.95 * MOST]
    assert near
    assert all(each in after for each in near)
    assert unbound(done) == []
    assert judged(after) == after


def test_a_short_trial_far_above_all_that_was_ever_done_does_not_pass() -> None:
    done = run(search("tpot=200ms", "share=90%"))
    brackets = of_role(judged(done), "bracket")
    assert [each.passed for each in brackets] == [each.level < 1.05 * MOST for each in brackets]


def test_requests_that_were_refused_did_not_wait() -> None:
    """An eighth refused, all others in time, of a goal of 80 %: no queue grew."""
    asked = search("ttft=500ms", "share=80%", near=25.0)
    window = of_role(run(asked), "window")[0]
    summary = window.result.summary
    assert window.counted is not None
    assert summary is not None
    assert summary.requests_per_s is not None
    refused = window.counted.due // 8
    served = replace(summary, requests_per_s=summary.requests_per_s * 7 / 8)
    fewer = replace(window, result=replace(window.result, summary=served))
    assert judged([fewer]) != [fewer]
    told = replace(fewer, result=replace(fewer.result, summary=replace(served, requests_failed=refused)))
    assert judged([told]) == [told]
