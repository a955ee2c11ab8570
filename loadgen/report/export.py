"""Results as files for other tools: csv, parquet, json, and the charts as png."""

from __future__ import annotations

import csv
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import orjson

from loadgen.analysis.analyse import Analysis, analyse
from loadgen.analysis.finding import Rules
from loadgen.analysis.table import DISTRIBUTIONS, METRICS, Row
from loadgen.errors import LoadgenError, MissingDependency
from loadgen.metrics.percentiles import PERCENTILES
from loadgen.report.html import charts, page_of

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
PNG_SIZE = (1280, 720)
PNG_TIMEOUT_S = 120.0


class NotDrawn(LoadgenError):
    """The browser did not draw a chart."""


def columns(analysis: Analysis, row: Row) -> dict[str, Any]:
    """One trial flat: what it was, what it measured, its physics, and whether it may be believed.

    Units are in the names; what was not measured is ``None``.
    """
    key, physics, summary = row.key, analysis.physics.get(row.run), row.summary
    found: dict[str, Any] = {
        "source": row.source, "trial": row.id, "machine": key.machine, "server": key.label, "variant": key.variant,
        "model": key.model, "dtype": key.dtype, "tp": key.tp, "pp": key.pp, "load": key.kind, "batch": key.batch,
        "rate": row.trial.load.rate, "input_tokens": key.input_tokens, "output_tokens": key.output_tokens,
        "streamed": key.stream, "start": row.trial.start, "server_start": row.result.start, "repeat": row.trial.repeat,
        "started": row.result.started,
        "requests_ok": summary.requests_ok if summary else None,
        "requests_failed": summary.requests_failed if summary else None,
        "failed_share": row.failed_share,
    }  # fmt: skip
    for metric in METRICS:
        dist = row.dist(metric)
        name = metric.removesuffix("_s") + "_p50_s" if metric in DISTRIBUTIONS else metric
        found[name] = row.values.get(metric)
        if metric in DISTRIBUTIONS:
            for each in PERCENTILES:
                low, high = dist.intervals.get(each, (None, None)) if dist else (None, None)
                found[name.replace("p50", each)] = getattr(dist, each, None) if each != "p50" else found[name]
                found |= {name.replace("p50", f"{each}_low"): low, name.replace("p50", f"{each}_high"): high}
            found[name.replace("p50", "max")] = dist.max if dist else None
            found[name.replace("_p50_s", "_n")] = dist.n if dist else None
    for name in (
        "mbu", "mfu", "ideal_s", "floor_s", "floor_share", "communication_share", "intensity", "flops_per_s",
        "prefill_s", "decode_step_s", "prefill_mfu", "decode_mbu", "total_input_tokens", "ridge_tokens", "regime",
    ):  # fmt: skip
        found[name] = getattr(physics, name) if physics else None
    found["client_limited"] = row.client_limited
    found["excluded"] = analysis.excluded.get(row.run)
    found["caveats"] = "; ".join(dict.fromkeys(caveat.kind for caveat in row.result.caveats)) or None
    return found


def write_csv(analysis: Analysis, out: Path) -> Path:
    """One line per trial; an empty field is a figure that was not measured."""
    rows = [columns(analysis, row) for row in analysis.rows]
    with out.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]) if rows else ["trial"])
        writer.writeheader()
        writer.writerows(rows)
    return out


def write_parquet(analysis: Analysis, out: Path) -> Path:
    """One row per trial, typed."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(
        pa.Table.from_pylist([columns(analysis, row) for row in analysis.rows]), out, compression="zstd"
    )
    return out


def write_json(analysis: Analysis, out: Path) -> Path:
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
        "trials": [columns(analysis, row) for row in analysis.rows],
    }
    out.write_bytes(orjson.dumps(data, option=orjson.OPT_INDENT_2 | orjson.OPT_NON_STR_KEYS))
    return out


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
        for chart in charts(analysis):
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
    folders: Sequence[str | Path], format: str, out: Path | None = None, rules: Rules | None = None
) -> list[Path]:
    """Write results in one of FORMATS; by default beside the first folder's results. Returns what was written.

    Without ``out``, md is a file beside each folder's results; with it, one of all folders, findings first.
    Raises StoreError for a folder that is none, MissingDependency for png without a browser.
    """
    from loadgen.report.html import write_html

    first = Path(folders[0])
    if format == "html":
        return [write_html(folders, out, rules)]
    if format == "md" and out is not None:
        from loadgen.report.document import write_document

        return [write_document(folders, out, rules)]
    if format == "md":
        from loadgen.report.markdown import write_report

        return [write_report(folder) for folder in folders]
    analysis = analyse(folders, rules)
    if format == "png":
        return write_png(analysis, out or first / "charts")
    writer = {"csv": write_csv, "parquet": write_parquet, "json": write_json}[format]
    return [writer(analysis, out or first / f"report.{format}")]
