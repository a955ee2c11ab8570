"""Thresholds in order of GPUs, neighbouring degrees of TP, and the cells that would tell two thresholds apart."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

from loadgen.analysis.finding import Number, Verdict, Wanted, ratio_number, split_text, threshold_number
from loadgen.analysis.starts import Cell
from loadgen.analysis.study import Study
from loadgen.analysis.table import Key
from loadgen.analysis.thresholds import Threshold, finer


def wanted_batches(cells: Sequence[Cell], threshold: Threshold, why: str) -> list[Wanted]:
    """The cells that would resolve a threshold in batch, for each of the keys that it compares."""
    keys = [replace(cell.key, batch=batch) for cell in cells for batch in threshold.add]
    again = [replace(cell.key, batch=batch) for cell in cells for batch in threshold.repeat]
    return [Wanted(key=key, why=why) for key in dict.fromkeys(keys)] + [
        Wanted(key=key, why=f"{why}: more repeats", again=True) for key in dict.fromkeys(again)
    ]


def order(lower: Threshold, upper: Threshold) -> Verdict:
    """Whether a threshold lies below another: only intervals that do not overlap can say.

    Two that both lie off the same end of the grid may be in any order.
    """
    if "no interval" in (lower.state, upper.state):
        return "not tested"
    if lower.state == upper.state and lower.state in ("below the grid", "above the grid"):
        return "not tested"
    if lower.high <= upper.low:
        return "holds"
    alike = lower.low == upper.low and lower.high == upper.high
    if upper.high <= lower.low or (alike and lower.high - lower.low <= 1):
        return "refuted"
    return "not tested"


def growth(
    thresholds: Sequence[tuple[Key, Threshold, Sequence[Cell]]], name: str
) -> tuple[list[Verdict], list[Number], list[Wanted]]:
    """Whether thresholds grow from each number of GPUs to the next, and the cells that would tell."""
    verdicts, numbers, wanted = [], [], []
    for key, threshold, _cells in thresholds:
        numbers.append(threshold_number(f"{name} ({split_text(key)})", threshold))
    for (_, low, low_cells), (_, high, high_cells) in pairwise(thresholds):
        verdict = order(low, high)
        verdicts.append(verdict)
        if verdict == "not tested":
            inside = finer(max(low.low, high.low), min(low.high, high.high))
            if not inside:
                for side, cells in ((low, low_cells), (high, high_cells)):
                    wanted += wanted_batches(cells, side, f"{name}, to compare GPUs")
            keys = [replace(cell.key, batch=batch) for cell in (*low_cells, *high_cells) for batch in inside]
            wanted += [Wanted(key=key, why=f"{name}: both lie in one step") for key in dict.fromkeys(keys)]
    return verdicts, numbers, wanted


def by_gpus(keys: Sequence[Key]) -> dict[Key, list[Key]]:
    """Keys that differ only in the degree of tensor parallelism (or only in pipeline stages), in its order."""
    groups: dict[Key, list[Key]] = defaultdict(list)
    for key in keys:
        if key.pp == 1:
            groups[replace(key, tp=-1)].append(key)
        if key.tp == 1:
            groups[replace(key, pp=-1)].append(key)
    return {
        group: sorted(members, key=lambda key: key.gpus)
        for group, members in groups.items()
        if len(members) > 1
    }


Pairs = list[tuple[Cell, Cell]]


def all_tp_steps(study: Study) -> dict[tuple[int, int], Pairs]:
    """(fewer, more) → (more, fewer) pairs of cells at equal batch and lengths, for neighbouring degrees of TP."""
    steps: dict[tuple[int, int], Pairs] = defaultdict(list)
    for cells in study.series("tp", where=lambda key: key.pp == 1).values():
        for fewer, more in pairwise(cells):
            steps[fewer.key.tp, more.key.tp].append((more, fewer))
    return dict(sorted(steps.items()))


def lengths_numbers(study: Study, pairs: Pairs, metric: str, name: str) -> list[Number]:
    """The mean ratio at each pair of lengths, where there are several."""
    groups: dict[tuple[int, int], Pairs] = defaultdict(list)
    for pair in pairs:
        groups[pair[0].key.input_tokens, pair[0].key.output_tokens].append(pair)
    if len(groups) < 2:
        return []
    means = {lengths: study.mean_ratio(group, metric) for lengths, group in sorted(groups.items())}
    return [
        ratio_number(f"{name} ({lengths[0]}/{lengths[1]})", mean)
        for lengths, mean in means.items()
        if mean is not None
    ]
