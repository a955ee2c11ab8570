"""F1 and F2: from which batch on the input length tells in latency, and whether that batch grows with the GPUs."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np

from loadgen.analysis.contrasts import effects_ratio
from loadgen.analysis.finding import (
    CLAIMS,
    Case,
    Finding,
    not_tested,
    ratio_number,
    split_text,
    subject_text,
    threshold_number,
)
from loadgen.analysis.findings.along import ONE_START, Along, along
from loadgen.analysis.findings.decisions import bracket, decision, every_step, sentence, untold
from loadgen.analysis.findings.gpu_order import by_gpus, wanted_batches
from loadgen.analysis.findings.places import REPORT_INPUTS, REPORT_OUTPUT, nearest
from loadgen.analysis.ratios import Ratio
from loadgen.analysis.starts import Cell
from loadgen.analysis.study import Study
from loadgen.analysis.table import Key
from loadgen.analysis.thresholds import Threshold

Lengths = tuple[int, int]  # the shorter and the longer input


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class InputThreshold:
    """B* of one server and output length: the batch from which the longer of two inputs is slower than the shorter.

    Method: median end-to-end latency at the longer over that at the shorter input, per batch and within a start, made
    to rise with the batch; B* is the first batch where it exceeds 1 + margin.
    """

    lengths: Lengths
    effects: Along
    threshold: Threshold
    cells: tuple[Cell, ...]

    @property
    def extra(self) -> int:
        """How many tokens the longer input has more."""
        return self.lengths[1] - self.lengths[0]


def input_thresholds(study: Study, margin: float) -> dict[Key, list[InputThreshold]]:
    """By server, at the output length nearest the report's: B* of the shortest input against every longer one.

    That nearest the report's 20 against 128 comes first; a pair needs two batches in common.
    """
    found: dict[Key, dict[int, list[InputThreshold]]] = defaultdict(dict)
    for key, cells in study.series("batch", "input_tokens").items():
        by_input: dict[int, dict[int, Cell]] = defaultdict(dict)
        for cell in cells:
            by_input[cell.key.input_tokens][cell.key.batch] = cell
        every = [
            threshold
            for short, long in _pairs(by_input)
            if (threshold := _threshold(study, (short, long), by_input, margin)) is not None
        ]
        if every:
            found[replace(key, output_tokens=-1)][key.output_tokens] = every
    return {
        replace(key, output_tokens=output): by_output[output]
        for key, by_output in found.items()
        for (output,) in [nearest([(each,) for each in by_output], (REPORT_OUTPUT,))]
    }


def _pairs(by_input: Mapping[int, Mapping[int, Cell]]) -> list[Lengths]:
    """From the shortest input that has a partner with two batches in common, nearest the report's first."""
    inputs = sorted(by_input)
    for at, short in enumerate(inputs):
        able = [
            (short, long)
            for long in inputs[at + 1 :]
            if len(by_input[short].keys() & by_input[long].keys()) > 1
        ]
        if able:
            first = nearest(able, REPORT_INPUTS)
            return [first, *(pair for pair in able if pair != first)]  # type: ignore[list-item]
    return []


def _threshold(
    study: Study, lengths: Lengths, by_input: Mapping[int, Mapping[int, Cell]], margin: float
) -> InputThreshold | None:
    short, long = (by_input[length] for length in lengths)
    shared = sorted(short.keys() & long.keys())
    over, under = [long[batch] for batch in shared], [short[batch] for batch in shared]
    found = along(study, over, under, "e2e_s")
    if found is None:
        return None
    threshold = found.crossing(math.log1p(margin))
    return InputThreshold(lengths=lengths, effects=found, threshold=threshold, cells=(*over, *under))


