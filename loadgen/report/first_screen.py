"""What a page opens with: who wins and by how much, how many trials that rests on; of one trial its own figures."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace

from loadgen.analysis.analyse import Analysis
from loadgen.analysis.finding import CLAIMS
from loadgen.analysis.starts import machines, server_of, start_of
from loadgen.analysis.winners import Answer, answers_at, job_text, jobs
from loadgen.report.sections import result_tables
from loadgen.report.server_tables import other_jobs_table, server_tables
from loadgen.text_table import Table

MOST_KINDS = 3  # of doubts that are counted by name
FEWEST_DECIDED = 2  # claims, from which on they have a section of their own


@dataclass(frozen=True, slots=True, kw_only=True)
class FirstScreen:
    """``answers`` are at ``job``, the one at which most servers meet; ``others`` has the winners of all other jobs.

    ``figures`` are those of a lone trial, which has no rival. ``servers`` holds the tables of each job by its name.
    """

    job: str
    answers: tuple[Answer, ...]
    others: Table | None
    figures: tuple[Table, ...]
    servers: tuple[tuple[str, tuple[Table, ...]], ...]
    counts: str


def first_screen(analysis: Analysis) -> FirstScreen:
    """The first screen of one or more results folders."""
    study, found = analysis.study, jobs(analysis.study)
    lone = len(analysis.rows) == 1
    first, *others = found or [None]
    return FirstScreen(
        job=job_text(first) if first else "",
        answers=() if lone or first is None else answers_at(study, first, analysis.rules.prices),
        others=other_jobs_table(study, [(job_text(job), job) for job in others if job is not None]),
        figures=tuple(result_tables(analysis.rows[0].result)) if lone else (),
        servers=()
        if lone
        else tuple((job_text(job), tuple(server_tables(study, cells))) for job, cells in found.items()),
        counts=_counts(analysis),
    )


def _counts(analysis: Analysis) -> str:
    """How much there is, and how much of it not to believe."""
    rows = analysis.rows
    failed = sum(row.result.failure is not None for row in rows)
    kinds = [{caveat.kind for caveat in row.result.caveats} for row in rows if row.usable]
    count = Counter(kind for found in kinds for kind in found)
    told = ", ".join(f"{kind} {of_it}" for kind, of_it in count.most_common(MOST_KINDS))
    starts = len({(replace(server_of(row.key), kind=""), start_of(row)) for row in rows})
    many = (
        _many(len(rows), "trial"), _many(len(analysis.study.cells), "cell"), _many(starts, "server start"),
        _many(machines(rows), "machine"),
    )  # fmt: skip
    doubtful = f"{sum(map(bool, kinds))} with a doubt{f' ({told})' if told else ''}"
    kept_out = len(analysis.excluded) - failed
    return "{} in {}, of {} on {}: ".format(*many) + f"{failed} failed, {kept_out} more kept out, {doubtful}."


def _many(count: int, name: str) -> str:
    return f"{count:,} {name}{'' if count == 1 else 's'}"


def claims_shown(analysis: Analysis) -> bool:
    """Whether claims have a section: a profile declares some, or more than one of the report's own is decided."""
    decided = sum(row.verdict != "not tested" for row in analysis.headlines)
    return decided >= FEWEST_DECIDED or any(finding.id not in CLAIMS for finding in analysis.findings)
