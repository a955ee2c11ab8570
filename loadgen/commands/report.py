"""``loadgen report`` and ``loadgen compare``: results folders → tables, files, verdicts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from loadgen.report import format_of
from loadgen.report.markdown import gather

DEFAULT_FORMATS = ("html", "md")
MOST_LINES = 22  # of a sweep's end: with two that the sweep itself may add, a terminal's 24


def run(
    folders: Sequence[Path],
    formats: Sequence[str],
    out: Path | None,
    price: float | None,
    with_failures: bool = False,
) -> int:
    """Print tables and findings, write the reports. Returns the exit code.

    Raises BadInput for options that do not go together.
    """
    from loadgen.analysis.analyse import analyse
    from loadgen.analysis.finding import Rules
    from loadgen.errors import BadInput
    from loadgen.live import terminal
    from loadgen.report.analysis_tables import tables_of
    from loadgen.report.export import write

    if out is not None and len(formats) > 1:
        raise BadInput(f"--out {out}: names one file (accepted: one --format, or none: by the file's name)")
    if out is not None and not formats:
        formats = (format_of(out, "--out"),)
    rules = Rules(price_per_gpu_hour=price, with_failures=with_failures)
    for folder in folders:
        print_tables(folder)

    analysis = analyse(folders, rules)
    terminal.print_tables(tables_of(analysis))
    for kind in formats or DEFAULT_FORMATS:
        for path in write(folders, kind, out, rules, analysis):
            click.echo(f"report: {path}")
    return 0


def end(folder: Path) -> None:
    """Write a sweep's reports, and print on one screen what won, what to doubt, and where the rest is.

    Raises StoreError for a folder that is none.
    """
    from loadgen.analysis.analyse import analyse
    from loadgen.live import terminal
    from loadgen.report.ending import ending
    from loadgen.report.export import write

    analysis = analyse([folder])
    written = [path for kind in DEFAULT_FORMATS for path in write([folder], kind, analysis=analysis)]
    results = [row.result for row in analysis.rows]
    terminal.print_summary(ending(analysis, results, folder, written), MOST_LINES)


def compare(
    a: Path, b: Path, gates: Sequence[str], *, strict: bool, every_cell: bool, with_failures: bool
) -> int:
    """Print how B differs from A. Returns the exit code: 1 when a gate failed, or B failed where A did not."""
    from loadgen.analysis.compare import compare as measure
    from loadgen.live import terminal
    from loadgen.report.comparison import gate_lines, headline, tables_of

    found = measure(a, b, gates, strict=strict, every_cell=every_cell, with_failures=with_failures)
    terminal.print_tables(tables_of(found))
    terminal.print_lines([headline(found), *gate_lines(found)])
    return found.exit_code


def print_tables(results_dir: str | Path) -> None:
    """Print a results folder's tables. Raises StoreError."""
    from loadgen.live import terminal

    report = gather(results_dir)
    fixed = f"in every trial: {report.fixed}" if report.fixed else ""
    terminal.print_lines([f"{report.name}: {report.headline}", *filter(None, [fixed, report.missing])])
    terminal.print_tables(report.tables)
