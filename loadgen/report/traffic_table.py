"""What was sent beside what came, of trials whose requests differ: lengths, caches, sessions, what was given up."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from loadgen.load_records import LoadSpec
from loadgen.metrics.percentiles import tail_words
from loadgen.records import Dist, Summary, TrialResult
from loadgen.report.tables import describe, varying
from loadgen.text_table import Table, table_of
from loadgen.units import show_number, show_s, show_share

HEAD = (
    "trial", "input asked", "input had", "output asked", "output had", "cache predicted", "cache had", "sessions",
    "turns not sent", "session lag", "cancelled", "left out",
)  # fmt: skip
NOTES = {
    "output asked": "Lengths in tokens: median, and the range; had is the server's count.",
    "cache predicted": "Cache predicted: the share of input tokens that an endless cache of prefixes would hold.",
    "cache had": "Cache had: what the server says it took from its own.",
    "session lag": "Session lag: how much later than in its trace a turn was due, since the reply before it came late.",
}
LEFT_OUT = ("empty", "outside", "not_sampled", "too_long", "unanswered", "cut")  # of a trace or a data set


def has_traffic(load: LoadSpec) -> bool:
    """Whether the requests of a load differ in more than their number."""
    return load.varies or load.prefixes is not None or load.cancel is not None


def traffic_table(results: Sequence[TrialResult]) -> Table | None:
    """A line per trial of such a load, without the columns that none of them fills; ``None`` without any."""
    axes = varying(result.trial for result in results)
    rows = [
        (describe(result.trial, axes), *_cells(result, result.summary))
        for result in results
        if result.summary is not None and has_traffic(result.trial.load)
    ]
    told = [place for place in range(len(HEAD)) if any(row[place] != "–" for row in rows)]
    head = [HEAD[place] for place in told]
    note = " ".join(words for name, words in NOTES.items() if name in head)
    return table_of("What was sent", head, ([row[place] for place in told] for row in rows), note)


def predicted_share(result: TrialResult) -> float | None:
    """The share of input tokens that an endless cache would hold; ``None`` where nothing is shared, or nobody knows."""
    summary, facts = result.summary, result.workload or {}
    if summary is not None and summary.known_tokens is not None and summary.input_tokens:
        asked = summary.lengths.get("input_asked")
        return summary.known_tokens / (asked.mean * asked.n) if asked is not None else None
    tokens, hits = facts.get("tokens"), facts.get("hit_tokens")
    if isinstance(tokens, int) and isinstance(hits, int) and tokens:
        return hits / tokens
    share = facts.get("hit_share")
    return share if isinstance(share, float) else None


def _cells(result: TrialResult, summary: Summary) -> tuple[str, ...]:
    lengths = (
        summary.lengths.get(name) for name in ("input_asked", "input_had", "output_asked", "output_had")
    )
    had = summary.cached_tokens
    cached = had / summary.cached_of_tokens if had is not None and summary.cached_of_tokens else None
    told, lag = result.sessions, summary.session_lag_s
    words = "–"
    if told is not None:
        words = "of a trace" if told.begun is None else f"{told.begun} begun, {told.whole} whole"
        words += f", {told.failed} failed" if told.failed else ""
        words += f", {show_number(told.active_mean)} at once" if told.active_mean is not None else ""
    return (
        *map(_length, lengths),
        show_share(predicted_share(result)),
        show_share(cached),
        words,
        "–" if told is None else str(told.not_sent),
        "–" if lag is None else f"{show_s(lag.p50)}, {tail_words(lag, 'p99')}",
        str(summary.requests_cancelled) if result.trial.load.cancel is not None else "–",
        _left_out(result.workload or {}),
    )


def _length(found: Dist | None) -> str:
    return "–" if found is None else f"{found.p50:.0f} ({found.min:.0f}–{found.max:.0f})"


def _left_out(facts: Mapping[str, object]) -> str:
    words = [f"{facts[name]} {name.replace('_', ' ')}" for name in LEFT_OUT if facts.get(name)]
    return ", ".join(words) or "–"
