"""Latency that falls when the work rises, beyond the noise: such cells are wrong, and are kept out."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping

from loadgen.analysis.contrasts import NORMAL
from loadgen.analysis.starts import Cell
from loadgen.analysis.study import Study
from loadgen.analysis.table import Key
from loadgen.analysis.variance import t_quantile
from loadgen.units import show_s

AXES = ("batch", "input_tokens", "output_tokens")
WORDS = {"batch": "batch", "input_tokens": "input tokens", "output_tokens": "output tokens"}
# A sweep makes hundreds of such comparisons, so one of them must be far out: 4 standard errors, and 5 %.
STANDARD_ERRORS = 4.0
LEAST_FALL = 0.05
CLOSED = ("static", "closed")  # in an open loop the batch is not ours to set


def violations(study: Study) -> Mapping[Key, str]:
    """Cells that cannot stand beside their neighbours, with the reason.

    Of two that contradict each other, the one that contradicts more cells is named; when that does not tell, both are.
    Cells without an interval are never named: nothing says what their noise is.
    """
    conflicts = _conflicts(study)
    reasons: dict[Key, str] = {}
    while conflicts:
        worst = max(len(others) for others in conflicts.values())
        named = [key for key, others in conflicts.items() if len(others) == worst]
        if worst > 1:
            named = named[:1]
        for key in named:
            reasons[key] = next(iter(conflicts[key].values()))
        for key in named:
            for other in conflicts.pop(key, {}):
                if other in conflicts:
                    conflicts[other].pop(key, None)
                    if not conflicts[other]:
                        del conflicts[other]
    return reasons


def _conflicts(study: Study) -> dict[Key, dict[Key, str]]:
    found: dict[Key, dict[Key, str]] = defaultdict(dict)
    for axis in AXES:
        for cells in study.series(axis, where=lambda key: key.kind in CLOSED).values():
            for at, less in enumerate(cells):
                for more in cells[at + 1 :]:
                    reason = _falls(study, less, more, axis)
                    if reason:
                        found[less.key][more.key] = reason
                        found[more.key][less.key] = reason
    return dict(found)


def _falls(study: Study, less: Cell, more: Cell, axis: str) -> str | None:
    low, high = study.estimate(less, "e2e_s"), study.estimate(more, "e2e_s")
    if low is None or high is None:
        return None
    fall = math.log(low.value / high.value)
    if fall < math.log1p(LEAST_FALL):
        return None
    error = _error(study, less, more)
    if error is None or fall < STANDARD_ERRORS * error:
        return None
    steps = f"{WORDS[axis]} {getattr(less.key, axis)} → {getattr(more.key, axis)}"
    return f"latency falls from {show_s(low.value)} to {show_s(high.value)} as {steps}, beyond the noise"


def _error(study: Study, less: Cell, more: Cell) -> float | None:
    """The standard error of log(more / less), as wide as Student's t makes it against the normal's.

    By start × cell; with one start and none to lend it by its repeats, whose noise a fall of 5 % stands out of as well.
    """
    ratio = study.ratio(more, less, "e2e_s")
    if ratio is not None and ratio.se is not None and ratio.df is not None:
        return ratio.se * t_quantile(0.975, ratio.df) / NORMAL
    variance, df = less.server.trial_variance("e2e_s")
    if df < 2:
        return None
    runs = sum(1 / len(cell.values("e2e_s")) for cell in (less, more))
    return math.sqrt(variance * runs) * t_quantile(0.975, df) / NORMAL
