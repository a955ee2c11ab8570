"""F1 and F2 recover the thresholds that a known world holds, and refuse when the data cannot say."""

from __future__ import annotations

from dataclasses import replace

import pytest
from cases import EXP1, case, findings, one, rows, truth_b_star
from synthetic import BATCHES, Point, World, grid, roofline_world, sweep

from loadgen.analysis.findings.latency import input_thresholds

LIGHT = World(prefill=lambda p: 6e-3 * max(1.0, p.tokens / 2000), step=lambda _p: 6e-3, noise=0.005)


@pytest.mark.parametrize("seed", range(3))
def test_f1_recovers_b_star_on_every_server(seed: int) -> None:
    world = roofline_world(ridge=1000.0)
    found = case(rows(sweep(EXP1, world, seed=seed)))
    (study,) = found.subjects().values()
    thresholds = input_thresholds(study, 0.1)
    assert len(thresholds) == 3
    for key, every in thresholds.items():
        assert [each.lengths for each in every] == [(20, 128), (20, 512)]
        for each in every:
            truth = truth_b_star(world, key.tp, *each.lengths)
            assert each.threshold.low <= truth <= each.threshold.high
    f1 = findings(found, "F1")
    assert [each.verdict for each in f1] == ["holds"] * 3
    assert [each.subject.split(" · ")[-1] for each in f1] == ["tp 1", "tp 2", "tp 4"]


def test_f1_says_what_is_free_and_what_the_budget_of_tokens_is() -> None:
    """An extra token costs the same wherever it is: B* × extra is one number, about 0.1 of what a step's time buys."""
    world = World(prefill=lambda p: 6e-3 + 2e-5 * p.tokens, step=lambda _p: 6e-3, noise=0.001)
    points = grid(batch=(1, 2, 3, 4, 6, 8, 16), input_tokens=(20, 128, 512, 4096))
    f1 = one(case(rows(sweep(points, world))), "F1")
    assert f1.verdict == "holds"
    assert f1.sentence.startswith("Over 20 tokens in, 20 out, 128 are free up to batch ")
    assert "4096 never" in f1.sentence
    budget = float(f1.sentence.rpartition("is about ")[2].rstrip("."))
    assert budget == pytest.approx(0.1 * 0.12 / 2e-5, rel=0.25)


def test_f1_takes_the_output_length_nearest_to_the_report_s() -> None:
    points = grid(batch=(1, 8), input_tokens=(20, 128), output_tokens=(20, 100))
    f1 = one(case(rows(sweep(points, LIGHT))), "F1")
    assert f1.at == "20 against 128/20"
    assert {key.output_tokens for key in f1.cells} == {20}


def test_f1_is_refuted_when_input_length_always_matters() -> None:
    world = World(prefill=lambda point: 1e-3 * point.tokens, step=lambda _point: 5e-3, noise=0.01)
    f1 = one(case(rows(sweep(grid(batch=(1, 2, 4, 8), input_tokens=(20, 512)), world))), "F1")
    assert f1.verdict == "refuted"
    assert "512 never" in f1.sentence


def test_f1_is_open_when_input_length_never_mattered_and_wants_larger_batches() -> None:
    world = World(prefill=lambda _point: 5e-3, step=lambda _point: 5e-3, noise=0.01)
    f1 = one(case(rows(sweep(grid(batch=(1, 2, 4, 8), input_tokens=(20, 512)), world))), "F1")
    assert f1.verdict == "not tested"
    assert {want.key.batch for want in f1.wanted} == {16, 32}
    assert {want.key.input_tokens for want in f1.wanted} == {20, 512}


def test_one_start_tells_nothing_of_start_by_cell() -> None:
    found = case(rows(sweep(EXP1, roofline_world(), starts=1)))
    for f1 in findings(found, "F1"):
        assert f1.verdict == "not tested"
        assert "one start" in f1.sentence
        assert f1.wanted
        assert all(want.again for want in f1.wanted)
    assert one(found, "F2").verdict == "not tested"


def test_one_start_may_borrow_from_other_servers_of_its_engine() -> None:
    """Three starts of another model of the same engine say what start × cell is."""
    world = roofline_world(ridge=1000.0, noise=0.003)
    points = grid(batch=BATCHES, input_tokens=(20, 128))
    lent = sweep([replace(point, model="llama-7b") for point in points], world, seed=2)
    found = case(rows([*sweep(points, world, repeats=1), *lent]))
    f1 = next(each for each in findings(found, "F1") if "13b" in each.subject)
    assert f1.verdict == "holds"


def growing(ridge: float, noise: float = 0.005) -> World:
    """A prefill that turns from flat to linear at so many tokens, and at four times as many on twice the GPUs."""
    return World(
        prefill=lambda p: 6e-3 * max(1.0, p.tokens / (ridge * p.tp**2)), step=lambda _p: 6e-3, noise=noise
    )


def test_f2_holds_where_the_longer_input_costs_less_on_more_gpus() -> None:
    f2 = one(case(rows(sweep(EXP1, roofline_world(ridge=1000.0)))), "F2")
    assert f2.verdict == "holds", f2.sentence
    assert f2.effect is not None
    assert f2.effect.high is not None
    assert f2.effect.high < 1


def test_f2_tells_thresholds_apart_that_lie_in_one_step_of_the_grid() -> None:
    """B* of 1.8, 3.6 and 6.4 on a grid of powers of two: brackets overlap, the effects at equal batch do not."""
    f2 = one(case(rows(sweep(EXP1, roofline_world(noise=0.003)))), "F2")
    assert f2.verdict == "holds", f2.sentence


def test_f2_reads_a_pair_whose_threshold_the_grid_reaches() -> None:
    """20 against 64 is free on the whole grid; 20 against 2048 tells."""
    points = grid(tp=(1, 2), batch=(1, 2, 4), input_tokens=(20, 64, 2048))
    f2 = one(case(rows(sweep(points, growing(2000.0)))), "F2")
    assert f2.verdict == "holds", f2.sentence
    assert f2.at == "20 against 2048/20"


def test_f2_is_refuted_where_b_star_does_not_grow_visibly() -> None:
    f2 = one(case(rows(sweep(EXP1, replace(LIGHT, noise=0.001)))), "F2")
    assert f2.verdict == "refuted", f2.sentence
    assert "does not grow visibly" in f2.sentence


def test_f2_is_open_where_the_noise_hides_whether_it_grows() -> None:
    f2 = one(case(rows(sweep(EXP1, replace(LIGHT, noise=0.03)))), "F2")
    assert f2.verdict == "not tested", f2.sentence


def test_f2_is_refuted_when_more_gpus_lower_b_star() -> None:
    def prefill(point: Point) -> float:
        return 6e-3 * max(1.0, point.tokens * point.tp**2 / 4000)

    world = World(prefill=prefill, step=lambda _point: 6e-3, noise=0.01)
    f2 = one(case(rows(sweep(EXP1, world))), "F2")
    assert f2.verdict == "refuted"
    assert "B* shrinks" in f2.sentence
