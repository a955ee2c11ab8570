"""Cells: what belongs to one server, whose noise is whose, and who has no say."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from cases import EXP1, case, one, rows
from synthetic import (
    BATCHES,
    Point,
    World,
    grid,
    limited,
    result,
    roofline_world,
    sweep,
)

SIZED = {1: 139_264, 2: 278_528, 4: 540_672}


def fastgen(tokens: dict[int, int], batches: Sequence[int] = BATCHES) -> list[Point]:
    """A cache sized by the number of GPUs, as the parts of a reproduction ask for it."""
    return [
        Point(
            framework="ds",
            engine="mii-fastgen",
            tp=tp,
            batch=batch,
            input_tokens=length,
            options={"kv_tokens": size},
        )
        for tp, size in tokens.items()
        for batch in batches
        for length in (20, 512)
    ]


def test_a_reservation_makes_no_other_server_of_each_split() -> None:
    found = case(rows(sweep(fastgen(SIZED), roofline_world(ridge=1000.0))))
    (subject,) = found.subjects()
    assert subject.variant == ""
    assert one(found, "F2").verdict == "holds"
    assert one(found, "F3a").verdict == "holds"


def test_two_reservations_at_one_split_are_not_pooled() -> None:
    points = [*fastgen(SIZED), *fastgen({1: 20_000})]
    found = case(rows(sweep(points, roofline_world(ridge=1000.0))))
    variants = {subject.variant for subject in found.subjects()}
    assert variants == {f"kv_tokens={size}" for size in (*SIZED.values(), 20_000)}
    assert all(len(cell.rows) == 3 for cell in found.study.cells.values())


def test_noise_is_each_servers_own() -> None:
    """A quiet engine beside one that launches every kernel from Python: neither lends the other its noise."""
    quiet = World(prefill=lambda _p: 1e-2, step=lambda _p: 1e-2, noise=0.003)
    loud = World(prefill=lambda _p: 1e-2, step=lambda _p: 1e-2, noise=0.3)
    points = grid(batch=(1, 64), output_tokens=(20, 100))
    results = sweep(points, quiet, repeats=2)
    results += sweep([replace(point, engine="compiled") for point in points], loud, repeats=2, seed=4)
    study = case(rows(results)).study
    widths: dict[str, list[float]] = {}
    for key, cell in study.cells.items():
        estimate = study.estimate(cell, "e2e_s")
        assert estimate is not None
        assert estimate.low is not None
        assert estimate.high is not None
        widths.setdefault(key.label, []).append(estimate.high / estimate.low)
    assert max(widths["hf/generate"]) < 1.02
    assert min(widths["hf/compiled"]) > 1.2


@pytest.mark.parametrize(
    ("hours", "starts", "trend"),
    [
        (((0, 3, 4, 7), (1, 2, 5, 6)), 4, True),
        (((0, 1, 2, 3), (4, 5, 6, 7)), 4, True),
        (((0, 1, 2, 3), (104, 105, 106, 107)), 4, False),  # another session
        (((0, 3, 4), (1, 2, 5)), 3, False),  # too few starts
    ],
)
def test_four_starts_a_side_of_one_session_are_compared_beside_its_trend(
    hours: tuple[tuple[float, ...], ...], starts: int, trend: bool
) -> None:
    world = World(prefill=lambda _p: 1e-2, step=lambda _p: 1e-2, noise=0.003, drift_per_hour=0.01)
    rng = np.random.default_rng(1)
    results = [
        result(point, world, repeat=at, hours=hours[point.tp - 1][at], rng=rng, start=f"{point.tp} {at}")
        for at in range(starts)
        for point in grid(tp=(1, 2), batch=(1, 4))
    ]
    study = case(rows(results)).study
    found = study.mean_ratio([(each[1], each[0]) for each in study.series("tp").values()], "e2e_s")
    assert found is not None
    assert ("trend" in found.source) == trend
    if trend:
        assert found.df == 2 * starts - 3
        assert found.low is not None
        assert found.high is not None
        assert found.low < 1 < found.high


def test_client_limited_trials_do_not_speak() -> None:
    spoilt = [dataclasses.replace(each, caveats=(limited(),)) for each in sweep(EXP1, roofline_world())]
    found = case(rows(spoilt))
    assert not found.study.cells
    assert not found.subjects()
