"""Gates: what a difference, or a figure, may be; and whether results show that it is kept.

A gate fails when the mean over all cells is shown beyond it at 2.5 %, or a cell at 2.5 % over all cells; it passes when
the mean is shown on the right side at 5 % and nothing failed. Anything else is "not shown".
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from loadgen.analysis.ratios import Ratio
from loadgen.analysis.table import DISTRIBUTIONS, METRICS
from loadgen.errors import BadInput

Judgement = Literal["passes", "fails", "not shown"]

SHARE = 0.025  # of false alarms that the mean may raise, and all cells together
SHOWN = 0.05
STATISTICS = ("mean", "p50", "p90", "p95", "p99")
SHORT = {name.removesuffix("_s"): name for name in METRICS}
SHORT |= {"tok_s": "output_tokens_per_s", "throughput": "output_tokens_per_s"}
UNITS = {
    "s": {"us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0},
    "tok/s": {"tok/s": 1.0},
    "1/s": {"1/s": 1.0},
    "bytes": {"MB": 1e6, "GB": 1e9, "MiB": 2.0**20, "GiB": 2.0**30},
    "W": {"W": 1.0},
    "J/token": {"J": 1.0, "J/token": 1.0},
    "share": {},
}
GATE = re.compile(
    rf"^\s*(?P<metric>\w+?)(?:_(?P<statistic>{'|'.join(STATISTICS)}))?\s*(?P<sign><=|>=)\s*"
    r"(?P<level>[+-]?\d+(?:\.\d+)?)\s*(?P<unit>%|[^\s\d.+-]\S*)\s*$"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Gate:
    """``e2e_p50 <= +3%`` reads "B at most 3 % above A"; ``ttft_p99 <= 300ms`` is of B alone.

    ``metric`` names a figure as ``starts.figure`` does; ``level`` is the ratio B / A that is allowed (1.03 for 3 %), or
    the figure itself in its own unit where the gate is ``absolute``.
    """

    text: str
    metric: str
    at_most: bool
    level: float
    absolute: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """What became of a gate. ``p_mean`` and ``p_cells`` (over all cells) are p-values of its being kept; 1 unknown."""

    verdict: Judgement
    p_mean: float
    p_cells: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """A gate in one comparison. ``cells`` are all that it looked at; ``reasons`` override what the figures say."""

    gate: Gate
    judged: Judged
    verdict: Judgement
    mean: Ratio | None
    cells: tuple[tuple[str, Ratio], ...]
    reasons: tuple[str, ...]

    @property
    def beyond(self) -> list[tuple[str, Ratio]]:
        """The cells that are shown beyond the level, over all of them, the furthest first."""
        told = [(text, ratio) for text, ratio in self.cells if ratio.told]
        found = [(text, ratio) for text, ratio in told if len(told) * _beyond(self.gate, ratio) < SHARE]
        return sorted(found, key=lambda each: each[1].value, reverse=self.gate.at_most)


def parse_gate(text: str) -> Gate:
    """Raises BadInput for a gate that cannot be read."""
    match = GATE.match(text)
    metric = SHORT.get(match["metric"], match["metric"]) if match else ""
    if match is None or metric not in METRICS:
        accepted = ", ".join(sorted(SHORT))
        raise BadInput(
            f"--gate {text!r}: cannot be read (accepted: METRIC <= +3%, METRIC_p99 <= 300ms, METRIC >= -5%, "
            f"attainment >= 95%; "
            f"METRIC: {accepted}; of latencies {', '.join(STATISTICS)})"
        )
    statistic = match["statistic"] or ("p50" if metric in DISTRIBUTIONS else "mean")
    if metric not in DISTRIBUTIONS and statistic != "mean":
        raise BadInput(f"--gate {text!r}: {match['metric']} has no {statistic} (accepted: mean)")
    unit, level = match["unit"], float(match["level"])
    scales = {"%": 0.01} | UNITS[METRICS[metric]]
    if unit not in scales:
        raise BadInput(f"--gate {text!r}: {unit} is no unit of it (accepted: {', '.join(scales)})")
    # A share has no unit but %: with a sign it is a difference, without one the share itself.
    absolute = unit != "%" or (METRICS[metric] == "share" and match["level"][0] not in "+-")
    level = level * scales[unit] + (0 if absolute else 1)
    if not (math.isfinite(level) and level > 0):
        raise BadInput(f"--gate {text!r}: nothing is that small (accepted: a level above -100% and above 0)")
    return Gate(
        text=text.strip(),
        metric=metric if statistic == "p50" or metric not in DISTRIBUTIONS else f"{metric}@{statistic}",
        at_most=match["sign"] == "<=",
        level=level,
        absolute=absolute,
    )


def judge(gate: Gate, mean: Ratio | None, cells: Sequence[Ratio], *, every_cell: bool = False) -> Judged:
    """The gate on a claim's mean and its cells; figures of B over 1 where it is absolute.

    ``every_cell``: to pass, each cell must be shown on the right side (intersection–union, Berger 1982).
    """
    told = [cell for cell in cells if cell.told]
    p_mean = _beyond(gate, mean) if mean is not None else 1.0
    p_cells = min([1.0, *(len(told) * _beyond(gate, cell) for cell in told)])
    kept = _kept(gate, mean) if mean is not None else 1.0
    if every_cell:
        kept = max((_kept(gate, cell) for cell in cells), default=1.0)
    verdict: Judgement = "passes" if kept < SHOWN else "not shown"
    if p_mean < SHARE or p_cells < SHARE:
        verdict = "fails"
    return Judged(verdict=verdict, p_mean=p_mean, p_cells=p_cells)


def _beyond(gate: Gate, ratio: Ratio) -> float:
    return ratio.p_above(gate.level) if gate.at_most else ratio.p_below(gate.level)


def _kept(gate: Gate, ratio: Ratio) -> float:
    return ratio.p_below(gate.level) if gate.at_most else ratio.p_above(gate.level)
