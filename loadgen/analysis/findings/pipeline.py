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
    not_tested,
    ratio_number,
    ratio_text,
    subject_of,
    subject_text,
)
from loadgen.analysis.findings.decisions import every_step, sentence, untold
from loadgen.analysis.findings.gpu_order import LATENCY, RATE, more_starts, step_ratios
from loadgen.analysis.findings.places import gpu_steps
from loadgen.analysis.study import Study
from loadgen.analysis.table import Key, Row


def f9(case: Case, subject: Key, study: Study) -> list[Finding]:
    """F9: latency and throughput by pipeline stages, and the largest batch by them."""
    return [_slower(subject, study), _larger(case, subject)]


def _slower(subject: Key, study: Study) -> Finding:
    name = subject_text(subject)
    by_lengths = gpu_steps(study, "pp")
    if not by_lengths:
        return not_tested("F9a", name, "Needs one server at two or more numbers of pipeline stages (pp).")
    numbers = []
    for lengths, steps in by_lengths.items():
        for metric, what in ((RATE, "tok/s"), (LATENCY, "latency")):
            numbers += [
                ratio_number(
                    f"{what}, pp {step.more} over pp {step.fewer} at {lengths[0]}/{lengths[1]}", ratio
                )
                for step, ratio in step_ratios(study, steps, metric)
            ]
    (lengths, steps), *_ = by_lengths.items()
    at = f"{lengths[0]}/{lengths[1]}"
    rates, times = (step_ratios(study, steps, metric) for metric in (RATE, LATENCY))
    holds = [ratio.p_below(1) for _, ratio in rates] + [ratio.p_above(1) for _, ratio in times]
    refuted = [ratio.p_above(1) for _, ratio in rates] + [ratio.p_below(1) for _, ratio in times]
    verdict, p = every_step(holds, refuted)
    first, *rest = [
        f"{step.fewer} → {step.more} {ratio_text(rate)} of the tok/s, {ratio_text(time)} of the latency"
        for (step, rate), (_, time) in zip(rates, times, strict=True)
    ]
    why = untold(
        max([*(ratio for _, ratio in rates), *(ratio for _, ratio in times)], key=lambda ratio: ratio.p)
    )
    return Finding(
        id="F9a",
        claim=CLAIMS["F9a"],
        subject=name,
        verdict=verdict,
        sentence=sentence(f"At {at}, pp {first}", why if verdict == "not tested" else "", *rest),
        effect=ratio_number(f"latency, pp {times[0][0].more} over pp {times[0][0].fewer}", times[0][1]),
        at=at,
        p=p,
        numbers=tuple(numbers),
        cells=tuple(dict.fromkeys(cell.key for step in steps for pair in step.pairs for cell in pair)),
        wanted=more_starts(steps, f"pipeline stages at {at}") if verdict == "not tested" else (),
    )


def _larger(case: Case, subject: Key) -> Finding:
    name = subject_text(subject)
    largest = largest_batches([row for row in case.rows if subject_of(row.key) == subject])
    if len(largest) < 2:
        return not_tested(
            "F9b", name, "Needs trials that ran out of memory at two numbers of pipeline stages."
        )
    grows = all(low < high for (_, low), (_, high) in pairwise(sorted(largest.items())))
    told = ", ".join(f"pp {stages}: {batch}" for stages, batch in sorted(largest.items()))
    return Finding(
        id="F9b",
        claim=CLAIMS["F9b"],
        subject=name,
        verdict="holds" if grows else "refuted",
        sentence=f"The largest batch before memory runs out is {told}.",
        effect=Number(name="largest batch", text=told),
        numbers=(Number(name="largest batch before running out of memory", text=told),),
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
