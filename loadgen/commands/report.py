"""``loadgen report`` and ``loadgen compare``: results folders → tables, files, verdicts."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
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
    prices: Sequence[str] = (),
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
    from loadgen.report.capacity_found import found_in
    from loadgen.report.export import write
    from loadgen.results.writing import check_place

    if out is not None and len(formats) > 1:
        raise BadInput(f"--out {out}: names one file (accepted: one --format, or none: by the file's name)")
    if out is not None and not formats:
        formats = (format_of(out, "--out"),)
    if out is not None and "png" not in formats:  # which are several files, in a folder
        check_place(out, "--out")
    rules = Rules(prices=parse_prices(prices), with_failures=with_failures)
    for folder in folders:
        print_tables(folder, rules.prices)

    analysis = analyse(folders, rules)
    searched = {each.machine for each in found_in(folders)}
    _refuse_unused(rules.prices, searched | {row.key.machine for row in analysis.rows})
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
    from loadgen.report.capacity_found import found_in
    from loadgen.report.ending import ending
    from loadgen.report.export import write

    analysis = analyse([folder])
    written = [path for kind in DEFAULT_FORMATS for path in write([folder], kind, analysis=analysis)]
    results = [row.result for row in analysis.rows]
    terminal.print_summary(ending(analysis, results, folder, written, found_in([folder])), MOST_LINES)


def parse_prices(texts: Sequence[str]) -> dict[str, float]:
    """Prices of a GPU hour by a part of the GPU's name, "" of all, from ``2.5`` and ``H100=2.5``. Raises BadInput."""
    from loadgen.errors import BadInput

    found: dict[str, float] = {}
    for text in texts:
        name, _, number = text.rpartition("=")
        try:
            price = float(number)
        except ValueError:
            price = math.nan
        if not 0 < price < math.inf:
            raise BadInput(
                f"--price {text}: {number!r} is no price (accepted: a number above 0, or GPU=number)"
            )
        if name.strip() in found:
            raise BadInput(f"--price {text}: a second price of the same GPU (accepted: one each)")
        found[name.strip()] = price
    return found


def _refuse_unused(prices: Mapping[str, float], machines: Collection[str]) -> None:
    """A price of no machine is a typing error: raises BadInput."""
    from loadgen.errors import BadInput

    for name in prices:
        if not any(name.lower() in machine.lower() for machine in machines):
            known = ", ".join(sorted(machines)) or "none"
            raise BadInput(
                f"--price {name}=…: no machine of these results has that name (there are: {known})"
            )


def compare(
    a: Path,
    b: Path,
    gates: Sequence[str],
    *,
    strict: bool,
    every_cell: bool,
    with_failures: bool,
    servers: tuple[str | None, str | None],
) -> int:
    """Print how B differs from A. Returns the exit code: 1 when a gate failed, or B failed where A did not."""
    from loadgen.analysis.compare import compare as measure
    from loadgen.live import terminal
    from loadgen.report.comparison import gate_lines, headline, tables_of

    found = measure(
        a, b, gates, strict=strict, every_cell=every_cell, with_failures=with_failures, servers=servers
    )
    terminal.print_tables(tables_of(found))
    terminal.print_lines([headline(found), *gate_lines(found)])
    return found.exit_code


def print_tables(results_dir: str | Path, prices: Mapping[str, float] | None = None) -> None:
    """Print a results folder's tables. Raises StoreError."""
    from loadgen.live import terminal

    report = gather(results_dir, prices)
    fixed = f"in every trial: {report.fixed}" if report.fixed else ""
    terminal.print_lines([f"{report.name}: {report.headline}", *filter(None, [fixed, report.missing])])
    terminal.print_tables(report.tables)
