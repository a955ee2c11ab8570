"""What a page opens with: who wins and by how much, how many trials that rests on; of one trial its own figures."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

from loadgen.analysis.analyse import Analysis
from loadgen.analysis.finding import CLAIMS
from loadgen.analysis.starts import machines, server_of, start_of
from loadgen.analysis.winners import Answer, answers_at, job_text, jobs
from loadgen.labels import CLIENT_MARK
from loadgen.records import TrialResult
from loadgen.report.capacity_found import Found
from loadgen.report.capacity_pairs import server_lines
from loadgen.report.sections import failure_table, result_latencies, result_rates
from loadgen.report.server_tables import other_jobs_table, server_tables
from loadgen.report.tables import fixed_words
from loadgen.text_table import Table

MOST_KINDS = 3  # of doubts that are counted by name
FEWEST_DECIDED = 2  # claims, from which on they have a section of their own


@dataclass(frozen=True, slots=True, kw_only=True)
class FirstScreen:
    """``answers`` are at ``job``, the one at which most servers meet; ``others`` has the winners of all other jobs.

    ``counts`` says how much there is and what not to believe. ``figures`` and ``rates`` are of a lone trial, which
    has no rival, and ``work`` is what it was. ``servers`` holds the tables of each job by its name, ``capacities`` what
    searches found, by server.
    """

    job: str
    answers: tuple[Answer, ...]
    others: Table | None
    work: str
    figures: tuple[Table, ...]
    rates: tuple[tuple[str, str], ...]
    servers: tuple[tuple[str, tuple[Table, ...]], ...]
    counts: str
    capacities: tuple[tuple[str, str], ...]


def first_screen(analysis: Analysis, searches: Sequence[Found] = ()) -> FirstScreen:
    """The first screen of one or more results folders, with their ``searches`` for capacity."""
    study, found = analysis.study, jobs(analysis.study)
    lone = analysis.rows[0].result if len(analysis.rows) == 1 else None
    first, *others = found or [None]
    return FirstScreen(
        job=job_text(first) if first else "",
        answers=() if lone is not None or first is None else answers_at(study, first, analysis.rules.prices),
        others=other_jobs_table(study, [(job_text(job), job) for job in others if job is not None]),
        work=fixed_words([lone.trial]) if lone is not None else "",
        figures=() if lone is None else _figures(lone),
        rates=() if lone is None else result_rates(lone),
        servers=()
        if lone is not None
        else tuple((job_text(job), tuple(server_tables(study, cells))) for job, cells in found.items()),
        counts=_all_counts(analysis, searches) if lone is None else _doubts(analysis),
        capacities=tuple(server_lines(searches)),
    )


def _figures(lone: TrialResult) -> tuple[Table, ...]:
    """Its latencies; why it has none where it failed. Requests that failed are counted among its rates."""
    return tuple(filter(None, [result_latencies(lone) or failure_table([lone])]))


def _all_counts(analysis: Analysis, searches: Sequence[Found]) -> str:
    tried = sum(len(each.trials) for each in searches)
    words = [_counts(analysis)] if analysis.rows or not searches else []
    words += [f"{_many(tried, 'trial')} of {_many(len(searches), 'search', 'es')}."] if searches else []
    return " ".join(words)


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


def _doubts(analysis: Analysis) -> str:
    """What of the lone trial not to believe."""
    (row,) = analysis.rows
    kinds = dict.fromkeys(f"{CLIENT_MARK} " * each.client + each.kind for each in row.result.caveats)
    said = f"doubts: {', '.join(kinds)}" if kinds else "no doubt"
    why = analysis.excluded.get(row.run)
    return f"{said[0].upper()}{said[1:]}." + (f" Kept out of findings: {why}." if why else "")


def _many(count: int, name: str, plural: str = "s") -> str:
    return f"{count:,} {name}{'' if count == 1 else plural}"


def claims_shown(analysis: Analysis) -> bool:
    """Whether claims have a section: a profile declares some, or more than one of the report's own is decided."""
    decided = sum(row.verdict != "not tested" for row in analysis.headlines)
    return decided >= FEWEST_DECIDED or any(finding.id not in CLAIMS for finding in analysis.findings)
