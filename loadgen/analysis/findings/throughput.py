"""F4: what TP and batch do to throughput, and which batch is the best value."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np

from loadgen.analysis.finding import (
    CLAIMS,
    Case,
    Finding,
    Number,
    Verdict,
    Wanted,
    decide,
    not_tested,
    ratio_number,
    ratio_text,
    some,
    split_text,
    subject_text,
    threshold_number,
)
from loadgen.analysis.findings.gpu_order import all_tp_steps, lengths_numbers
from loadgen.analysis.ratios import Ratio
from loadgen.analysis.starts import Cell
from loadgen.analysis.statistics import interval
from loadgen.analysis.study import Study
from loadgen.analysis.table import POWER, Key
from loadgen.analysis.thresholds import FINEST_STEP, Best, Threshold, best, between, crossing
from loadgen.analysis.variance import Array
from loadgen.units import show_number, show_rate

RATE = "output_tokens_per_s"
HALF = 0.5  # of the throughput that doubling the batch could add, on a log scale


@dataclass(frozen=True, slots=True, kw_only=True)
class Value:
    """Which batch is the best value on one server: where throughput per latency peaks (Kleinrock's power).

    Power peaks exactly where a doubled batch adds half of what it could (the elasticity of throughput falls through
    ½), so this is the knee of throughput against batch too; ``knee`` brackets that from the elasticities.
    ``inside`` is the best power within the claimed range over the best outside, ``None`` when the grid lacks a side.
    """

    key: Key
    cells: tuple[Cell, ...]
    best: Best
    knee: Threshold | None
    inside: Ratio | None
    peak: Cell


def best_values(case: Case, study: Study) -> list[Value]:
    """One per server and lengths with at least three batch sizes."""
    found = []
    for key, cells in study.series("batch").items():
        both = [cell for cell in cells if cell.values(POWER)]
        if len(both) < 3:
            continue
        power = study.levels(both, POWER)
        assert power is not None
        logs, draws = power.values, power.draws
        grid = [cell.key.batch for cell in both]
        rates = [estimate.value for cell in both if (estimate := study.estimate(cell, RATE))]
        found.append(
            Value(
                key=key,
                cells=tuple(both),
                best=best(grid, logs, draws),
                knee=knee(study, both),
                inside=_inside(grid, logs, draws, case.rules.best_batches),
                peak=both[int(np.argmax(rates))],
            )
        )
    return found


def knee(study: Study, cells: Sequence[Cell]) -> Threshold | None:
    """Where the elasticity of throughput (d log rate / d log batch) falls through ½; ``None`` for fewer than 3 cells.

    An elasticity belongs to a step of the grid; the knee lies between the steps' outer ends.
    """
    found = study.effects(list(zip(cells[1:], cells[:-1], strict=True)), RATE) if len(cells) > 2 else None
    if found is None:
        return None
    batches = [cell.key.batch for cell in cells]
    steps = np.array([np.log(more / fewer) for fewer, more in pairwise(batches)])
    values, draws = found.values, found.draws
    falling = [-value / step for value, step in zip(values, steps, strict=True)]
    rough = crossing(batches[1:], falling, None if draws is None else -draws / steps, -HALF)
    if rough.state == "no interval":
        return rough
    # A step is known by its upper end; the last steep one began a step below that, and the knee may lie inside it.
    low = 0.0 if rough.low == 0 else float(batches[batches.index(int(rough.low)) - 1])
    middle = None if rough.estimate is None else rough.estimate * float(np.exp(-steps.mean() / 2))
    return replace(rough, low=low, estimate=middle)


def _inside(
    grid: Sequence[int], logs: Sequence[float], draws: Array | None, claimed: tuple[int, int]
) -> Ratio | None:
    within = np.array([claimed[0] <= batch <= claimed[1] for batch in grid])
    if within.all() or not within.any():
        return None
    values = np.asarray(logs)
    value = float(np.exp(values[within].max() - values[~within].max()))
    if draws is None:
        return Ratio(value=value, low=None, high=None)
    low, high = interval(draws[:, within].max(axis=1) - draws[:, ~within].max(axis=1))
    return Ratio(value=value, low=float(np.exp(low)), high=float(np.exp(high)))


def value_verdict(value: Value, claimed: tuple[int, int]) -> Verdict:
    """Whether the best batch lies in the claimed range, wherever between the grid's points it may be.

    A curve with one peak has it between the neighbours of the best points measured. That bracket must lie within one
    step of two of the range, or wholly outside of it; a grid of 1, 64 and 256 says nothing of 16.
    """
    low, high = bracket(value)
    ratio = value.inside
    if high <= claimed[0] or low >= claimed[1]:
        return "refuted"
    if ratio is None or ratio.low is None or ratio.low <= 1:
        return "not tested"
    return "holds" if low >= claimed[0] / FINEST_STEP and high <= claimed[1] * FINEST_STEP else "not tested"


def bracket(value: Value) -> tuple[float, float]:
    """The grid's points around those that may be the best; 0 or infinity where it does not reach."""
    grid = [cell.key.batch for cell in value.cells]
    first, last = grid.index(value.best.tied[0]), grid.index(value.best.tied[-1])
    return grid[first - 1] if first > 0 else 0.0, grid[last + 1] if last + 1 < len(grid) else math.inf


def _value_wanted(value: Value, claimed: tuple[int, int]) -> list[Wanted]:
    grid = [cell.key.batch for cell in value.cells]
    low, high = bracket(value)
    add = [2 * grid[-1]] if math.isinf(high) else []
    inside = [batch for batch in grid if low <= batch <= high]
    add += [middle for left, right in pairwise(inside) for middle in between(left, right)]
    if low == 0 and grid[0] >= claimed[0]:
        add.append(max(1, claimed[0] // 2))
    keys = [replace(value.key, batch=batch) for batch in add]
    wanted = [Wanted(key=key, why="best value of the batch") for key in keys]
    if not wanted:
        tied = [cell.key for cell in value.cells if cell.key.batch in value.best.tied]
        wanted = [Wanted(key=key, why="best value of the batch: more repeats", again=True) for key in tied]
    return wanted


def costs(study: Study, cell: Cell, price_per_gpu_hour: float | None) -> list[str]:
    """Throughput per GPU, per watt and per dollar, of what is known."""
    rate = study.estimate(cell, RATE)
    assert rate is not None
    said = [show_rate(rate.value / cell.key.gpus, "tok/s per GPU")]
    power = study.estimate(cell, "power_w")
    if power is not None:
        said.append(show_rate(rate.value / power.value, "tok/s per watt"))
    if price_per_gpu_hour:
        tokens = rate.value * 3600 / (price_per_gpu_hour * cell.key.gpus)
        said.append(show_rate(tokens, "tokens per unit of price"))
    return said


def f4(case: Case, subject: Key, study: Study) -> Finding:
    """F4: throughput by TP and by batch, and the batch of best value."""
    name, claimed = subject_text(subject), case.rules.best_batches
    numbers: list[Number] = []
    cells: list[Key] = []
    said: list[str] = []
    wanted: list[Wanted] = []
    tp_verdicts: list[Verdict] = []
    for (fewer, more), pairs in all_tp_steps(study).items():
        mean = study.mean_ratio(pairs, RATE)
        if mean is None:
            continue
        tp_verdicts.append("holds" if mean.above(1) else "refuted" if mean.below(1) else "not tested")
        numbers.append(ratio_number(f"tok/s, tp {more} over tp {fewer} ({len(pairs)} pairs)", mean))
        numbers += lengths_numbers(study, pairs, RATE, f"tok/s, tp {more} over tp {fewer}")
        said.append(f"tp {fewer} → {more}: tok/s {ratio_text(mean)}")
        cells += [cell.key for pair in pairs for cell in pair]
    batch_verdicts: list[Verdict] = []
    for _key, row in study.series("batch").items():
        for fewer_cell, more_cell in pairwise(row):
            ratio = study.ratio(more_cell, fewer_cell, RATE)
            if ratio is not None:
                batch_verdicts.append(
                    "holds" if ratio.above(1) else "refuted" if ratio.below(1) else "not tested"
                )
    value_verdicts: list[Verdict] = []
    places: dict[Verdict, list[str]] = {"holds": [], "refuted": [], "not tested": []}
    for value in best_values(case, study):
        verdict = value_verdict(value, claimed)
        value_verdicts.append(verdict)
        place = f"{split_text(value.key)}, {value.key.input_tokens}/{value.key.output_tokens}"
        tied = ", ".join(str(batch) for batch in value.best.tied if batch != value.best.at)
        best_cell = next(cell for cell in value.cells if cell.key.batch == value.best.at)
        price = "; ".join(costs(study, best_cell, case.rules.price_per_gpu_hour))
        text = f"batch {value.best.at}{f' (not told from {tied})' if tied else ''}, {price}"
        numbers.append(Number(name=f"best value ({place})", text=text, value=value.best.at))
        if value.knee is not None:
            numbers.append(threshold_number(f"knee of tok/s ({place})", value.knee, "sequences"))
        if value.inside is not None:
            over = f"throughput per latency, best batch inside {list(claimed)} over best outside ({place})"
            numbers.append(ratio_number(over, value.inside))
        peak = study.estimate(value.peak, RATE)
        if peak is not None:
            numbers.append(
                Number(
                    name=f"highest tok/s ({place})",
                    text=f"{show_number(peak.value)} at batch {value.peak.key.batch}",
                    value=peak.value,
                    low=peak.low,
                    high=peak.high,
                )
            )
        places[verdict].append(f"batch {value.best.at} ({place})")
        cells += [cell.key for cell in value.cells]
        if verdict == "not tested":
            wanted += _value_wanted(value, claimed)
    if not batch_verdicts and not tp_verdicts:
        return not_tested("F4", name, "Needs at least two batch sizes, and at least two degrees of TP.")
    rises, falls = batch_verdicts.count("holds"), batch_verdicts.count("refuted")
    said.insert(0, f"tok/s rises in {rises} of {len(batch_verdicts)} steps of batch and falls in {falls}")
    if not tp_verdicts:
        said.append("TP was not varied")
    words = {
        "holds": f"inside {list(claimed)}",
        "refuted": f"outside of {list(claimed)}",
        "not tested": f"of a grid too coarse, short or noisy to place the peak inside or outside of {list(claimed)}",
    }
    for outcome, found in places.items():
        if found:
            said.append(f"best value {words[outcome]}: {', '.join(found)}")
    if not value_verdicts:
        said.append("too few batch sizes to tell the best value")
    return Finding(
        id="F4",
        claim=CLAIMS["F4"],
        subject=name,
        verdict=decide([decide(tp_verdicts), some(batch_verdicts), decide(value_verdicts)]),
        sentence="; ".join(said) + ". Best value is where throughput per latency peaks.",
        numbers=tuple(numbers),
        cells=tuple(dict.fromkeys(cells)),
        wanted=tuple(wanted),
    )
