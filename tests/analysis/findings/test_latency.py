"""F1 to F3 recover the thresholds that a known world holds, and refuse when the data cannot say."""

from __future__ import annotations

import pytest
from cases import EXP1, EXP3, case, finding, rows, truth_b_star
from synthetic import (
    BATCHES,
    Point,
    World,
    grid,
    roofline_world,
    sweep,
)

from loadgen.analysis.findings.latency import input_thresholds


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("ridge", [300.0, 1000.0])
def test_f1_recovers_b_star(seed: int, ridge: float) -> None:
    world = roofline_world(ridge=ridge)
    found = case(rows(sweep(EXP1, world, seed=seed)))
    (study,) = found.subjects().values()
    thresholds = input_thresholds(found, study)
    assert len(thresholds) == 3
    for key, every in thresholds.items():
        assert every[0].lengths == (20, 512)
        assert {each.lengths for each in every} == {(20, 512), (20, 128), (128, 512)}
        for each in every:
            assert each.threshold.resolved
            truth = truth_b_star(world, key.tp, *each.lengths)
            assert each.threshold.low <= truth <= each.threshold.high
    f1 = finding(found, "F1")
    assert f1.verdict == "holds"
    assert len(f1.cells) == len({*f1.cells}) == 90


def test_f1_takes_the_widest_inputs_that_two_batches_share() -> None:
    """2048 ran at one batch only, and 512 at two: a hole in the grid must not leave the rest unread."""
    points = [*grid(batch=(1, 64), input_tokens=(20, 128, 512)), Point(batch=1, input_tokens=2048)]
    found = case(rows(sweep(points, roofline_world(ridge=2000.0))))
    (study,) = found.subjects().values()
    ((first, *others),) = input_thresholds(found, study).values()
    assert first.lengths == (20, 512)
    assert {each.lengths for each in others} == {(20, 128), (128, 512)}
    assert finding(found, "F1").verdict == "holds"


def growing(ridge: float) -> World:
    """A prefill that turns from flat to linear at so many tokens, and at four times as many on twice the GPUs."""
    return World(
        prefill=lambda p: 6e-3 * max(1.0, p.tokens / (ridge * p.tp**2)), step=lambda _p: 6e-3, noise=0.005
    )


def test_f2_compares_one_pair_of_inputs_on_all_gpus() -> None:
    points = [
        *grid(tp=(1,), batch=BATCHES, input_tokens=(20, 128, 512)),
        *grid(tp=(2,), batch=BATCHES, input_tokens=(20, 128)),
        Point(tp=2, batch=1, input_tokens=512),
    ]
    f2 = finding(case(rows(sweep(points, growing(2000.0)))), "F2")
    assert f2.verdict == "holds"
    assert {number.name for number in f2.numbers} == {
        f"B*, 20 against 128 in, 20 out (tp {tp})" for tp in (1, 2)
    }


def test_f2_reads_a_narrower_pair_where_the_widest_matters_at_once() -> None:
    """Off the low end of the grid on every number of GPUs, nothing can be seen to grow."""
    points = grid(tp=(1, 2), batch=BATCHES, input_tokens=(20, 128, 2048))
    f2 = finding(case(rows(sweep(points, growing(140.0)))), "F2")
    assert f2.verdict == "holds"
    assert all("20 against 128" in number.name for number in f2.numbers)
    only = [point for point in points if point.input_tokens != 128]
    f2 = finding(case(rows(sweep(only, growing(140.0)))), "F2")
    assert f2.verdict == "not tested"


def test_f3_calls_nothing_flat_that_the_noise_may_hide() -> None:
    """Twice as slow at batch 64 in truth, and runs that differ by 40 %: no plateau was seen."""
    loud = World(prefill=lambda _p: 1e-2, step=lambda p: 1e-2 * (1 + p.batch / 64), noise=0.4)
    points = grid(batch=(1, 64), input_tokens=(20, 128, 512))
    f3 = finding(case(rows(sweep(points, loud, repeats=2))), "F3")
    assert f3.verdict == "not tested"
    assert "flat beyond the smallest in 0 of 3 series" in f3.sentence
    assert any(want.again for want in f3.wanted)


