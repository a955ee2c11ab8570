"""Roofline, Pareto front, and who wins where."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace

import numpy as np

from loadgen.analysis.analyse import Analysis
from loadgen.analysis.finding import server_text, split_text, subject_text
from loadgen.analysis.same_data import other_data
from loadgen.analysis.starts import Cell
from loadgen.analysis.study import Study
from loadgen.analysis.table import Key, work_of
from loadgen.report.chart import NOT_NAMED, Chart, Figure, Trace, axis, colour, layout, said, scatter, symbol
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
    return Figure(
        traces=tuple(traces),
        layout=layout(
            axis("arithmetic intensity (FLOP/byte)", log=True),
            axis("FLOP/s per device", log=True, unit="FLOP/s"),
        ),
    )


def pareto_chart(analysis: Analysis) -> Chart:
    """Latency against throughput per GPU; the front is what no other cell beats in both."""
    study = analysis.study
    groups: dict[str, list[Cell]] = defaultdict(list)
    for key, cell in study.cells.items():
        lengths = f"{key.input_tokens}/{key.output_tokens}"
        groups[f"{key.model} · {key.dtype} · {key.machine} · {lengths} tokens"].append(cell)
    choices = {}
    for name, cells in groups.items():
        known = [cell for cell in cells if cell.values(RATE) and cell.values(LATENCY)]
        if len(known) > 1:
            choices[name] = _pareto(study, known)
    return Chart(
        id="pareto",
        title="Latency against throughput per GPU",
        note="To the right and down is better. The grey front joins the cells that no other cell beats in both.",
        choices=choices,
        absent="Needs at least two cells of equal lengths.",
    )


def _pareto(study: Study, cells: list[Cell]) -> Figure:
    points = []
    for cell in cells:
        rate, latency = study.estimate(cell, RATE), study.estimate(cell, LATENCY)
        assert rate is not None
        assert latency is not None
        points.append((rate.value / cell.key.gpus, latency.value, cell))
    servers: dict[str, list[tuple[float, float, Cell]]] = defaultdict(list)
    for point in points:
        servers[server_text(point[2].key)].append(point)
    traces = []
    for at, (name, found) in enumerate(sorted(servers.items())):
        found.sort(key=lambda point: point[2].key.batch)
        rates, latencies, _ = zip(*found, strict=True)
        hover = [
            said(f"{name}, batch {cell.key.batch}", show_rate(rate, "tok/s per GPU"), show_s(latency))
            for rate, latency, cell in found
        ]
        traces.append(
            scatter(
                name, rates, latencies, hover, mode="lines+markers", line={"color": colour(at), "width": 1.5},
                marker={"color": colour(at), "symbol": symbol(at), "size": 7},
            )
        )  # fmt: skip
    front: list[tuple[float, float]] = []
    for most, least, _cell in sorted(points, key=lambda point: (-point[0], point[1])):
        if not front or least < front[-1][1]:
            front.append((most, least))
    rates, latencies = zip(*front, strict=True)
    grey = {"color": "#888888", "width": 7}
    under = scatter("front", rates, latencies, "", line=grey, opacity=0.35, hoverinfo="skip")
    return Figure(
        traces=(under, *traces),
        layout=layout(
            axis("output tokens per second and GPU", log=True),
            axis("end-to-end latency, p50", log=True, unit="s"),
        ),
    )


def winners_chart(analysis: Analysis) -> Chart:
    """Which framework has the lower latency at each batch and number of GPUs, and by how much."""
    groups: dict[Key, list[Cell]] = defaultdict(list)
    for key, cell in analysis.study.cells.items():
        if key.kind in ("static", "closed"):
            groups[replace(work_of(key), batch=-1)].append(cell)
    choices = {}
    for key, cells in groups.items():
        if len({_rival(cell) for cell in cells}) > 1:
            name = (
                f"{subject_text(replace(key, stream=True))} · {key.input_tokens}/{key.output_tokens} tokens"
            )
            choices[name] = _winners(analysis.study, cells)
    return Chart(
        id="winners",
        title="Who wins: lowest latency by batch and number of GPUs",
        note="Each field names the fastest server and how many times the next one's latency is; ≈ means that the "
        "noise cannot tell them apart; not the same data, that both ran at the power cap on weights of other makers.",
        choices=choices,
        absent="Needs results of at least two frameworks or engines at equal work.",
    )


def _rival(cell: Cell) -> str:
    return server_text(cell.key, split=False)


def _winners(study: Study, cells: list[Cell]) -> Figure:
    rivals = sorted({_rival(cell) for cell in cells})
    batches = sorted({cell.key.batch for cell in cells})
    gpus = sorted({cell.key.gpus for cell in cells})
    field: dict[tuple[int, int], list[Cell]] = defaultdict(list)
    for cell in cells:
        if study.estimate(cell, LATENCY) is not None:
            field[cell.key.gpus, cell.key.batch].append(cell)
    won = [[_winner(study, field[count, batch], rivals) for batch in batches] for count in gpus]
    steps = len(rivals)
    scale = [[edge, colour(at)] for at in range(steps) for edge in (at / steps, (at + 1) / steps)]
    trace: Trace = {
        "type": "heatmap",
        "x": [str(batch) for batch in batches],
        "y": [f"{count} GPU{'s' if count > 1 else ''}" for count in gpus],
        "z": [[place for place, _ in row] for row in won],
        "text": [[text for _, text in row] for row in won],
        "texttemplate": "%{text}",
        "textfont": {"size": 11},
        "hovertemplate": said("batch %{x}, %{y}", "%{text}") + NOT_NAMED,
        "zmin": -0.5,
        "zmax": steps - 0.5,
        "colorscale": scale,
        "opacity": 0.8,
        "xgap": 2,
        "ygap": 2,
        "colorbar": {
            "tickvals": list(range(steps)),
            "ticktext": list(map(said, rivals)),
            "tickmode": "array",
        },
    }
    return Figure(
        traces=(trace,),
        layout=layout(
            axis("sequences at once (batch)") | {"type": "category"}, axis("") | {"type": "category"}
        ),
    )


def _winner(study: Study, cells: list[Cell], rivals: list[str]) -> tuple[float | None, str]:
    """The winner's place among the rivals and the words in its field; ``None`` for a tie or a lone runner."""
    best: dict[str, Cell] = {}
    for cell in cells:
        held, new = best.get(_rival(cell)), study.estimate(cell, LATENCY)
        assert new is not None
        old = study.estimate(held, LATENCY) if held is not None else None
        if old is None or new.value < old.value:
            best[_rival(cell)] = cell
    if not best:
        return None, ""
    if len(best) == 1:
        return None, said(f"only {next(iter(best))}")
    order = sorted(best.values(), key=lambda cell: _latency(study, cell))
    if other_data(order[0].rows, order[1].rows):
        return None, said("not the same data:", f"{_rival(order[0])}, {_rival(order[1])}")
    ratio = study.ratio(order[1], order[0], LATENCY)
    assert ratio is not None
    if not ratio.above(1):
        return None, said(f"≈ {_rival(order[0])}, {_rival(order[1])}")
    return float(rivals.index(_rival(order[0]))), said(_rival(order[0]), f"×{ratio.value:.2f}")


def _latency(study: Study, cell: Cell) -> float:
    estimate = study.estimate(cell, LATENCY)
    assert estimate is not None
    return estimate.value
