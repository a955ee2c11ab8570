"""Results folders → one HTML file that opens offline: findings first, then charts, doubts, environment, every trial."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from html import escape
from importlib import resources
from pathlib import Path
from typing import Any

import orjson

from loadgen import __version__
from loadgen.analysis.analyse import Analysis, analyse
from loadgen.analysis.finding import Rules, split_text
from loadgen.analysis.roofline import Physics
from loadgen.analysis.table import Row
from loadgen.labels import failed_label
from loadgen.metrics.percentiles import percentile_words, tail
from loadgen.report import html_findings as claims
from loadgen.report import html_sections as parts
from loadgen.report import plotlyjs
from loadgen.report.chart import Chart, Figure
from loadgen.report.max_batch_table import max_batch_table
from loadgen.report.overview_charts import pareto_chart, roofline_chart, winners_chart
from loadgen.report.series_charts import LATENCY, MEMORY, PER_TOKEN, RATE, ridge_chart, series_chart
from loadgen.report.timeline import timeline_chart
from loadgen.units import show_number, show_s, show_share

NAME = "report.html"
# Nothing may be fetched: the page is whole, and a report of private figures must not speak to anyone.
POLICY = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:"
SECTIONS = {
    "findings": "Findings",
    "charts": "Charts",
    "doubts": "Doubts",
    "memory": "Memory",
    "environment": "Environment",
    "all": "Trials",
}


def write_html(folders: Sequence[str | Path], out: Path | None = None, rules: Rules | None = None) -> Path:
    """Write the report of one or more results folders; by default beside the first one's results.

    Raises StoreError for a folder that is none, and ProfileError for a declared finding that cannot be decided.
    """
    target = out or Path(folders[0]) / NAME
    beside = target.with_name(target.name + ".new")
    beside.write_text(render(analyse(folders, rules)), encoding="utf-8")
    beside.replace(target)
    return target


def charts(analysis: Analysis) -> list[Chart]:
    """Every chart of the report, in its order."""
    return [
        series_chart(
            analysis, id="input", title="Experiment 1: latency against input length", metric=LATENCY,
            x="input_tokens", lines="batch", absent="Needs at least two input lengths.",
        ),
        series_chart(
            analysis, id="output", title="Experiment 2: latency against output length", metric=LATENCY,
            x="output_tokens", lines="batch", absent="Needs at least two output lengths.",
        ),
        series_chart(
            analysis, id="output-per-token", title="Experiment 2: latency per output token against output length",
            metric=PER_TOKEN, x="output_tokens", lines="batch", absent="Needs at least two output lengths.",
        ),
        series_chart(
            analysis, id="batch", title="Experiment 3: latency against batch", metric=LATENCY, x="batch",
            lines="split", absent="Needs at least two batch sizes.",
        ),
        series_chart(
            analysis, id="rate", title="Experiment 3: throughput against batch", metric=RATE, x="batch",
            lines="split", absent="Needs at least two batch sizes.",
        ),
        series_chart(
            analysis, id="memory-batch", title="Experiments 4 and 5: GPU memory against batch", metric=MEMORY,
            x="batch", lines="split", absent="GPU memory was not measured (or at one batch size only).",
        ),
        ridge_chart(analysis),
        roofline_chart(analysis),
        pareto_chart(analysis),
        winners_chart(analysis),
        timeline_chart(analysis),
    ]  # fmt: skip


def render(analysis: Analysis) -> str:
    """The whole page."""
    drawn = charts(analysis)
    data = {chart.id: {"figures": [figure.plain() for figure in chart.choices.values()]} for chart in drawn}
    named = ", ".join(source.name for source in analysis.sources)
    names = named if len(analysis.sources) <= MOST_NAMED else f"{len(analysis.sources)} results folders"
    css, script = (_asset(name) for name in ("page.css", "page.js"))
    links = "".join(f'<a href="#{id}">{title}</a>' for id, title in SECTIONS.items())
    body = {
        "findings": claims.finding_matrix(analysis.findings)
        + claims.finding_list(analysis.findings)
        + claims.open_questions(analysis.findings, analysis.inside_noise),
        "charts": "".join(_chart(chart) for chart in drawn),
        "doubts": "<h3>How far to trust the numbers</h3>"
        + parts.statistics(analysis)
        + parts.excluded(analysis)
        + parts.caveats(analysis),
        "memory": parts.memory_ledger(analysis)
        + parts.titled(max_batch_table([source.results.path for source in analysis.sources])),
        "environment": parts.environment(analysis),
        "all": _trials_frame(),
    }
    sections = "".join(
        f'<section><h2 id="{id}">{title}</h2>{body[id]}</section>' for id, title in SECTIONS.items()
    )
    return (
        '<!DOCTYPE html><html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(names)} – loadgen</title><style>{css}</style></head><body>"
        f"<header><h1>{escape(names)}</h1>{_headline(analysis)}</header>"
        f'<nav>{links}<button id="theme" type="button">light / dark</button></nav><main>{sections}</main>'
        f"<footer>loadgen {escape(__version__)}; drawn with plotly.js (MIT licence), which lies in this file. "
        "Nothing is fetched.</footer>"
        f"<script>{plotlyjs.source()}</script>"
        f'<script type="application/json" id="chart-data">{_json(data)}</script>'
        f'<script type="application/json" id="trial-data">{_json(_trials(analysis))}</script>'
        f"<script>{script}</script></body></html>"
    )


def page_of(title: str, figure: Figure, size: tuple[int, int]) -> str:
    """One chart alone, for a picture of ``size`` pixels: a headless window's own height leaves room for a frame."""
    layout = {**figure.layout, "title": {"text": title, "font": {"size": 15}}, "margin": {"t": 60}}
    data = _json({"data": list(figure.traces), "layout": layout})
    return (
        '<!DOCTYPE html><html><head><meta charset="utf-8"><style>body{margin:0;background:#fff}'
        f"#plot{{width:{size[0]}px;height:{size[1]}px}}</style></head>"
        f'<body><div id="plot"></div><script>{plotlyjs.source()}</script>'
        f"<script>const figure = {data};"
        'Plotly.newPlot("plot", figure.data, figure.layout, {staticPlot: true});</script></body></html>'
    )


