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
    not_tested,
    ratio_number,
    ratio_text,
    split_text,
)
from loadgen.analysis.findings.decisions import decision, listed, sentence, untold, within
from loadgen.analysis.findings.gpu_order import LATENCY
from loadgen.analysis.findings.places import REPORT, lengths_of, nearest
from loadgen.analysis.same_data import other_data
from loadgen.analysis.starts import Cell, Pair
from loadgen.analysis.study import Study
from loadgen.analysis.table import Key, work_of

ONE, MORE = "F10a", "F10b"
OTHER = "Not the same data: both ran at the power cap on weights of other makers."


def f10(case: Case) -> list[Finding]:
    """Each pair of an hf and a ds engine on one machine with one model: the half on 1 GPU, and that on each more."""
    sides: dict[str, dict[tuple[str, ...], list[Cell]]] = {"hf": {}, "ds": {}}
    for key, cell in case.study.cells.items():
        if key.framework in sides:
            server = (key.machine, key.model, key.dtype, key.label, key.variant)
            sides[key.framework].setdefault(server, []).append(cell)
    found = []
    for ours, cells in sides["hf"].items():
        for theirs, others in sides["ds"].items():
            if ours[:3] == theirs[:3]:
                pair = " against ".join(" ".join(filter(None, side[3:])) for side in (ours, theirs))
                found += _f10(case, f"{pair} · {ours[1]} · {ours[2]} · {ours[0]}", cells, others)
    for id, gpus in ((ONE, "1 GPU"), (MORE, "more than 1 GPU")):
        if not any(each.id == id for each in found):
            why = f"Needs equal work of hf and ds on one machine, on {gpus}."
            found.append(not_tested(id, "hf against ds", why))
    return sorted(found, key=lambda each: each.id)


def _f10(case: Case, name: str, ours: Sequence[Cell], theirs: Sequence[Cell]) -> list[Finding]:
    by_work: dict[Key, list[Cell]] = defaultdict(list)
    for cell in theirs:
        by_work[work_of(cell.key)].append(cell)
    groups: dict[tuple[int, str], list[Pair]] = defaultdict(list)
    for cell in ours:
        for other in by_work[work_of(cell.key)]:
            if other.key.gpus == cell.key.gpus:
                split = "pp against tp" if cell.key.pp > 1 and other.key.tp > 1 else "tp against tp"
                groups[cell.key.gpus, split if cell.key.gpus > 1 else ""].append((cell, other))
    found = []
    for (gpus, split), every in sorted(groups.items()):
        place = f"{gpus} GPU{'s' if gpus > 1 else ''}" + (f", {split}" if split else "")
        id = ONE if gpus == 1 else MORE
        pairs = same_data(every)
        if not pairs:
            found.append(not_tested(id, f"{name} · {place}", OTHER))
            continue
        at, here, numbers = at_report(case.study, pairs)
        mean = case.study.mean_ratio(here, LATENCY)
        if mean is None:
            continue
        rules = case.rules
        if gpus == 1:
            holds = max(mean.p_above(1), mean.p_below(rules.little_slower))
            verdict, p = decision(holds, min(mean.p_below(1), mean.p_above(rules.little_slower)))
            words = f"a little slower is up to ×{rules.little_slower:g}"
        else:
            verdict, p = decision(mean.p_above(rules.far_faster), mean.p_below(rules.far_faster))
            words = f"far faster is from ×{rules.far_faster:g} on"
        found.append(
            Finding(
                id=id,
                claim=CLAIMS[id],
                subject=f"{name} · {place}",
                verdict=verdict,
                sentence=sentence(
                    f"At {at}, transformers take {ratio_text(mean)} of DeepSpeed's time",
                    untold(mean, rules.far_faster if gpus > 1 else 1.0) if verdict == "not tested" else "",
                    words,
                ),
                effect=ratio_number("latency, hf over ds", mean),
                at=at,
                p=p,
                numbers=tuple(numbers),
                cells=tuple(dict.fromkeys(cell.key for pair in here for cell in pair)),
            )
        )
    return found


