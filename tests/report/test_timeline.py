"""A trial over time: what nobody counted is a gap in the line, and no zero."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from synthetic import Point, result, roofline_world, samples_of

from loadgen.analysis.table import rows_of
from loadgen.report.timeline import _first_requests, _timeline
from loadgen.results.store import Store


def test_uncounted_replies_leave_a_gap_and_failed_ones_none(tmp_path: Path) -> None:
    """Eight replies that were not streamed: the third counted by nobody, the sixth failed."""
    found = result(Point(stream=False), roofline_world(plateau_s=30e-3))
    samples = samples_of(found)
    samples[2] = replace(samples[2], reply=replace(samples[2].reply, output_tokens=None, counted_by=None))
    lost = replace(samples[5].reply, output_tokens=None, counted_by=None, error="TimedOut: total")
    samples[5] = replace(samples[5], reply=lost)
    with Store.create(tmp_path / "x", {"name": "x"}) as store:
        writer = store.sample_writer(found.trial.id)
        for sample in samples:
            writer.add(sample)
        writer.close()
        (row,) = rows_of([found], {}, results=store)
        batch = _first_requests(row)
    assert batch is not None
    rates = _timeline(batch).traces[0]["y"]
    gaps = [at for at, rate in enumerate(rates) if rate != rate]  # NaN, which JSON has as null
    assert len(gaps) == 1
    assert sum(rate > 0 for rate in rates) == 6
    assert sum(rate == 0 for rate in rates) == len(rates) - 7