def test_f1_is_refuted_when_input_length_always_matters() -> None:
    world = World(prefill=lambda point: 1e-3 * point.tokens, step=lambda _point: 5e-3, noise=0.01)
    f1 = finding(case(rows(sweep(grid(batch=(1, 2, 4, 8), input_tokens=(20, 512)), world))), "F1")
    assert f1.verdict == "refuted"
    assert "at or below 1" in f1.sentence


def test_f1_is_open_when_input_length_never_mattered_and_wants_larger_batches() -> None:
    world = World(prefill=lambda _point: 5e-3, step=lambda _point: 5e-3, noise=0.01)
    found = case(rows(sweep(grid(batch=(1, 2, 4, 8), input_tokens=(20, 512)), world)))
    f1 = finding(found, "F1")
    assert f1.verdict == "not tested"
    assert {want.key.batch for want in f1.wanted} == {16, 32}
    assert {want.key.input_tokens for want in f1.wanted} == {20, 512}


def test_f1_is_not_tested_without_repeats() -> None:
    """One run per cell and no samples: nothing says how large the noise is."""
    found = case(rows(sweep(EXP1, roofline_world(), repeats=1)))
    f1 = finding(found, "F1")
    assert f1.verdict == "not tested"
    assert "no repeats" in f1.sentence
    assert f1.wanted
    assert all(want.again for want in f1.wanted)


def test_f2_orders_the_thresholds_of_more_gpus() -> None:
    holds = finding(case(rows(sweep(EXP1, roofline_world(ridge=1000.0)))), "F2")
    assert holds.verdict == "holds", holds.sentence
    same = World(
        prefill=lambda point: 6e-3 * max(1.0, point.tokens / 2000), step=lambda _point: 6e-3, noise=0.005
    )
    open_ = finding(case(rows(sweep(EXP1, same))), "F2")
    assert open_.verdict == "not tested"
    assert "not resolvable" in open_.sentence
    inside = {want.key.batch for want in open_.wanted}
    assert inside
    assert not inside & set(BATCHES)


def test_f2_is_settled_by_the_cells_it_asks_for() -> None:
    """B*(tp 1) = 1.8 and B*(tp 2) = 3.6 are too close for a grid of 1, 2, 4; the batch between them tells."""
    world = roofline_world(noise=0.005)
    results = sweep(EXP1, world)
    open_ = finding(case(rows(results)), "F2")
    assert open_.verdict == "not tested"
    assert {want.key.batch for want in open_.wanted} == {3}
    points = [
        Point(tp=want.key.tp, batch=want.key.batch, input_tokens=want.key.input_tokens)
        for want in open_.wanted
    ]
    assert finding(case(rows([*results, *sweep(points, world, seed=5)])), "F2").verdict == "holds"


def test_f2_is_refuted_when_more_gpus_lower_b_star() -> None:
    def prefill(point: Point) -> float:
        return 6e-3 * max(1.0, point.tokens * point.tp**2 / 4000)

    world = World(prefill=prefill, step=lambda _point: 6e-3, noise=0.01)
    assert finding(case(rows(sweep(EXP1, world))), "F2").verdict == "refuted"


def test_f3_finds_gain_and_plateau() -> None:
    found = case(rows(sweep(EXP3, roofline_world())))
    f3 = finding(found, "F3")
    assert f3.verdict == "holds"
    ends = {number.name: number for number in f3.numbers if number.name.startswith("plateau")}
    # step = 1 + B/40: 10 % above batch 1's 1.025 at B = 5.1 (tp 1), the prefill part aside
    one = ends["plateau ends (tp 1, 20/100)"]
    assert one.low is not None
    assert one.high is not None
    assert one.low <= 5.1 <= one.high


def test_f3_is_refuted_when_tp_raises_latency() -> None:
    def slower(point: Point) -> float:
        return 20e-3 * (1 + 0.3 * (point.tp - 1))  # launch-bound: more ranks, more host work

    world = World(prefill=slower, step=slower, noise=0.01)
    f3 = finding(case(rows(sweep(EXP3, world))), "F3")
    assert f3.verdict == "refuted"
    assert "tp 1 → 2: latency ×1.3" in f3.sentence
