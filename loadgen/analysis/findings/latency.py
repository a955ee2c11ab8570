"""F1, F2 and F3: what input length, batch and GPUs do to latency."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations

from loadgen.analysis.finding import (
    CLAIMS,
    Case,
    Finding,
    Verdict,
    decide,
    not_tested,
    ratio_number,
    ratio_text,
    rise,
    some,
    split_text,
    subject_text,
    threshold_number,
)
from loadgen.analysis.findings.gpu_order import all_tp_steps, by_gpus, growth, lengths_numbers, wanted_batches
from loadgen.analysis.starts import Cell
from loadgen.analysis.study import Study
from loadgen.analysis.table import Key
from loadgen.analysis.thresholds import Threshold
from loadgen.units import show_share

Lengths = tuple[int, int]  # the shorter and the longer input
Pairs = dict[int, tuple[Cell, Cell]]  # batch → the cells of the longer and of the shorter input


@dataclass(frozen=True, slots=True, kw_only=True)
class InputThreshold:
    """B* of one server and output length: the batch from which the longer of two inputs is slower than the shorter.

    Method: ratio of median end-to-end latencies at the two inputs, per batch, made to rise with the batch; B* is the
    first batch where it exceeds 1 + margin.
    """

    lengths: Lengths
    threshold: Threshold
    cells: tuple[Cell, ...]
    batches: tuple[int, ...]


def input_pairs(study: Study) -> dict[Key, dict[Lengths, Pairs]]:
    """By server and output length: pairs of inputs that were measured at two batches or more in common."""
    found: dict[Key, dict[Lengths, Pairs]] = {}
    for key, cells in study.series("batch", "input_tokens").items():
        by_length: dict[int, dict[int, Cell]] = {}
        for cell in cells:
            by_length.setdefault(cell.key.input_tokens, {})[cell.key.batch] = cell
        for short, long in combinations(sorted(by_length), 2):
            shared = sorted(by_length[short].keys() & by_length[long].keys())
            if len(shared) > 1:
                pairs = {batch: (by_length[long][batch], by_length[short][batch]) for batch in shared}
                found.setdefault(key, {})[short, long] = pairs
    return found


def widest(lengths: Iterable[Lengths]) -> Lengths:
    """The pair whose inputs differ by the largest factor."""
    return max(lengths, key=lambda pair: (pair[1] / pair[0], pair))


def input_threshold(case: Case, study: Study, lengths: Lengths, pairs: Pairs) -> InputThreshold | None:
    """The batch at which the longer input raises E2E latency by the rules' margin; ``None`` where there is none
    to tell.
    """
    threshold = rise(study, list(pairs.values()), "e2e_s", list(pairs), case.rules.margin)
    if threshold is None:
        return None
    used = tuple(cell for pair in pairs.values() for cell in pair)
    return InputThreshold(lengths=lengths, threshold=threshold, cells=used, batches=tuple(pairs))


def input_thresholds(case: Case, study: Study) -> dict[Key, list[InputThreshold]]:
    """Every B* by server and output length, that of the widest pair of inputs first."""
    found = {}
    for key, by_lengths in input_pairs(study).items():
        first = widest(by_lengths)
        order = [first, *(lengths for lengths in by_lengths if lengths != first)]
        known = [input_threshold(case, study, lengths, by_lengths[lengths]) for lengths in order]
        found[key] = [each for each in known if each is not None]
    return {key: every for key, every in found.items() if every}


def f1(case: Case, subject: Key, study: Study) -> Finding:
    """Decided by the widest pair of inputs; narrower ones are told beside, for B* is higher there."""
    thresholds = input_thresholds(case, study)
    name, margin = subject_text(subject), case.rules.margin
    if not thresholds:
        return not_tested(
            "F1",
            name,
            "Needs one server with at least two input lengths at two or more batch sizes in common.",
        )
    verdicts, numbers, wanted, cells, said = [], [], [], [], []
    for key, every in thresholds.items():
        for found in every:
            threshold, (short, long) = found.threshold, found.lengths
            place = f"{split_text(key)}, {short} against {long} in, {key.output_tokens} out"
            numbers.append(threshold_number(f"B* ({place})", threshold, "sequences"))
            cells += [cell.key for cell in found.cells]
            if found is not every[0]:
                continue
            verdict: Verdict = "not tested"
            if threshold.state == "below the grid" and threshold.high == 1:
                verdict = "refuted"
            elif threshold.low > 0 and math.isfinite(threshold.high):
                verdict = "holds"
            verdicts.append(verdict)
            said.append(f"B* {threshold.text()}, at {place}")
            ends = [cell for cell in found.cells if cell.key.batch == found.batches[0]]
            wanted += wanted_batches(ends, threshold, f"B* at {place}")
    return Finding(
        id="F1",
        claim=CLAIMS["F1"],
        subject=name,
        verdict=some(verdicts),
        sentence=f"By end-to-end p50 and a margin of {show_share(margin)}: {'; '.join(said)}.",
        numbers=tuple(numbers),
        cells=tuple(dict.fromkeys(cells)),
        wanted=tuple(wanted),
    )


def _telling(
    case: Case, study: Study, common: Iterable[Lengths], members: Sequence[dict[Lengths, Pairs]]
) -> Lengths:
    """The widest pair whose B* lies above the smallest batch for some member, else the widest.

    Where even the smallest batch is past B* on every number of GPUs, nothing can be seen to grow.
    """
    able = [
        lengths
        for lengths in common
        for pairs in members
        if (found := input_threshold(case, study, lengths, pairs[lengths])) is not None
        and found.threshold.state != "below the grid"
    ]
    return widest(able or common)


def f2(case: Case, subject: Key, study: Study) -> Finding:
    """B* of one and the same pair of inputs on each number of GPUs: the widest of all that can tell."""
    name = subject_text(subject)
    pairs = input_pairs(study)
    verdicts, numbers, wanted, cells = [], [], [], []
    for members in by_gpus(list(pairs)).values():
        common = set.intersection(*({*pairs[key]} for key in members))
        if not common:
            continue
        lengths = _telling(case, study, common, [pairs[key] for key in members])
        found = {key: input_threshold(case, study, lengths, pairs[key][lengths]) for key in members}
        known = [(key, each.threshold, each.cells) for key, each in found.items() if each is not None]
        place = f"B*, {lengths[0]} against {lengths[1]} in, {members[0].output_tokens} out"
        grown, told, missing = growth(known, place)
        verdicts += grown
        numbers += told
        wanted += missing
        cells += [cell.key for _, _, used in known for cell in used]
    if not verdicts:
        return not_tested("F2", name, "Needs B* (F1) of one pair of inputs for at least two numbers of GPUs.")
    verdict = decide(verdicts)
    said = "; ".join(f"{number.name}: {number.text}" for number in numbers)
    tail = {
        "holds": "Every interval lies above that of fewer GPUs",
        "refuted": "Not every interval lies above that of fewer GPUs",
        "not tested": "Intervals overlap on this grid, so the order is not resolvable",
    }[verdict]
    return Finding(
        id="F2",
        claim=CLAIMS["F2"],
        subject=name,
        verdict=verdict,
        sentence=f"{tail}. {said}.",
        numbers=tuple(numbers),
        cells=tuple(cells),
        wanted=tuple(wanted),
    )


def plateau_ends(case: Case, study: Study) -> dict[Key, tuple[Threshold, list[Cell]]]:
    """By server and lengths: the batch from which latency exceeds that of the smallest batch by the margin."""
    found = {}
    for key, cells in study.series("batch").items():
        pairs = [(cell, cells[0]) for cell in cells]
        risen = rise(study, pairs, "e2e_s", [cell.key.batch for cell in cells], case.rules.margin)
        if risen is not None:
            found[key] = (risen, cells)
    return found


def f3(case: Case, subject: Key, study: Study) -> Finding:
    """F3: latency by TP, and by batch below a threshold."""
    name = subject_text(subject)
    verdicts, numbers, wanted, cells, said = [], [], [], [], []
    for (fewer, more), pairs in all_tp_steps(study).items():
        mean = study.mean_ratio(pairs, "e2e_s")
        if mean is None:
            continue
        slower = [pair for pair in pairs if (ratio := study.ratio(*pair, "e2e_s")) and ratio.above(1)]
        verdict: Verdict = "not tested"
        if mean.below(1) and not slower:
            verdict = "holds"
        elif mean.above(1) or slower:
            verdict = "refuted"
        verdicts.append(verdict)
        numbers.append(ratio_number(f"latency, tp {more} over tp {fewer} ({len(pairs)} pairs)", mean))
        numbers += lengths_numbers(study, pairs, "e2e_s", f"latency, tp {more} over tp {fewer}")
        at = ", ".join(
            f"batch {cell.key.batch} {cell.key.input_tokens}/{cell.key.output_tokens}"
            for cell, _ in slower[:4]
        )
        but = f", but higher in {len(slower)} of {len(pairs)} cells ({at}{', …' if len(slower) > 4 else ''})"
        said.append(
            f"tp {fewer} → {more}: latency {ratio_text(mean)}{but if slower and mean.below(1) else ''}"
        )
        cells += [cell.key for pair in pairs for cell in pair]
    flat: list[Verdict] = []
    for key, (threshold, used) in plateau_ends(case, study).items():
        flat.append(plateau_verdict(threshold, [cell.key.batch for cell in used]))
        place = f"{split_text(key)}, {key.input_tokens}/{key.output_tokens}"
        numbers.append(threshold_number(f"plateau ends ({place})", threshold, "sequences"))
        wanted += wanted_batches(used[:1], threshold, "end of the latency plateau")
        cells += [cell.key for cell in used]
    if not verdicts and not flat:
        return not_tested("F3", name, "Needs at least two batch sizes, and at least two degrees of TP.")
    if not verdicts:
        said.append("TP was not varied")
    verdict_tp, verdict_flat = decide(verdicts), some(flat)
    said.append(
        f"over the batch, latency stays flat beyond the smallest in {flat.count('holds')} of {len(flat)} series, "
        f"rises from it on in {flat.count('refuted')}, and {flat.count('not tested')} cannot tell"
    )
    return Finding(
        id="F3",
        claim=CLAIMS["F3"],
        subject=name,
        verdict=decide([verdict_tp, verdict_flat]),
        sentence="; ".join(said) + f" (margin {show_share(case.rules.margin)}).",
        numbers=tuple(numbers),
        cells=tuple(dict.fromkeys(cells)),
        wanted=tuple(wanted),
    )


def plateau_verdict(threshold: Threshold, batches: Sequence[int]) -> Verdict:
    """Flat from the smallest batch to at least the next one; risen there already refutes, if the grid is fine there."""
    if threshold.state == "no interval":
        return "not tested"
    if threshold.low > batches[0]:
        return "holds"
    fine = batches[0] == 1 and batches[1] <= 2
    return "refuted" if fine and threshold.high <= batches[1] else "not tested"
