"""F10 and F11: frameworks against each other, and machines against each other, paired by equal work."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations

from loadgen.analysis.finding import (
    CLAIMS,
    Case,
    Finding,
    Number,
    Verdict,
    decide,
    not_tested,
    ratio_number,
    ratio_text,
)
from loadgen.analysis.same_data import other_data
from loadgen.analysis.starts import Cell
from loadgen.analysis.study import Study
from loadgen.analysis.table import Key, work_of


def f10(case: Case) -> list[Finding]:
    """One finding per pair of an hf engine and a ds engine on one machine with one model."""
    study = case.study
    sides: dict[str, dict[tuple[str, str, str, str, str], list[Cell]]] = {"hf": {}, "ds": {}}
    for key, cell in study.cells.items():
        if key.framework in sides:
            group = (key.machine, key.model, key.dtype, key.label, key.variant)
            sides[key.framework].setdefault(group, []).append(cell)
    findings = []
    for (machine, model, dtype, hf, hf_variant), ours in sides["hf"].items():
        for (other, other_model, other_dtype, ds, ds_variant), theirs in sides["ds"].items():
            if (machine, model, dtype) == (other, other_model, other_dtype):
                pair = " against ".join(
                    part for part in (f"{hf} {hf_variant}".strip(), f"{ds} {ds_variant}".strip())
                )
                findings.append(_f10(case, study, f"{pair} · {model} · {dtype} · {machine}", ours, theirs))
    return findings or [not_tested("F10", "hf against ds", "Needs results of both hf and ds on one machine.")]


def _f10(case: Case, study: Study, name: str, ours: Sequence[Cell], theirs: Sequence[Cell]) -> Finding:
    by_work: dict[Key, list[Cell]] = defaultdict(list)
    for cell in theirs:
        by_work[work_of(cell.key)].append(cell)
    pairs: dict[tuple[int, str], list[tuple[Cell, Cell]]] = defaultdict(list)
    for cell in ours:
        for other in by_work[work_of(cell.key)]:
            if other.key.gpus == cell.key.gpus:
                split = "pp against tp" if cell.key.pp > 1 and other.key.tp > 1 else "tp against tp"
                pairs[cell.key.gpus, split if cell.key.gpus > 1 else "1 GPU"].append((cell, other))
    if not pairs:
        return not_tested("F10", name, "No pair of equal work on an equal number of GPUs.")
    same = {group: [pair for pair in members if same_data(*pair)] for group, members in pairs.items()}
    pairs = {group: members for group, members in same.items() if members}
    if not pairs:
        return not_tested(
            "F10", name, "Not the same data: both ran at the power cap on weights of other makers."
        )
    rules = case.rules
    verdicts: list[Verdict] = []
    numbers: list[Number] = []
    cells: list[Key] = []
    said: list[str] = []
    for (gpus, split), group in sorted(pairs.items()):
        mean = study.mean_ratio(group, "e2e_s")
        if mean is None:
            continue
        if gpus == 1:
            holds = mean.above(1) and mean.below(rules.little_slower)
            refuted = mean.below(1) or mean.above(rules.little_slower)
            words = f"a little slower means up to {rules.little_slower:g} times"
        else:
            holds, refuted = mean.above(rules.far_faster), mean.below(rules.far_faster)
            words = f"far faster means {rules.far_faster:g} times or more"
        verdicts.append("holds" if holds else "refuted" if refuted else "not tested")
        place = f"{gpus} GPU{'s' if gpus > 1 else ''}" + (f", {split}" if gpus > 1 else "")
        numbers.append(ratio_number(f"latency hf / ds ({place}, {len(group)} pairs)", mean))
        batches = sorted({cell.key.batch for cell, _ in group})
        for batch in batches:
            one = study.mean_ratio([pair for pair in group if pair[0].key.batch == batch], "e2e_s")
            if one is not None and len(batches) > 1:
                numbers.append(ratio_number(f"latency hf / ds ({place}, batch {batch})", one))
        said.append(f"{place}: hf takes {ratio_text(mean)} of ds's time ({words})")
        cells += [cell.key for pair in group for cell in pair]
    counts = {gpus for gpus, _ in pairs}
    if 1 not in counts or len(counts) == 1:
        verdicts.append("not tested")
        said.append("the claim needs both 1 GPU and more than 1")
    return Finding(
        id="F10",
        claim=CLAIMS["F10"],
        subject=name,
        verdict=decide(verdicts),
        sentence="; ".join(said) + ".",
        numbers=tuple(numbers),
        cells=tuple(dict.fromkeys(cells)),
    )


def same_data(one: Cell, other: Cell) -> bool:
    """Whether two cells' times may be compared: not where other numbers decided the clock."""
    return not other_data(one.rows, other.rows)


def f11(case: Case) -> list[Finding]:
    """One finding per pair of machines that did the same work with the same framework."""
    study, rules = case.study, case.rules
    by_work: dict[Key, dict[str, Cell]] = defaultdict(dict)
    for key, cell in study.cells.items():
        if key.kind in ("static", "closed") and key.batch < rules.alike_below:
            by_work[replace(key, machine="")][key.machine] = cell
    pairs: dict[tuple[str, str, str, str], list[tuple[Cell, Cell]]] = defaultdict(list)
    for work, machines in by_work.items():
        for one, other in combinations(sorted(machines), 2):
            if not same_data(machines[one], machines[other]):
                continue
            pairs[one, other, work.label, work.model].append((machines[one], machines[other]))
    findings = []
    for (one, other, label, model), group in pairs.items():
        ratios = [(pair, study.ratio(*pair, "e2e_s")) for pair in group]
        known = [(pair, ratio) for pair, ratio in ratios if ratio is not None]
        margin = 1 + rules.margin
        alike = [ratio.above(1 / margin) and ratio.below(margin) for _, ratio in known]
        apart = [ratio.below(1 / margin) or ratio.above(margin) for _, ratio in known]
        mean = study.mean_ratio(group, "e2e_s")
        if mean is None:
            continue
        verdict: Verdict = "holds" if all(alike) else "refuted" if any(apart) else "not tested"
        findings.append(
            Finding(
                id="F11",
                claim=CLAIMS["F11"],
                subject=f"{label} · {model} · {one} against {other}",
                verdict=verdict,
                sentence=f"Latency on {one} is {ratio_text(mean)} of that on {other}; {sum(alike)} of {len(known)} "
                f"cells below batch {rules.alike_below} match within {rules.margin:.0%}, {sum(apart)} do not.",
                numbers=(
                    ratio_number("mean latency ratio", mean),
                    *(
                        ratio_number(
                            f"batch {pair[0].key.batch}, {pair[0].key.input_tokens}/{pair[0].key.output_tokens}",
                            ratio,
                        )
                        for pair, ratio in known
                    ),
                ),
                cells=tuple(cell.key for pair in group for cell in pair),
            )
        )
    return findings or [
        not_tested("F11", "two machines", "Needs the same trials on two machines: give two results folders.")
    ]
