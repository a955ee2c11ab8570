"""The best so far: of one job, and never a trial whose figure may not be believed."""

from __future__ import annotations

from typing import Any

from loadgen.live.best import best_so_far, marks_lines
from loadgen.live.progress import result_row, to_plain, to_result_row, trial_row


def test_the_best_are_of_one_job_and_of_trials_that_may_speak(build: Any) -> None:
    rows = [
        result_row(build.result(build.trial(1), 1.0)),
        result_row(build.result(build.trial(8, tp=4), 2.0)),
        result_row(build.result(build.trial(2), 0.5, caveats=(build.client,))),
        result_row(build.result(build.trial(4), 0.4, requests_failed=3)),
        result_row(build.result(build.trial(16), failure=build.out_of_memory)),
        result_row(build.result(build.trial(1, output_tokens=2), 0.1)),
    ]
    found = best_so_far(rows, trial_row(build.trial(64)))
    assert found == [
        ("lowest E2E p50", "1.00 s", "hf/generate llama-13b tp1, batch 1"),
        ("most tokens/s", "80 tok/s", "hf/generate llama-13b tp4, batch 8"),
        ("most tokens/s per GPU", "20 tok/s", "hf/generate llama-13b tp1, batch 1"),
    ]
    assert best_so_far(rows, None)[0][1] == "100.0 ms"  # of the last one's job
    assert best_so_far([], None) == best_so_far(rows[2:5], None) == []


def test_marks_are_told_by_what_was_seen_the_clients_first(build: Any) -> None:
    result = build.result(build.trial(), caveats=(build.spread, build.client))
    row = to_result_row(to_plain(result_row(result)))  # as the drawing process has it
    told = ["!client: event loop 12 ms late at p99", "spread: stdev is 12 % of the mean"]
    assert marks_lines([row], 200) == told
    assert all(len(line) <= width for width in range(30, 80) for line in marks_lines([row], width))
    assert marks_lines([result_row(build.result(build.trial()))], 80) == []