def f1(case: Case, subject: Key, study: Study) -> list[Finding]:
    """F1, of each server: decided by the report's 20 against 128 tokens (or the nearest); the rest is told beside."""
    name, level = subject_text(subject), math.log1p(case.rules.margin)
    found = []
    for key, every in input_thresholds(study, case.rules.margin).items():
        first = every[0]
        holds, refuted = _bounds(first, level)
        verdict, p = decision(holds, refuted)
        product = _product(every)
        told = f"Over {first.lengths[0]} tokens in, {key.output_tokens} out"
        parts = _free(every)
        budget = "" if product is None else f"B* × extra tokens is about {product:.0f}"
        if verdict == "not tested":
            why = first.threshold.text("sequences") if first.effects.told else ONE_START
            said = sentence(f"{told}, B* of {first.lengths[1]} is open: {why}", budget)
        else:
            said = sentence(f"{told}, {parts or first.threshold.text('sequences')}", budget)
        ends = [cell for cell in first.cells if cell.key.batch == first.effects.grid[0]]
        found.append(
            Finding(
                id="F1",
                claim=CLAIMS["F1"],
                subject=f"{name} · {split_text(key)}",
                verdict=verdict,
                sentence=said,
                effect=replace(
                    threshold_number(_named(first, key), first.threshold),
                    text=f"B* {bracket(first.threshold)}",
                ),
                at=f"{first.lengths[0]} against {first.lengths[1]}/{key.output_tokens}",
                p=p,
                numbers=tuple(
                    threshold_number(_named(each, key), each.threshold, "sequences") for each in every
                ),
                cells=tuple(dict.fromkeys(cell.key for each in every for cell in each.cells)),
                wanted=tuple(wanted_batches(ends, first.threshold, "B*")),
            )
        )
    why = "Needs one server with at least two input lengths at two or more batch sizes in common."
    return found or [not_tested("F1", name, why)]


def _named(found: InputThreshold, key: Key) -> str:
    return (
        f"B* ({split_text(key)}, {found.lengths[0]} against {found.lengths[1]} in, {key.output_tokens} out)"
    )


def _bounds(found: InputThreshold, level: float) -> tuple[float, float]:
    """Two-sided p-values: of "not flat at first and risen at last", and of "not risen at batch 1"."""
    last = len(found.effects.grid) - 1
    early, late = found.effects.p_risen(0, level), found.effects.p_flat(last, level)
    holds = 2 * max(early, late)
    return holds, 2 * found.effects.p_flat(0, level) if found.effects.grid[0] == 1 else 1.0


def _free(every: Sequence[InputThreshold]) -> str:
    """``128 are free up to batch 3, 512 never``, as far as it is known; shorter inputs first."""
    parts, never = [], []
    for found in sorted(every, key=lambda each: each.lengths[1]):
        threshold, long = found.threshold, found.lengths[1]
        if threshold.low > 0:
            end = " (the largest measured)" if math.isinf(threshold.high) else ""
            parts.append(f"{long} are free up to batch {threshold.low:g}{end}")
        elif threshold.high == 1:
            never.append(str(long))
    return ", ".join([*parts[:2], *([f"{' and '.join(never[:3])} never"] if never else [])])


def _product(every: Sequence[InputThreshold]) -> float | None:
    """B* times the extra tokens, the geometric mean over the pairs that place it; ``None`` where none does."""
    known = [math.log(each.threshold.estimate * each.extra) for each in every if each.threshold.estimate]
    return math.exp(sum(known) / len(known)) if known else None


def f2(case: Case, subject: Key, study: Study) -> list[Finding]:
    """F2: the longer input adds less at equal batch on more GPUs, so that B* lies higher (curves rise)."""
    name, margin = subject_text(subject), case.rules.margin
    by_server = input_thresholds(study, margin)
    found = []
    for members in by_gpus(list(by_server)).values():
        common = [{each.lengths: each for each in by_server[key]} for key in members]
        shared = [lengths for lengths in common[0] if all(lengths in each for each in common)]
        order = sorted(shared, key=lambda lengths: (lengths != nearest(shared, REPORT_INPUTS), lengths))
        for lengths in order:
            chain = [each[lengths] for each in common]
            steps = [_growth(one, other, margin) for one, other in pairwise(chain)]
            known = [step for step in steps if step is not None]
            if len(known) == len(steps):
                found.append(_f2(name, members, chain, known, margin))
                break
        else:
            if order:
                chain = [each[order[0]] for each in common]
                found.append(_f2(name, members, chain, [], margin))
    return found or [
        not_tested("F2", name, "Needs B* (F1) of one pair of inputs for at least two numbers of GPUs.")
    ]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Growth:
    """The longer input's cost on more over that on fewer GPUs, and p of "B* differs by more than the margin"."""

    ratio: Ratio
    p_alike: float


