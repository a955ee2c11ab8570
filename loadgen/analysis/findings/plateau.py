"""F3's plateau: up to which batch latency does not rise, on each server."""

from __future__ import annotations

import math
from dataclasses import replace

from loadgen.analysis.finding import (
    CLAIMS,
    Case,
    Finding,
    not_tested,
    split_text,
    subject_text,
    threshold_number,
)
from loadgen.analysis.findings.along import ONE_START, Along, along
from loadgen.analysis.findings.decisions import bracket, decision, sentence
from loadgen.analysis.findings.gpu_order import LATENCY, wanted_batches
from loadgen.analysis.findings.places import batch_series, lengths_text, other_series
from loadgen.analysis.starts import Cell
from loadgen.analysis.study import Study
from loadgen.analysis.table import Key


def f3b(case: Case, subject: Key, study: Study) -> list[Finding]:
    """F3 over the batch, of each server: flat from the smallest batch to at least the next one, and no further needed.

    Risen there already refutes, where the grid is fine: batch 1, then 2.
    """
    name, margin = subject_text(subject), case.rules.margin
    level = math.log1p(margin)
    found = []
    for key, cells in batch_series(study).items():
        here = _effects(study, cells)
        if here is None:
            continue
        threshold = here.crossing(level)
        fine = here.grid[0] == 1 and here.grid[1] == 2
        verdict, p = decision(2 * here.p_risen(1, level), 2 * here.p_flat(1, level) if fine else 1.0)
        at, first = lengths_text(key), here.grid[0]
        if verdict == "holds":
            end = max(threshold.low, here.grid[1])
            said = f"At {at}, latency stays within {100 * margin:g} % of batch {first}'s up to batch {end:g}"
            more = f"it rises beyond, by batch {threshold.high:g}" if math.isfinite(threshold.high) else ""
            lowest = min(range(len(here.grid)), key=lambda place: here.values[place])
            if (
                here.values[lowest] < -level
            ):  # no claim says so: a doubt about batch 1's figure, or about the noise
                more = f"it falls to ×{math.exp(here.values[lowest]):.3g} of it at batch {here.grid[lowest]}"
        else:
            why = threshold.text("sequences") if here.told else ONE_START
            risen = f"At {at}, latency has risen by more than {100 * margin:g} % at batch {here.grid[1]}"
            said = risen if verdict == "refuted" else f"At {at}, the plateau's end is open: {why}"
            more = f"×{math.exp(here.values[1]):.3g} of batch {first}'s" if verdict == "refuted" else ""
        numbers = [threshold_number(f"plateau ends at {at}", threshold, "sequences")]
        for other, series in other_series(study, key).items():
            beside = _effects(study, series)
            if beside is not None:
                numbers.append(
                    threshold_number(
                        f"plateau ends at {lengths_text(other)}", beside.crossing(level), "sequences"
                    )
                )
        found.append(
            Finding(
                id="F3b",
                claim=CLAIMS["F3b"],
                subject=f"{name} · {split_text(key)}",
                verdict=verdict,
                sentence=sentence(said, more),
                effect=replace(numbers[0], text=f"plateau's end {bracket(threshold)}"),
                at=at,
                p=p,
                numbers=tuple(numbers),
                cells=tuple(cell.key for cell in cells),
                wanted=tuple(wanted_batches(cells[:1], threshold, "end of the latency plateau")),
            )
        )
    return found or [not_tested("F3b", name, "Needs at least two batch sizes at one pair of lengths.")]


def _effects(study: Study, cells: list[Cell]) -> Along | None:
    """Latency over that of the smallest batch."""
    return along(study, cells, [cells[0]] * len(cells), LATENCY)
