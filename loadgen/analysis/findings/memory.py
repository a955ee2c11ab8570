"""F6 and F7: what batch and GPUs do to the memory that a GPU needs (never to what an engine reserves)."""

from __future__ import annotations

import math
from itertools import pairwise

from loadgen.analysis.finding import (
    CLAIMS,
    Case,
    Finding,
    Number,
    Verdict,
    decide,
    not_tested,
    some,
    split_text,
    subject_text,
    threshold_number,
)
from loadgen.analysis.findings.gpu_order import by_gpus, growth, wanted_batches
from loadgen.analysis.findings.knees import Knee, from_one_batch, growth_on_lines, knee
from loadgen.analysis.study import Study
from loadgen.analysis.table import Key
from loadgen.units import show_bytes, show_share

MEMORY = "gpu_memory_bytes"
NO_MEMORY = "GPU memory was not measured (needed memory, apart from what an engine reserves)."


def memory_knees(case: Case, study: Study) -> dict[Key, Knee]:
    """By server and lengths: the batch from which needed memory exceeds that of the smallest batch by the margin.

    Memory does not scatter from run to run as time does; where no repeats say otherwise it is taken as exact.
    """
    found = {}
    for key, cells in study.series("batch").items():
        estimates = [(cell.key.batch, study.estimate(cell, MEMORY)) for cell in cells]
        known = [(batch, estimate.value) for batch, estimate in estimates if estimate is not None]
        if len(known) > 1:
            found[key] = knee([batch for batch, _ in known], [value for _, value in known], case.rules.margin)
    return found


def f6(case: Case, subject: Key, study: Study) -> Finding:
    """F6: where memory starts to climb over the batch, by number of GPUs."""
    name = subject_text(subject)
    knees = memory_knees(case, study)
    if not knees:
        return not_tested("F6", name, NO_MEMORY)
    shapes: list[Verdict] = []
    numbers: list[Number] = []
    cells: list[Key] = []
    wanted = []
    series = study.series("batch")
    for key, found in knees.items():
        threshold, values, grid = found.threshold, found.values, found.grid
        flat = threshold.low > grid[0]
        risen = math.isfinite(threshold.high)
        steep = not flat and threshold.high <= grid[1] and grid[0] == 1 and grid[1] <= 2
        shapes.append("holds" if flat and risen else "refuted" if steep else "not tested")
        text = f"{show_bytes(values[0])} at batch {grid[0]} → {show_bytes(values[-1])} at batch {grid[-1]}"
        place = f"{split_text(key)}, {key.input_tokens}/{key.output_tokens}"
        numbers.append(Number(name=f"needed memory ({place})", text=text))
        cells += [cell.key for cell in series[key]]
        wanted += wanted_batches(series[key][:1], threshold, "memory knee")
    grown: list[Verdict] = []
    for members in by_gpus(list(knees)).values():
        aligned = from_one_batch({key: knees[key] for key in members}, case.rules.margin)
        place = f"memory knee, {members[0].input_tokens}/{members[0].output_tokens}"
        if all(found.on_line for found in aligned.values()):
            verdicts, told = growth_on_lines(list(aligned.items()), place, case.rules.margin)
        else:
            verdicts, told, missing = growth(
                [(key, found.threshold, series[key][:1]) for key, found in aligned.items()], place
            )
            wanted += missing
        grown += verdicts
        numbers += told
    if not grown:
        numbers += [
            threshold_number(
                f"memory knee ({split_text(key)}, {key.input_tokens}/{key.output_tokens})",
                found.threshold,
                "sequences",
            )
            for key, found in knees.items()
        ]
    said = (
        f"Over the batch, needed memory is flat at first and then climbs in {shapes.count('holds')} of {len(shapes)} "
        f"series, climbs from the smallest batch on in {shapes.count('refuted')}, and {shapes.count('not tested')} "
        "cannot tell"
    )
    if grown:
        said += (
            f"; the knee grows with the number of GPUs in {grown.count('holds')} of {len(grown)} comparisons and does "
            f"not in {grown.count('refuted')}; {grown.count('not tested')} cannot tell"
        )
    tail = "" if grown else " The number of GPUs was not varied, so whether the knee grows is not tested."
    return Finding(
        id="F6",
        claim=CLAIMS["F6"],
        subject=name,
        verdict=decide([some(shapes), decide(grown)]),
        sentence=f"{said} (margin {show_share(case.rules.margin)}).{tail}",
        numbers=tuple(numbers),
        cells=tuple(cells),
        wanted=tuple(wanted),
    )


def f7(case: Case, subject: Key, study: Study) -> Finding:
    """F7: memory per GPU when the GPUs are doubled."""
    name, most = subject_text(subject), case.rules.slightly_more
    verdicts: list[Verdict] = []
    numbers: list[Number] = []
    cells: list[Key] = []
    measured = False
    known = {key: cell for key, cell in study.cells.items() if study.estimate(cell, MEMORY) is not None}
    for members in by_gpus(list(known)).values():
        measured = True
        for fewer, more in pairwise(members):
            if more.gpus != 2 * fewer.gpus:
                continue
            low, high = study.estimate(known[fewer], MEMORY), study.estimate(known[more], MEMORY)
            assert low is not None
            assert high is not None
            ratio = high.value / low.value
            verdicts.append("holds" if 0.5 < ratio <= most else "refuted")
            place = f"{split_text(fewer)} → {split_text(more)}, batch {fewer.batch}"
            place += f", {fewer.input_tokens}/{fewer.output_tokens}"
            text = f"{ratio:.3f} ({show_bytes(low.value)} → {show_bytes(high.value)})"
            numbers.append(Number(name=f"per-GPU memory ({place})", text=text, value=ratio))
            cells += [fewer, more]
    if not verdicts:
        why = "Needs the same trial on n and on 2n GPUs." if measured or known else NO_MEMORY
        return not_tested("F7", name, why)
    ratios = [number.value for number in numbers if number.value is not None]
    return Finding(
        id="F7",
        claim=CLAIMS["F7"],
        subject=name,
        verdict=decide(verdicts),
        sentence=f"Per-GPU memory on twice the GPUs is {min(ratios):.3f} to {max(ratios):.3f} of what it was, in "
        f"{len(ratios)} pairs; slightly more than half means above 0.5 and at most {most:.2f}.",
        numbers=tuple(numbers),
        cells=tuple(dict.fromkeys(cells)),
    )