def _asset(name: str) -> str:
    return resources.files("loadgen.report").joinpath(name).read_text(encoding="utf-8")


# In a script element "</script" ends it and "<!--<script" swallows what follows; U+2028/9 end a line of old scripts.
UNSAFE = str.maketrans({each: f"\\u{ord(each):04x}" for each in "<>&\u2028\u2029"})


def _json(data: object) -> str:
    """JSON that means the same and cannot be read as markup by the page around it."""
    return orjson.dumps(data, option=orjson.OPT_SERIALIZE_NUMPY).decode().translate(UNSAFE)


def _headline(analysis: Analysis) -> str:
    verdicts = [finding.verdict for finding in analysis.findings]
    told = ", ".join(f"{each} {verdicts.count(each)}" for each in claims.BADGES)
    failed = sum(row.result.failure is not None for row in analysis.rows)
    descriptions = [str(source.results.sweep.get("description") or "") for source in analysis.sources]
    words = [
        f"{len(analysis.rows)} trials in {len(analysis.study.cells)} cells, {failed} failed, "
        f"{len(analysis.excluded) - failed} kept out. Findings: {told}."
    ]
    text = " ".join(dict.fromkeys(each for each in descriptions if each))
    told_apart = f'<p class="soft">{escape(text)}</p>' if text else ""
    if len(analysis.sources) > MOST_NAMED:
        items = "".join(
            f"<li>{escape(source.name)}: {escape(description)}</li>"
            for source, description in zip(analysis.sources, descriptions, strict=True)
        )
        told_apart = f"<details><summary>the folders</summary><ul>{items}</ul></details>"
    return told_apart + f"<p>{escape(words[0])}</p>"


def _chart(chart: Chart) -> str:
    note = f'<p class="note">{escape(chart.note)}</p>'
    if not chart.choices:
        return (
            f'<div class="chart" id="chart-{chart.id}"><h3>{escape(chart.title)}</h3>'
            f'<p class="soft">Not drawn. {escape(chart.absent)}</p></div>'
        )
    options = "".join(
        f'<option value="{at}">{escape(name)}</option>' for at, name in enumerate(chart.choices)
    )
    log = any(figure.layout.get("yaxis", {}).get("type") == "log" for figure in chart.choices.values())
    scale = '<button class="scale" type="button">linear</button>' if log else ""
    return (
        f'<div class="chart" id="chart-{chart.id}" data-chart="{chart.id}"><h3>{escape(chart.title)}</h3>{note}'
        f'<div class="tools"><select aria-label="{escape(chart.title)}: which">{options}</select>{scale}</div>'
        f'<div class="plot" role="img" aria-label="{escape(chart.title)}"></div></div>'
    )


