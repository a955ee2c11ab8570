"""The seed report's charts, with theory beside the measurement: experiments 1 to 4, and the ridge of F8."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from loadgen.analysis.analyse import Analysis
from loadgen.analysis.finding import split_text, subject_text
from loadgen.analysis.findings.ridge import MeasuredRidge, ridges
from loadgen.analysis.starts import Cell
from loadgen.analysis.statistics import Estimate
from loadgen.analysis.table import Key, Row
from loadgen.report.chart import (
    Chart,
    Figure,
    Trace,
    axis,
    bold,
    bytes_axis,
    colour,
    counts,
    figure,
    layout,
    line,
    marks,
    said,
    scatter,
    shade,
    theory,
)
from loadgen.theory import physics
from loadgen.theory.models import kv_bytes_per_token, weight_bytes
from loadgen.units import show_bytes, show_rate, show_s

Floor = Callable[[Key, Row], float | None]
LATENCY, PER_TOKEN, RATE = "e2e_s", "latency_per_output_token_s", "output_tokens_per_s"
MEMORY, RESERVED = "gpu_memory_bytes", "gpu_memory_reserved_bytes"
TITLES = {
    LATENCY: "end-to-end latency, p50",
    PER_TOKEN: "latency per output token",
    RATE: "output tokens per second",
    MEMORY: "GPU memory needed, fullest GPU",
}
UNITS = {LATENCY: "s", PER_TOKEN: "s", RATE: ""}
SHOW: Mapping[str, Callable[[float | None], str]] = {
    LATENCY: show_s,
    PER_TOKEN: show_s,
    RATE: lambda value: show_rate(value, "tok/s"),
    MEMORY: show_bytes,
}
WORDS = {
    "batch": "sequences at once (batch)",
    "input_tokens": "input tokens",
    "output_tokens": "output tokens",
}
FEW = {"batch": "batch sizes", "input_tokens": "input lengths", "output_tokens": "output lengths"}
INTERVALS = (
    "Bars are 95 % intervals; dotted lines are the floor (or, for rates, the most) that the ceilings allow."
)


def floor_of(analysis: Analysis) -> Callable[[str], Floor]:
    """What the ceilings allow for a metric at a key, ``None`` where they are unknown or the batch is the server's."""

    def metric_floor(metric: str) -> Floor:
        def at(key: Key, row: Row) -> float | None:
            model, ceilings = row.model, analysis.ceilings.get(key.machine)
            if model is None:
                return None
            if metric == MEMORY:
                tokens = key.batch * (key.input_tokens + key.output_tokens)
                per_token = kv_bytes_per_token(model, key.dtype, key.tp, key.pp)
                return float(weight_bytes(model, key.dtype, key.tp, key.pp) + tokens * per_token)
            if ceilings is None or key.kind != "static":
                return None
            floor = physics.request_floor(
                model, key.dtype, key.batch, key.input_tokens, key.output_tokens, ceilings, tp=key.tp
            )
            if floor is None:
                return None
            scale = {LATENCY: 1.0, PER_TOKEN: 1 / key.output_tokens}
            if metric in scale:
                return floor.ideal_s * scale[metric]
            return key.batch * key.output_tokens / floor.ideal_s

        return at

    return metric_floor


def series_chart(analysis: Analysis, id: str, title: str, metric: str, x: str, lines: str) -> Chart:
    """``metric`` against ``x``, one line per ``lines``; a choice per everything else."""
    axes = (x, lines) if lines != "split" else (x, "tp", "pp")
    floor = floor_of(analysis)(metric)
    choices = {}
    loads = ("static", "closed")
    for key, cells in analysis.study.series(*axes, where=lambda each: each.kind in loads).items():
        known = [cell for cell in cells if analysis.study.estimate(cell, metric) is not None]
        if len({getattr(cell.key, x) for cell in known}) < 2:
            continue
        choices[_choice(key, axes)] = _figure(analysis, key, known, metric, x, lines, axes, floor)
    absent = f"Needs at least two {FEW[x]}."
    if metric == MEMORY:
        absent = "GPU memory was not measured (or at one batch size only)."
    return Chart(id=id, title=title, note=INTERVALS, choices=choices, absent=absent)


