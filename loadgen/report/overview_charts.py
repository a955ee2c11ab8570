"""Roofline and Pareto front."""

from __future__ import annotations

from collections import defaultdict

import numpy as np

from loadgen.analysis.analyse import Analysis
from loadgen.analysis.finding import split_text
from loadgen.analysis.starts import Cell
from loadgen.analysis.study import Study
from loadgen.analysis.winners import job_text, jobs, load_text, names
from loadgen.report.chart import Chart, Figure, axis, colour, figure, layout, said, scatter, symbol
from loadgen.theory.ceilings import Ceilings
from loadgen.units import show_rate, show_s, show_share

RATE, LATENCY = "output_tokens_per_s", "e2e_s"


def roofline_chart(analysis: Analysis) -> Chart:
    """Every possible trial at its arithmetic intensity, under the ceilings of its machine."""
    groups: dict[tuple[str, str], dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for row in analysis.rows:
        if row.run in analysis.physics and row.usable:
            groups[row.key.machine, row.key.dtype][row.key.label].append(row.run)
    choices = {}
    for (machine, dtype), labels in sorted(groups.items()):
        ceilings = analysis.ceilings[machine]
        choices[f"{machine} · {dtype}"] = _roofline(analysis, ceilings, dtype, labels)
    return Chart(
        id="roofline",
        title="Roofline: every trial under its machine's ceilings",
        note="Each point is a whole trial, prefill and decode together, per device. Points far below the roof are "
        "limited by neither bandwidth nor compute. Trials of a closed loop use the mean number in flight.",
        choices=choices,
        absent="No trial has both a known model and known ceilings: run `loadgen probe` on the machine.",
    )


def _roofline(analysis: Analysis, ceilings: Ceilings, dtype: str, labels: dict[str, list[str]]) -> Figure:
    rows = {row.run: row for row in analysis.rows}
    intensities = [analysis.physics[id].intensity for ids in labels.values() for id in ids]
    peak = ceilings.matrix_rate(dtype)
    ridge = peak / ceilings.bandwidth if peak else max(intensities)
    grid = np.geomspace(min([*intensities, ridge]) / 2, max([*intensities, ridge]) * 3, 40)
    grid = np.sort(np.append(grid, ridge))
    roof = np.minimum(grid * ceilings.bandwidth, peak or np.inf)
    traces = [
        scatter(
            f"{ceilings.source} ceilings", grid.tolist(), roof.tolist(), "%{x:.3s} FLOP/byte: %{y:.4s}FLOP/s",
            line={"color": "#888888", "width": 2},
        )
    ]  # fmt: skip
    for at, (label, ids) in enumerate(sorted(labels.items())):
        found = [(rows[id].key, analysis.physics[id]) for id in ids]
        hover = [
            said(
                f"{label} {split_text(key)}, batch {key.batch}, {key.input_tokens}/{key.output_tokens}",
                f"MFU {show_share(physics.mfu)}, MBU {show_share(physics.mbu)}",
                f"regime: {physics.regime or 'not told'}",
            )
            for key, physics in found
        ]
        intensity = [physics.intensity for _, physics in found]
        rate = [physics.flops_per_s for _, physics in found]
        point = {"color": colour(at), "symbol": symbol(at), "size": 7, "opacity": 0.75}
        traces.append(scatter(label, intensity, rate, hover, mode="markers", marker=point))
    return figure(
        traces,
        layout(
            axis("arithmetic intensity (FLOP/byte)", log=True),
            axis("FLOP/s per device", log=True, unit="FLOP/s"),
        ),
    )


def pareto_chart(analysis: Analysis) -> Chart:
    """Latency against throughput per GPU, a choice per job; the front is what no other cell beats in both.

    Where nothing is known of GPUs, as of endpoints and on a CPU, the throughput is that of all of it.
    """
    choices = {}
    servers = [row.trial.server for cell in analysis.study.cells.values() for row in cell.rows]
    per = " per GPU" if any(server is not None and server.gpus for server in servers) else ""
    for job, cells in jobs(analysis.study).items():
        known = [cell for cell in cells if cell.values(RATE) and cell.values(LATENCY)]
        if len(known) > 1:
            choices[job_text(job)] = _pareto(analysis.study, known, per)
    return Chart(
        id="pareto",
        title=f"Latency against throughput{per}",
        note="To the right and down is better. The grey front joins what nothing else beats in both. A line is a "
        "server, from its smallest batch to its largest; click its name to hide it, twice to see it alone.",
        choices=choices,
        absent="Needs at least two cells of equal lengths.",
        opens=0,
    )


def _pareto(study: Study, cells: list[Cell], per: str) -> Figure:
    named = names(cells)
    servers: dict[str, list[tuple[float, float, Cell]]] = defaultdict(list)
    for cell in cells:
        rate, latency = study.estimate(cell, RATE), study.estimate(cell, LATENCY)
        assert rate is not None
        assert latency is not None
        servers[named(cell)].append((rate.value / cell.key.gpus, latency.value, cell))
    traces = []
    for at, (name, found) in enumerate(sorted(servers.items())):
        found.sort(key=lambda point: (point[2].key.batch, point[2].key.rate))
        rates, latencies, _ = zip(*found, strict=True)
        hover = [
            said(f"{name}, {load_text(cell.key)}", show_rate(rate, f"tok/s{per}"), show_s(latency))
            for rate, latency, cell in found
        ]
        traces.append(
            scatter(
                name, rates, latencies, hover, mode="lines+markers", line={"color": colour(at), "width": 1.5},
                marker={"color": colour(at), "symbol": symbol(at), "size": 7},
            )
        )  # fmt: skip
    points = [point for found in servers.values() for point in found]
    front: list[tuple[float, float]] = []
    for most, least, _cell in sorted(points, key=lambda point: (-point[0], point[1])):
        if not front or least < front[-1][1]:
            front.append((most, least))
    rates, latencies = zip(*front, strict=True)
    grey = {"color": "#888888", "width": 7}
    under = scatter("front", rates, latencies, "", line=grey, opacity=0.35, hoverinfo="skip")
    return figure(
        (under, *traces),
        layout(
            axis(f"output tokens per second{' and GPU' if per else ''}", log=True),
            axis("end-to-end latency, p50", log=True, unit="s"),
        ),
    )
