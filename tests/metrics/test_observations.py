"""The trend of latency over a trial: one figure, which a steep line must not make endless or negative."""

from __future__ import annotations

import pytest

from loadgen.metrics.observations import Observations
from loadgen.request_records import Reply, Sample

S = 1_000_000_000


def seen(latencies_s: list[float]) -> Observations:
    """One request started every second."""
    found = Observations()
    for at, latency_s in enumerate(latencies_s):
        reply = Reply(seq=at, sent_ns=at * S, end_ns=at * S + int(latency_s * S))
        sample = Sample(
            phase="measured", batch_size=1, input_tokens=8, output_tokens_asked=1, due_ns=None, reply=reply
        )
        found.add(sample, at * S, int(latency_s * S))
    return found


def test_the_line_tells_how_latency_grew() -> None:
    assert seen([1.0] * 5).growth() == pytest.approx(1.0)
    assert seen([1.0, 1.5, 2.0]).growth() == pytest.approx(2.0)
    assert seen([1.0, 2.0]).growth() is None


def test_a_line_that_starts_at_or_below_zero_is_held_to_a_part_of_the_mean() -> None:
    steep = [0.0, 0.0, 0.0, 1.0, 5.0]  # mean 1.2 s; the line starts at -1 s and ends at 3.4 s
    assert seen(steep).growth() == pytest.approx(3.4 / (1.2 / 20))
    assert seen([0.0, 1.0, 2.0]).growth() == pytest.approx(2.0 / (1.0 / 20))  # starts at nothing
