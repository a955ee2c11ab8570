"""What more GPUs do: F3 and F4 over TP, F9 over pipeline stages; and thresholds in order of GPUs."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

from loadgen.analysis.finding import (
    CLAIMS,
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
    threshold_number,
)
from loadgen.analysis.findings.decisions import listed, ordered, sentence, untold
from loadgen.analysis.findings.places import Step, gpu_steps
from loadgen.analysis.ratios import Ratio
from loadgen.analysis.starts import Cell
from loadgen.analysis.study import Study
from loadgen.analysis.table import Key
from loadgen.analysis.thresholds import Threshold, finer

LATENCY, RATE = "e2e_s", "output_tokens_per_s"


def wanted_batches(cells: Sequence[Cell], threshold: Threshold, why: str) -> list[Wanted]:
    """The cells that would resolve a threshold in batch, for each of the keys that it compares."""
    keys = [replace(cell.key, batch=batch) for cell in cells for batch in threshold.add]
    again = [replace(cell.key, batch=batch) for cell in cells for batch in threshold.repeat]
    return [Wanted(key=key, why=why) for key in dict.fromkeys(keys)] + [
        Wanted(key=key, why=f"{why}: more starts", again=True) for key in dict.fromkeys(again)
    ]


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


def f3a(case: Case, subject: Key, study: Study) -> list[Finding]:
    """F3 over TP: the mean latency over the batches of each step, at the report's own lengths or the nearest."""
    return [_over_tp("F3a", subject, study, LATENCY, "of the latency", below=True)]


def f4a(case: Case, subject: Key, study: Study) -> list[Finding]:
    """F4 over TP: the mean throughput over the batches of each step, at the report's own lengths or the nearest."""
    return [_over_tp("F4a", subject, study, RATE, "of the tok/s", below=False)]


def _over_tp(id: str, subject: Key, study: Study, metric: str, unit: str, below: bool) -> Finding:
    name = subject_text(subject)
    by_lengths = gpu_steps(study, "tp")
    told = {lengths: step_ratios(study, steps, metric) for lengths, steps in by_lengths.items()}
    told = {lengths: found for lengths, found in told.items() if found}
    if not told:
        return not_tested(id, name, "Needs the same batches on at least two degrees of TP.")
    (lengths, here), *_ = told.items()
    verdict, p = ordered([ratio for _, ratio in here], below)
    at = f"{lengths[0]}/{lengths[1]}"
    steps = ", ".join(f"{step.fewer} → {step.more} {ratio_text(ratio)}" for step, ratio in here[:3])
    contrary = [cell for step, _ in here for cell in contrary_cells(study, step, metric, below)]
    but = f"but the other way at {listed(contrary)}" if contrary and verdict != "refuted" else ""
    weakest = max(
        (ratio for _, ratio in here), key=lambda ratio: ratio.p_below(1) if below else ratio.p_above(1)
    )
    why = untold(weakest) if verdict == "not tested" else ""
    first_step, first = here[0]
    numbers = [
        ratio_number(
            f"tp {step.more} over tp {step.fewer} at {each[0]}/{each[1]} ({len(step.pairs)} batches)", ratio
        )
        for each, found in told.items()
        for step, ratio in found
    ]
    return Finding(
        id=id,
        claim=CLAIMS[id],
        subject=name,
        verdict=verdict,
        sentence=sentence(f"At {at}, tp {steps} {unit}", why, but),
        effect=ratio_number(f"tp {first_step.more} over tp {first_step.fewer}", first),
        at=at,
        p=p,
        numbers=tuple(numbers),
        cells=tuple(dict.fromkeys(cell.key for step, _ in here for pair in step.pairs for cell in pair)),
        wanted=more_starts([step for step, _ in here], f"latency over tp at {at}") if why else (),
    )


def step_ratios(study: Study, steps: Sequence[Step], metric: str) -> list[tuple[Step, Ratio]]:
    """The mean ratio, more over fewer GPUs, of each step that has the figure."""
    found = [(step, study.mean_ratio(step.pairs, metric)) for step in steps]
    return [(step, ratio) for step, ratio in found if ratio is not None]


def contrary_cells(study: Study, step: Step, metric: str, below: bool) -> list[str]:
    """Batches at which a step is shown (Holm over its batches) to go the other way than claimed."""
    found = study.cell_ratios(step.pairs, metric)
    return [
        f"tp {step.more}, batch {over.key.batch}"
        for (over, _), ratio in zip(step.pairs, found, strict=True)
        if ratio is not None and ratio.differs and (ratio.value > 1) == below
    ]


def more_starts(steps: Sequence[Step], why: str) -> tuple[Wanted, ...]:
    """The cells of some steps, to be run on more starts."""
    keys = dict.fromkeys(cell.key for step in steps for pair in step.pairs for cell in pair)
    return tuple(Wanted(key=key, why=f"{why}: more starts", again=True) for key in keys)