MOST_NAMED = 3  # folders in the title; more go into a list
COLUMNS: tuple[tuple[str, bool], ...] = (
    ("source", False), ("server", False), ("model", False), ("split", False), ("load", False), ("batch", True),
    ("input", True), ("output", True), ("repeat", True), ("E2E p50", True), ("E2E p99", True), ("TTFT p50", True),
    ("TPOT p50", True), ("latency / output token", True), ("output tok/s", True), ("failed", True), ("MBU", True),
    ("MFU", True),
    ("floor / E2E", True), ("communication", True), ("input tokens at once", True), ("regime", False),
    ("doubts", False), ("machine", False), ("trial", False),
)  # fmt: skip


def _trials_frame() -> str:
    head = "".join(
        f'<th scope="col" tabindex="0"{" class=number" if number else ""}>{escape(name)}</th>'
        for name, number in COLUMNS
    )
    return (
        '<p class="note">Click a column to sort. MBU and MFU are of the whole trial against its machine\'s ceilings; '
        "floor / E2E is the least possible time over the measured one. Grey: limited by the client; red: kept out.</p>"
        '<div class="tools"><input id="filter" type="search" placeholder="filter: words that must all occur" '
        'aria-label="filter trials" size="36"><span id="trial-count" class="soft"></span></div>'
        f'<div class="wide"><table id="trials"><thead><tr>{head}</tr></thead><tbody></tbody></table></div>'
        '<p><button id="more" type="button" hidden>more</button></p>'
    )


def _trials(analysis: Analysis) -> Mapping[str, Any]:
    """Rows for the table: a cell is text, ``null``, or a pair of the sorting figure and its text."""
    return {
        "columns": [{"name": name, "number": number} for name, number in COLUMNS],
        "rows": [_trial(analysis, row) for row in analysis.rows],
    }


def _of_ridge(physics: Physics | None) -> Callable[[float], str]:
    """Input tokens of one forward, and how they stand to the predicted ridge."""
    ridge = physics.ridge_tokens if physics else None
    return lambda tokens: show_number(tokens) + (f" ({tokens / ridge:.2g} × ridge)" if ridge else "")


def _trial(analysis: Analysis, row: Row) -> dict[str, Any]:
    key, physics = row.key, analysis.physics.get(row.run)
    e2e = row.dist("e2e_s")

    def figure(value: float | None, show: Any) -> list[Any] | None:
        return None if value is None else [value, show(value)]

    why = analysis.excluded.get(row.run, "")
    doubts = ", ".join(dict.fromkeys(caveat.kind for caveat in row.result.caveats))
    cells: list[Any] = [
        row.source,
        " ".join(part for part in (key.label, key.variant) if part),
        key.model,
        split_text(key),
        key.kind,
        *(
            [number, str(number)]
            for number in (key.batch, key.input_tokens, key.output_tokens, row.trial.repeat)
        ),
        figure(row.values.get("e2e_s"), show_s),
        None if e2e is None else [tail(e2e, "p99"), percentile_words(e2e, "p99")],
        figure(row.values.get("ttft_s"), show_s),
        figure(row.values.get("tpot_s"), show_s),
        figure(row.values.get("latency_per_output_token_s"), show_s),
        figure(row.values.get("output_tokens_per_s"), show_number),
        [row.failed_share, failed_label(row.summary) if row.summary else show_share(1.0)],
        figure(physics.mbu if physics else None, show_share),
        figure(physics.mfu if physics else None, show_share),
        figure(physics.floor_share if physics else None, show_share),
        figure(physics.communication_share if physics else None, show_share),
        figure(physics.total_input_tokens if physics else None, _of_ridge(physics)),
        physics.regime if physics else None,
        "; ".join(part for part in (why, doubts) if part) or None,
        key.machine,
        row.id,
    ]
    mark = "" if not why else "limited" if row.client_limited and not row.flags else "excluded"
    evidence = physics.evidence if physics else ""
    text = " ".join(str(cell[1] if isinstance(cell, list) else cell) for cell in cells if cell is not None)
    return {"cells": cells, "mark": mark, "why": why or evidence, "text": text.lower()}