def _choice(key: Key, axes: Sequence[str]) -> str:
    parts = [subject_text(key)]
    if "tp" not in axes:
        parts.append(split_text(key))
    parts += [f"batch {key.batch}"] if "batch" not in axes else []
    parts += [f"input {key.input_tokens}"] if "input_tokens" not in axes else []
    parts += [f"output {key.output_tokens}"] if "output_tokens" not in axes else []
    return " · ".join(parts)


def _figure(
    analysis: Analysis,
    key: Key,
    cells: Sequence[Cell],
    metric: str,
    x: str,
    lines: str,
    axes: Sequence[str],
    floor: Floor,
) -> Figure:
    groups: dict[tuple[int, int], list[Cell]] = {}
    for cell in cells:
        group = (cell.key.tp, cell.key.pp) if lines == "split" else (int(getattr(cell.key, lines)), 0)
        groups.setdefault(group, []).append(cell)
    traces: list[Trace] = []
    for at, (group, members) in enumerate(sorted(groups.items())):
        paint = colour(at) if lines == "split" else shade(at, len(groups))
        name = split_text(members[0].key) if lines == "split" else f"{lines.split('_')[0]} {group[0]}"
        members = sorted(members, key=lambda cell: int(getattr(cell.key, x)))
        values = [(cell, analysis.study.estimate(cell, metric)) for cell in members]
        known = [(cell, estimate) for cell, estimate in values if estimate is not None]
        traces.append(
            line(
                name,
                [getattr(cell.key, x) for cell, _ in known],
                [estimate for _, estimate in known],
                paint,
                [hover_text(name, cell, estimate, metric, x) for cell, estimate in known],
            )
        )
        traces += _floor_line(members, x, paint, name, floor, shown=at == 0, metric=metric)
    traces += _limited(analysis, key, metric, x, axes)
    ticks = counts([getattr(cell.key, x) for cell in cells])
    if metric == MEMORY:
        upright = bytes_axis(TITLES[metric], [value for trace in traces for value in trace["y"]])
    else:
        upright = axis(TITLES[metric], log=True, unit=UNITS[metric])
    return figure(traces, layout(axis(WORDS[x], log=True) | ticks, upright))


def hover_text(name: str, cell: Cell, estimate: Estimate, metric: str, x: str) -> str:
    """What a point says under the pointer."""
    show = SHOW[metric]
    span = "no interval" if estimate.low is None else f"95 %: {show(estimate.low)} to {show(estimate.high)}"
    place = f"{name}, {x.replace('_', ' ')} {getattr(cell.key, x)}"
    runs = f"{estimate.repeats} runs of {estimate.starts} server start{'s' if estimate.starts > 1 else ''}"
    return said(place, bold(show(estimate.value)), span, f"{runs}; {estimate.how}")


def _floor_line(
    cells: Sequence[Cell], x: str, paint: str, group: str, floor: Floor, *, shown: bool, metric: str
) -> list[Trace]:
    """The floor at more points than were measured, so that its bends can be seen."""
    row, ends = cells[0].rows[0], [int(getattr(cell.key, x)) for cell in cells]
    if min(ends) == max(ends):
        return []
    grid = sorted({round(at) for at in np.geomspace(min(ends), max(ends), 24)} | set(ends))
    points = [(at, floor(replace(cells[0].key, **{x: at}), row)) for at in grid]  # type: ignore[arg-type]
    known = [(at, value) for at, value in points if value is not None]
    if not known:
        return []
    name = "predicted weights + KV" if metric == MEMORY else "most" if metric == RATE else "floor"
    return [theory(name, [at for at, _ in known], [value for _, value in known], paint, group, shown=shown)]


