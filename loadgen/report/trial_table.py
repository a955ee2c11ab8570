"""Every trial as a row of the page's table: what it was, what it measured, and whether it may be believed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from loadgen.analysis.analyse import Analysis
from loadgen.analysis.finding import server_text, split_text
from loadgen.analysis.roofline import Physics
from loadgen.analysis.table import Row
from loadgen.labels import failed_label
from loadgen.metrics.percentiles import percentile_words, tail
from loadgen.units import show_number, show_s, show_share

COLUMNS: tuple[tuple[str, bool], ...] = (
    ("source", False), ("server", False), ("model", False), ("split", False), ("load", False), ("batch", True),
    ("input", True), ("output", True), ("repeat", True), ("E2E p50", True), ("E2E p99", True), ("TTFT p50", True),
    ("TPOT p50", True), ("latency / output token", True), ("output tok/s", True), ("failed", True), ("MBU", True),
    ("MFU", True),
    ("floor / E2E", True), ("communication", True), ("input tokens at once", True), ("regime", False),
    ("doubts", False), ("machine", False), ("trial", False),
)  # fmt: skip


def trial_table(analysis: Analysis) -> Mapping[str, Any]:
    """Rows for the table: a cell is text, ``null``, or a pair of the sorting figure and its text."""
    return {
        "columns": [{"name": name, "number": number} for name, number in COLUMNS],
        "rows": [_trial(analysis, row) for row in analysis.rows],
    }


def _of_ridge(physics: Physics | None) -> Callable[[float], str]:
    """Input tokens of one forward, and how they stand to the predicted ridge."""
    ridge = physics.ridge_tokens if physics else None
    return lambda tokens: show_number(tokens) + (f" ({tokens / ridge:.2g} × ridge)" if ridge else "")


def _trial(analysis: Analysis, row: Row) -> dict[str, Any]:
    key, physics = row.key, analysis.physics.get(row.run)
    e2e = row.dist("e2e_s")

    def figure(value: float | None, show: Any) -> list[Any] | None:
        return None if value is None else [value, show(value)]

    why = analysis.excluded.get(row.run, "")
    doubts = ", ".join(dict.fromkeys(caveat.kind for caveat in row.result.caveats))
    cells: list[Any] = [
        row.source,
        server_text(key, split=False),
        key.model,
        split_text(key),
        key.kind,
        *(
            [number, str(number)]
            for number in (key.batch, key.input_tokens, key.output_tokens, row.trial.repeat)
        ),
        figure(row.values.get("e2e_s"), show_s),
        None if e2e is None else [tail(e2e, "p99"), percentile_words(e2e, "p99")],
        figure(row.values.get("ttft_s"), show_s),
        figure(row.values.get("tpot_s"), show_s),
        figure(row.values.get("latency_per_output_token_s"), show_s),
        figure(row.values.get("output_tokens_per_s"), show_number),
        [row.failed_share, failed_label(row.summary) if row.summary else show_share(1.0)],
        figure(physics.mbu if physics else None, show_share),
        figure(physics.mfu if physics else None, show_share),
        figure(physics.floor_share if physics else None, show_share),
        figure(physics.communication_share if physics else None, show_share),
        figure(physics.total_input_tokens if physics else None, _of_ridge(physics)),
        physics.regime if physics else None,
        "; ".join(part for part in (why, doubts) if part) or None,
        key.machine,
        row.id,
    ]
    mark = "" if not why else "limited" if row.client_limited and not row.flags else "excluded"
    evidence = physics.evidence if physics else ""
    return {"cells": cells, "mark": mark, "why": why or evidence}
