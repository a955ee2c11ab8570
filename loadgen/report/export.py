"""Results as files for other tools: csv, parquet, json (``docs/exports.md``), and the charts as png."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import orjson

from loadgen.analysis.analyse import Analysis, analyse, analyse_rows
from loadgen.analysis.finding import Rules
from loadgen.errors import BadInput, LoadgenError, MissingDependency
from loadgen.report.analysis_tables import doubt_tables
from loadgen.report.export_capacities import capacity_rows, capacity_table
from loadgen.report.export_columns import VERSION
from loadgen.report.export_tables import request_table, trial_rows, trial_table
from loadgen.report.html import charts, page_of, searches_of
from loadgen.results.writing import is_stream, write_whole, written_whole

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
PNG_SIZE = (1280, 720)
PNG_TIMEOUT_S = 120.0


class NotDrawn(LoadgenError):
    """The browser did not draw a chart."""


def write_csv(analysis: Analysis, out: Path) -> list[Path]:
    """The tables, each in a file; an empty field is a figure that was not measured."""
    from pyarrow import csv

    tables = _tables(analysis, out)
    for path, table in tables:
        with written_whole(path) as place:
            csv.write_csv(table, place)
    return [path for path, _ in tables]


def write_parquet(analysis: Analysis, out: Path) -> list[Path]:
    """The tables, each in a file, typed."""
    import pyarrow.parquet as pq

    tables = _tables(analysis, out)
    for path, table in tables:
        with written_whole(path) as place:
            pq.write_table(table, place, compression="zstd")
    return [path for path, _ in tables]


def _tables(analysis: Analysis, out: Path) -> list[tuple[Path, Any]]:
    """Trials, requests, and capacities where any were searched, each with its file."""
    found = [(out, trial_table(analysis)), (beside(out, "requests"), request_table(analysis))]
    capacities = capacity_table(analysis)
    return found + ([(beside(out, "capacities"), capacities)] if capacities.num_rows else [])


def beside(out: Path, name: str) -> Path:
    """Where another table goes beside that of trials: ``requests.csv`` beside ``trials.csv``, else a name of its own.

    Raises BadInput for a device or a pipe, beside which there is no place."""
    if is_stream(out):
        raise BadInput(f"--out {out}: is no file, and several are written (accepted: a file's name)")
    stem = name if out.stem == "trials" else f"{out.stem}-{name}"
    return out.with_name(f"{stem}{out.suffix}")


def write_md(analysis: Analysis) -> list[Path]:
    """A file in each folder, with its tables and what there is to doubt of it alone."""
    from loadgen.report.markdown import write_report

    several = len(analysis.sources) > 1
    return [
        write_report(
            source.results.path,
            analysis.rules.prices,
            doubt_tables(analyse_rows([source], analysis.rules) if several else analysis),
        )
        for source in analysis.sources
    ]


def write_json(analysis: Analysis, out: Path) -> list[Path]:
    """One row a claim, findings with their numbers and cells, ceilings, noise, drift, and every trial flat."""
    data = {
        "claims": [
            {
                "id": row.id,
                "claim": row.claim,
                "verdict": row.verdict,
                "said": row.said,
                "sentence": row.sentence,
                "server": row.speaker.subject,
                "at": row.speaker.at,
                "effect": asdict(row.effect) if row.effect else None,
                "behind": asdict(row.behind),
            }
            for row in analysis.headlines
        ],
        "findings": [asdict(finding) for finding in analysis.findings],
        "noise": asdict(analysis.noise) if analysis.noise else None,
        "drift": asdict(analysis.drift) if analysis.drift else None,
        "ceilings": {machine: asdict(each) for machine, each in analysis.ceilings.items()},
        "same_work": [asdict(proof) for proof in analysis.proofs],
        "inside_noise": analysis.inside_noise,
        "notes": analysis.notes,
        "rules": asdict(analysis.rules),
        "schema_version": VERSION,
        "trials": trial_rows(analysis),
        "capacities": capacity_rows(analysis),
    }
    write_whole(out, orjson.dumps(data, option=orjson.OPT_INDENT_2 | orjson.OPT_NON_STR_KEYS))
    return [out]


def write_png(analysis: Analysis, out: Path) -> list[Path]:
    """Every choice of every chart as ``out/CHART-N.png``, drawn by a headless Chromium.

    Raises MissingDependency without one.
    """
    browser = next((path for path in map(shutil.which, BROWSERS) if path), None)
    if browser is None:
        raise MissingDependency("no Chromium, which draws charts as png", "apt-get install chromium")
    out.mkdir(parents=True, exist_ok=True)
    written = []
    with tempfile.TemporaryDirectory(prefix="loadgen-png-") as folder:
        for chart in charts(analysis, searches_of(analysis)):
            for at, (name, figure) in enumerate(chart.choices.items()):
                page = Path(folder) / "chart.html"
                page.write_text(page_of(f"{chart.title}: {name}", figure, PNG_SIZE), encoding="utf-8")
                target = out / f"{chart.id}-{at}.png"
                _shoot(browser, page, target, Path(folder))
                written.append(target)
    return written


def _shoot(browser: str, page: Path, target: Path, folder: Path) -> None:
    argv = [
        browser, "--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--no-first-run",
        "--disable-background-networking", "--disable-dev-shm-usage", f"--user-data-dir={folder / 'profile'}",
        f"--window-size={PNG_SIZE[0]},{PNG_SIZE[1]}", "--virtual-time-budget=3000", f"--screenshot={target}",
        page.as_uri(),
    ]  # fmt: skip
    try:
        done = subprocess.run(argv, capture_output=True, timeout=PNG_TIMEOUT_S, check=False)
    except subprocess.TimeoutExpired:
        raise NotDrawn(f"{target.name}: the browser took more than {PNG_TIMEOUT_S:g} s") from None
    if done.returncode != 0 or not target.exists():
        tail = done.stderr.decode(errors="replace")[-500:]
        raise NotDrawn(f"{target.name}: the browser ended with status {done.returncode}\n{tail}")


def write(
    folders: Sequence[str | Path],
    format: str,
    out: Path | None = None,
    rules: Rules | None = None,
    analysis: Analysis | None = None,
) -> list[Path]:
    """Write results in one of FORMATS; by default beside the first folder's results. Returns what was written.

    ``analysis`` is that of these folders by these rules, where it is known: it takes seconds with a thousand trials.
    Without ``out``, md is a file beside each folder's results; with it, one of all folders, findings first.
    Raises StoreError for a folder that is none or cannot be written to, MissingDependency for png without a browser.
    """
    from loadgen.report.html import write_html

    first = Path(folders[0])
    if format == "html":
        return [write_html(folders, out, rules, analysis)]
    if format == "md" and out is not None:
        from loadgen.report.document import write_document

        return [write_document(folders, out, rules, analysis)]
    if format == "md":
        return write_md(analysis or analyse(folders, rules))
    analysis = analysis or analyse(folders, rules)
    if format == "png":
        return write_png(analysis, out or first / "charts")
    target = out or first / ("report.json" if format == "json" else f"trials.{format}")
    if format == "json":
        return write_json(analysis, target)
    return {"csv": write_csv, "parquet": write_parquet}[format](analysis, target)
