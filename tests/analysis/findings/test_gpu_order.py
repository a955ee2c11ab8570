"""F3 and F4 over TP: decided at the report's own lengths, each step by its mean, none by a single cell."""

from __future__ import annotations

import pytest
from cases import case, one, rows
from synthetic import BATCHES, Point, World, grid, sweep

EXP3 = grid(tp=(1, 2, 4), batch=BATCHES, input_tokens=(20,), output_tokens=(100,))


def scaling(factor: float, noise: float = 0.01) -> World:
    """Every doubling of the GPUs takes ``factor`` of the time."""
    steps = {1: 0, 2: 1, 4: 2}
    return World(
        prefill=lambda p: 20e-3 * factor ** steps[p.tp],
        step=lambda p: 20e-3 * factor ** steps[p.tp],
        noise=noise,
    )


@pytest.mark.parametrize(("factor", "verdict"), [(0.9, "holds"), (1.3, "refuted")])
def test_tp_that_helps_holds_in_latency_and_throughput(factor: float, verdict: str) -> None:
    found = case(rows(sweep(EXP3, scaling(factor))))
    f3, f4 = one(found, "F3a"), one(found, "F4a")
    assert (f3.verdict, f4.verdict) == (verdict, verdict)
    assert f3.sentence.startswith("At 20/100, tp 1 → 2 ×")
    assert f3.effect is not None
    assert f3.effect.value == pytest.approx(factor, rel=0.02)


def test_no_effect_of_tp_is_not_told_and_says_why() -> None:
    f3 = one(case(rows(sweep(EXP3, scaling(1.0)))), "F3a")
    assert f3.verdict == "not tested"
    assert "inside the noise" in f3.sentence
    assert all(want.again for want in f3.wanted)


def test_one_start_each_is_not_told_however_many_repeats() -> None:
    f3 = one(case(rows(sweep(EXP3, scaling(0.7), starts=1))), "F3a")
    assert f3.verdict == "not tested"
    assert "one start each: not told" in f3.sentence


def test_a_single_slower_cell_is_named_and_does_not_refute() -> None:
    def step(point: Point) -> float:
        return 20e-3 * (1.3 if point.tp == 2 and point.batch == 64 else 1.0) * 0.8 ** (point.tp - 1)

    world = World(prefill=step, step=step, noise=0.003)
    f3 = one(case(rows(sweep([p for p in EXP3 if p.tp < 4], world))), "F3a")
    assert f3.verdict == "holds"
    assert "the other way at tp 2, batch 64" in f3.sentence


def test_the_report_s_own_lengths_decide_and_others_are_told_beside() -> None:
    """At 512 tokens in TP hurts; at the report's 20/100 it helps."""

    def prefill(point: Point) -> float:
        return 5.0 * point.tp if point.input_tokens == 512 else 1e-3

    world = World(prefill=prefill, step=lambda p: 20e-3 / p.tp, noise=0.01)
    points = grid(tp=(1, 2), batch=(1, 8, 64), input_tokens=(20, 512), output_tokens=(100,))
    f3 = one(case(rows(sweep(points, world))), "F3a")
    assert (f3.verdict, f3.at) == ("holds", "20/100")
    assert {number.name.partition(" at ")[2] for number in f3.numbers} == {
        "20/100 (3 batches)",
        "512/100 (3 batches)",
    }


def test_tp_that_was_not_varied_is_not_tested() -> None:
    f3 = one(case(rows(sweep(grid(batch=(1, 2)), scaling(1.0)))), "F3a")
    assert f3.sentence == "Needs the same batches on at least two degrees of TP."