def _growth(one: InputThreshold, other: InputThreshold, margin: float) -> _Growth | None:
    """``None`` where no batch lies near enough to B* to tell."""
    shared = [batch for batch in one.effects.grid if batch in other.effects.grid]
    lower, upper = (
        [each.effects.values[each.effects.grid.index(batch)] for batch in shared] for each in (one, other)
    )
    starts = (other.effects.starts, one.effects.starts)
    known = [each.effects.effects for each in (one, other)]
    variances = [float(np.mean(each.variances)) for each in known if each.variances is not None]
    dfs = [each.df for each in known if each.df is not None]
    if len(variances) < 2 or len(dfs) < 2:
        seen = effects_ratio(lower, upper, (0.0, 0.0), 1.0, margin)
        untold_ = None if seen is None else Ratio(value=seen.value, starts=starts, source=ONE_START)
        return None if untold_ is None else _Growth(ratio=untold_, p_alike=1.0)
    # Servers of one class: one variance for both, so that their mean effect, which chooses the batches, and their
    # difference are independent. With one start each both borrow from the same servers, whose df count once.
    variance = sum(v * df for v, df in zip(variances, dfs, strict=True)) / sum(dfs)
    found = effects_ratio(
        lower, upper, (variance, variance), sum(dfs) if min(starts) > 1 else min(dfs), margin
    )
    if found is None:
        return None
    slope = _slope(shared, lower, upper, math.log1p(margin))
    alike = found.p_within(math.expm1(slope * math.log1p(margin))) if slope > 0 else 1.0
    return _Growth(ratio=replace(found, starts=starts), p_alike=alike)


def _slope(batches: Sequence[int], lower: Sequence[float], upper: Sequence[float], level: float) -> float:
    """How fast the mean effect rises with the logarithm of the batch about ``level``; 0 where that is not seen."""
    means = (np.array(lower) + np.array(upper)) / 2
    near = np.flatnonzero((means > level / 4) & (means < 4 * level))
    if len(near) < 2:
        return 0.0
    return float(np.polyfit(np.log(np.array(batches)[near]), means[near], 1)[0])


def _f2(
    name: str,
    members: Sequence[Key],
    chain: Sequence[InputThreshold],
    steps: Sequence[_Growth],
    margin: float,
) -> Finding:
    lengths, output = chain[0].lengths, members[0].output_tokens
    at = f"{lengths[0]} against {lengths[1]}/{output}"
    places = ", ".join(
        f"{bracket(each.threshold)} at {split_text(key)}" for key, each in zip(members, chain, strict=True)
    )
    numbers = [
        threshold_number(f"B* ({split_text(key)}, {at})", each.threshold, "sequences")
        for key, each in zip(members, chain, strict=True)
    ]
    effect, verdict, p, tail = None, "not tested", None, "no batch measured lies near B* on all of them"
    if steps:
        less = [step.ratio.p_below(1) for step in steps]
        more = [step.ratio.p_above(1) for step in steps]
        alike = max(step.p_alike for step in steps)
        verdict, p = every_step(less, [*more, alike])
        for (fewer, many), step in zip(pairwise(members), steps, strict=True):
            numbers.append(
                ratio_number(f"longer input's cost, {split_text(many)} over {split_text(fewer)}", step.ratio)
            )
        weakest = max(steps, key=lambda step: step.ratio.p_below(1)).ratio
        effect = ratio_number("longer input's cost at equal batch, on more over fewer GPUs", weakest)
        tail = {
            "holds": f"the longer input costs less on more GPUs at equal batch, ×{weakest.value:.3g} at most a step",
            "refuted": f"B* does not grow visibly (by more than {100 * margin:g} %)"
            if alike < min(more)
            else "B* shrinks",
            "not tested": untold(weakest),
        }[verdict]
    wanted = []
    if verdict == "not tested":
        for each in chain:
            wanted += wanted_batches(each.cells[:1] + each.cells[-1:], each.threshold, "B*, to compare GPUs")
    return Finding(
        id="F2",
        claim=CLAIMS["F2"],
        subject=name,
        verdict=verdict,  # type: ignore[arg-type]
        sentence=sentence(f"{lengths[1]} over {lengths[0]} tokens in, {output} out: B* {places}", tail),
        effect=effect,
        at=at,
        p=p,
        numbers=tuple(numbers),
        cells=tuple(dict.fromkeys(cell.key for each in chain for cell in each.cells)),
        wanted=tuple(dict.fromkeys(wanted)),
    )
