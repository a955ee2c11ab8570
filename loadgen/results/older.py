"""Results of earlier versions, read as this one would have summed them up, from what is stored alone."""

from __future__ import annotations

from dataclasses import replace

from loadgen.errors import StoreError
from loadgen.records import DEFINITIONS, Summary
from loadgen.results.rows import Rows
from loadgen.units import NS_PER_S


def mended(summary: Summary, samples: Rows | None) -> Summary:
    """A summary whose rates run over the time of all requests, and whose uncounted tokens are ``None``.

    Versions before ran them over the time of the served ones, and stored 0 for tokens that nobody counted. The time of
    all is in the ``samples``; without any it is not known, nor is a rate. Percentiles stay as they were stored.
    """
    if summary.definitions >= DEFINITIONS:
        return summary
    if summary.output_tokens_per_s is None and summary.requests_ok and summary.duration_s:
        summary = replace(summary, output_tokens=None)
    if not summary.requests_failed:
        return summary
    duration_s = None if samples is None else _span_s(samples)

    def over_all(rate: float | None) -> float | None:
        if rate is None or duration_s is None or summary.duration_s is None:
            return None
        return rate * summary.duration_s / duration_s

    return replace(
        summary,
        duration_s=duration_s,
        output_tokens_per_s=over_all(summary.output_tokens_per_s),
        total_tokens_per_s=over_all(summary.total_tokens_per_s),
        requests_per_s=over_all(summary.requests_per_s),
    )


def _span_s(samples: Rows) -> float | None:
    """First send → last end of the measured requests; ``None`` where they cannot be read."""
    import pyarrow.compute as pc

    try:
        found = samples.table(["sent_ns", "end_ns"], where=pc.field("phase") == "measured")
    except StoreError:
        return None
    if not found.num_rows:
        return None
    span: int = pc.max(found["end_ns"]).as_py() - pc.min(found["sent_ns"]).as_py()
    return span / NS_PER_S if span > 0 else None
