"""The page's parts that are words and tables: statistics, doubts, memory, environment."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from loadgen.analysis.analyse import Analysis
from loadgen.analysis.finding import split_text, subject_text
from loadgen.analysis.table import Key
from loadgen.metrics.percentiles import tail
from loadgen.report import sections, tables
from loadgen.report.html_findings import cell_text, folded, listed
from loadgen.report.ledger_table import ledger_table
from loadgen.telemetry.ledger import kv_at_most
from loadgen.text_table import Table, holds_figures
from loadgen.theory.models import kv_bytes_per_token, weight_bytes
from loadgen.units import show_bytes, show_duration, show_number, show_rate, show_s, show_share

BADGES = {
    "holds": ("holds", "✓ holds"),
    "refuted": ("refuted", "✗ refuted"),
    "not tested": ("open", "– not tested"),
}


def table(found: Table) -> str:
    """A table of text as HTML; columns of figures to the right."""
    numeric = [holds_figures(row[at] for row in found.rows) for at in range(len(found.head))]
    head = "".join(
        f'<th{_right(numeric[at])} scope="col">{escape(text)}</th>' for at, text in enumerate(found.head)
    )
    rows = "".join(
        "<tr>"
        + "".join(f"<td{_right(numeric[at])}>{escape(text)}</td>" for at, text in enumerate(row))
        + "</tr>"
        for row in found.rows
    )
    note = f'<p class="note">{escape(found.note)}</p>' if found.note else ""
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>{note}'


def _right(numeric: bool) -> str:
    return ' class="number"' if numeric else ""


def titled(found: Table | None) -> str:
    """A table under its heading; empty for none."""
    return "" if found is None else f"<h3>{escape(found.title)}</h3>{table(found)}"


def statistics(analysis: Analysis) -> str:
    """How far the numbers can be trusted: noise, drift, what could not be seen."""
    lines = []
    if analysis.noise is not None:
        noise = analysis.noise
        lines.append(
            f"Noise floor: runs of one cell differ by {show_share(noise.relative)} "
            f"[{show_share(noise.low)}, {show_share(noise.high)}] (standard deviation of end-to-end p50, "
            f"{noise.cells} cells with repeats, {noise.freedom} degrees of freedom)."
        )
        lines.append(
            "Smallest difference found 4 times in 5, at 95 % confidence: "
            + ", ".join(
                f"{show_share(noise.detectable(count))} with {count} repeats" for count in (1, 3, 5, 10)
            )
            + "."
        )
    if analysis.drift is not None:
        told = "is told from the noise" if analysis.drift.distinguishable else "is not told from none"
        value, low, high = (f"{each * 100:+.2f}" for each in analysis.drift.over_sweep)
        lines.append(
            f"Drift over the sweep ({show_duration(analysis.drift.hours * 3600)}): {value} % [{low}, {high}], "
            f"which {told}."
        )
    else:
        lines.append("Drift: not tested (no repeats spread over time).")
    if rounds := analysis.study.rounds():
        lines.append(
            f"{rounds} rounds ran side by side: the same work on rivals, one right after the other. Differences "
            "between rivals are taken within rounds, where drift strikes both alike."
        )
    lines.append(
        "Intervals are 95 %: a bootstrap of the repeats' residuals, pooled over a server's cells and widened for "
        f"small samples; with one run per cell, a block bootstrap over its requests. A change within "
        f"{show_share(analysis.rules.margin)} counts as none in the findings."
    )
    return listed([*lines, *analysis.notes])


def excluded(analysis: Analysis) -> str:
    """Trials kept out of charts and findings, with the reason."""
    kinds: dict[str, list[str]] = {}
    for row in analysis.rows:
        if row.run in analysis.excluded:
            kind, _, detail = analysis.excluded[row.run].partition(": ")
            name = f"{cell_text(row.key)}, repeat {row.trial.repeat + 1}"
            kinds.setdefault(kind, []).append(f"{name}: {detail}" if detail else name)
    suspicious = [
        f"{cell_text(row.key)}: {note}"
        for row in analysis.rows
        if row.run in analysis.physics and row.usable
        for note in analysis.physics[row.run].suspicious
    ]
    out = "".join(folded(f"{kind}: {_trials(len(lines))}", lines) for kind, lines in kinds.items())
    doubts = folded(_trials(len(suspicious)), suspicious) if suspicious else listed([], "None.")
    return (
        "<h3>Kept out of charts and findings</h3>"
        + (out or listed([], "No trial: every one is possible and none was limited by the client."))
        + "<h3>Possible, but outside of what engines are known to reach</h3>"
        + doubts
    )


def _trials(count: int) -> str:
    return f"{count} trial{'s' if count != 1 else ''}"


def caveats(analysis: Analysis) -> str:
    """Caveats, failures and what was not measured; how equal the work was, and how good the client."""
    results = [row.result for row in analysis.rows]
    parts = [sections.caveat_table(results), sections.failure_table(results), tables.unmeasured(results)]
    more = (proof_table(analysis), client_table(analysis))
    return "".join(titled(part) for part in (*parts, *more))


def proof_table(analysis: Analysis) -> Table | None:
    """Whether servers that are compared did the same work."""
    rows = tuple(
        (proof.one, proof.other, proof.work.verdict, str(proof.cells), proof.work.why)
        for proof in analysis.proofs
    )
    head = ("server", "server", "same work", "cells looked at", "evidence")
    note = "Prompts, counts and first greedy tokens of a few common cells; the weakest verdict counts."
    return Table(title="Same work?", head=head, rows=rows, note=note) if rows else None


def client_table(analysis: Analysis) -> Table:
    """The worst of the load generator's own figures, per server: whether the client or the server was measured."""
    groups: dict[str, list[tuple[float | None, ...]]] = {}
    kinds: dict[str, set[str]] = {}
    for row in analysis.rows:
        client = row.result.client
        if client is None:
            continue
        name = f"{row.source}: {row.key.label} {split_text(row.key)}"
        kinds.setdefault(name, set()).add(f"{client.driver}, {client.stamps} stamps")
        share = (
            client.coalesced_reads / client.reads
            if client.coalesced_reads is not None and client.reads
            else None
        )
        groups.setdefault(name, []).append(
            (
                client.cpu_share,
                *(
                    tail(lag, "p99") if lag else None
                    for lag in (client.loop_lag_s, client.send_lag_s, client.stamp_lag_s)
                ),
                share,
            )
        )
    shows = (show_share, show_s, show_s, show_s, show_share)
    rows = tuple(
        (
            name,
            "; ".join(sorted(kinds[name])),
            str(len(found)),
            *(show(_worst([each[at] for each in found])) for at, show in enumerate(shows)),
        )
        for name, found in sorted(groups.items())
    )
    head = (
        "server",
        "driver",
        "trials",
        "busiest core",
        "loop lag p99",
        "send lag p99",
        "stamp lag p99",
        "coalesced reads",
    )
    note = "Below 100 values the largest stands for their p99."
    return Table(title="The load generator's own figures (worst trial)", head=head, rows=rows, note=note)


