"""F4 over the batch: whether throughput rises with it, and which batch is the best value."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np

from loadgen.analysis.cells import holm
from loadgen.analysis.finding import (
    CLAIMS,
    SHOWN,
    Case,
    Finding,
    Number,
    Verdict,
    Wanted,
    not_tested,
    ratio_number,
    ratio_text,
    split_text,
    subject_text,
)
from loadgen.analysis.findings.along import ONE_START, own_ratios
from loadgen.analysis.findings.decisions import listed, ordered, sentence
from loadgen.analysis.findings.gpu_order import RATE
from loadgen.analysis.findings.places import batch_series, lengths_text, other_series
from loadgen.analysis.starts import Cell
from loadgen.analysis.study import Study
from loadgen.analysis.table import POWER, Key
from loadgen.analysis.thresholds import FINEST_STEP, between
from loadgen.analysis.winners import price_of
from loadgen.units import show_rate


def f4b(case: Case, subject: Key, study: Study) -> list[Finding]:
    """F4 over the batch, of each server: every step from one batch to the next gives more tok/s."""
    name = subject_text(subject)
    found = []
    for key, cells in batch_series(study, least=3).items():
        steps = own_ratios(study, [(more, fewer) for fewer, more in pairwise(cells)], RATE)
        whole = study.mean_ratio([(cells[-1], cells[0])], RATE)
        ratios = [step for step in steps if step is not None]
        if whole is None or len(ratios) < len(steps):
            continue
        verdict, p = ordered(ratios, below=False)
        at, first, last = lengths_text(key), cells[0].key.batch, cells[-1].key.batch
        places = [f"{fewer.key.batch} → {more.key.batch}" for fewer, more in pairwise(cells)]
        falls = holm([step.p_below(1) for step in ratios])
        down = [place for place, each in zip(places, falls, strict=True) if each < SHOWN]
        unclear = [place for place, step in zip(places, ratios, strict=True) if step.p_above(1) >= SHOWN]
        untold_ = next((step.source for step in ratios if not step.told), "")
        tail = {
            "holds": "it rises in every step",
            "refuted": f"it falls at batch {listed(down)}",
            "not tested": untold_ or f"not shown to rise at batch {listed(unclear)}",
        }[verdict]
        found.append(
            Finding(
                id="F4b",
                claim=CLAIMS["F4b"],
                subject=f"{name} · {split_text(key)}",
                verdict=verdict,
                sentence=sentence(
                    f"At {at}, batch {last} gives {ratio_text(whole)} of batch {first}'s tok/s", tail
                ),
                effect=ratio_number(f"tok/s, batch {last} over {first}", whole),
                at=at,
                p=p,
                cells=tuple(cell.key for cell in cells),
            )
        )
    return found or [not_tested("F4b", name, "Needs at least three batch sizes at one pair of lengths.")]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Value:
    """Which batches may be the best value of a series: where throughput per latency peaks (Kleinrock's power).

    Power peaks where a doubled batch adds half of what it could (the elasticity of throughput falls through ½), so this
    is the knee of throughput against batch, too. ``below``: p-values of
    "not below the best" of the others; ``tied``: all batches that the noise cannot tell from the ``best``;
    all of them where
    nothing says how large it is (not ``told``).
    """

    key: Key
    cells: tuple[Cell, ...]
    best: int
    below: Mapping[int, float]
    tied: tuple[int, ...]
    told: bool

    @property
    def grid(self) -> tuple[int, ...]:
        """The batches."""
        return tuple(cell.key.batch for cell in self.cells)

    @property
    def bracket(self) -> tuple[float, float]:
        """The grid's points around those that may be the best; 0 or infinity where it does not reach."""
        first, last = self.grid.index(self.tied[0]), self.grid.index(self.tied[-1])
        low = self.grid[first - 1] if first > 0 else 0.0
        return low, self.grid[last + 1] if last + 1 < len(self.grid) else math.inf


def best_value(study: Study, key: Key, cells: Sequence[Cell]) -> Value | None:
    """``None`` with fewer than three batches. Each is held against the best by one-sided t at 5 % (Hsu 1996)."""
    kept = [cell for cell in cells if cell.starts(POWER)]
    if len(kept) < 3:
        return None
    best = max(kept, key=lambda cell: float(np.nanmean(cell.logs(POWER))))
    others = [cell for cell in kept if cell is not best]
    ratios = own_ratios(study, [(cell, best) for cell in others], POWER)
    beside = {cell.key.batch: ratio for cell, ratio in zip(others, ratios, strict=True)}
    told = all(ratio is not None and ratio.told for ratio in beside.values())
    unclear = {batch for batch, ratio in beside.items() if ratio is None or ratio.p_below(1) >= SHOWN}
    return Value(
        key=key,
        cells=tuple(kept),
        best=best.key.batch,
        below={batch: 1.0 if ratio is None else ratio.p_below(1) for batch, ratio in beside.items()},
        tied=tuple(cell.key.batch for cell in kept if cell is best or cell.key.batch in unclear),
        told=told,
    )


def f4c(case: Case, subject: Key, study: Study) -> list[Finding]:
    """F4's best batch, of each server: where throughput per latency peaks."""
    name, claimed = subject_text(subject), case.rules.best_batches
    found = []
    for key, cells in batch_series(study, least=3).items():
        value = best_value(study, key, cells)
        if value is None:
            continue
        (verdict, p), at = value_verdict(value, claimed), lengths_text(key)
        numbers = [_number(value)]
        for other, series in other_series(study, key, least=3).items():
            beside = best_value(study, other, series)
            numbers += [_number(beside)] if beside is not None else []
        best_cell = next(cell for cell in value.cells if cell.key.batch == value.best)
        costs = "; ".join(cost_texts(study, best_cell, price_of(best_cell.key.machine, case.rules.prices)))
        numbers.append(Number(name=f"at batch {value.best}", text=costs))
        tied = [str(batch) for batch in value.tied if batch != value.best]
        also = f"not told from {listed(tied, 5)}" if tied else ""
        low, high = value.bracket
        ends = "the grid ends there" if math.isinf(high) else f"the grid's next are {low:g} and {high:g}"
        around = ends if verdict == "not tested" and value.told else ""
        found.append(
            Finding(
                id="F4c",
                claim=CLAIMS["F4c"],
                subject=f"{name} · {split_text(key)}",
                verdict=verdict,
                sentence=sentence(
                    f"At {at}, throughput per latency peaks at batch {value.best}",
                    also if value.told else ONE_START,
                    around,
                ),
                effect=numbers[0],
                at=at,
                p=p,
                numbers=tuple(numbers),
                cells=tuple(cell.key for cell in cells),
                wanted=tuple(_wanted(value, claimed)) if verdict == "not tested" else (),
            )
        )
    return found or [not_tested("F4c", name, "Needs at least three batch sizes at one pair of lengths.")]


def _number(value: Value) -> Number:
    low, high = value.tied[0], value.tied[-1]
    text = f"batch {value.best}" + (f", or any of {low} to {high}" if low != high else "")
    return Number(
        name=f"best value at {lengths_text(value.key)}", text=text, value=value.best, low=low, high=high
    )


def value_verdict(value: Value, claimed: tuple[int, int]) -> tuple[Verdict, float | None]:
    """Whether the best batch lies in the claimed range, wherever between the grid's points it may be, and the p-value.

    A curve with one peak has it between the neighbours of the best points measured. That bracket must lie within one
    step of two of the range, or wholly outside of it; a grid of 1, 64 and 256 says nothing of 16.
    """
    if not value.told:
        return "not tested", None
    low, high = value.bracket
    sides: dict[bool, list[float]] = {True: [0.0], False: [0.0]}
    for batch, p in value.below.items():
        sides[claimed[0] <= batch <= claimed[1]].append(p)
    if high <= claimed[0] or low >= claimed[1]:
        return "refuted", max(sides[True])
    inside = all(claimed[0] <= batch <= claimed[1] for batch in value.tied)
    near = low >= claimed[0] / FINEST_STEP and high <= claimed[1] * FINEST_STEP
    return ("holds", max(sides[False])) if inside and near else ("not tested", None)


def _wanted(value: Value, claimed: tuple[int, int]) -> list[Wanted]:
    grid = value.grid
    low, high = value.bracket
    add = [2 * grid[-1]] if math.isinf(high) else []
    inside = [batch for batch in grid if low <= batch <= high]
    add += [middle for left, right in pairwise(inside) for middle in between(left, right)]
    if low == 0 and grid[0] >= claimed[0]:
        add.append(max(1, claimed[0] // 2))
    if add:
        return [
            Wanted(key=replace(value.cells[0].key, batch=batch), why="best value of the batch")
            for batch in add
        ]
    tied = [cell.key for cell in value.cells if cell.key.batch in value.tied]
    return [Wanted(key=key, why="best value of the batch: more starts", again=True) for key in tied]


def cost_texts(study: Study, cell: Cell, price_per_gpu_hour: float | None) -> list[str]:
    """Throughput per GPU, per watt and per unit of price, of what is known."""
    figures = {metric: study.mean_figure([cell], metric) for metric in (RATE, "power_w")}
    speed, power = figures[RATE], figures["power_w"]
    if speed is None:
        return []
    rate = speed.value
    said = [show_rate(rate / cell.key.gpus, "tok/s per GPU")]
    if power is not None:
        said.append(show_rate(rate / power.value, "tok/s per watt"))
    if price_per_gpu_hour:
        tokens = rate * 3600 / (price_per_gpu_hour * cell.key.gpus)
        said.append(show_rate(tokens, "tokens per unit of price"))
    return said
