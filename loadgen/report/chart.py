"""A chart as plain data, in plotly's figure format: pages and exports only render it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
        """Traces and layout, as plotly takes them."""
        return {"data": list(self.traces), "layout": dict(self.layout)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Chart:
    """A question with a picture per choice (a server, say). ``note`` says how to read it; no choices: why not."""

    id: str
    title: str
    note: str
    choices: Mapping[str, Figure]
    absent: str = ""

    @property
    def logarithmic(self) -> bool:
        """Whether any of its pictures has an upright axis that can be switched to a linear one."""
        return any(each.layout.get("yaxis", {}).get("type") == "log" for each in self.choices.values())


def axis(title: str, *, log: bool = False, unit: str = "") -> dict[str, Any]:
    """An axis; a logarithmic one has ticks at 1, 2, 5 of every decade, written with SI prefixes and the unit."""
    found: dict[str, Any] = {"title": {"text": title}, "automargin": True}
    if log:
        ticks = [factor * 10.0**power for power in range(-7, 17) for factor in (1, 2, 5)]
        found |= {
            "type": "log",
            "tickmode": "array",
            "tickvals": ticks,
            "ticktext": [prefixed(tick, unit) for tick in ticks],
        }
    elif unit:
        found |= {"ticksuffix": unit, "tickformat": "~s"}
    return found


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
        "margin": {"l": 70, "r": 20, "t": 20, "b": 60},
        "legend": {"orientation": "v"},
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
