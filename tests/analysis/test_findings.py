"""Findings recover what a known world holds, and refuse when the data cannot say."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest
from synthetic import (
    A100,
    BATCHES,
    H200,
    Point,
    World,
    environment,
    failed,
    grid,
    limited,
    roofline_world,
    sweep,
)

from loadgen.analysis.finding import Case, Finding, Rules
from loadgen.analysis.latency_findings import input_thresholds
from loadgen.analysis.physical import examine
from loadgen.analysis.refine import refine, trials
from loadgen.analysis.study import Study
from loadgen.analysis.table import Key, Row, rows_of
from loadgen.analysis.throughput_findings import best_values
from loadgen.analysis.whole import findings_of, inside_noise
from loadgen.ceilings import Ceilings, datasheet
from loadgen.plan import trial_of
from loadgen.profile import Cell
from loadgen.records import TrialResult

ENVIRONMENTS = {each.id: each for each in (environment(H200), environment(A100))}


def rows(results: Sequence[TrialResult]) -> list[Row]:
    return rows_of(results, ENVIRONMENTS, "synthetic")


def case(found: Sequence[Row], **rules: object) -> Case:
    ceilings: dict[str, Ceilings] = {}
    for machine in (H200, A100):
        sheet = datasheet(machine)
        assert sheet is not None
        ceilings[machine] = sheet
    return Case(
        study=Study(found),
        rows=found,
        physics=examine(found, ceilings),
        ceilings=ceilings,
        rules=Rules(**rules),  # type: ignore[arg-type]
    )


def finding(found: Case, id: str) -> Finding:
    matching = [each for each in findings_of(found) if each.id == id]
    assert len(matching) == 1, [each.subject for each in matching]
    return matching[0]


def truth_b_star(world: World, tp: int, short: int, long: int, margin: float = 0.10) -> float:
    """The real batch at which the world's ratio of latencies crosses the margin."""
    low, high = 0.01, 10_000.0
    for _ in range(80):
        middle = (low * high) ** 0.5
        at = Point(tp=tp, batch=middle)  # type: ignore[arg-type]
        ratio = world.e2e(replace(at, input_tokens=long)) / world.e2e(replace(at, input_tokens=short))
        low, high = (middle, high) if ratio < 1 + margin else (low, middle)
    return high


EXP1 = grid(tp=(1, 2, 4), batch=BATCHES, input_tokens=(20, 128, 512))


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
    assert finding(found, "F2").verdict == "holds"
    assert finding(found, "F3").verdict == "holds"


def test_two_reservations_at_one_split_are_not_pooled() -> None:
    points = [*fastgen(SIZED), *fastgen({1: 20_000})]
    found = case(rows(sweep(points, roofline_world(ridge=1000.0))))
    variants = {subject.variant for subject in found.subjects()}
    assert variants == {f"kv_tokens={size}" for size in (*SIZED.values(), 20_000)}
    assert all(len(cell.rows) == 3 for cell in found.study.cells.values())


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
    world = roofline_world()
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


EXP3 = grid(tp=(1, 2, 4), batch=BATCHES, input_tokens=(20,), output_tokens=(100,))


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


def test_f4_finds_the_knee_and_judges_the_range() -> None:
    # latency = 1 + B/b: power B/(1 + B/b)² peaks at B = b, where the elasticity is ½
    for peak, verdict in ((90.0, "holds"), (6.0, "refuted")):
        world = World(
            prefill=lambda _point: 1e-9,
            step=lambda point, peak=peak: 5e-3 / point.tp * (1 + point.batch / peak),
            noise=0.01,
        )
        found = case(rows(sweep(EXP3, world)))
        (study,) = found.subjects().values()
        values = best_values(found, study)
        assert len(values) == 3
        for value in values:
            assert value.knee is not None
            assert value.knee.low <= peak <= value.knee.high
            assert 0.5 <= value.best.at / peak <= 2
        assert finding(found, "F4").verdict == verdict


