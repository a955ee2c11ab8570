"""What a sweep ends with: what won, what is decided, what to doubt, and where the rest is. Pure.

A terminal shows each row on a line or two (``live/terminal.py``), so that all of it is one screen.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from loadgen.analysis import winners
from loadgen.analysis.analyse import Analysis
from loadgen.records import TrialResult
from loadgen.report import sections
from loadgen.report.capacity_found import Found
from loadgen.report.capacity_pairs import server_lines
from loadgen.text_table import Line

MOST_DECIDED = MOST_DOUBTS = 3
MOST_SERVERS = 4


def ending(
    analysis: Analysis,
    results: Sequence[TrialResult],
    folder: Path,
    written: Sequence[Path],
    searches: Sequence[Found] = (),
) -> list[Line]:
    """The rows about one results folder, whose reports are ``written``; at one line each they are no more than 20.

    ``searches`` for capacity are counted by their trials too, and doubted by theirs.
    """
    every = [*results, *(result for search in searches for _, result in search.trials)]
    return [
        Line(folder.name, sections.headline(every)),
        *_won(analysis),
        *_capacities(searches),
        *_decided(analysis),
        *_doubts(every),
        *(Line("report", str(path), whole=True) for path in written[:1]),
        Line("every table", f"loadgen report {folder}", whole=True),
    ]


def _won(analysis: Analysis) -> list[Line]:
    """The winner for each goal at the job at which most servers meet, and how many jobs there are besides."""
    jobs = winners.jobs(analysis.study)
    if not jobs:
        return [Line("best", "not told: no trial whose figures may be believed")] if analysis.rows else []
    job, *others = jobs
    more = f" ({len(others)} more in the report)" if others else ""
    answers = winners.answers_at(analysis.study, job)
    heading = Line("best", f"{winners.job_text(job)}{more}")
    return [heading, *(Line(f"  {answer.goal}", answer.sentence) for answer in answers)]


def _capacities(searches: Sequence[Found]) -> list[Line]:
    """What the starts of each server found, and of which two they tell a difference."""
    if not searches:
        return []
    every = server_lines(searches)
    lines = [Line(f"  {name}", words) for name, words in every[:MOST_SERVERS]]
    if len(every) > MOST_SERVERS:
        lines.append(Line("", f"and {len(every) - MOST_SERVERS} more in the report"))
    return [Line("capacity"), *lines]


def _decided(analysis: Analysis) -> list[Line]:
    """Claims with a verdict; what is open stands in the report."""
    told = [row for row in analysis.headlines if row.told]
    lines = [Line(f"  {row.id} {row.verdict}", row.sentence) for row in told[:MOST_DECIDED]]
    more = (
        [Line("", f"and {len(told) - MOST_DECIDED} more claims in the report")]
        if len(told) > MOST_DECIDED
        else []
    )
    return [Line("decided"), *lines, *more] if told else []


def _doubts(results: Sequence[TrialResult]) -> list[Line]:
    """Failures, then caveats by kind, those about the client first, each with its remedy."""
    lines = []
    failures = sections.failure_table(results)
    if failures is not None:
        trial, error, _, words = failures.rows[0]
        more = f" (and {len(failures.rows) - 1} more)" if len(failures.rows) > 1 else ""
        lines.append(Line("  failed", f"{trial}: {error}: {words}{more}"))
    caveats = sections.caveat_table(results)
    rows = caveats.rows if caveats is not None else ()
    for kind, trials, seen, remedy in rows[:MOST_DOUBTS]:
        lines.append(Line(f"  {kind} × {trials}", f"{remedy}; {seen}"))
    if len(rows) > MOST_DOUBTS:
        lines.append(Line("", f"and {len(rows) - MOST_DOUBTS} more kinds of doubt in the report"))
    return [Line("doubt"), *lines] if lines else []
