"""How long trials take, learnt from those that ended."""

from __future__ import annotations

from dataclasses import replace

import pytest

from loadgen.load_records import LoadSpec
from loadgen.theory.duration import Durations, Work, schedule_s, trial_s

STATIC = Work(
    server="hf", kind="static", at_once=8, input_tokens=20, output_tokens=100, requests=6, cost=1.0,
    schedule_s=None,
)  # fmt: skip
OPEN = replace(STATIC, kind="constant", at_once=1, schedule_s=30.0)


def test_the_newest_of_equal_work_counts() -> None:
    durations = Durations()
    durations.learn(STATIC, 10.0)
    durations.learn(replace(STATIC, at_once=16, cost=2.0), 15.0)
    durations.learn(STATIC, 12.0)
    assert durations.expected_s(STATIC) == 12.0
    assert durations.expected_s(replace(STATIC, cost=3.0)) == 36.0


def test_an_open_loop_keeps_its_schedule_and_the_lateness_of_the_nearest() -> None:
    durations = Durations()
    durations.learn(STATIC, 500.0)
    assert durations.expected_s(OPEN) == 30.0, "a static batch tells nothing of a schedule"
    durations.learn(OPEN, 45.0)  # a server that could not keep up
    assert durations.expected_s(OPEN) == 45.0
    assert durations.expected_s(replace(OPEN, schedule_s=60.0)) == 90.0
    assert durations.expected_s(replace(OPEN, server="ds", schedule_s=60.0)) == 60.0
    durations.learn(OPEN, 29.0)
    assert durations.expected_s(OPEN) == 30.0, "nothing is done before its schedule is over"


def test_a_sum_is_known_when_its_parts_are() -> None:
    durations = Durations()
    assert durations.total_s([]) == 0.0
    assert durations.total_s([OPEN, OPEN]) == 60.0
    assert durations.total_s([OPEN, STATIC]) is None
    durations.learn(STATIC, 10.0)
    assert durations.total_s([OPEN, STATIC, STATIC]) == 50.0


@pytest.mark.parametrize(
    ("load", "expected"),
    [
        ({"kind": "constant", "rate": 2.0, "requests": 18}, 9.0),
        ({"kind": "ramp", "rate": 1.0, "rate_end": 5.0, "requests": 60}, 20.0),
        ({"kind": "trace", "trace": "t.jsonl", "requests": 60}, None),
        ({"kind": "static", "requests": 60}, None),
    ],
)
def test_what_a_schedule_lasts(load: dict[str, object], expected: float | None) -> None:
    spec = LoadSpec(input_tokens=20, output_tokens=100, **load)  # type: ignore[arg-type]
    assert schedule_s(spec) == expected


def test_a_paced_closed_loop_is_no_faster_than_its_pace() -> None:
    load = LoadSpec(kind="closed", input_tokens=1, output_tokens=1, requests=16, warmup=0, concurrency=4)
    assert trial_s(load, 2.0) == 8.0
    assert trial_s(replace(load, max_rate=1.0), 2.0) == 16.0
    assert trial_s(load, None) is None