def _limited(analysis: Analysis, key: Key, metric: str, x: str, axes: Sequence[str]) -> list[Trace]:
    """Trials that the load generator limited: marked, since their numbers are its own."""
    blank = {axis: getattr(key, axis) for axis in axes}
    rows = [
        row
        for row in analysis.rows
        if row.client_limited and metric in row.values and replace(row.key, **blank) == key
    ]
    if not rows:
        return []
    return [
        marks(
            "limited by the client",
            [getattr(row.key, x) for row in rows],
            [row.values[metric] for row in rows],
            [said("limited by the load generator", SHOW[metric](row.values[metric])) for row in rows],
        )
    ]


def ridge_chart(analysis: Analysis) -> Chart:
    """Prefill time against tokens per forward, the fit, and where theory puts the ridge."""
    choices = {}
    for key, found in ridges(analysis.study).items():
        choices[f"{subject_text(replace(key, stream=True))} · {split_text(key)}"] = _ridge_figure(
            analysis, key, found
        )
    return Chart(
        id="ridge",
        title="The ridge: prefill time against input tokens per forward",
        note="A plateau (set by bandwidth, or by the host) turns into a slope (set by compute). Vertical lines: the "
        "ridge as predicted from the ceilings, and as fitted.",
        choices=choices,
        absent="Needs prefill times (streamed TTFT, or trials of one output token) of four or more sizes.",
    )


def _ridge_figure(analysis: Analysis, key: Key, found: MeasuredRidge) -> Figure:
    fit, tokens = found.ridge, np.array(found.tokens, dtype=float)
    grid = np.geomspace(tokens.min(), tokens.max(), 60)
    fitted = fit.seconds(grid)
    hover = [
        said(f"batch {cell.key.batch} × {cell.key.input_tokens} tokens", bold(show_s(value)))
        for cell, value in zip(found.cells, found.seconds, strict=True)
    ]
    dot = {"color": colour(0), "size": 7}
    traces = [
        scatter("measured", found.tokens, found.seconds, hover, mode="markers", marker=dot),
        theory("fit", grid.tolist(), fitted.tolist(), colour(0), "fit", shown=True),
    ]
    model, ceilings = found.cells[0].rows[0].model, analysis.ceilings.get(key.machine)
    uprights = []
    if fit.resolved:
        uprights.append((fit.tokens, colour(0), "measured"))
    if model is not None and ceilings is not None:
        predicted = physics.ridge_tokens(model, key.dtype, ceilings, tp=key.tp)
        if predicted is not None:
            uprights.append((predicted, colour(1), "predicted"))
        length = found.cells[-1].key.input_tokens
        floors = [
            (at, physics.floor(
                physics.prefill(model, key.dtype, max(1.0, at / length), min(length, at), tp=key.tp),
                ceilings, key.dtype, tp=key.tp,
            ))
            for at in grid
        ]  # fmt: skip
        known = [(float(at), floor.ideal_s) for at, floor in floors if floor is not None]
        if known:
            at, least = [size for size, _ in known], [seconds for _, seconds in known]
            traces.append(theory("floor", at, least, colour(1), "floor", shown=True))
    return figure(
        traces,
        layout(
            axis("input tokens in one forward (batch × input)", log=True),
            axis("prefill time, p50", log=True, unit="s"),
            shapes=[_upright(at, paint) for at, paint, _ in uprights],
            annotations=[_label(number, *each) for number, each in enumerate(uprights)],
        ),
    )


def _upright(at: float, paint: str) -> dict[str, object]:
    return {
        "type": "line", "x0": at, "x1": at, "yref": "paper", "y0": 0, "y1": 1,
        "line": {"color": paint, "width": 1.5, "dash": "dash"},
    }  # fmt: skip


def _label(number: int, at: float, paint: str, words: str) -> dict[str, object]:
    """Beside the top of its line; on a logarithmic axis an annotation's place is the logarithm."""
    return {
        "x": math.log10(at), "yref": "paper", "y": 1 - 0.07 * number, "xanchor": "left", "yanchor": "top",
        "text": f"{words} {at:.0f}", "showarrow": False, "font": {"color": paint},
    }  # fmt: skip
