"""Latency that falls when the work rises, beyond the noise: such cells are wrong, and are kept out."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping

import numpy as np

from loadgen.analysis.study import Cell, Study
from loadgen.analysis.table import Key
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
    if low is None or high is None or low.draws is None or high.draws is None:
        return None
    fall = np.log(low.value / high.value)
    error = float(np.std(high.draws - low.draws))
    if fall < np.log1p(LEAST_FALL) or fall < STANDARD_ERRORS * error:
        return None
    steps = f"{WORDS[axis]} {getattr(less.key, axis)} → {getattr(more.key, axis)}"
    return f"latency falls from {show_s(low.value)} to {show_s(high.value)} as {steps}, beyond the noise"
