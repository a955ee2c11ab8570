"""Results folders → one HTML file that opens offline: who wins first, every trial last."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

import orjson
from jinja2 import Environment, PackageLoader, StrictUndefined

from loadgen import __version__
from loadgen.analysis.analyse import Analysis, analyse
from loadgen.analysis.finding import Finding, Rules
from loadgen.analysis.headline import headlines
from loadgen.report import analysis_tables, sections, tables, write_whole
from loadgen.report.capacity_chart import capacity_chart
from loadgen.report.capacity_found import Found, found_in
from loadgen.report.capacity_table import capacity_tables
from loadgen.report.chart import Chart, Figure, said
from loadgen.report.claim_chart import claim_chart
from loadgen.report.claim_tables import behind_text, cells_text, effect_text
from loadgen.report.first_screen import claims_shown, first_screen
from loadgen.report.max_batch_table import max_batch_table
from loadgen.report.overview_charts import pareto_chart, roofline_chart
from loadgen.report.series_charts import LATENCY, MEMORY, PER_TOKEN, RATE, ridge_chart, series_chart
from loadgen.report.timeline import timeline_chart
from loadgen.report.traffic_charts import traffic_charts
from loadgen.report.traffic_table import traffic_table
from loadgen.report.trial_table import trial_table
from loadgen.report.version_table import mixed_servers

NAME = "report.html"
PLOTLY = (
    "vendor/plotly-basic.min.js"  # 4.1.1: lines, points and bars, in a quarter of the whole library's bytes
)
MOST_NAMED = 3  # folders in the title; more go into a list
CODE = re.compile(r"`([^`]+)`")
LINE_ENDS = str.maketrans({"\u2028": "\\u2028", "\u2029": "\\u2029"})  # they end a line of old scripts


def write_html(
    folders: Sequence[str | Path],
    out: Path | None = None,
    rules: Rules | None = None,
    analysis: Analysis | None = None,
) -> Path:
    """Write the report of one or more results folders; by default beside the first one's results.

    Raises StoreError for a folder that is none, and ProfileError for a declared finding that cannot be decided.
    """
    target = out or Path(folders[0]) / NAME
    return write_whole(target, render(analysis or analyse(folders, rules)))


SERIES = (
    ("input", "Experiment 1: latency against input length", LATENCY, "input_tokens", "batch"),
    ("output", "Experiment 2: latency against output length", LATENCY, "output_tokens", "batch"),
    (
        "output-per-token", "Experiment 2: latency per output token against output length", PER_TOKEN,
        "output_tokens", "batch",
    ),
    ("batch", "Experiment 3: latency against batch", LATENCY, "batch", "split"),
    ("rate", "Experiment 3: throughput against batch", RATE, "batch", "split"),
    ("memory-batch", "Experiments 4 and 5: GPU memory against batch", MEMORY, "batch", "split"),
)  # fmt: skip


def charts(analysis: Analysis, searches: Sequence[Found] = ()) -> list[Chart]:
    """Every chart of the report and its ``searches`` for capacity; one that lossy trials speak in says so."""
    drawn = [
        *(series_chart(analysis, *each) for each in SERIES),
        *(draw(analysis) for draw in (ridge_chart, roofline_chart, pareto_chart)),
    ]
    if any(row.usable and row.failed_share for row in analysis.rows):
        served = " Latencies are of the served requests, of trials that lost some, too."
        drawn = [replace(chart, note=chart.note + served) for chart in drawn]
    capacity = capacity_chart(searches)
    return [*([capacity] if capacity else []), *drawn, timeline_chart(analysis)]


def searches_of(analysis: Analysis) -> list[Found]:
    """Every search for capacity of its folders. Raises StoreError."""
    return found_in(_folders(analysis))


def _folders(analysis: Analysis) -> list[Path]:
    return [source.results.path for source in analysis.sources]


def render(analysis: Analysis) -> str:
    """The whole page."""
    results = [row.result for row in analysis.rows]
    used = {row.result.environment: row.environment for row in analysis.rows if row.environment is not None}
    folders = [
        (source.name, str(source.results.sweep.get("description") or "")) for source in analysis.sources
    ]
    many = len(folders) > MOST_NAMED
    searches = searches_of(analysis)
    drawn = charts(analysis, searches)
    traffic = traffic_charts(analysis)
    predicted = analysis_tables.predicted_memory_table(analysis)
    memory = (predicted, max_batch_table(_folders(analysis)))
    caveats = (
        sections.caveat_table(results), sections.failure_table(results), tables.unmeasured(results),
    )  # fmt: skip
    proofs = (analysis_tables.proof_table(analysis), analysis_tables.client_table(analysis))
    environment = (
        analysis_tables.ceilings_table(analysis), sections.environment_table(list(used.values())),
        sections.engine_table(results),
    )  # fmt: skip
    return (
        _templates()
        .get_template("page.html")
        .render(
            _inlined(),
            title=f"{len(folders)} results folders" if many else ", ".join(name for name, _ in folders),
            listed_folders=folders if many else [],
            description=" ".join(dict.fromkeys(text for _, text in folders if text)),
            first=first_screen(analysis, searches),
            claims=_claims(analysis.findings) if claims_shown(analysis) else [],
            inside_noise=analysis.inside_noise,
            charts={chart.id: chart for chart in drawn},
            statistics=analysis_tables.statistics(analysis),
            excluded=analysis_tables.excluded(analysis),
            suspicious=analysis_tables.suspicious(analysis),
            versions=mixed_servers(analysis.study.servers),
            caveats=list(filter(None, caveats)),
            proofs=list(filter(None, proofs)),
            predicted=predicted,
            traffic=traffic,
            traffic_tables=list(filter(None, [traffic_table(results)])),
            capacity=capacity_tables(searches, _folders(analysis), analysis.rules.prices),
            memory=list(filter(None, memory)),
            ledgers=analysis_tables.ledger_tables(analysis),
            environment=list(filter(None, environment)),
            chart_data={
                chart.id: {"figures": [figure.plain() for figure in chart.choices.values()]}
                for chart in (*drawn, *traffic)
            },
            trials=trial_table(analysis),
            version=__version__,
        )
    )


def page_of(title: str, figure: Figure, size: tuple[int, int]) -> str:
    """One chart alone, for a picture of ``size`` pixels."""
    layout = {**figure.layout, "title": {"text": said(title), "font": {"size": 15}}, "margin": {"t": 60}}
    plain = {"data": list(figure.traces), "layout": layout}
    template = _templates().get_template("chart_alone.html")
    return template.render(_inlined(), figure=plain, width=size[0], height=size[1])


@cache
def _templates() -> Environment:
    """Where all markup is: every text that goes into it is escaped, and a name without a value raises."""
    found = Environment(
        loader=PackageLoader("loadgen.report"), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    found.filters |= {"split_at_code": CODE.split, "cells_text": cells_text}
    found.policies |= {"json.dumps_function": _json, "json.dumps_kwargs": {}}
    return found


def _json(data: object) -> str:
    """What the templates' ``tojson`` then makes safe: in a script, an opened comment swallows what follows."""
    return orjson.dumps(data, option=orjson.OPT_SERIALIZE_NUMPY).decode().translate(LINE_ENDS)


def _inlined() -> dict[str, str]:
    """The files that a page holds whole: ours and plotly's, the only text that is not escaped."""
    here = resources.files("loadgen.report")
    return {
        name: here.joinpath(file).read_text("utf-8")
        for name, file in (("css", "page.css"), ("script", "page.js"), ("plotly", PLOTLY))
    }


def _claims(findings: Sequence[Finding]) -> list[dict[str, Any]]:
    """One row a claim, as the page shows it."""
    return [
        {
            "id": row.id,
            "claim": row.claim,
            "verdict": row.verdict,
            "said": row.said,
            "sentence": row.sentence,
            "subject": row.speaker.subject,
            "effect": effect_text(row.speaker),
            "behind": behind_text(row.behind),
            "chart": claim_chart(row.told),
            "told": row.told,
            "untold": row.untold,
        }
        for row in headlines(findings)
    ]
