"""A chart as plain data, in plotly's figure format: pages and exports only render it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from loadgen.analysis.statistics import Estimate

Trace = dict[str, Any]

# Told apart by the colour-blind too (Okabe and Ito), on white and on black.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8C6BB1", "#7F7F7F")
RAMP = (
    (126, 63, 179),
    (59, 111, 212),
    (31, 158, 154),
    (76, 175, 80),
    (224, 168, 0),
    (228, 87, 46),
    (176, 32, 78),
)
GIB = 2**30
NOT_NAMED = "<extra></extra>"  # else the name of its line stands beside what a point says
SYMBOLS = ("circle", "square", "diamond", "triangle-up", "cross", "star", "hexagon", "pentagon")


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One picture: traces and layout."""

    traces: tuple[Trace, ...]
    layout: Mapping[str, Any]

    def plain(self) -> dict[str, Any]:
        """Traces and layout, as plotly takes them, in as many digits as can be seen."""
        return {"data": [_short(trace) for trace in self.traces], "layout": _short(self.layout)}


DIGITS = 5


def _short(value: Any) -> Any:
    if isinstance(value, float) and math.isfinite(value):
        return float(f"{value:.{DIGITS}g}")
    if isinstance(value, Mapping):
        return {key: _short(each) for key, each in value.items()}
    return [_short(each) for each in value] if isinstance(value, list | tuple) else value


@dataclass(frozen=True, slots=True, kw_only=True)
class Chart:
    """A question with a picture per choice (a server, say). ``note`` says how to read it; no choices: why not."""

    id: str
    title: str
    note: str
    choices: Mapping[str, Figure]
    absent: str = ""
    opens: int | None = None

    @property
    def opening(self) -> int:
        """The choice that is shown first: that of most points, unless ``opens`` names one."""
        if self.opens is not None:
            return self.opens
        points = [
            sum(len(trace["x"]) for trace in each.traces if "markers" in trace["mode"])
            for each in self.choices.values()
        ]
        return points.index(max(points)) if points else 0

    @property
    def logarithmic(self) -> bool:
        """Whether any of its pictures has an upright axis that can be switched to a linear one."""
        return any(each.layout.get("yaxis", {}).get("type") == "log" for each in self.choices.values())


def axis(title: str, *, log: bool = False, unit: str = "") -> dict[str, Any]:
    """An axis, its numbers written with SI prefixes and the unit; ``figure`` sets the ticks of a logarithmic one."""
    found: dict[str, Any] = {"title": {"text": title, "standoff": 6}, "automargin": True}
    if log:
        found["type"] = "log"
    if log or unit:
        found |= {"ticksuffix": unit, "tickformat": "~s"}
    return found


FEWEST_TICKS, MOST_TICKS = 4, 8
FACTORS = ((1, 1.5, 2, 3, 4, 5, 7), (1, 2, 5), (1, 3), (1,))
LEAST_SPAN = math.log10(1.2)  # of a logarithmic axis: below, three digits would not tell its ticks apart
BORDER = 0.05  # of the span, free at both ends
FARTHEST = 3.0  # times beyond its points an axis follows their intervals


