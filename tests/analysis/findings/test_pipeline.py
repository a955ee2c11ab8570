"""F9: pipeline stages, and the largest batch that they allow."""

from __future__ import annotations

from cases import case, finding, rows
from synthetic import (
    Point,
    World,
    failed,
    grid,
    sweep,
)


def test_f9_pipeline_stages() -> None:
    points = grid(pp=(1, 2, 4), batch=(1, 8, 64), output_tokens=(100,))
    slower = World(
        prefill=lambda p: 10e-3 * (1 + 0.1 * p.pp), step=lambda p: 10e-3 * (1 + 0.1 * p.pp), noise=0.01
    )
    results = sweep(points, slower)
    f9 = finding(case(rows(results)), "F9")
    assert f9.verdict == "holds"
    assert "largest batch was not tested" in f9.sentence
    full = [
        *results,
        failed(Point(pp=1, batch=128, output_tokens=100)),
        failed(Point(pp=2, batch=256, output_tokens=100)),
    ]
    full += sweep([Point(pp=2, batch=128, output_tokens=100)], slower)
    f9 = finding(case(rows(full)), "F9")
    assert f9.verdict == "holds"
    assert "pp 1: 64, pp 2: 128" in f9.sentence
    quicker = World(prefill=lambda p: 10e-3 / p.pp, step=lambda p: 10e-3 / p.pp, noise=0.01)
    assert finding(case(rows(sweep(points, quicker))), "F9").verdict == "refuted"