def test_f4_does_not_place_a_peak_between_points_that_lie_far_apart() -> None:
    """Throughput per latency peaks at 16 in truth; of 1, 64 and 256 the best is 64, which says nothing of 16."""
    world = World(prefill=lambda _p: 1e-9, step=lambda p: 5e-3 / p.tp * (1 + p.batch / 16), noise=0.003)
    coarse = grid(tp=(1, 2), batch=(1, 64, 256), output_tokens=(100,))
    f4 = finding(case(rows(sweep(coarse, world))), "F4")
    assert f4.verdict == "not tested"
    assert {16, 32} & {want.key.batch for want in f4.wanted}


def test_f4_takes_throughput_and_latency_of_a_run_as_one_figure() -> None:
    """They are two sides of one measurement: power is twice as noisy as either, not √2 times."""
    world = World(prefill=lambda _p: 1e-2, step=lambda _p: 1e-2, noise=0.05)
    study = case(rows(sweep(grid(batch=BATCHES), world))).study
    spreads: dict[str, float] = {}
    for metric in ("e2e_s", "throughput_per_latency"):
        draws = [study.estimate(cell, metric) for cell in study.cells.values()]
        spreads[metric] = sum(each.with_draws().std() for each in draws if each is not None)
    assert spreads["throughput_per_latency"] / spreads["e2e_s"] == pytest.approx(2, rel=0.1)


def test_f4_wants_larger_batches_when_value_still_rises_at_the_edge() -> None:
    world = World(prefill=lambda _p: 1e-9, step=lambda point: 5e-3 / point.tp, noise=0.01)
    points = grid(tp=(1, 2), batch=(1, 2, 4, 8, 16, 32, 64), output_tokens=(100,))
    f4 = finding(case(rows(sweep(points, world))), "F4")
    assert f4.verdict == "not tested"
    assert 128 in {want.key.batch for want in f4.wanted}


def test_f4_tells_price_per_token_when_given() -> None:
    found = case(rows(sweep(EXP3, roofline_world())), price_per_gpu_hour=4.0)
    texts = " ".join(number.text for number in finding(found, "F4").numbers)
    assert "tokens per unit of price" in texts
    assert "per watt" not in texts  # power was not measured: it is left out, not zero


EXP2 = grid(batch=(1, 16), input_tokens=(128,), output_tokens=(20, 100, 500))


def test_f5_reads_latency_per_output_token() -> None:
    flat = World(prefill=lambda _p: 5e-3, step=lambda _p: 5e-3, noise=0.005)
    f5 = finding(case(rows(sweep(EXP2, flat))), "F5")
    assert f5.verdict == "holds"
    assert "latency per output token" in f5.sentence
    assert "End-to-end latency itself grows 2" in f5.sentence  # 500 over 20 tokens: 25 times
    heavy = World(prefill=lambda _p: 0.5, step=lambda _p: 5e-3, noise=0.005)
    assert finding(case(rows(sweep(EXP2, heavy))), "F5").verdict == "refuted"
    points = [replace(point, framework="ft", engine="ft") for point in EXP2]
    assert finding(case(rows(sweep(points, heavy))), "F5").verdict == "holds"  # the FT claim: it falls
    assert finding(case(rows(sweep(points, flat))), "F5").verdict != "holds"


def with_memory(found: Sequence[Row], memory: Callable[[Key], float]) -> list[Row]:
    return [
        dataclasses.replace(row, values={**row.values, "gpu_memory_bytes": memory(row.key)}) for row in found
    ]


def test_f6_and_f7_need_measured_memory() -> None:
    found = case(rows(sweep(EXP3, roofline_world())))
    for id in ("F6", "F7"):
        result = finding(found, id)
        assert result.verdict == "not tested"
        assert "not measured" in result.sentence
        assert not result.numbers


def test_f6_is_decided_with_memory() -> None:
    def memory(key: Key) -> float:
        """Weights, and a cache that outgrows what is set aside for it: the more GPUs, the later."""
        return 26e9 / key.tp + 1e9 + max(0, key.batch - 8 * key.tp) * 120 * 0.82e6 / key.tp * 4

    f6 = finding(case(with_memory(rows(sweep(EXP3, roofline_world())), memory)), "F6")
    assert f6.verdict == "holds", f6.sentence
    always = case(with_memory(rows(sweep(EXP3, roofline_world())), lambda key: 1e9 * key.batch))
    assert finding(always, "F6").verdict == "refuted"


