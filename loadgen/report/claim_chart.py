"""The small chart of a claim's row: each deciding server's effect with its interval, on one logarithmic axis."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from loadgen.analysis.finding import Finding

WIDTH, ROW = 120.0, 9.0  # of the drawing, and of one server in it; in its own units
EDGE = 6.0  # left free on both sides
LEAST_SPAN = math.log(1.2)  # of the axis: equal effects lie on each other, and not at its ends


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """One server: where its effect and the ends of its interval lie, in units of the drawing."""

    at: float
    low: float
    high: float
    y: float
    verdict: str
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaimChart:
    """``level`` is where 1 lies, ``None`` where the axis does not hold it (batches, tokens)."""

    marks: tuple[Mark, ...]
    level: float | None
    height: float
    width: float = WIDTH


def claim_chart(findings: Sequence[Finding]) -> ClaimChart | None:
    """Of the findings whose effect is a number above 0; ``None`` without any. An endless interval ends at the edge."""
    known = [
        (each, float(each.effect.value))
        for each in findings
        if each.effect is not None and each.effect.value is not None and each.effect.value > 0
    ]
    if not known:
        return None
    logs = [math.log(value) for _, value in known]
    for each, _ in known:
        assert each.effect is not None
        ends = (each.effect.low, each.effect.high)
        logs += [math.log(end) for end in ends if end is not None and 0 < end < math.inf]
    ratios = all(
        text.startswith("×") for each, _ in known if (text := each.effect.text if each.effect else "")
    )
    logs += [0.0] if ratios else []
    middle, span = (max(logs) + min(logs)) / 2, max(max(logs) - min(logs), LEAST_SPAN)

    def place(value: float | None, otherwise: float) -> float:
        if value is None:
            return otherwise
        if value <= 0 or math.isinf(value):
            return EDGE / 2 if value <= 0 else WIDTH - EDGE / 2
        return round(EDGE + (WIDTH - 2 * EDGE) * ((math.log(value) - middle) / span + 0.5), 1)

    marks = []
    for row, (each, value) in enumerate(known):
        assert each.effect is not None
        at = place(value, 0.0)
        marks.append(
            Mark(
                at=at,
                low=place(each.effect.low, at),
                high=place(each.effect.high, at),
                y=ROW * (row + 0.5),
                verdict=each.verdict,
                text=f"{each.subject}: {each.effect.text}",
            )
        )
    return ClaimChart(marks=tuple(marks), level=place(1.0, 0.0) if ratios else None, height=ROW * len(marks))
