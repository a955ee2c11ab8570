"""F4 over the batch: whether throughput rises, and where its best value lies."""

from __future__ import annotations

import pytest
from cases import EXP3, case, findings, one, rows
from synthetic import BATCHES, World, grid, roofline_world, sweep

SERIES = grid(batch=BATCHES, output_tokens=(100,))


def peaking(at: float, noise: float = 0.01) -> World:
    """Latency = 1 + B/b: throughput per latency, B/(1 + B/b)², peaks at B = b."""
    return World(prefill=lambda _p: 1e-9, step=lambda p: 5e-3 / p.tp * (1 + p.batch / at), noise=noise)


@pytest.mark.parametrize(("peak", "verdict"), [(90.0, "holds"), (6.0, "refuted")])
def test_f4_finds_the_best_batch_and_judges_the_range(peak: float, verdict: str) -> None:
    found = findings(case(rows(sweep(EXP3, peaking(peak)))), "F4c")
    assert [each.verdict for each in found] == [verdict] * 3
    for each in found:
        assert each.effect is not None
        assert each.effect.value is not None
        assert 0.5 <= each.effect.value / peak <= 2
        assert each.p is not None
        assert each.p < 0.05


def test_batches_that_the_noise_cannot_tell_from_the_best_are_named() -> None:
    f4 = one(case(rows(sweep(SERIES, peaking(90.0, noise=0.05)))), "F4c")
    assert "not told from" in f4.sentence


def test_a_peak_is_not_placed_between_points_that_lie_far_apart() -> None:
    """Throughput per latency peaks at 16 in truth; of 1, 64 and 256 the best is 64, which says nothing of 16."""
    coarse = grid(batch=(1, 64, 256), output_tokens=(100,))
    f4 = one(case(rows(sweep(coarse, peaking(16, noise=0.003)))), "F4c")
    assert f4.verdict == "not tested"
    assert {16, 32} & {want.key.batch for want in f4.wanted}


def test_larger_batches_are_wanted_when_value_still_rises_at_the_edge() -> None:
    world = World(prefill=lambda _p: 1e-9, step=lambda _p: 5e-3, noise=0.01)
    points = grid(batch=(1, 2, 4, 8, 16, 32, 64), output_tokens=(100,))
    f4 = one(case(rows(sweep(points, world))), "F4c")
    assert f4.verdict == "not tested"
    assert "the grid ends there" in f4.sentence
    assert 128 in {want.key.batch for want in f4.wanted}


def test_one_start_places_no_peak() -> None:
    f4 = one(case(rows(sweep(SERIES, peaking(90.0), starts=1))), "F4c")
    assert f4.verdict == "not tested"
    assert "one start" in f4.sentence


def test_throughput_that_rises_in_every_step_holds_and_one_that_falls_refutes() -> None:
    f4 = one(case(rows(sweep(SERIES, peaking(90.0)))), "F4b")
    assert f4.verdict == "holds"
    assert "rises in every step" in f4.sentence
    falling = World(prefill=lambda _p: 1e-9, step=lambda p: 5e-3 * (1 + (p.batch / 100) ** 2), noise=0.01)
    f4 = one(case(rows(sweep(SERIES, falling))), "F4b")
    assert f4.verdict == "refuted"
    assert "it falls at batch 128 → 256, 256 → 512" in f4.sentence
    level = World(prefill=lambda _p: 1e-9, step=lambda p: 5e-3 * max(1, p.batch / 64), noise=0.01)
    assert one(case(rows(sweep(SERIES, level))), "F4b").verdict == "not tested"


def test_price_per_token_is_told_when_given() -> None:
    found = case(rows(sweep(EXP3, roofline_world())), prices={"": 4.0})
    texts = " ".join(number.text for each in findings(found, "F4c") for number in each.numbers)
    assert "tokens per unit of price" in texts
    assert "per watt" not in texts  # power was not measured: it is left out, not zero