def test_f7_is_decided_with_memory() -> None:
    def memory(key: Key) -> float:
        return 26e9 / key.tp + 1e9 + key.batch * 120 * 0.82e6 / key.tp

    f7 = finding(case(with_memory(rows(sweep(EXP3, roofline_world())), memory)), "F7")
    assert f7.verdict == "holds", f7.sentence
    assert all(number.value is not None and 0.5 < number.value <= 0.6 for number in f7.numbers)
    assert len(f7.numbers) == 2 * len(BATCHES)
    exact = case(with_memory(rows(sweep(EXP3, roofline_world())), lambda key: 26e9 / key.tp))
    assert finding(exact, "F7").verdict == "refuted"  # exactly half is not more than half


PREFILLS = grid(batch=(1, 2, 4, 8, 16, 32, 64), input_tokens=(20, 128, 512), output_tokens=(20,))


def bound_by(ridge: float, plateau_s: float) -> World:
    return World(
        prefill=lambda point: plateau_s * max(1.0, point.tokens / ridge), step=lambda _p: 8e-3, noise=0.01
    )


def test_f8_holds_where_bandwidth_and_compute_set_the_ridge() -> None:
    f8 = finding(case(rows(sweep(PREFILLS, bound_by(206.0, 7e-3)))), "F8")
    assert f8.verdict == "holds", f8.sentence
    measured = next(number for number in f8.numbers if number.name.startswith("measured"))
    assert measured.low is not None
    assert measured.high is not None
    assert measured.low <= 206 <= measured.high


def test_f8_is_refuted_by_a_plateau_that_the_host_sets() -> None:
    f8 = finding(case(rows(sweep(PREFILLS, bound_by(2000.0, 60e-3)))), "F8")
    assert f8.verdict == "refuted"
    assert "host and launches rather than bandwidth" in f8.sentence


def test_f8_tells_a_host_bound_plateau_where_the_ridge_itself_is_not_resolved() -> None:
    """One size beyond the ridge does not place it, but a plateau of 48 ms is no reading of weights."""
    points = grid(input_tokens=(20, 64, 256, 1024), output_tokens=(20, 100))
    f8 = finding(case(rows(sweep(points, bound_by(600.0, 48e-3)))), "F8")
    assert f8.verdict == "refuted"
    assert "time rises at the largest sizes" in f8.sentence
    assert "host and launches rather than bandwidth" in f8.sentence
    assert {want.key.input_tokens for want in f8.wanted} == {2028}  # what the context holds beside 20 tokens


def test_f8_refuses_without_the_compute_side_or_ceilings() -> None:
    small = grid(batch=(1, 2, 4), input_tokens=(8, 16, 20), output_tokens=(20,))
    found = case(rows(sweep(small, bound_by(2000.0, 60e-3))))
    f8 = finding(found, "F8")
    assert f8.verdict == "not tested"
    assert "not resolvable" in f8.sentence
    assert f8.wanted
    blind = dataclasses.replace(found, ceilings={})
    assert "loadgen probe" in finding(blind, "F8").sentence
    mute = [replace(point, stream=False) for point in PREFILLS]
    assert finding(case(rows(sweep(mute, bound_by(206.0, 7e-3)))), "F8").verdict == "not tested"


def test_f8_takes_unstreamed_trials_of_one_output_token() -> None:
    points = [replace(point, stream=False, output_tokens=1) for point in PREFILLS]
    assert finding(case(rows(sweep(points, bound_by(206.0, 7e-3)))), "F8").verdict == "holds"


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


def versus(hf: float, ds_one: float, ds_more: float) -> list[TrialResult]:
    points = grid(tp=(1, 2, 4), batch=(1, 8), output_tokens=(100,))
    ours = World(prefill=lambda _p: hf, step=lambda _p: hf, noise=0.01)
    theirs = World(
        prefill=lambda p: ds_one if p.tp == 1 else ds_more,
        step=lambda p: ds_one if p.tp == 1 else ds_more,
        noise=0.01,
    )
    other = [replace(point, framework="ds", engine="mii-fastgen") for point in points]
    return [*sweep(points, ours), *sweep(other, theirs, seed=2)]