def _worst(values: Sequence[float | None]) -> float | None:
    return max((value for value in values if value is not None), default=None)


def memory_ledger(analysis: Analysis) -> str:
    """Predicted weights and cache beside what was measured, per server at its largest batch."""
    largest: dict[tuple[str, str, int, int], Key] = {}
    cells = analysis.study.cells
    for key in cells:
        server = (key.label, key.model, key.tp, key.pp)
        size = key.batch * (key.input_tokens + key.output_tokens)
        held = largest.get(server)
        if held is None or size > held.batch * (held.input_tokens + held.output_tokens):
            largest[server] = key
    rows = []
    measured = False
    for key in largest.values():
        model = cells[key].rows[0].model
        if model is None:
            continue
        weights = weight_bytes(model, key.dtype, key.tp, key.pp)
        tokens = key.batch * (key.input_tokens + key.output_tokens)
        cache = tokens * kv_bytes_per_token(model, key.dtype, key.tp, key.pp)
        figures = [
            analysis.study.estimate(cells[key], name)
            for name in ("gpu_memory_bytes", "gpu_memory_reserved_bytes", "cpu_memory_bytes")
        ]
        measured = measured or any(figures)
        needed = figures[0].value if figures[0] else None
        first = cells[key].rows[0]
        at_most = kv_at_most(first.trial.load, first.result.engine)
        rest = None if needed is None or at_most else needed - weights - cache
        told = f"{'at most ' if at_most else ''}{show_bytes(cache)}"
        rows.append(
            (
                subject_text(key), split_text(key), f"{key.batch} × {key.input_tokens + key.output_tokens}",
                show_bytes(weights), told, *(show_bytes(each.value if each else None) for each in figures),
                show_bytes(rest),
            )
        )  # fmt: skip
    if not rows:
        return '<p class="soft">No model is known.</p>'
    head = (
        "server", "split", "sequences × tokens", "weights, predicted", "KV cache, predicted", "needed, measured",
        "reserved, measured", "CPU, measured", "rest (activations, framework)",
    )  # fmt: skip
    note = "Bytes of the fullest GPU (CPU column: the server's processes)."
    note += "" if measured else " Memory was not measured: dashes are unknown, not zero."
    every = ledger_table(
        (row.result, row.results.telemetry(row.id) if row.results else None) for row in analysis.rows
    )
    return table(Table(title="", head=head, rows=tuple(rows), note=note)) + titled(every)


def environment(analysis: Analysis) -> str:
    """Ceilings, machines and engines."""
    used = {row.result.environment: row.environment for row in analysis.rows if row.environment is not None}
    known = [each for each in used.values() if each is not None]
    parts = [sections.environment_table(known), sections.engine_table([row.result for row in analysis.rows])]
    return titled(ceilings_table(analysis)) + "".join(titled(part) for part in parts)


def ceilings_table(analysis: Analysis) -> Table | None:
    """The ceilings that everything was held against, and where they come from."""
    rows = []
    for machine, ceilings in sorted(analysis.ceilings.items()):
        rates = ", ".join(
            f"{dtype} {show_number(rate / 1e12)}" for dtype, rate in sorted(ceilings.matrix.items())
        )
        reduce = ", ".join(
            f"{line.ranks} {line.how}: {show_s(line.alpha_s)} + {show_number(line.beta_bytes_per_s / 1e9)} GB/s"
            for line in ceilings.all_reduce
        )
        rows.append(
            (
                machine,
                ceilings.source,
                show_rate(ceilings.bandwidth / 1e9, "GB/s"),
                rates,
                reduce or "–",
                show_s(ceilings.launch_s),
            )
        )
    head = ("device", "source", "bandwidth", "matrix TFLOP/s", "all-reduce α + β", "launch")
    return Table(title="Ceilings", head=head, rows=tuple(rows)) if rows else None
