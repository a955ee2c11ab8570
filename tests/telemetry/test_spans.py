"""A trial's phases, from its samples."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadgen.load_records import Window
from loadgen.results.store import SampleWriter
from loadgen.telemetry.spans import Spans, merged, spans_of, spans_of_file, without

PAIRS = st.lists(
    st.tuples(st.integers(0, 60), st.integers(0, 60)).map(lambda p: (min(p), max(p))), max_size=8
)


def instants(spans: list[tuple[int, int]]) -> set[int]:
    return {at for start, end in spans for at in range(start, end)}


@given(PAIRS, PAIRS)
def test_stretches_are_sets_of_instants(some: list[tuple[int, int]], others: list[tuple[int, int]]) -> None:
    one, two = merged(some), merged(others)
    assert instants(one) == instants(some)
    assert all(a[1] < b[0] for a, b in pairwise(one))
    assert instants(without(one, two)) == instants(one) - instants(two)


def test_a_static_batch() -> None:
    found = spans_of([("warmup", 10, 20, 12), ("measured", 30, 50, 34), ("measured", 50, 70, 55)], began_ns=4)
    assert found == Spans(
        idle=((4, 10),),
        warmup=((10, 20),),
        load=((30, 70),),
        prefill=((30, 34), (50, 55)),
        decode=((34, 50), (55, 70)),
    )


def test_one_that_prefills_makes_it_prefill() -> None:
    found = spans_of([("measured", 0, 100, 10), ("measured", 40, 120, 60)], began_ns=0)
    assert found.prefill == ((0, 10), (40, 60))
    assert found.decode == ((10, 40), (60, 120))


def test_without_streamed_tokens_there_is_no_prefill_to_tell() -> None:
    found = spans_of([("measured", 5, 10, 6), ("measured", 10, 15, None)], began_ns=0)
    assert (found.prefill, found.decode, found.load) == ((), (), ((5, 15),))


def test_the_load_of_a_window_is_what_lies_in_it() -> None:
    times = [("lead_in", 0, 30, 10), ("measured", 25, 60, 45), ("drain", 50, 90, 70)]
    found = spans_of([("warmup", -20, -5, -15), *times], began_ns=-20, window=Window(start_ns=20, end_ns=55))
    assert found.warmup == ((-20, -5),)
    assert found.load == ((20, 55),)
    assert found.prefill == ((25, 45), (50, 55))
    assert found.decode == ((20, 25), (45, 50))


def test_from_a_samples_file(tmp_path: Path, build) -> None:  # type: ignore[no-untyped-def]
    writer = SampleWriter(tmp_path / "s.parquet")
    writer.add(build.sample(0, sent_ms=10, e2e_ms=10, ttft_ms=2, phase="warmup"))
    writer.add(build.sample(1, sent_ms=30, e2e_ms=20, ttft_ms=5))
    writer.add(build.sample(2, sent_ms=60, e2e_ms=900, ttft_ms=None, error="TimedOut: no first byte"))
    writer.close()
    ms = 1_000_000
    assert spans_of_file(tmp_path / "s.parquet", 0) == Spans(
        idle=((0, 10 * ms),),
        warmup=((10 * ms, 20 * ms),),
        load=((30 * ms, 50 * ms),),
        prefill=((30 * ms, 35 * ms),),
        decode=((35 * ms, 50 * ms),),
    )


@pytest.mark.parametrize("rows", [0, 1])
def test_a_trial_without_a_valid_sample_has_no_phase(tmp_path: Path, rows: int, build) -> None:  # type: ignore[no-untyped-def]
    assert spans_of_file(tmp_path / "none.parquet", 0) == Spans()
    writer = SampleWriter(tmp_path / "s.parquet")
    for row in range(rows):
        writer.add(build.sample(row, ttft_ms=None, error="Refused: 500"))
    writer.close()
    assert spans_of_file(tmp_path / "s.parquet", 0) == Spans()
