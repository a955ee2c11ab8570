"""A comparison as tables, for the terminal and for Markdown."""

from __future__ import annotations

from loadgen.analysis.compare import Comparison
from loadgen.analysis.finding import ratio_text
from loadgen.analysis.gates import Outcome
from loadgen.analysis.ratios import Ratio
from loadgen.text_table import Table
from loadgen.units import show_interval, show_number, show_share

OTHER_DATA = " (not the same data)"
SHOWN = 3  # cells that a gate's line names
COLUMNS = {
    "e2e_s": "E2E p50",
    "ttft_s": "TTFT p50",
    "tpot_s": "TPOT p50",
    "output_tokens_per_s": "output tok/s",
    "gpu_memory_bytes": "GPU memory",
}


def tables_of(found: Comparison) -> list[Table]:
    """Same work first, then the differences, and what changed around them."""
    compared = [_work(found), _differences(found)] if found.pairs else []
    return [table for table in (*compared, _changed(found), _left_out(found)) if table]


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
    failing = any(pair.failed_a[0] or pair.failed_b[0] for pair in found.pairs)
    rows = [
        ("all, mean", *(_cell(found.overall.get(metric)) for metric in metrics), *([""] if failing else []))
    ]
    for pair in found.pairs:
        other = "" if pair.work.comparable else OTHER_DATA
        cells = [_cell(pair.ratios.get(metric), other) for metric in metrics]
        rows.append(
            (pair.text, *cells, *([f"{_share(pair.failed_a)} → {_share(pair.failed_b)}"] if failing else []))
        )
    return Table(
        title=f"{found.b} / {found.a}",
        head=("cell", *(COLUMNS[metric] for metric in metrics), *(["failed requests"] if failing else [])),
        rows=tuple(rows),
        note="B / A with 95 % intervals. ≈: no difference shown (of cells, by Holm over all of them); ?: how starts "
        f"differ is not known. {' '.join(filter(None, [_sure(found), found.slow, '; '.join(found.worse)]))}",
    )


def _sure(found: Comparison) -> str:
    """Starts, machines, degrees of freedom of the mean, and where its variance is from."""
    ratio = found.overall.get("e2e_s") or next(iter(found.overall.values()), None)
    if ratio is None:
        return ""
    (b, a), (on_b, on_a) = ratio.starts, ratio.machines
    df = "" if ratio.df is None else f", {ratio.df:.3g} degrees of freedom"
    return f"Server starts: A {a} on {_machines(on_a)}, B {b} on {_machines(on_b)}{df}; {ratio.source}."


def _machines(count: int) -> str:
    return f"{count} machine{'' if count == 1 else 's'}"


def _share(failed: tuple[int, int]) -> str:
    return f"{failed[0]}/{failed[1]}"


def _cell(ratio: Ratio | None, other_data: str = "") -> str:
    if ratio is None:
        return "–"
    if other_data:
        return f"×{ratio.value:.3g}{other_data}"
    if not ratio.told:
        return f"? ×{ratio.value:.3g}"
    return ratio_text(ratio) if ratio.differs else f"≈ {ratio_text(ratio)}"


def gate_lines(found: Comparison) -> list[str]:
    """One line a gate: its verdict, the mean and the cells behind it, and what else decided."""
    return [_gate_line(each) for each in found.gates]


def _gate_line(outcome: Outcome) -> str:
    parts = [*outcome.reasons[:SHOWN]]
    if len(outcome.reasons) > SHOWN:
        parts.append(f"and {len(outcome.reasons) - SHOWN} more")
    beyond = outcome.beyond
    if beyond:
        count = f"{len(beyond)} of {len(outcome.cells)} cells beyond it"
        show = _figure if outcome.gate.absolute else ratio_text
        parts.append(f"{count}: " + "; ".join(f"{text} {show(ratio)}" for text, ratio in beyond[:SHOWN]))
    if outcome.mean is not None:
        told = ratio_text(outcome.mean) if outcome.mean.told else f"×{show_number(outcome.mean.value)}"
        why = "" if outcome.mean.told else f" ({outcome.mean.source})"
        parts.append(f"mean {told}{why}")
    elif outcome.cells and not beyond:
        text, worst = max(outcome.cells, key=lambda each: each[1].value * (1 if outcome.gate.at_most else -1))
        why = "" if worst.told else f" ({worst.source})"
        parts.append(f"of {len(outcome.cells)} cells the nearest to it is {text}, {_figure(worst)}{why}")
    return f"{outcome.gate.text}: {outcome.verdict}: " + "; ".join(parts or ["not measured"])


def _figure(ratio: Ratio) -> str:
    """A figure of B alone, in the unit of the gate's metric."""
    if ratio.low is None or ratio.high is None:
        return f"{ratio.value:.3g}"
    return show_interval(ratio.value, ratio.low, ratio.high)


def _changed(found: Comparison) -> Table | None:
    rows = tuple((name, one, other) for name, (one, other) in found.changed.items())
    if not rows:
        rows = (("nothing that was recorded", "", ""),)
    return Table(title="What changed around it", head=("", found.a, found.b), rows=rows)


def _left_out(found: Comparison) -> Table | None:
    lines = [*found.unpaired, *found.excluded]
    return (
        Table(title="Not compared", head=("cell",), rows=tuple((line,) for line in lines)) if lines else None
    )


def headline(found: Comparison) -> str:
    """One sentence: how many cells, and the mean difference of latency."""
    ratio = found.overall.get("e2e_s")
    proven = sum(pair.work.verdict == "same" for pair in found.pairs)
    other = sum(not pair.work.comparable for pair in found.pairs)
    words = f"{len(found.pairs)} cells compared, the same work proven in {proven}"
    words += f", not the same data in {other}, which have no part in the mean" if other else ""
    if found.lost:
        words += f", of {len(found.lost)} more B has no usable trial ({found.lost[0]})"
    if ratio is None:
        return words + "."
    change = f"{'+' if ratio.value >= 1 else '−'}{show_share(abs(ratio.value - 1))}"
    sure = f" ({ratio.source})" if not ratio.told else "" if ratio.differs else ", inside the noise"
    return f"{words}; latency of {found.b} is {change} of {found.a}'s on average{sure}."
