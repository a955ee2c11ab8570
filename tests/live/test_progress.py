"""Rows and the time left."""

from __future__ import annotations

import json
from typing import Any

import pytest

from loadgen.labels import clean, load_label
from loadgen.live.progress import result_row, time_left_s, to_plain, to_result_row, trial_row


@pytest.mark.parametrize(
    ("load", "expected"),
    [
        ({"kind": "static", "batch_size": 8}, "batch 8"),
        ({"kind": "closed", "batch_size": 1, "concurrency": 16}, "16 in flight"),
        ({"kind": "closed", "batch_size": 4, "concurrency": 16}, "16 in flight × 4"),
        ({"kind": "poisson", "rate": 2.5}, "poisson 2.5/s"),
        ({"kind": "ramp", "rate": 1.0, "rate_end": 50.0}, "ramp 1–50/s"),
        ({"kind": "trace", "trace": "t.jsonl"}, "trace"),
    ],
)
def test_the_load_has_a_name(build: Any, load: dict[str, Any], expected: str) -> None:
    assert load_label(build.trial(**load)) == expected


def test_rows_survive_their_journey_as_json(build: Any) -> None:
    for result in (
        build.result(build.trial(8), caveats=(build.spread, build.client)),
        build.result(build.trial(4, repeat=1), failure=build.out_of_memory),
        build.result(build.endpoint_trial(kind="closed")),
    ):
        row = result_row(result)
        assert to_result_row(json.loads(json.dumps(to_plain(row)))) == row


def test_a_result_is_told_in_a_line_with_its_doubts(build: Any) -> None:
    row = result_row(
        build.result(build.trial(8), 0.5, caveats=(build.spread, build.client), requests_failed=3)
    )
    assert row.client_limited
    assert row.marks == ("!client", "spread")
    for part in (
        "E2E p50 500.0 ms",
        "TTFT 50.00 ms",
        "320 tok/s out",
        "3 requests failed",
        "[!client]",
        "[spread]",
    ):
        assert part in row.figures


def test_what_was_not_measured_is_a_dash(build: Any) -> None:
    row = result_row(build.result(build.trial(), ttft_s=None, tpot_s=None, output_tokens_per_s=None))
    assert row.ttft_p50_s is None
    assert "TTFT –" in row.figures
    assert "0" not in row.figures.split("TTFT")[1]


def test_a_failure_is_told_by_its_first_line(build: Any) -> None:
    row = result_row(build.result(build.trial(), failure=build.out_of_memory))
    assert row.figures == "FAILED ServerOutOfMemory: CUDA out of memory"
    assert row.e2e_p50_s is None
    assert row.ok is None


def test_text_from_outside_cannot_steer_a_terminal() -> None:
    assert clean("a\x1b]0;title\x07b\rc\n‮d") == "a�]0;title�b�c\n�d"
    assert clean("µs × 3 – ✓") == "µs × 3 – ✓"


def test_time_left_follows_what_trials_of_the_same_server_took(build: Any) -> None:
    def row(**shape: Any) -> Any:
        return trial_row(build.trial(**shape))

    def ended(wall_s: float, failure: Any = None, **shape: Any) -> Any:
        return result_row(build.result(build.trial(**shape), wall_s=wall_s, failure=failure))

    todo = [row(tp=2, output_tokens=40)]
    assert time_left_s(todo, []) is None
    assert time_left_s(todo, [ended(5, failure=build.out_of_memory, tp=2)]) is None
    slow, fast = ended(100, tp=1, output_tokens=40), ended(10, tp=2, output_tokens=40)
    assert time_left_s(todo, [slow]) == pytest.approx(100)
    assert time_left_s(todo, [slow, fast]) == pytest.approx(10)
    assert time_left_s([row(tp=2, output_tokens=80)], [slow, fast]) == pytest.approx(20, rel=0.05)
    assert time_left_s([], [slow]) == 0


def test_an_open_loop_lasts_as_long_as_its_schedule(build: Any) -> None:
    trial = build.trial(kind="constant", rate=2.0, requests=18, warmup=2)
    assert time_left_s([trial_row(trial)], []) == pytest.approx(9), "its warm-up is a burst"
