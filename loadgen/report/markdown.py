"""A results folder as ``report.md`` and as tables on the terminal. Reads files only."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from loadgen.analysis.winners import Prices
from loadgen.labels import clean
from loadgen.records import Environment, TrialResult
from loadgen.report import sections, tables, write_whole
from loadgen.report.capacity_found import found_in
from loadgen.report.capacity_table import capacity_tables
from loadgen.report.ledger_table import ledger_table
from loadgen.report.max_batch_table import max_batch_table
from loadgen.report.traffic_table import traffic_table
from loadgen.results.store import Results, open_results
from loadgen.text_table import Table

SPECIAL = re.compile(r"([\\`*_{}\[\]<>#|~])")


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What there is to say about a results folder."""

    name: str
    description: str
    headline: str
    fixed: str
    missing: str
    left_out: str
    tables: tuple[Table, ...]
    background: tuple[Table, ...]


def _broken(folder: Results, results: Sequence[TrialResult]) -> list[str]:
    """What is said of files that cannot be read: the figures stand, what would be derived from those lacks."""
    lacking = [
        each.trial.id for each in results if each.failure is None and not folder.has_samples(each.trial.id)
    ]
    for each in results:
        folder.telemetry(each.trial.id)
    told = f"{len(lacking)} trials lack readable samples (sweep --resume runs them again): {', '.join(lacking[:5])}"
    return [told] * (bool(lacking) and not folder.left_out) + folder.broken[:5]


def gather(results_dir: str | Path, prices: Prices | None = None) -> Report:
    """Read a results folder; ``prices`` are of a GPU hour, by a part of a machine's name.

    Raises StoreError when it is none.
    """
    folder = open_results(results_dir)
    results, sweep = folder.results(), folder.sweep
    planned = folder.plan()
    planned_ids = [trial.id for trial in planned] or [str(trial_id) for trial_id in sweep.get("trials", ())]
    known = folder.environments()
    used = dict.fromkeys(result.environment for result in results)
    environments: list[Environment] = [known[key] for key in used if key in known]
    return Report(
        name=str(sweep.get("name") or Path(results_dir).resolve().name),
        description=str(sweep.get("description") or ""),
        headline=sections.headline(results),
        fixed=tables.fixed_words([*planned, *(result.trial for result in results)]),
        missing="; ".join(
            filter(None, [sections.missing_words(results, planned_ids, planned), *_broken(folder, results)])
        ),
        left_out=folder.left_out,
        tables=(
            *tables.pivot_tables(results, planned),
            *capacity_tables(found_in([Path(results_dir)]), [Path(results_dir)], prices),
            *_there(
                max_batch_table([Path(results_dir)]),
                tables.full_table(results) if results else None,
                traffic_table(results),
                sections.failure_table(results),
                sections.caveat_table(results),
                tables.unmeasured(results),
            ),
        ),
        background=_there(
            ledger_table((each, folder.telemetry(each.trial.id)) for each in results),
            sections.engine_table(results),
            sections.environment_table(environments),
        ),
    )


def _there(*found: Table | None) -> tuple[Table, ...]:
    return tuple(filter(None, found))


def write_report(results_dir: str | Path, prices: Prices | None = None, doubts: Sequence[Table] = ()) -> Path:
    """Write ``report.md`` into the results folder, replacing an older one at once. Raises StoreError."""
    report = gather(results_dir, prices)
    return write_whole(Path(results_dir) / "report.md", to_markdown(report, doubts))


def to_markdown(report: Report, doubts: Sequence[Table] = ()) -> str:
    """The report's text; ``doubts`` are the folder's ``doubt_tables``, whose notes say what was left out."""
    parts = [f"# {escape(report.name)}", escape(report.description), f"{report.headline}."]
    parts += [f"In every trial: {escape(report.fixed)}." if report.fixed else "", escape(report.missing)]
    parts += [] if doubts else [escape(report.left_out)]
    parts += [
        f"Cells marked {escape(tables.CLIENT_MARK)} were limited by the load generator, those marked "
        f"{escape(tables.CAVEAT_MARK)} carry another caveat (see below); – was not measured."
    ]
    for table in (*report.tables, *doubts, *report.background):
        parts += [f"## {escape(table.title)}", markdown_table(table), escape(table.note)]
    return "\n\n".join(part for part in parts if part) + "\n"


def markdown_table(table: Table) -> str:
    """A pipe table; columns of figures are set to the right."""
    ruler = ["---:" if right else "---" for right in table.numeric]
    head, *rows = (map(escape, line) for line in (table.head, *table.rows))
    return "\n".join(f"| {' | '.join(line)} |" for line in (head, ruler, *rows))


def escape(text: str) -> str:
    """Text on one line that Markdown and HTML leave as it is."""
    flat = " ".join(clean(text).split())
    return SPECIAL.sub(r"\\\1", flat.replace("&", "&amp;")).replace("\\<", "&lt;").replace("\\>", "&gt;")
