"""What came within a window, by hand."""

from __future__ import annotations

from typing import Any

import pytest

from loadgen.load_records import Window
from loadgen.metrics.summary import Accumulator, summarise
from loadgen.request_records import Reply, Sample

MS = 1_000_000
WINDOW = Window(start_ns=1000 * MS, end_ns=2000 * MS)


def sample(phase: str, sent_ms: int, tokens_ms: tuple[int, ...], **more: Any) -> Sample:
    """Ten tokens in, one token out at each of ``tokens_ms``, the end of the reply with the last."""
    end_ms = more.pop("end_ms", tokens_ms[-1] if tokens_ms else sent_ms)
    reply = {
        "token_ns": tuple(at * MS for at in tokens_ms),
        "tokens_per_arrival": (1,) * len(tokens_ms),
        "output_tokens": (len(tokens_ms),),
        **more,
    }
    return Sample(
        phase=phase,  # type: ignore[arg-type]
        batch_size=1,
        input_tokens=10,
        output_tokens_asked=4,
        due_ns=None,
        reply=Reply(seq=0, sent_ns=sent_ms * MS, end_ns=end_ms * MS, **reply),
    )


SAMPLES = [
    sample("warmup", 0, (100, 200)),
    sample("lead_in", 800, (900, 950, 1000, 1100)),  # two of its four tokens, and its end, are inside
    sample("lead_in", 500, (600, 700)),  # wholly before
    sample("measured", 1000, (1200, 1400)),
    sample("measured", 1500, (1900, 1990, 2000, 2100)),  # two tokens and its prompt
    sample("drain", 2000, (2100, 2200)),
    sample("measured", 1600, (1700,), error="Refused: 503", end_ms=1800),
]


def test_rates_are_of_what_came_within_it() -> None:
    summary = summarise(SAMPLES, window=WINDOW)
    assert summary.duration_s == 1.0
    assert summary.output_tokens == 2 + 2 + 2
    assert summary.output_tokens_per_s == 6.0
    assert summary.input_tokens == 20  # the prompts whose first token came within it
    assert summary.total_tokens_per_s == 26.0
    assert summary.requests_per_s == 2.0  # ended within it
    # (100 + 400 + 500 + 200) ms in flight of the window's 1,000
    assert summary.in_flight_mean == pytest.approx(1.2)


def test_latencies_and_counts_are_of_the_requests_that_began_in_it() -> None:
    summary = summarise(SAMPLES, window=WINDOW)
    assert (summary.requests_ok, summary.requests_failed) == (2, 1)
    assert summary.e2e_s is not None
    assert (summary.e2e_s.n, summary.e2e_s.max) == (2, pytest.approx(0.6))


def test_a_reply_that_usage_counts_gives_the_share_of_its_arrivals() -> None:
    half = sample("lead_in", 800, (900, 1100), output_tokens=(40,), counted_by="usage")
    measured = sample("measured", 1500, (1600,))
    assert summarise([half, measured], window=WINDOW).output_tokens == 20 + 1


def test_without_streaming_a_reply_counts_where_it_ends() -> None:
    whole = {"tokens_per_arrival": (), "output_tokens": (5,)}
    before = sample("lead_in", 500, (), end_ms=1500, **whole)
    after = sample("measured", 1500, (), end_ms=2500, **whole)
    summary = summarise([before, after], window=WINDOW)
    assert (summary.output_tokens, summary.input_tokens, summary.requests_per_s) == (5, 10, 1.0)


def test_tokens_that_nobody_counted_leave_no_rate() -> None:
    uncounted = sample("drain", 1900, (1950, 2100), output_tokens=None)
    assert summarise([*SAMPLES, uncounted], window=WINDOW).output_tokens_per_s is None
    outside = sample("drain", 2000, (2100,), output_tokens=None)
    assert summarise([*SAMPLES, outside], window=WINDOW).output_tokens_per_s == 6.0


def test_a_window_in_which_nothing_was_served_has_no_rate() -> None:
    accumulator = Accumulator()
    accumulator.count_within(WINDOW)
    accumulator.add(sample("measured", 1500, (), end_ms=1600, error="Refused: 503"))
    summary = accumulator.summary()
    assert (summary.requests_failed, summary.duration_s, summary.output_tokens_per_s) == (1, None, None)
