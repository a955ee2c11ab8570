"""F9: pipeline stages, and the largest batch that they allow."""

from __future__ import annotations

from cases import case, one, rows
from synthetic import (
    Point,
    World,
    failed,
    grid,
    sweep,
)

POINTS = grid(pp=(1, 2, 4), batch=(1, 8, 64), output_tokens=(100,))


def staged(factor: float) -> World:
    """Every doubling of the stages takes ``factor`` of the time."""
    steps = {1: 0, 2: 1, 4: 2}
    return World(
        prefill=lambda p: 10e-3 * factor ** steps[p.pp],
        step=lambda p: 10e-3 * factor ** steps[p.pp],
        noise=0.01,
    )


def test_more_stages_that_slow_down_hold_and_quicker_ones_refute() -> None:
    f9 = one(case(rows(sweep(POINTS, staged(1.1)))), "F9a")
    assert f9.verdict == "holds"
    assert f9.at == "20/100"
    assert f9.sentence.count("1 → 2") == 1
    assert one(case(rows(sweep(POINTS, staged(0.6)))), "F9a").verdict == "refuted"


def test_each_step_is_printed_once_with_its_lengths() -> None:
    points = [*POINTS, *grid(pp=(1, 2), batch=(1, 8), output_tokens=(20,))]
    f9 = one(case(rows(sweep(points, staged(1.1)))), "F9a")
    names = [number.name for number in f9.numbers]
    assert len(names) == len(set(names)) == 6
    assert "latency, pp 2 over pp 1 at 20/20" in names


def test_the_largest_batch_is_a_claim_of_its_own() -> None:
    results = sweep(POINTS, staged(1.1))
    assert one(case(rows(results)), "F9b").verdict == "not tested"
    full = [
        *results,
        failed(Point(pp=1, batch=128, output_tokens=100)),
        failed(Point(pp=2, batch=256, output_tokens=100)),
        *sweep([Point(pp=2, batch=128, output_tokens=100)], staged(1.1)),
    ]
    f9 = one(case(rows(full)), "F9b")
    assert f9.verdict == "holds"
    assert "pp 1: 64, pp 2: 128" in f9.sentence
