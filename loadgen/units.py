"""Conversions at the edge, and the only place that turns quantities into text."""

from __future__ import annotations

import math
import re

NS_PER_S = 1_000_000_000
SPAN = "seconds, or a span such as '500ms', '120s', '1h30m'"  # what parse_span takes, in words
_PARTS = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h)")
_UNIT_S = {"ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}


def seconds(ns: int | float) -> float:
    """Nanoseconds to seconds."""
    return ns / NS_PER_S


def nanoseconds(s: float) -> int:
    """Seconds to whole nanoseconds."""
    return round(s * NS_PER_S)


def parse_span(text: str) -> float | None:
    """A span of time as people write it (``120``, ``90s``, ``1m30s``, ``500ms``) in seconds; None of anything else."""
    whole = text.strip()
    if re.fullmatch(r"\d+(\.\d+)?", whole):
        return float(whole)
    parts = _PARTS.findall(whole)
    if not parts or "".join(map("".join, parts)) != whole:
        return None
    return sum(float(number) * _UNIT_S[unit] for number, unit in parts)


def show_s(value: float | None) -> str:
    """A duration with a unit that suits its size; a dash when it was not measured."""
    if value is None:
        return "–"
    size = abs(value)
    if size >= 100:
        return f"{value:.0f} s"
    if size >= 1:
        return f"{value:.2f} s"
    if size >= 1e-3:
        return f"{value * 1e3:.{1 if size >= 0.1 else 2}f} ms"
    return f"{value * 1e6:.1f} µs"


def show_duration(value: float | None) -> str:
    """A long duration as ``1h02m``, ``3m05s`` or ``12s``."""
    if value is None:
        return "–"
    whole = round(value)
    if whole >= 3600:
        return f"{whole // 3600}h{whole % 3600 // 60:02d}m"
    if whole >= 60:
        return f"{whole // 60}m{whole % 60:02d}s"
    return f"{whole}s"


def show_bytes(value: float | None) -> str:
    """Bytes in binary units."""
    if value is None:
        return "–"
    for unit in ("B", "KiB", "MiB"):
        if abs(value) < 1024:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.2f} GiB"


def show_number(value: float | None) -> str:
    """A plain figure with three or four significant digits."""
    if value is None:
        return "–"
    size = abs(value)
    if not math.isfinite(value):  # text such as "nan", in a file that somebody wrote
        return str(value)
    if size >= 1000 or value == int(value):
        return f"{value:,.0f}"
    return f"{value:.1f}" if size >= 100 else f"{value:.3g}"


def show_interval(value: float, low: float, high: float) -> str:
    """``1.2 [1.15, 1.25]``: three significant digits, and more where two of the interval's width need them."""
    width = high - low
    places = 1 - math.floor(math.log10(width)) if 0 < width < math.inf else 0

    def show(number: float) -> str:
        digits = 3 if not number or math.isinf(number) else places + math.floor(math.log10(abs(number))) + 1
        return f"{number:.{max(digits, 3)}g}"

    return f"{show(value)} [{show(low)}, {show(high)}]"


def show_rate(value: float | None, unit: str) -> str:
    """A rate such as ``1,234 tok/s``."""
    return "–" if value is None else f"{show_number(value)} {unit}"


def show_share(value: float | None) -> str:
    """A share of one as a percentage."""
    return "–" if value is None else f"{value * 100:.1f} %"
