"""F9: what layers spread over GPUs do to throughput, latency and the largest batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

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
    subject_of,
    subject_text,
)
from loadgen.analysis.study import Study
from loadgen.analysis.table import Key, Row

RATE = "output_tokens_per_s"


def f9(case: Case, subject: Key, study: Study) -> Finding:
    """F9: latency and throughput by pipeline stages."""
    name = subject_text(subject)
    numbers: list[Number] = []
    cells: list[Key] = []
    said: list[str] = []
    verdicts: list[Verdict] = []
    for _key, row in study.series("pp", "batch", where=lambda key: key.tp == 1).items():
        stages = sorted({cell.key.pp for cell in row})
        by_point = {(cell.key.pp, cell.key.batch): cell for cell in row}
        for fewer, more in pairwise(stages):
            batches = sorted({cell.key.batch for cell in row})
            pairs = [
                (by_point[more, batch], by_point[fewer, batch])
                for batch in batches
                if (more, batch) in by_point and (fewer, batch) in by_point
            ]
            rate, latency = study.mean_ratio(pairs, RATE), study.mean_ratio(pairs, "e2e_s")
            if rate is None or latency is None:
                continue
            verdicts.append("holds" if rate.below(1) else "refuted" if rate.above(1) else "not tested")
            verdicts.append("holds" if latency.above(1) else "refuted" if latency.below(1) else "not tested")
            numbers.append(ratio_number(f"tok/s, pp {more} over pp {fewer}", rate))
            numbers.append(ratio_number(f"latency, pp {more} over pp {fewer}", latency))
            said.append(f"pp {fewer} → {more}: tok/s {ratio_text(rate)}, latency {ratio_text(latency)}")
            cells += [cell.key for pair in pairs for cell in pair]
    if not verdicts:
        return not_tested("F9", name, "Needs one server at two or more numbers of pipeline stages (pp).")
    largest = largest_batches([row for row in case.rows if subject_of(row.key) == subject])
    if len(largest) > 1:
        grows = all(low < high for (_, low), (_, high) in pairwise(sorted(largest.items())))
        verdicts.append("holds" if grows else "refuted")
        told = ", ".join(f"pp {stages}: {batch}" for stages, batch in sorted(largest.items()))
        numbers.append(Number(name="largest batch before running out of memory", text=told))
        said.append(f"largest batch {told}")
    else:
        said.append("the largest batch was not tested (no trial ran out of memory at two degrees)")
    return Finding(
        id="F9",
        claim=CLAIMS["F9"],
        subject=name,
        verdict=decide(verdicts),
        sentence="; ".join(said) + ".",
        numbers=tuple(numbers),
        cells=tuple(dict.fromkeys(cells)),
    )


def largest_batches(rows: Sequence[Row]) -> dict[int, int]:
    """Pipeline stages → the largest batch that ran, where a larger one ran out of memory at the same lengths."""
    found: dict[int, int] = {}
    for row in rows:
        if not row.out_of_memory or row.key.tp != 1:
            continue
        ran = [
            other.key.batch
            for other in rows
            if other.values
            and not other.out_of_memory
            and replace(other.key, batch=-1) == replace(row.key, batch=-1)
            and other.key.batch < row.key.batch
        ]
        if ran:
            found[row.key.pp] = max(found.get(row.key.pp, 0), max(ran))
    return found