@pytest.mark.parametrize(
    ("hf", "one", "more", "verdict"),
    [(12e-3, 10e-3, 5e-3, "holds"), (40e-3, 10e-3, 5e-3, "refuted"), (12e-3, 10e-3, 11e-3, "refuted")],
)
def test_f10_pairs_frameworks(hf: float, one: float, more: float, verdict: str) -> None:
    f10 = finding(case(rows(versus(hf, one, more))), "F10")
    assert f10.verdict == verdict, f10.sentence


def test_f10_needs_both_frameworks_and_says_what_is_inside_the_noise() -> None:
    found = case(rows(sweep(EXP3, roofline_world())))
    assert finding(found, "F10").verdict == "not tested"
    alike = case(rows(versus(10e-3, 10e-3, 5e-3)))
    assert any("tp 1" in line for line in inside_noise(alike.study))
    assert not any("tp 2" in line for line in inside_noise(alike.study))


def test_f11_needs_two_machines() -> None:
    points = grid(tp=(4,), batch=(1, 4, 16, 64), output_tokens=(100,))
    world = World(prefill=lambda _p: 5e-3, step=lambda _p: 5e-3, noise=0.005)
    here = sweep(points, world)
    assert finding(case(rows(here)), "F11").verdict == "not tested"
    there = sweep([replace(point, machine=A100) for point in points], world, seed=3)
    f11 = finding(case(rows([*here, *there])), "F11")
    assert f11.verdict == "holds"
    assert "3 of 3 cells" in f11.sentence  # batch 64 is not below 32
    slow = World(prefill=lambda _p: 9e-3, step=lambda _p: 9e-3, noise=0.005)
    there = sweep([replace(point, machine=A100) for point in points], slow, seed=3)
    assert finding(case(rows([*here, *there])), "F11").verdict == "refuted"


def test_client_limited_trials_do_not_speak() -> None:
    spoilt = [dataclasses.replace(each, caveats=(limited(),)) for each in sweep(EXP1, roofline_world())]
    found = case(rows(spoilt))
    assert not found.study.cells
    assert not found.subjects()


def test_refine_names_trials_that_can_be_run() -> None:
    world = roofline_world()
    coarse = grid(batch=(1, 8, 64), input_tokens=(20, 512))
    found = rows(sweep(coarse, world))
    cells = refine(findings_of(case(found)), found)
    assert cells
    b_star = [cell for cell in cells if "B*" in cell.why]
    assert {cell.load.batch_size for cell in b_star} >= {16, 32} or {
        cell.load.batch_size for cell in b_star
    } >= {2, 4}
    done = {(row.key.batch, row.key.input_tokens) for row in found}
    for cell in cells:
        assert (cell.load.batch_size, cell.load.input_tokens) not in done
        assert cell.repeats == 3
        assert cell.load.seed == 0
        assert cell.server is not None
    # running them closes the question
    more = sweep(
        [Point(batch=cell.load.batch_size, input_tokens=cell.load.input_tokens) for cell in cells],
        world,
        seed=8,
    )
    again = case(rows([*sweep(coarse, world), *more]))
    (study,) = again.subjects().values()
    ((found_again,),) = input_thresholds(again, study).values()
    threshold = found_again.threshold
    assert threshold.resolved
    assert threshold.low <= truth_b_star(world, 1, 20, 512) <= threshold.high


def test_refined_trials_are_those_that_a_profile_would_have_made() -> None:
    found = rows(sweep(grid(batch=(1, 8, 64), input_tokens=(20, 512)), roofline_world()))
    cells = refine(findings_of(case(found)), found)
    made = trials(cells)
    assert len({trial.id for trial in made}) == len(made) == 3 * len(cells)
    first = cells[0]
    again = trial_of(Cell(load=first.load, server=first.server, repeat=1))
    assert made[1] == again
    assert made[0].load.seed != made[1].load.seed  # every repeat has prompts of its own


def test_refine_never_asks_for_what_ran_out_of_memory() -> None:
    world = World(prefill=lambda _point: 5e-3, step=lambda _point: 5e-3, noise=0.01)
    points = grid(batch=(1, 2, 4, 8), input_tokens=(20, 512))
    found = rows([*sweep(points, world), failed(Point(batch=16, input_tokens=512))])
    batches = {
        (cell.load.batch_size, cell.load.input_tokens) for cell in refine(findings_of(case(found)), found)
    }
    assert (32, 512) not in batches
    assert (16, 512) not in batches