def same_data(pairs: Sequence[Pair]) -> list[Pair]:
    """The pairs whose times may be compared: not where other numbers decided the clock."""
    return [(one, other) for one, other in pairs if not other_data(one.rows, other.rows)]


def at_report(study: Study, pairs: Sequence[Pair]) -> tuple[str, list[Pair], list[Number]]:
    """The pairs at the report's own lengths, or the nearest; and the mean ratio of latency at each pair of lengths."""
    by_lengths: dict[tuple[int, int], list[Pair]] = defaultdict(list)
    for pair in pairs:
        by_lengths[lengths_of(pair[0].key)].append(pair)
    chosen = nearest(by_lengths, REPORT)
    numbers = []
    for lengths, here in sorted(by_lengths.items(), key=lambda item: (item[0] != chosen, item[0])):
        mean = study.mean_ratio(here, LATENCY)
        name = f"latency ratio at {lengths[0]}/{lengths[1]} ({len(here)} batches)"
        numbers += [] if mean is None else [ratio_number(name, mean)]
    return f"{chosen[0]}/{chosen[1]}", by_lengths[chosen], numbers  # type: ignore[index]


def f11(case: Case) -> list[Finding]:
    """One finding per pair of machines that did the same work with the same server."""
    study, rules = case.study, case.rules
    by_work: dict[Key, dict[str, Cell]] = defaultdict(dict)
    for key, cell in study.cells.items():
        if key.kind in ("static", "closed") and key.batch < rules.alike_below:
            by_work[replace(key, machine="")][key.machine] = cell
    groups: dict[tuple[str, str, Key], list[Pair]] = defaultdict(list)
    for work, machines in by_work.items():
        server = replace(work, kind="", batch=-1, rate=-1.0, input_tokens=-1, output_tokens=-1, stream=False)
        for one, other in combinations(sorted(machines), 2):
            groups[one, other, server].append((machines[one], machines[other]))
    found = []
    for (one, other, server), every in groups.items():
        name = f"{' '.join(filter(None, (server.label, server.variant)))} · {server.model}"
        subject = f"{name} · {one} against {other} · {split_text(server)}"
        pairs = same_data(every)
        if not pairs:
            found.append(not_tested("F11", subject, OTHER))
            continue
        at, here, numbers = at_report(study, pairs)
        mean = study.mean_ratio(here, LATENCY)
        if mean is None:
            continue
        cells = study.cell_ratios(here, LATENCY)
        verdict, p = within(mean, [each for each in cells if each is not None], rules.margin)
        apart = [
            f"batch {pair[0].key.batch}"
            for pair, each in zip(here, cells, strict=True)
            if each is not None and each.p_outside(rules.margin) * len(cells) < 0.05
        ]
        beyond = f"beyond {100 * rules.margin:g} % at {listed(apart)}" if apart else ""
        level = 1 + rules.margin if mean.value > 1 else 1 / (1 + rules.margin)
        found.append(
            Finding(
                id="F11",
                claim=CLAIMS["F11"],
                subject=subject,
                verdict=verdict,
                sentence=sentence(
                    f"At {at}, below batch {rules.alike_below}, {_short(one)} takes {ratio_text(mean)} of the time",
                    untold(mean, level) if verdict == "not tested" else "",
                    beyond,
                ),
                effect=ratio_number("latency ratio", mean),
                at=at,
                p=p,
                numbers=tuple(numbers),
                cells=tuple(cell.key for pair in here for cell in pair),
            )
        )
    return found or [
        not_tested("F11", "two machines", "Needs the same trials on two machines: give two results folders.")
    ]


def _short(machine: str) -> str:
    """A GPU without its vendor."""
    return machine.removeprefix("NVIDIA ")
