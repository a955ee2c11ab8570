"""F1, F2 and F3: what input length, batch and GPUs do to latency."""

from __future__ import annotations

import math
from collections.abc import Sequence

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
from loadgen.analysis.ordering import all_tp_steps, by_gpus, growth, lengths_numbers, wanted_batches
from loadgen.analysis.study import Cell, Study
from loadgen.analysis.table import Key
from loadgen.analysis.thresholds import Threshold
from loadgen.units import show_share


def input_thresholds(case: Case, study: Study) -> dict[Key, tuple[Threshold, float, list[Cell]]]:
    """B* by server and output length: the batch from which the longest input is slower than the shortest.

    Method: ratio of median end-to-end latencies at the longest and the shortest input, per batch, made to rise with the
    batch; B* is the first batch where it exceeds 1 + margin. Value: threshold, margin used, its cells.
    """
    found = {}
    for key, cells in study.series("batch", "input_tokens").items():
        lengths = sorted({cell.key.input_tokens for cell in cells})
        by_point = {(cell.key.batch, cell.key.input_tokens): cell for cell in cells}
        if len(lengths) < 2:
            continue
        pairs = {
            batch: (by_point[batch, lengths[-1]], by_point[batch, lengths[0]])
            for batch in sorted({cell.key.batch for cell in cells})
            if (batch, lengths[-1]) in by_point and (batch, lengths[0]) in by_point
        }
        risen = rise(study, list(pairs.values()), "e2e_s", list(pairs), case.rules.margin)
        if risen is not None:
            used = [cell for pair in pairs.values() for cell in pair]
            found[key] = (*risen, used)
    return found


def f1(case: Case, subject: Key, study: Study) -> Finding:
    thresholds = input_thresholds(case, study)
    name = subject_text(subject)
    if not thresholds:
        return not_tested(
            "F1", name, "Needs one server with at least two input lengths at two or more batch sizes."
        )
    verdicts, numbers, wanted, cells, said = [], [], [], [], []
    for key, (threshold, margin, used) in thresholds.items():
        lengths = sorted({cell.key.input_tokens for cell in used})
        place = f"{split_text(key)}, {lengths[0]} against {lengths[-1]} in, {key.output_tokens} out"
        verdict: Verdict = "not tested"
        if threshold.state == "below the grid" and threshold.high == 1:
            verdict = "refuted"
        elif threshold.low > 0 and math.isfinite(threshold.high):
            verdict = "holds"
        verdicts.append(verdict)
        numbers.append(threshold_number(f"B* ({place})", threshold, "sequences"))
        said.append(f"B* {threshold.text()}, at {place} (margin {show_share(margin)})")
        cells += [cell.key for cell in used]
        ends = [cell for cell in used if cell.key.batch == used[0].key.batch]
        wanted += wanted_batches(ends, threshold, f"B* at {place}")
    return Finding(
        id="F1",
        claim=CLAIMS["F1"],
        subject=name,
        verdict=some(verdicts),
        sentence=f"By end-to-end p50: {'; '.join(said)}.",
        numbers=tuple(numbers),
        cells=tuple(cells),
        wanted=tuple(wanted),
    )


def f2(case: Case, subject: Key, study: Study) -> Finding:
    name = subject_text(subject)
    thresholds = input_thresholds(case, study)
    verdicts, numbers, wanted, cells = [], [], [], []
    for members in by_gpus(list(thresholds)).values():
        found = [(key, thresholds[key][0], thresholds[key][2]) for key in members]
        grown, told, missing = growth(found, f"B*, {members[0].output_tokens} output tokens")
        verdicts += grown
        numbers += told
        wanted += missing
        cells += [cell.key for key in members for cell in thresholds[key][2]]
    if not verdicts:
        return not_tested("F2", name, "Needs B* (F1) for at least two numbers of GPUs.")
    verdict = decide(verdicts)
    said = ", ".join(f"{number.name}: {number.text}" for number in numbers)
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


def plateau_ends(case: Case, study: Study) -> dict[Key, tuple[Threshold, float, list[Cell]]]:
    """By server and lengths: the batch from which latency exceeds that of the smallest batch by the margin."""
    found = {}
    for key, cells in study.series("batch").items():
        pairs = [(cell, cells[0]) for cell in cells]
        risen = rise(study, pairs, "e2e_s", [cell.key.batch for cell in cells], case.rules.margin)
        if risen is not None:
            found[key] = (*risen, cells)
    return found


def f3(case: Case, subject: Key, study: Study) -> Finding:
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
    for key, (threshold, _margin, used) in plateau_ends(case, study).items():
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
        {
            "holds": "latency stays flat up to a batch of its own for each server",
            "refuted": "latency rises from the smallest batch on in some series",
            "not tested": "the plateau's end is not resolvable",
        }[verdict_flat]
    )
    return Finding(
        id="F3",
        claim=CLAIMS["F3"],
        subject=name,
        verdict=decide([verdict_tp, verdict_flat]),
        sentence="; ".join(said) + f" (margin {show_share(case.rules.margin)} or the noise where larger).",
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