def log_ticks(low: float, high: float) -> list[float]:
    """Round figures from ``low`` > 0 to ``high``, 3 to 9 of them: of every decade, else in even steps."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for factors in FACTORS:
        ticks = [factor * 10.0**power for power in powers for factor in factors]
        inside = [tick for tick in ticks if low <= tick <= high]
        if FEWEST_TICKS <= len(inside) <= MOST_TICKS:
            return inside
        if len(inside) < FEWEST_TICKS:
            break
    else:
        return inside[:: math.ceil(len(inside) / MOST_TICKS)]
    size = 10.0 ** math.floor(math.log10((high - low) / MOST_TICKS))
    step = next(factor * size for factor in (1, 2, 5, 10) if high - low <= MOST_TICKS * factor * size)
    return [at * step for at in range(math.ceil(low / step), math.floor(high / step) + 1)]


def figure(traces: Sequence[Trace], layout: Mapping[str, Any]) -> Figure:
    """A picture whose logarithmic axes span what is drawn, with numbers at readable steps."""
    axes = {}
    for name in ("x", "y"):
        found = layout[f"{name}axis"]
        values = [value for value in _drawn(traces, layout, name) if value > 0]
        if found.get("type") == "log" and values:
            axes[f"{name}axis"] = found | _numbered(found, min(values), max(values))
    return Figure(traces=tuple(traces), layout={**layout, **axes})


def _drawn(traces: Iterable[Trace], layout: Mapping[str, Any], name: str) -> Iterator[float]:
    """Everything that has a place on an axis, with the ends of intervals that are not endless."""
    for trace in traces:
        values = [value for value in trace[name] if value is not None]
        yield from values
        bars = trace.get(f"error_{name}")
        for sign, ends in ((1, bars["array"]), (-1, bars["arrayminus"])) if bars else ():
            for value, reach in zip(trace[name], ends, strict=True):
                if reach is not None:
                    yield min(max(value + sign * reach, min(values) / FARTHEST), max(values) * FARTHEST)
    if name == "x":
        yield from (shape["x0"] for shape in layout.get("shapes", ()))


def _numbered(found: Mapping[str, Any], low: float, high: float) -> dict[str, Any]:
    start, end = math.log10(low), math.log10(high)
    spare = max(BORDER * (end - start), (LEAST_SPAN - (end - start)) / 2)
    start, end = start - spare, end + spare
    span = {"range": [start, end]}
    if "tickvals" in found:
        return span | _spaced(found, (end - start) * CLOSEST)
    ticks = log_ticks(10**start, 10**end)
    words = [prefixed(tick, found.get("ticksuffix", "")) for tick in ticks]
    return span | {"tickmode": "array", "tickvals": ticks, "ticktext": words}


CLOSEST = 0.045  # of an axis, between two of its numbers


def _spaced(found: Mapping[str, Any], gap: float) -> dict[str, Any]:
    """The ticks at measured values that stand far enough apart, the last one among them."""
    kept: list[tuple[float, str]] = []
    for tick, text in reversed(list(zip(found["tickvals"], found["ticktext"], strict=True))):
        if not kept or math.log10(kept[-1][0] / tick) >= gap:
            kept.append((tick, text))
    return {"tickvals": [tick for tick, _ in kept[::-1]], "ticktext": [text for _, text in kept[::-1]]}


def bytes_axis(title: str, values: Sequence[float]) -> dict[str, Any]:
    """An axis of bytes with ticks at whole steps of GiB, as the tables write them."""
    low, high = min(values) / GIB, max(values) / GIB
    step = next(
        (size for size in (0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50) if high - low <= 8 * size), 100.0
    )
    ticks = [number * step for number in range(int(low / step), int(high / step) + 2)]
    shown = {"tickvals": [tick * GIB for tick in ticks], "ticktext": [f"{tick:.3g} GiB" for tick in ticks]}
    return axis(title) | {"tickmode": "array"} | shown


def prefixed(value: float, unit: str = "") -> str:
    """``20 ms``, ``5k``: three digits and an SI prefix; plain numbers stay plain up to 1000."""
    for size, prefix in ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"), (1, "")):
        if value >= size * 0.999999:
            if size == 1e3 and unit == "s":
                continue
            return f"{value / size:.3g}{' ' if unit else ''}{prefix}{unit}"
    if not unit:
        return f"{value:.3g}"
    for size, prefix in ((1e-3, "m"), (1e-6, "µ"), (1e-9, "n")):
        if value >= size * 0.999999:
            return f"{value / size:.3g} {prefix}{unit}"
    return f"{value:.3g} {unit}"


def layout(x: Mapping[str, Any], y: Mapping[str, Any], **more: Any) -> dict[str, Any]:
    """The layout common to all charts; colours are the page's, which knows light from dark."""
    return {
        "xaxis": dict(x),
        "yaxis": dict(y),
        "hovermode": "closest",
        "margin": {"l": 60, "r": 10, "t": 24, "b": 44},
        "legend": {"orientation": "v", "font": {"size": 11.5}},
    } | more


