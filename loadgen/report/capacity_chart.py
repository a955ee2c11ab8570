"""Searches for capacity drawn: attainment against load with the fitted curve, and latencies against load."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from loadgen.labels import input_text, output_text
from loadgen.plan.capacity_estimate import Done, estimate, windows_of
from loadgen.plan.capacity_outcome import unit_of
from loadgen.plan.kept_up import judged
from loadgen.report.capacity_found import Found, start_words
from loadgen.report.chart import Chart, Figure, axis, colour, layout, said, scatter
from loadgen.units import show_number, show_s, show_share

NOTE = (
    "Points are trials with a counted window, with the 95 % interval of their share; the line is the fitted curve with "
    "its 90 % band. Capacity is where it falls through the goal: the shaded span is its 90 % interval."
)
BESIDE = 1.25  # of the loads tried, that the curve is drawn beyond them
PLACES = 120
LATENCIES = (("E2E", "e2e_s"), ("TTFT", "ttft_s"), ("TPOT", "tpot_s"))


def capacity_chart(found: Sequence[Found]) -> Chart | None:
    """A picture of each goal and one of latencies for each search that found a capacity; ``None`` without any."""
    choices: dict[str, Figure] = {}
    for each in found:
        if each.capacity.capacity is None:
            continue
        point = each.capacity.search.point
        name = f"{start_words(each)}, {input_text(point.load)} → {output_text(point.load)}"
        for place, goal in enumerate(each.capacity.goals):
            title = f"{name}: {', '.join(goal.goal.objectives)} at {show_share(goal.goal.share)}"
            choices[title] = _attainment(each, place)
        choices[f"{name}: latencies"] = _latencies(each)
    if not choices:
        return None
    return Chart(id="capacity", title="Attainment of objectives against load", note=NOTE, choices=choices)


def _done(found: Found) -> list[Done]:
    return judged([Done(role=role, result=result) for role, result in found.trials])


def _load_axis(found: Found) -> dict[str, object]:
    rate = found.capacity.search.variable == "rate"
    return axis("requests per second" if rate else "requests in flight")


def _attainment(found: Found, place: int) -> Figure:
    done, goal = _done(found), found.capacity.goals[place]
    fitted = estimate(found.capacity.search, done).fits[place]
    windows = sorted(windows_of(done), key=lambda each: each[0])
    levels = [level for level, _ in windows]
    along = np.geomspace(min(levels) / BESIDE, max(levels) * BESIDE, PLACES).tolist()
    mean, low, high = fitted.curve(along)
    shares = [each.goals[place] for _, each in windows]
    values = [each.kept / at.due for each, (_, at) in zip(shares, windows, strict=True)]
    bars = {
        "type": "data", "symmetric": False, "thickness": 1.2, "width": 3,
        "array": [each.high - value for each, value in zip(shares, values, strict=True)],
        "arrayminus": [value - each.low for each, value in zip(shares, values, strict=True)],
    }  # fmt: skip
    unit = unit_of(found.capacity.search)
    hover = [
        said(f"{show_number(level)} {unit}", f"{show_share(value)} of {each.due} kept")
        for (level, each), value in zip(windows, values, strict=True)
    ]
    band = {"color": "rgba(0,0,0,0)", "width": 0}
    traces = (
        scatter("band", along, low.tolist(), "", line=band, showlegend=False, hoverinfo="skip"),
        scatter(
            "90 % band", along, high.tolist(), "", line=band, fill="tonexty", fillcolor="rgba(0,114,178,0.18)",
            hoverinfo="skip",
        ),
        scatter("fitted", along, mean.tolist(), "%{y:.1%} at %{x:.3g}", line={"color": colour(0), "width": 2}),
        scatter(
            "trials", levels, values, hover, mode="markers", marker={"color": colour(1), "size": 8}, error_y=bars
        ),
        scatter(
            "goal", [along[0], along[-1]], [goal.goal.share] * 2, "", line={"color": "#888888", "dash": "dot"},
            hoverinfo="skip",
        ),
    )  # fmt: skip
    span = {
        "type": "rect", "xref": "x", "yref": "paper", "x0": goal.low, "x1": goal.high, "y0": 0, "y1": 1,
        "fillcolor": "#888888", "opacity": 0.18, "line": {"width": 0},
    }  # fmt: skip
    shares_axis = axis("share of requests that kept") | {"tickformat": ".0%", "rangemode": "tozero"}
    return Figure(traces=traces, layout=layout(_load_axis(found), shares_axis, shapes=[span]))


def _latencies(found: Found) -> Figure:
    tried = [each for each in _done(found) if each.role in ("bracket", "window") and each.result.summary]
    tried.sort(key=lambda each: each.level)
    unit = unit_of(found.capacity.search)
    traces = []
    for at, (name, metric) in enumerate(LATENCIES):
        for percentile, dash in (("p50", "solid"), ("p99", "dot")):
            known = [
                (each.level, value)
                for each in tried
                if (dist := getattr(each.result.summary, metric)) is not None
                and (value := getattr(dist, percentile)) is not None
            ]
            if known:
                levels, values = zip(*known, strict=True)
                hover = [
                    said(f"{show_number(level)} {unit}", f"{name} {percentile} {show_s(value)}")
                    for level, value in known
                ]
                drawn = {"color": colour(at), "width": 2, "dash": dash}
                traces.append(
                    scatter(f"{name} {percentile}", levels, values, hover, mode="lines+markers", line=drawn)
                )
    return Figure(traces=tuple(traces), layout=layout(_load_axis(found), axis("latency", log=True, unit="s")))
