"""F6 and F7: what batch and GPUs do to the memory that a GPU needs (never to what an engine reserves)."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
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
    split_text,
    subject_text,
    threshold_number,
)
from loadgen.analysis.findings.along import along
from loadgen.analysis.findings.decisions import sentence
from loadgen.analysis.findings.gpu_order import by_gpus, growth, wanted_batches
from loadgen.analysis.findings.knees import Knee, from_one_batch, growth_on_lines, knee
from loadgen.analysis.findings.places import REPORT, lengths_of, lengths_text, nearest
from loadgen.analysis.starts import Cell
from loadgen.analysis.study import Study
from loadgen.analysis.table import Key
from loadgen.units import show_bytes

MEMORY = "gpu_memory_bytes"
NO_MEMORY = "GPU memory was not measured (needed memory, apart from what an engine reserves)."


def memory_knees(case: Case, study: Study) -> dict[Key, Knee]:
    """By server and lengths: the batch from which needed memory exceeds that of the smallest batch by the margin.

    Memory seldom scatters from start to start as time does; where no starts say otherwise it is taken as exact.
    """
    found = {}
    for key, every in study.series("batch").items():
        cells = [cell for cell in every if cell.starts(MEMORY)]
        here = along(study, cells, cells[:1] * len(cells), MEMORY)
        least = study.mean_figure(cells[:1], MEMORY)
        if here is not None and least is not None:
            values = [least.value * math.exp(effect) for effect in here.values]
            found[key] = knee(here.grid, values, case.rules.margin, here.effects.draws)
    return found


def f6(case: Case, subject: Key, study: Study) -> list[Finding]:
    """F6: where memory starts to climb over the batch, on each server and by number of GPUs."""
    name, margin = subject_text(subject), case.rules.margin
    knees = memory_knees(case, study)
    if not knees:
        return [not_tested("F6a", name, NO_MEMORY), not_tested("F6b", name, NO_MEMORY)]
    by_server: dict[Key, dict[tuple[int, int], Key]] = defaultdict(dict)
    for key in knees:
        by_server[replace(key, input_tokens=-1, output_tokens=-1)][lengths_of(key)] = key
    found = []
    for places in by_server.values():
        key = places[nearest(places, REPORT)]  # type: ignore[index]
        found.append(_shape(name, key, knees, list(places.values()), study.series("batch")[key], margin))
    return [*found, _growth(name, knees, study, margin)]


def _shape(
    name: str,
    key: Key,
    knees: Mapping[Key, Knee],
    every: Sequence[Key],
    cells: Sequence[Cell],
    margin: float,
) -> Finding:
    found = knees[key]
    threshold, values, grid = found.threshold, found.values, found.grid
    flat, risen = threshold.low > grid[0], math.isfinite(threshold.high)
    steep = not flat and threshold.high <= grid[1] and grid[0] == 1 and grid[1] <= 2
    verdict: Verdict = "holds" if flat and risen else "refuted" if steep else "not tested"
    text = f"{show_bytes(values[0])} at batch {grid[0]}, {show_bytes(values[-1])} at {grid[-1]}"
    numbers = [
        threshold_number(f"memory knee at {lengths_text(each)}", knees[each].threshold, "sequences")
        for each in sorted(every, key=lambda each: each != key)
    ]
    return Finding(
        id="F6a",
        claim=CLAIMS["F6a"],
        subject=f"{name} · {split_text(key)}",
        verdict=verdict,
        sentence=sentence(
            f"At {lengths_text(key)}, a GPU needs {text}",
            f"risen by {100 * margin:g} % {threshold.text('sequences')}",
        ),
        effect=numbers[0],
        at=lengths_text(key),
        numbers=tuple(numbers),
        cells=tuple(cell.key for cell in cells),
        wanted=tuple(wanted_batches(cells[:1], threshold, "memory knee")),
    )


def _growth(name: str, knees: Mapping[Key, Knee], study: Study, margin: float) -> Finding:
    groups: dict[tuple[int, int], list[list[Key]]] = defaultdict(list)
    for members in by_gpus(list(knees)).values():
        groups[lengths_of(members[0])].append(members)
    if not groups:
        return not_tested("F6b", name, "Needs the memory over the batch on at least two numbers of GPUs.")
    chosen = nearest(groups, REPORT)
    verdicts: list[Verdict] = []
    numbers: list[Number] = []
    cells: list[Key] = []
    wanted: list[Wanted] = []
    series = study.series("batch")
    for members in groups[chosen]:  # type: ignore[index]
        aligned = from_one_batch({key: knees[key] for key in members}, margin)
        if all(found.on_line for found in aligned.values()):
            grown, told = growth_on_lines(list(aligned.items()), "memory knee", margin)
        else:
            listed = [(key, found.threshold, series[key][:1]) for key, found in aligned.items()]
            grown, told, missing = growth(listed, "memory knee")
            wanted += missing
        verdicts += grown
        numbers += told
        cells += [cell.key for key in members for cell in series[key]]
    verdict: Verdict = (
        "refuted"
        if "refuted" in verdicts
        else "holds"
        if verdicts and "not tested" not in verdicts
        else "not tested"
    )
    places = ", ".join(
        f"{number.name.removeprefix('memory knee').strip(' ()')}: batch {number.value:.3g}"
        for number in numbers
        if number.name.endswith(")") and number.value is not None
    )
    return Finding(
        id="F6b",
        claim=CLAIMS["F6b"],
        subject=name,
        verdict=verdict,
        sentence=sentence(
            f"At {chosen[0]}/{chosen[1]}, memory has climbed by {100 * margin:g} % at {places or 'batches not told'}"
        ),
        effect=numbers[-1] if numbers else None,
        at=f"{chosen[0]}/{chosen[1]}",
        numbers=tuple(numbers),
        cells=tuple(dict.fromkeys(cells)),
        wanted=tuple(wanted) if verdict == "not tested" else (),
    )


def f7(case: Case, subject: Key, study: Study) -> list[Finding]:
    """F7: memory per GPU when the GPUs are doubled, at the report's own lengths or the nearest; nothing is random."""
    name, most = subject_text(subject), case.rules.slightly_more
    by_lengths: dict[tuple[int, int], list[tuple[Key, Key, float]]] = defaultdict(list)
    known = {
        key: found.value for key, cell in study.cells.items() if (found := study.mean_figure([cell], MEMORY))
    }
    for members in by_gpus(list(known)).values():
        for fewer, more in pairwise(members):
            if more.gpus == 2 * fewer.gpus:
                by_lengths[lengths_of(fewer)].append((fewer, more, known[more] / known[fewer]))
    if not by_lengths:
        return [not_tested("F7", name, "Needs the same trial on n and on 2n GPUs." if known else NO_MEMORY)]
    chosen = nearest(by_lengths, REPORT)
    numbers = [
        Number(
            name=f"memory per GPU at {each[0]}/{each[1]} ({len(pairs)} pairs)",
            text=_span(pairs),
            value=pairs[0][2],
        )
        for each, pairs in sorted(by_lengths.items(), key=lambda item: item[0] != chosen)
    ]
    here = by_lengths[chosen]  # type: ignore[index]
    at = f"{chosen[0]}/{chosen[1]}"
    return [
        Finding(
            id="F7",
            claim=CLAIMS["F7"],
            subject=name,
            verdict="holds" if all(0.5 < ratio <= most for *_, ratio in here) else "refuted",
            sentence=f"At {at}, twice the GPUs need {_span(here)} of the memory per GPU; "
            f"slightly more than half means above 0.5 and at most {most:.2f}.",
            effect=numbers[0],
            at=at,
            numbers=tuple(numbers),
            cells=tuple(dict.fromkeys(key for fewer, more, _ in here for key in (fewer, more))),
        )
    ]


def _span(pairs: Sequence[tuple[Key, Key, float]]) -> str:
    ratios = [ratio for *_, ratio in pairs]
    return f"{min(ratios):.3f} to {max(ratios):.3f}" if len(ratios) > 1 else f"{ratios[0]:.3f}"
