"""From p-values to a verdict, and to a sentence that is short enough to be read."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from loadgen.analysis.cells import holm
from loadgen.analysis.finding import LONGEST, SHOWN, Verdict
from loadgen.analysis.ratios import Ratio
from loadgen.analysis.thresholds import Threshold
from loadgen.analysis.variance import t_quantile

MOST_STARTS = 50  # more are not asked for


def decision(holds: float, refuted: float) -> tuple[Verdict, float | None]:
    """The verdict and its p-value, from the p-values of "it does not hold" and of "it is not refuted"."""
    if holds < SHOWN:
        return "holds", holds
    return ("refuted", refuted) if refuted < SHOWN else ("not tested", None)


def every_step(holds: Sequence[float], refuted: Sequence[float]) -> tuple[Verdict, float | None]:
    """A claim of several steps: it holds when each is shown (Berger 1982), and one shown otherwise refutes (Holm)."""
    return decision(max(holds, default=1.0), min(holm(list(refuted)), default=1.0))


def ordered(ratios: Sequence[Ratio], below: bool) -> tuple[Verdict, float | None]:
    """Whether each step's ratio lies below 1 (or above it), and none is shown to lie on the other side."""
    down = [ratio.p_below(1) for ratio in ratios]
    up = [ratio.p_above(1) for ratio in ratios]
    return every_step(down, up) if below else every_step(up, down)


def within(overall: Ratio, cells: Sequence[Ratio], margin: float) -> tuple[Verdict, float | None]:
    """Whether the overall ratio lies within ×÷(1 + margin) by two one-sided tests (Schuirmann 1987).

    Refuted where it is shown beyond, or a cell is (Holm): two ways, each at half of 5 %, and they come first.
    """
    beyond = holm([each.p_outside(margin) for each in cells if each.told])
    refuted = min(1.0, 2 * min([overall.p_outside(margin), *beyond]))
    return ("refuted", refuted) if refuted < SHOWN else decision(overall.p_within(margin), 1.0)


def untold(ratio: Ratio, level: float = 1.0) -> str:
    """Why a ratio does not tell, and how many starts a side would show a difference as large as the one seen."""
    if ratio.se is None:
        return ratio.source
    distance = abs(math.log(ratio.value / level))
    if not distance or not min(ratio.starts):
        return "inside the noise"
    for starts in range(max(3, min(ratio.starts) + 1), MOST_STARTS + 1):
        free = 2.0 * (starts - 1)
        reach = t_quantile(0.95, free) + t_quantile(0.8, free)
        if reach * ratio.se * math.sqrt(min(ratio.starts) / starts) <= distance:
            return f"inside the noise; about {starts} starts a side would tell"
    return "inside the noise"


def sentence(first: str, *more: str) -> str:
    """The parts that fit into ``LONGEST`` characters, in their order, as one sentence; the first is never left out."""
    said = first if len(first) < LONGEST else f"{first[: LONGEST - 2]}…"
    for part in more:
        if part and len(said) + len(part) + 3 <= LONGEST:
            said += f"; {part}"
    return f"{said}."


def listed(items: Iterable[str], most: int = 3) -> str:
    """The first few, and that there are more."""
    every = list(dict.fromkeys(items))
    return ", ".join(every[:most]) + (", …" if len(every) > most else "")


def bracket(threshold: Threshold) -> str:
    """``in (3, 4]``, as far as it is known."""
    if threshold.state == "no interval":
        return "unknown"
    return f"in ({threshold.low:g}, {'∞' if math.isinf(threshold.high) else f'{threshold.high:g}'}]"
