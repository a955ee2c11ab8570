"""F5: what the output length does to latency."""

from __future__ import annotations

import math
from collections import defaultdict
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
    subject_text,
)
from loadgen.analysis.findings.along import own_ratios
from loadgen.analysis.findings.decisions import decision, sentence, untold, within
from loadgen.analysis.findings.gpu_order import LATENCY
from loadgen.analysis.findings.places import REPORT, nearest
from loadgen.analysis.starts import Cell, Pair
from loadgen.analysis.study import Study
from loadgen.analysis.table import Key

EACH = "latency_per_output_token_s"
Lengths = tuple[int, int, int]  # input tokens, shorter and longer output
WANTED: Lengths = (REPORT[0], REPORT[0], REPORT[1])


def f5(case: Case, subject: Key, study: Study) -> list[Finding]:
    """F5, of each server, over all batches at input 20, output 20 → 100, or the nearest measured.

    Latency is latency per output token, the only reading under which the claim can hold; end to end is told beside.
    """
    name, margin = subject_text(subject), case.rules.margin
    found = []
    for key, by_lengths in output_pairs(study).items():
        lengths = nearest(by_lengths, WANTED)
        pairs = by_lengths[lengths]  # type: ignore[index]
        ratio, whole = study.mean_ratio(pairs, EACH), study.mean_ratio(pairs, LATENCY)
        if ratio is None:
            continue
        by_batch = {
            over.key.batch: each
            for (over, _), each in zip(pairs, own_ratios(study, pairs, EACH), strict=True)
            if each is not None
        }
        cells = list(by_batch.values())
        if subject.framework == "ft":
            verdict, p = decision(ratio.p_below(1), ratio.p_above(1))
        else:
            verdict, p = within(ratio, cells, margin)
        step = f"{lengths[1]} → {lengths[2]}"
        grows = "" if whole is None else f"end to end takes ×{whole.value:.3g}"
        worst = max(by_batch, key=lambda batch: abs(math.log(by_batch[batch].value)))
        apart = (
            f"batch {worst} ×{by_batch[worst].value:.3g}" if verdict == "refuted" and len(cells) > 1 else ""
        )
        why = (
            untold(ratio, 1 + margin if ratio.value > 1 else 1 / (1 + margin))
            if verdict == "not tested"
            else ""
        )
        numbers: list[Number] = []
        for each, others in sorted(by_lengths.items(), key=lambda item: item[0] != lengths):
            place = f"{each[1]} → {each[2]} out, {each[0]} in ({len(others)} batches)"
            for metric, what in ((EACH, "latency per output token"), (LATENCY, "end-to-end latency")):
                mean = study.mean_ratio(others, metric)
                numbers += [] if mean is None else [ratio_number(f"{what}, {place}", mean)]
        found.append(
            Finding(
                id="F5",
                claim=CLAIMS["F5"],
                subject=f"{name} · {split_text(key)}",
                verdict=verdict,
                sentence=sentence(
                    f"At {lengths[0]} in, {step} out: latency per output token {ratio_text(ratio)}",
                    apart,
                    grows,
                    why,
                ),
                effect=numbers[0],
                at=f"{lengths[0]}/{step}",
                p=p,
                numbers=tuple(numbers),
                cells=tuple(dict.fromkeys(cell.key for pair in pairs for cell in pair)),
            )
        )
    return found or [
        not_tested("F5", name, "Needs at least two output lengths at one input length and batch.")
    ]


def output_pairs(study: Study) -> dict[Key, dict[Lengths, list[Pair]]]:
    """By server: (longer, shorter) outputs at equal input and batch, more than one token each, by their lengths."""
    found: dict[Key, dict[Lengths, list[Pair]]] = defaultdict(lambda: defaultdict(list))
    for key, row in study.series("output_tokens").items():
        server = replace(key, batch=-1, input_tokens=-1)
        cells: list[Cell] = [cell for cell in row if cell.key.output_tokens > 1 and cell.values(EACH)]
        for short, long in combinations(cells, 2):
            lengths = key.input_tokens, short.key.output_tokens, long.key.output_tokens
            found[server][lengths].append((long, short))
    return found
