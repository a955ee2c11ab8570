"""An analysis as words and tables: findings, how far to trust them, memory, ceilings."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import replace

from loadgen.analysis.analyse import Analysis
from loadgen.analysis.finding import cell_text, server_text, split_text, subject_text
from loadgen.analysis.starts import machines
from loadgen.analysis.table import Key, Row
from loadgen.metrics.percentiles import tail
from loadgen.records import ClientQuality, Dist
from loadgen.report.claim_tables import claim_table, open_table, server_table
from loadgen.report.ledger_table import ledger_table
from loadgen.report.version_table import mixed_servers
from loadgen.telemetry.ledger import kv_at_most
from loadgen.text_table import Table, table_of
from loadgen.theory.models import kv_bytes_per_token, weight_bytes
from loadgen.units import show_bytes, show_duration, show_number, show_rate, show_s, show_share


def tables_of(analysis: Analysis) -> list[Table]:
    """One row a claim, the servers that decide, what is not tested; and what to know before believing any of it."""
    findings = analysis.findings
    found = (claim_table(findings), server_table(findings), open_table(findings))
    return [*filter(None, found), *doubt_tables(analysis)]


def doubt_tables(analysis: Analysis) -> list[Table]:
    """What to know before believing, and the differences that the noise hides."""
    found = (
        mixed_servers(analysis.study.servers),
        table_of("To know", ("note",), [(note,) for note in analysis.notes]),
        table_of(
            "Differences inside the noise", ("at equal work",), [(line,) for line in analysis.inside_noise]
        ),
    )
    return list(filter(None, found))


def statistics(analysis: Analysis) -> list[str]:
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
        count = machines(analysis.rows)
        several = f", over {count} machines, whose differences are in it" if count > 1 else ""
        lines.append(
            f"Drift over the sweep ({show_duration(analysis.drift.hours * 3600)}{several}): {value} % [{low}, {high}], "
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
    return [*lines, *analysis.notes]


def excluded(analysis: Analysis) -> dict[str, list[str]]:
    """Trials kept out of charts and findings, by the kind of reason."""
    kinds: dict[str, list[str]] = {}
    for row in analysis.rows:
        if row.run in analysis.excluded:
            kind, _, detail = analysis.excluded[row.run].partition(": ")
            name = f"{cell_text(row.key)}, repeat {row.trial.repeat + 1}"
            kinds.setdefault(kind, []).append(f"{name}: {detail}" if detail else name)
    return kinds


def suspicious(analysis: Analysis) -> list[str]:
    """Trials that are possible, but outside of what engines are known to reach."""
    return [
        f"{cell_text(row.key)}: {note}"
        for row in analysis.rows
        if row.run in analysis.physics and row.usable
        for note in analysis.physics[row.run].suspicious
    ]


def proof_table(analysis: Analysis) -> Table | None:
    """Whether servers that are compared did the same work."""
    rows = [
        (proof.one, proof.other, proof.work.verdict, str(proof.cells), proof.work.why)
        for proof in analysis.proofs
    ]
    head = ("server", "server", "same work", "cells looked at", "evidence")
    note = "Prompts, counts and first greedy tokens of a few common cells; the weakest verdict counts."
    return table_of("Same work?", head, rows, note)


def client_table(analysis: Analysis) -> Table:
    """The worst of the load generator's own figures, per server: whether the client or the server was measured."""
    groups: dict[str, list[ClientQuality]] = defaultdict(list)
    for row in analysis.rows:
        if row.result.client is not None:
            groups[f"{row.source}: {row.key.label} {split_text(row.key)}"].append(row.result.client)
    rows = [
        (
            name,
            "; ".join(sorted({f"{each.driver}, {each.stamps} stamps" for each in found})),
            str(len(found)),
            *(show(_worst(map(get, found))) for _, get, show in CLIENT),
        )
        for name, found in sorted(groups.items())
    ]
    head = ("server", "driver", "trials", *(name for name, *_ in CLIENT))
    note = "Below 100 values the largest stands for their p99."
    return Table(
        title="The load generator's own figures (worst trial)", head=head, rows=tuple(rows), note=note
    )


def _p99(lag: Dist | None) -> float | None:
    return tail(lag, "p99") if lag else None


def _coalesced(client: ClientQuality) -> float | None:
    if client.coalesced_reads is None or not client.reads:
        return None
    return client.coalesced_reads / client.reads


CLIENT: tuple[tuple[str, Callable[[ClientQuality], float | None], Callable[[float | None], str]], ...] = (
    ("busiest core", lambda client: client.cpu_share, show_share),
    ("loop lag p99", lambda client: _p99(client.loop_lag_s), show_s),
    ("send lag p99", lambda client: _p99(client.send_lag_s), show_s),
    ("stamp lag p99", lambda client: _p99(client.stamp_lag_s), show_s),
    ("coalesced reads", _coalesced, show_share),
)


def _worst(values: Iterable[float | None]) -> float | None:
    return max((value for value in values if value is not None), default=None)


def predicted_memory_table(analysis: Analysis) -> Table | None:
    """Predicted weights and cache beside what was measured, per server at its largest batch."""
    cells = analysis.study.cells
    servers: dict[tuple[str, str, int, int], list[Key]] = defaultdict(list)
    for key in cells:
        servers[key.label, key.model, key.tp, key.pp].append(key)
    rows = []
    measured = False
    for keys in servers.values():
        key = max(keys, key=_tokens)
        first = cells[key].rows[0]
        model = first.model
        if model is None:
            continue
        weights = weight_bytes(model, key.dtype, key.tp, key.pp)
        cache = _tokens(key) * kv_bytes_per_token(model, key.dtype, key.tp, key.pp)
        figures = [
            analysis.study.estimate(cells[key], name)
            for name in ("gpu_memory_bytes", "gpu_memory_reserved_bytes", "cpu_memory_bytes")
        ]
        measured = measured or any(figures)
        needed = figures[0].value if figures[0] else None
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
    head = (
        "server", "split", "sequences × tokens", "weights, predicted", "KV cache, predicted", "needed, measured",
        "reserved, measured", "CPU, measured", "rest (activations, framework)",
    )  # fmt: skip
    note = "Bytes of the fullest GPU (CPU column: the server's processes)."
    note += "" if measured else " Memory was not measured: dashes are unknown, not zero."
    return table_of("", head, rows, note)


def ledger_tables(analysis: Analysis) -> list[Table]:
    """The memory ledgers of each server's trials, as a table with its name."""
    servers: dict[str, list[Row]] = defaultdict(list)
    for row in analysis.rows:
        servers[f"{server_text(row.key)} · {row.key.model} · {row.key.machine}"].append(row)
    found = {
        name: ledger_table(
            (row.result, row.results.telemetry(row.id) if row.results else None) for row in members
        )
        for name, members in sorted(servers.items())
    }
    return [replace(table, title=name) for name, table in found.items() if table]


def _tokens(key: Key) -> int:
    return key.batch * (key.input_tokens + key.output_tokens)


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
        bandwidth = show_rate(ceilings.bandwidth / 1e9, "GB/s")
        rows.append((machine, ceilings.source, bandwidth, rates, reduce or "–", show_s(ceilings.launch_s)))
    head = ("device", "source", "bandwidth", "matrix TFLOP/s", "all-reduce α + β", "launch")
    return table_of("Ceilings", head, rows)
