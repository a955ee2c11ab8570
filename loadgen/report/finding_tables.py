"""Findings as tables, for the terminal and for Markdown."""

from __future__ import annotations

from loadgen.analysis.analyse import Analysis
from loadgen.text_table import Table


def tables_of(analysis: Analysis) -> list[Table]:
    """Every claim's verdict for every subject, and what to know before believing them."""
    rows = tuple(
        (finding.id, finding.verdict, finding.subject, finding.sentence) for finding in analysis.findings
    )
    found = [Table(title="Findings", head=("claim", "verdict", "of", "why"), rows=rows)] if rows else []
    if analysis.notes:
        found.append(Table(title="To know", head=("note",), rows=tuple((note,) for note in analysis.notes)))
    if analysis.inside_noise:
        lines = tuple((line,) for line in analysis.inside_noise)
        found.append(Table(title="Differences inside the noise", head=("at equal work",), rows=lines))
    return found
