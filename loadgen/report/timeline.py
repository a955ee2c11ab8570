"""A trial over time: tokens as they came, requests in flight, and GPU metrics where they were recorded."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa

from loadgen.analysis.analyse import Analysis
from loadgen.analysis.finding import cell_text
from loadgen.analysis.table import Row
from loadgen.report.chart import Chart, Figure, Trace, axis, colour, layout, scatter

MOST_TRIALS = 12
MOST_REQUESTS = 2000  # of one trial, from its start: a timeline is to be looked at
MOST_POINTS = 1200
COLUMNS = ["phase", "sent_ns", "end_ns", "token_ns", "tokens_per_arrival", "output_tokens", "error"]


def timeline_chart(analysis: Analysis) -> Chart:
    """A few trials that say most: of each server the slowest, the one of most tokens per second, a doubtful one."""
    choices = {}
    for name, row in chosen(analysis.rows).items():
        batch = _first_requests(row)
        if batch is None:
            continue
        whole = batch["token_ns"].null_count == 0
        if not whole:  # kept results hold the token times of the first requests only
            batch = batch.slice(0, batch["token_ns"].is_null().index(True).as_py())
        if batch.num_rows:
            choices[name if whole else f"{name}, its first {batch.num_rows} requests"] = _timeline(batch)
    return Chart(
        id="timeline",
        title="A trial over time",
        note=f"Output tokens per interval and requests in flight, the first {MOST_REQUESTS} requests; shaded is what "
        "does not count. Replies that were not streamed show their tokens at their end.",
        choices=choices,
        opens=0,
        absent="No samples are stored with these results.",
    )


def chosen(rows: Sequence[Row]) -> dict[str, Row]:
    """The trials that are drawn, by what the choice is called."""
    found: dict[str, Row] = {}
    labels = sorted({row.key.label for row in rows})
    for label in labels:
        mine = [row for row in rows if row.key.label == label and row.results and "e2e_s" in row.values]
        if not mine:
            continue
        picks = {
            "slowest": max(mine, key=lambda row: row.values["e2e_s"]),
            "most tok/s": max(mine, key=lambda row: row.values.get("output_tokens_per_s", 0.0)),
        }
        doubtful = [row for row in mine if not row.usable]
        if doubtful:
            picks["doubtful"] = doubtful[0]
        whys: dict[str, tuple[Row, list[str]]] = {}
        for why, row in picks.items():
            whys.setdefault(row.run, (row, []))[1].append(why)
        for row, reasons in whys.values():
            name = cell_text(row.key)
            found[f"{name} ({', '.join(reasons)})" if len(mine) > 1 else name] = row
    return dict(list(found.items())[:MOST_TRIALS])


def _first_requests(row: Row) -> pa.RecordBatch | None:
    assert row.results is not None
    stored = row.results.samples(row.id)
    first = None if stored is None else next(stored.batches(MOST_REQUESTS, COLUMNS), None)
    return first if first is not None and first.num_rows else None


def _timeline(first: pa.RecordBatch) -> Figure:
    sent = first["sent_ns"].to_numpy()
    end = first["end_ns"].to_numpy()
    start = sent.min()
    traces: list[Trace] = [_tokens(first, start), _in_flight((sent - start) / 1e9, (end - start) / 1e9)]
    shapes = [
        {
            "type": "rect", "yref": "paper", "y0": 0, "y1": 1, "x0": from_s, "x1": to_s,
            "fillcolor": "#888888", "opacity": 0.15, "line": {"width": 0},
            "label": {"text": text, "textposition": "top left"},
        }
        for text, from_s, to_s in _uncounted(np.array(first["phase"].to_pylist()), sent - start, end - start)
    ]  # fmt: skip
    return Figure(
        traces=tuple(traces),
        layout=layout(
            axis("since the first send (s)"),
            axis("output tokens per second") | {"range": _with_room(traces[0])},
            yaxis2={
                "title": {"text": "requests in flight"}, "overlaying": "y", "side": "right", "showgrid": False,
                "range": _with_room(traces[1]), "automargin": True, "tickmode": "auto", "nticks": 6, "tickformat": "~r",
            },
            shapes=shapes,
            legend={"orientation": "h", "y": 1, "yanchor": "bottom", "font": {"size": 11.5}},
        ),
    )  # fmt: skip


def _with_room(trace: Trace) -> list[float]:
    """From zero to above the largest value, where what is shaded has its name."""
    return [0.0, 1.15 * max((value for value in trace["y"] if value == value), default=0.0) or 1.0]


def _uncounted(phases: np.ndarray, sent: np.ndarray, end: np.ndarray) -> Iterator[tuple[str, float, float]]:  # type: ignore[type-arg]
    """What is shaded: a name, and from when to when in seconds. Lead-in and drain are told by when requests were sent:
    they end late, and the window is full of those that do."""
    warm, lead_in, drain = (phases == name for name in ("warmup", "lead_in", "drain"))
    if warm.any():
        yield "warm-up", 0.0, float(end[warm].max() / 1e9)
    if lead_in.any():
        yield "lead-in", float(sent[lead_in].min() / 1e9), float(sent[lead_in].max() / 1e9)
    if drain.any():
        yield "drain", float(sent[drain].min() / 1e9), float(end.max() / 1e9)


def _tokens(batch: pa.RecordBatch, start: int) -> Trace:
    """Tokens per second in up to a few hundred even intervals."""
    arrivals = batch["token_ns"].flatten().to_numpy(zero_copy_only=False)
    weights = batch["tokens_per_arrival"].flatten().to_numpy(zero_copy_only=False)
    if len(arrivals) == 0:
        arrivals = batch["end_ns"].to_numpy()
        counts, errors = batch["output_tokens"].to_pylist(), batch["error"].to_pylist()
        # A failed reply brought none; what nobody counted leaves a gap.
        uncounted = [0 if error else np.nan for error in errors]
        weights = np.array([sum(own) if own else none for own, none in zip(counts, uncounted, strict=True)])
    seconds = (arrivals - start) / 1e9
    bins = int(min(120, max(20, len(np.unique(seconds)))))
    counted, edges = np.histogram(seconds, bins=bins, weights=weights, range=(0, float(seconds.max()) or 1.0))
    width = edges[1] - edges[0]
    drawn = {"color": colour(0), "shape": "hvh", "width": 1.5}
    x, y = np.round((edges[:-1] + edges[1:]) / 2, 6).tolist(), np.round(counted / width, 3).tolist()
    return scatter("output tok/s", x, y, "%{x:.3f} s: %{y:.4s} tok/s", line=drawn)


def _in_flight(sent: np.ndarray, end: np.ndarray) -> Trace:  # type: ignore[type-arg]
    at = np.concatenate([sent, end])
    change = np.concatenate([np.ones(len(sent)), -np.ones(len(end))])
    order = np.lexsort((change, at))
    at, level = at[order], np.cumsum(change[order])
    if len(at) > MOST_POINTS:
        kept = np.linspace(0, len(at) - 1, MOST_POINTS).astype(int)
        at, level = at[kept], level[kept]
    drawn, x = {"color": colour(1), "shape": "hv", "width": 1.5}, np.round(at, 6).tolist()
    hover = "%{x:.3f} s: %{y} in flight"
    return scatter("requests in flight", x, level.tolist(), hover, yaxis="y2", line=drawn)