def counts(values: Sequence[int]) -> dict[str, Any]:
    """Ticks at the measured values, in full."""
    ticks = sorted(set(values))
    return {"tickmode": "array", "tickvals": ticks, "ticktext": [f"{tick:g}" for tick in ticks]}


def colour(at: int) -> str:
    """The colour of the n-th series; it repeats after the palette's end."""
    return COLOURS[at % len(COLOURS)]


def symbol(at: int) -> str:
    """A marker for the at-th line: the colours' second round gets other markers than the first."""
    return SYMBOLS[(at + at // len(COLOURS)) % len(SYMBOLS)]


def shade(at: int, count: int) -> str:
    """The at-th of ``count`` colours along a ramp, for an ordered axis; seen on white and on black."""
    place = at * (len(RAMP) - 1) / max(count - 1, 1)
    left = min(int(place), len(RAMP) - 2)
    mixed = (
        round(low + (high - low) * (place - left))
        for low, high in zip(RAMP[left], RAMP[left + 1], strict=True)
    )
    return "#" + "".join(f"{part:02x}" for part in mixed)


def said(*lines: str) -> str:
    """Lines of text as plotly shows them: it reads names, ticks and texts as markup, so all but ``bold`` is escaped."""
    return str(Markup("<br>").join(lines))


def bold(text: str) -> str:
    """A line for ``said`` that stands out."""
    return Markup("<b>{}</b>").format(text)


def scatter(
    name: str,
    x: Sequence[float],
    y: Sequence[float],
    hover: Sequence[str] | str,
    *,
    mode: str = "lines",
    **more: Any,
) -> Trace:
    """Points or a line. ``hover`` is what each point says, made by ``said``, or plotly's template for all of them."""
    trace: Trace = {"type": "scatter", "mode": mode, "name": said(name), "x": list(x), "y": list(y)}
    if not isinstance(hover, str):
        trace |= {"text": list(hover), "hovertemplate": "%{text}" + NOT_NAMED}
    elif hover:
        trace["hovertemplate"] = hover + NOT_NAMED
    return trace | more


def line(
    name: str, x: Sequence[float], estimates: Sequence[Estimate], paint: str, hover: Sequence[str]
) -> Trace:
    """Points with their intervals."""
    up = [None if each.high is None else each.high - each.value for each in estimates]
    down = [None if each.low is None else each.value - each.low for each in estimates]
    trace = scatter(
        name, x, [each.value for each in estimates], hover, mode="lines+markers", legendgroup=name,
        line={"color": paint, "width": 2}, marker={"color": paint, "size": 7},
    )  # fmt: skip
    if any(each is not None for each in up):
        trace["error_y"] = {
            "type": "data", "symmetric": False, "array": up, "arrayminus": down, "thickness": 1.2, "width": 3
        }  # fmt: skip
    return trace


def theory(
    name: str, x: Sequence[float], y: Sequence[float], paint: str, group: str, *, shown: bool
) -> Trace:
    """A dotted line of what the ceilings allow; only one of them enters the legend."""
    drawn = {"color": paint, "width": 1.5, "dash": "dot"}
    return scatter(name, x, y, f"{name}: %{{y:.4s}}", line=drawn, legendgroup=group, showlegend=shown)


def marks(name: str, x: Sequence[float], y: Sequence[float], hover: Sequence[str]) -> Trace:
    """Doubtful points: shown, never joined to a line."""
    cross = {"symbol": "x-thin-open", "size": 9, "color": "#888888", "line": {"width": 2}}
    return scatter(name, x, y, hover, mode="markers", marker=cross)
