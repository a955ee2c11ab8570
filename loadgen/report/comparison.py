"""A comparison as tables, for the terminal and for Markdown."""

from __future__ import annotations

from loadgen.analysis.compare import Comparison
from loadgen.analysis.finding import ratio_text
from loadgen.analysis.study import Ratio
from loadgen.text_table import Table, table_of
from loadgen.units import show_share

OTHER_DATA = " (not the same data)"
COLUMNS = {
    "e2e_s": "E2E p50",
    "ttft_s": "TTFT p50",
    "tpot_s": "TPOT p50",
    "output_tokens_per_s": "output tok/s",
    "gpu_memory_bytes": "GPU memory",
}


def tables_of(found: Comparison) -> list[Table]:
    """Same work first, then the differences, the gates, and what changed around them."""
    every = (_work(found), _differences(found), _gates(found), _changed(found), _left_out(found))
    return list(filter(None, every))


def _work(found: Comparison) -> Table:
    rows = []
    for verdict in ("same", "not proven", "not the same data", "different"):
        members = [pair for pair in found.pairs if pair.work.verdict == verdict]
        for why in dict.fromkeys(pair.work.why for pair in members):
            alike = [pair for pair in members if pair.work.why == why]
            rows.append((verdict, str(len(alike)), why))
    return Table(title="Same work?", head=("work", "cells", "evidence"), rows=tuple(rows))


def _differences(found: Comparison) -> Table:
    metrics = [metric for metric in COLUMNS if any(metric in pair.ratios for pair in found.pairs)]
    rows = [("all, mean", *(_cell(found.overall.get(metric)) for metric in metrics))]
    for pair in found.pairs:
        cells = [_cell(pair.ratios.get(metric)) for metric in metrics]
        if not pair.work.comparable:
            cells = [
                ratio_text(ratio) + OTHER_DATA if (ratio := pair.ratios.get(metric)) else "–"
                for metric in metrics
            ]
        rows.append((pair.text, *cells))
    return Table(
        title=f"{found.b} / {found.a}",
        head=("cell", *(COLUMNS[metric] for metric in metrics)),
        rows=tuple(rows),
        note="B / A with 95 % intervals; ≈ marks a difference inside the noise, ? one without repeats to tell.",
    )


def _cell(ratio: Ratio | None) -> str:
    if ratio is None:
        return "–"
    if ratio.low is None:
        return f"? {ratio_text(ratio)}"
    return ratio_text(ratio) if ratio.above(1) or ratio.below(1) else f"≈ {ratio_text(ratio)}"


def _gates(found: Comparison) -> Table | None:
    rows = []
    for gate in found.gates:
        verdicts = [pair.gates[gate.text] for pair in found.pairs]
        failing = [pair for pair in found.pairs if pair.gates[gate.text] == "fails"]
        counts = ", ".join(f"{verdicts.count(each)} {each}" for each in dict.fromkeys(verdicts))
        worst = "; ".join(f"{pair.text}: {ratio_text(pair.ratios[gate.metric])}" for pair in failing[:5])
        rows.append((gate.text, counts, worst or "–"))
    return table_of("Gates", ("gate", "cells", "failing"), rows)


def _changed(found: Comparison) -> Table | None:
    rows = [(name, one, other) for name, (one, other) in found.changed.items()]
    nothing = [("nothing that was recorded", "", "")]
    return table_of("What changed around it", ("", found.a, found.b), rows or nothing)


def _left_out(found: Comparison) -> Table | None:
    return table_of("Not compared", ("cell",), [(line,) for line in (*found.unpaired, *found.excluded)])


def headline(found: Comparison) -> str:
    """One sentence: how many cells, and the mean difference of latency."""
    ratio = found.overall.get("e2e_s")
    proven = sum(pair.work.verdict == "same" for pair in found.pairs)
    other = sum(not pair.work.comparable for pair in found.pairs)
    words = f"{len(found.pairs)} cells compared, the same work proven in {proven}"
    words += f", not the same data in {other}, which have no part in the mean" if other else ""
    if ratio is None:
        return words + "."
    change = f"{'+' if ratio.value >= 1 else '−'}{show_share(abs(ratio.value - 1))}"
    sure = (
        ""
        if ratio.above(1) or ratio.below(1)
        else ", inside the noise"
        if ratio.low is not None
        else ", no repeats"
    )
    return f"{words}; latency of {found.b} is {change} of {found.a}'s on average{sure}."
