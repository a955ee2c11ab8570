"""F3's plateau: flat is what is shown to be, on each server."""

from __future__ import annotations

from cases import case, findings, one, rows
from synthetic import BATCHES, World, grid, sweep

SERIES = grid(batch=BATCHES, output_tokens=(100,))


def rising(by: float, noise: float = 0.01) -> World:
    """Ten per cent more at batch ``by``."""
    return World(prefill=lambda _p: 1e-9, step=lambda p: 5e-3 * (1 + 0.1 * p.batch / by), noise=noise)


def test_the_plateau_s_end_lies_in_its_interval() -> None:
    f3 = one(case(rows(sweep(SERIES, rising(12.0)))), "F3b")
    assert f3.verdict == "holds"
    assert f3.effect is not None
    assert f3.effect.low is not None
    assert f3.effect.high is not None
    assert f3.effect.low <= 12.0 * 1.05 <= f3.effect.high
    assert f3.sentence.startswith("At 20/100, latency stays within 10 % of batch 1's up to batch ")


def test_latency_that_rises_at_once_refutes_where_the_grid_is_fine() -> None:
    world = World(prefill=lambda _p: 1e-9, step=lambda p: 5e-3 * p.batch, noise=0.01)
    assert one(case(rows(sweep(SERIES, world))), "F3b").verdict == "refuted"
    coarse = [point for point in SERIES if point.batch in (1, 64, 256)]
    assert one(case(rows(sweep(coarse, world))), "F3b").verdict == "not tested"


def test_nothing_is_called_flat_that_the_noise_may_hide() -> None:
    """Twice as slow at batch 64 in truth, and trials that differ by 40 %."""
    loud = World(prefill=lambda _p: 1e-2, step=lambda p: 1e-2 * (1 + p.batch / 64), noise=0.4)
    f3 = one(case(rows(sweep(grid(batch=(1, 64)), loud, repeats=2))), "F3b")
    assert f3.verdict == "not tested"
    assert any(want.again for want in f3.wanted)


def test_each_server_is_decided_apart() -> None:
    """Flat on four GPUs and rising at once on one."""
    world = World(prefill=lambda _p: 1e-9, step=lambda p: 5e-3 * (p.batch if p.tp == 1 else 1), noise=0.01)
    points = grid(tp=(1, 4), batch=(1, 2, 4, 8), output_tokens=(100,))
    found = findings(case(rows(sweep(points, world))), "F3b")
    assert [each.verdict for each in found] == ["refuted", "holds"]
