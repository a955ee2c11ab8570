"""What was sent and what came, over time and by length: of the trials whose requests differ from each other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from loadgen.analysis.analyse import Analysis
from loadgen.analysis.table import Row
from loadgen.report.chart import Chart, Figure, Trace, axis, colour, figure, layout, scatter
from loadgen.report.tables import describe, varying
from loadgen.report.traffic_table import has_traffic
from loadgen.results.rows import Rows

MOST_TRIALS = 6
MOST_POINTS = 1500  # of one cloud
BINS = 60  # of a trial's time
LENGTHS = 24  # of a histogram
BATCH = 8192
COLUMNS = (
    "phase", "due_ns", "sent_ns", "end_ns", "token_ns", "input_tokens", "output_tokens_asked", "output_tokens",
    "usage_prompt_tokens", "error",
)  # fmt: skip
Numbers = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sent:
    """A trial's requests behind the warm-up, a column each: seconds since the first was due, tokens, and NaN for what
    is not known."""

    start: Numbers
    end: Numbers
    ttft: Numbers
    e2e: Numbers
    input_asked: Numbers
    input_had: Numbers
    output_asked: Numbers
    output_had: Numbers
    served: NDArray[np.bool_]


def traffic_charts(analysis: Analysis) -> list[Chart]:
    """The charts, a picture a trial; none where no trial has such a load, or none has its samples."""
    drawn_rows: list[tuple[Row, Sent]] = []
    for row in analysis.rows:
        if len(drawn_rows) < MOST_TRIALS and has_traffic(row.trial.load) and (sent := _sent(row)) is not None:
            drawn_rows.append((row, sent))
    if not drawn_rows:
        return []
    axes = varying(row.trial for row, _ in drawn_rows)
    found: dict[str, Sent] = {}
    for row, sent in drawn_rows:
        name = describe(row.trial, axes)
        found[f"{name}, {row.run}" if name in found else name] = sent
    drawn = (
        ("traffic-time", "Arrivals and requests in flight over time", _over_time,
         "Requests that were due (or sent, where nothing was due) per second, and how many were out."),
        ("traffic-lengths", "Lengths, asked for and had", _lengths,
         "Requests by their length in tokens; had is the server's count."),
        ("traffic-input", "Latency against input length", _by_input, "Served requests, from their due time."),
        ("traffic-latency", "Latency over time", _by_time, "Served requests, from and at their due time."),
    )  # fmt: skip
    return [
        Chart(
            id=id_,
            title=title,
            note=note,
            choices={name: draw(sent) for name, sent in found.items()},
            opens=0,
        )
        for id_, title, draw, note in drawn
    ]


def _sent(row: Row) -> Sent | None:
    stored = None if row.results is None else row.results.samples(row.id)
    parts = [] if stored is None else [_columns(batch) for batch in stored.batches(BATCH, _there(stored))]
    whole = np.concatenate(parts) if parts else np.zeros((0, 9))
    if not len(whole):
        return None
    whole = whole[np.argsort(whole[:, 0], kind="stable")]
    start, end, first, last, *lengths, served = whole.T
    origin = start[0]
    good = served > 0
    return Sent(
        start=(start - origin) / 1e9,
        end=(end - origin) / 1e9,
        ttft=np.where(good, (first - start) / 1e9, np.nan),
        e2e=np.where(good, (np.where(np.isnan(last), end, last) - start) / 1e9, np.nan),
        input_asked=lengths[0],
        input_had=lengths[1],
        output_asked=lengths[2],
        output_had=lengths[3],
        served=good,
    )


def _there(stored: Rows) -> list[str]:
    return [name for name in COLUMNS if stored.has(name)]


def _columns(batch: pa.RecordBatch) -> Numbers:
    """A row a request behind the warm-up: start, end, first and last token in ns, lengths, and whether it was served.
    Stamps of one host fit a float to the microsecond."""
    batch = batch.filter(pc.not_equal(batch["phase"], "warmup"))
    sent, stamps = batch["sent_ns"], batch["token_ns"]
    at, flat = stamps.offsets.to_numpy(), stamps.values.to_numpy(zero_copy_only=False)
    some = np.diff(at) > 0
    first, last = np.full(len(some), np.nan), np.full(len(some), np.nan)
    first[some], last[some] = flat[at[:-1][some]], flat[at[1:][some] - 1]
    had = [None if each is None else sum(each) for each in batch["output_tokens"].to_pylist()]
    served = pc.cast(pc.is_null(batch["error"]), pa.int64())
    columns = [
        pc.coalesce(batch["due_ns"], sent), batch["end_ns"], first, last, batch["input_tokens"],
        batch["usage_prompt_tokens"], batch["output_tokens_asked"], had, served,
    ]  # fmt: skip
    return np.array([_numbers(column) for column in columns]).reshape(len(columns), batch.num_rows).T


def _numbers(column: pa.Array | list[int | None] | Numbers) -> Numbers:
    if isinstance(column, np.ndarray):
        return column
    values = column if isinstance(column, list) else column.to_pylist()
    return np.array([np.nan if value is None else value for value in values], np.float64)


def _over_time(sent: Sent) -> Figure:
    over_s = max(float(np.nanmax(sent.end)), 1e-3)
    edges = np.linspace(0, over_s, BINS + 1)
    counted, _ = np.histogram(sent.start, edges)
    middles = ((edges[:-1] + edges[1:]) / 2).round(6).tolist()
    rate = (counted / (over_s / BINS)).tolist()
    began, ended = np.sort(sent.start), np.sort(sent.end)
    out = (np.searchsorted(began, edges, "right") - np.searchsorted(ended, edges, "right")).tolist()
    traces = (
        scatter("arrivals", middles, rate, "%{x:.2f} s: %{y:.3s} req/s", line=_step(0)),
        scatter(
            "in flight", edges.round(6).tolist(), out, "%{x:.2f} s: %{y} in flight", yaxis="y2", line=_step(1)
        ),
    )
    second = {
        "title": {"text": "requests in flight"}, "overlaying": "y", "side": "right", "rangemode": "tozero",
        "showgrid": False, "automargin": True, "tickmode": "auto", "nticks": 6, "tickformat": "~r",
    }  # fmt: skip
    upright = axis("requests per second") | {"rangemode": "tozero"}
    return Figure(traces=traces, layout=layout(axis("since the first request (s)"), upright, yaxis2=second))


def _step(at: int, dash: str = "solid") -> dict[str, object]:
    return {"color": colour(at), "shape": "hvh", "width": 1.5, "dash": dash}


def _lengths(sent: Sent) -> Figure:
    named = (
        ("input asked", sent.input_asked, 0, "dot"), ("input had", sent.input_had, 0, "solid"),
        ("output asked", sent.output_asked, 1, "dot"), ("output had", sent.output_had, 1, "solid"),
    )  # fmt: skip
    known = [(name, values[values >= 1], at, dash) for name, values, at, dash in named]
    every = np.concatenate([values for _, values, _, _ in known])
    edges = np.geomspace(every.min() / 1.02, every.max() * 1.02, LENGTHS + 1)
    middles = np.sqrt(edges[:-1] * edges[1:]).tolist()
    traces: list[Trace] = [
        scatter(
            name,
            middles,
            np.histogram(values, edges)[0].tolist(),
            "%{x:.3s} tokens: %{y}",
            line=_step(at, dash),
        )
        for name, values, at, dash in known
        if len(values)
    ]
    return figure(traces, layout(axis("tokens", log=True), axis("requests") | {"rangemode": "tozero"}))


def _by_input(sent: Sent) -> Figure:
    length = np.where(np.isnan(sent.input_had), sent.input_asked, sent.input_had)
    return _cloud(length, sent, axis("input tokens"), "%{x} tokens: %{y:.3s}s")


def _by_time(sent: Sent) -> Figure:
    return _cloud(sent.start, sent, axis("since the first request (s)"), "%{x:.2f} s: %{y:.3s}s")


def _cloud(x: Numbers, sent: Sent, along: dict[str, object], hover: str) -> Figure:
    traces: list[Trace] = []
    for at, (name, values) in enumerate((("TTFT", sent.ttft), ("E2E", sent.e2e))):
        known = np.flatnonzero(np.isfinite(values) & (values > 0))
        if len(known) > MOST_POINTS:
            known = known[np.linspace(0, len(known) - 1, MOST_POINTS).astype(int)]
        points: Sequence[float] = np.round(x[known], 4).tolist()
        marker = {"color": colour(at), "size": 4, "opacity": 0.6}
        if len(known):
            traces.append(scatter(name, points, values[known].tolist(), hover, mode="markers", marker=marker))
    return figure(traces, layout(along, axis("latency", log=True, unit="s")))
