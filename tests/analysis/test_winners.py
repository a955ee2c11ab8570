"""Who wins: known worlds have a known winner, equal ones have none, and unlike things are not compared."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence

import pytest
from synthetic import A100, H200, Point, World, environment, grid, result, roofline_world, sweep

from loadgen.analysis.study import Study
from loadgen.analysis.table import rows_of
from loadgen.analysis.winners import Answer, Prices, answers, answers_at, job_text, jobs, lead_text, price_of
from loadgen.records import Caveat, TrialResult

POINTS = grid(tp=(1, 2), batch=(1, 8, 64))
SLOWER = roofline_world(plateau_s=9e-3)
FAST = roofline_world()


def rivals(points: Sequence[Point]) -> list[Point]:
    return [dataclasses.replace(point, framework="ds", engine="mii-fastgen") for point in points]


def study(results: Iterable[TrialResult]) -> Study:
    known = {each.id: each for each in map(environment, (H200, A100))}
    return Study(rows_of(list(results), known))


def by_goal(results: Iterable[TrialResult], prices: Prices | None = None) -> dict[str, Answer]:
    return {each.goal: each for each in answers(study(results), prices)}


def both(mine: World = FAST, theirs: World = SLOWER, **how: int) -> list[TrialResult]:
    return [*sweep(POINTS, mine, **how), *sweep(rivals(POINTS), theirs, seed=5, **how)]


def test_the_faster_stack_wins_every_goal_by_the_true_factor() -> None:
    found = by_goal(both())
    assert list(found) == ["lowest latency", "most tokens/s", "most tokens/s per GPU"]
    for goal, answer in found.items():
        assert answer.told, goal
        assert answer.reason == ""
        assert answer.server.startswith("hf/generate"), goal
        assert answer.runner_up.startswith("ds/mii-fastgen"), goal
        assert answer.ahead is not None
        assert answer.ahead[0] < 1.5 < answer.ahead[1]
        assert answer.low is not None
        assert answer.high is not None
        assert answer.low < answer.value < answer.high
    latency, rate, per_gpu = found.values()
    assert (latency.cell.batch, latency.cell.tp) == (1, 2)
    assert (rate.cell.batch, rate.cell.tp) == (64, 2)
    assert per_gpu.value == pytest.approx(rate.value / 2)
    assert latency.sentence.startswith("hf/generate tp 2, batch 1: ")
    assert "ahead of ds/mii-fastgen tp 2 (" in latency.sentence
    assert latency.sentence.endswith(" %.")


def test_equal_stacks_are_not_told_apart() -> None:
    for answer in by_goal(both(theirs=FAST, repeats=2)).values():
        assert not answer.told
        assert "not told apart from" in answer.sentence


def test_one_start_each_names_no_winner() -> None:
    latency = by_goal(both(repeats=1))["lowest latency"]
    assert not latency.told
    assert latency.ahead is None
    assert latency.reason == "ds/mii-fastgen tp 2: one start each"
    assert "by figure alone: one start each" in latency.sentence


def test_repeats_of_one_start_are_no_starts() -> None:
    assert not by_goal(both(repeats=4, starts=1))["lowest latency"].told


def test_a_third_stack_of_one_start_is_named_beside_the_runner_up() -> None:
    third = [dataclasses.replace(point, engine="compiled") for point in POINTS]
    slowest = roofline_world(plateau_s=12e-3)
    latency = by_goal([*both(), *sweep(third, slowest, repeats=1, seed=9)])["lowest latency"]
    assert latency.runner_up.startswith("ds/mii-fastgen")
    assert not latency.told
    assert "; not told from hf/compiled tp 2: too few starts." in latency.sentence


def test_other_data_at_the_power_cap_are_not_compared() -> None:
    capped = Caveat(kind="throttled", message="power cap in 80 % of the readings", remedy="none")
    own = {"weights": {"maker": "FasterTransformer", "distribution": "its own"}}
    results = [dataclasses.replace(each, caveats=(capped,)) for each in both()]
    results = [
        dataclasses.replace(each, engine=dict(each.engine) | own)
        if each.trial.server and each.trial.server.framework == "ds"
        else each
        for each in results
    ]
    for answer in by_goal(results).values():
        assert not answer.told
        assert answer.ahead is None
        assert "not the same data" in answer.sentence


def test_what_did_not_run_at_the_winners_load_is_no_rival() -> None:
    few = [point for point in rivals(POINTS) if point.batch < 64]
    found = by_goal([*sweep(POINTS, FAST), *sweep(few, SLOWER, seed=5)])
    assert found["lowest latency"].told
    assert found["most tokens/s"].runner_up == ""
    assert found["most tokens/s"].sentence.endswith("; no other server has a figure at this load.")


def test_latency_is_compared_at_the_lowest_load_in_common() -> None:
    never_at_one = [point for point in rivals(POINTS) if point.batch > 1]
    latency = by_goal([*sweep(POINTS, FAST), *sweep(never_at_one, SLOWER, seed=5)])["lowest latency"]
    assert latency.cell.batch == 8
    assert latency.told


def test_splits_compete_where_there_is_one_stack_and_a_lone_server_has_no_rival() -> None:
    latency = by_goal(sweep(POINTS, FAST))["lowest latency"]
    assert latency.told
    assert latency.runner_up == "hf/generate tp 1"
    alone = by_goal(sweep(grid(batch=(1, 8)), FAST))
    assert set(alone) == {"lowest latency", "most tokens/s"}
    assert all(answer.sentence.endswith("; nothing to compare with.") for answer in alone.values())


def test_the_job_is_that_at_which_most_stacks_meet() -> None:
    alone = grid(batch=(1, 2, 4, 8, 16, 32, 64), input_tokens=(128,))
    found = study([*sweep(alone, FAST), *both()])
    first, second = jobs(found)
    assert (first.input_tokens, second.input_tokens) == (20, 128)
    assert job_text(first) == "llama-13b, 16-bit, static batches, 20 tokens in, 20 out, on NVIDIA H200"
    words = {
        "closed, in uniform 16–64": "closed load, in uniform 16–64, 20 tokens out",
        "poisson, in uniform 16–64, out gamma 40, 1–64": "poisson load, in uniform 16–64, out gamma 40, 1–64",
        "sessions, 3 turns": "sessions load, 3 turns, 20 tokens in, 20 out",
    }
    for kind, text in words.items():
        assert job_text(dataclasses.replace(first, kind=kind)) == f"llama-13b, 16-bit, {text}, on NVIDIA H200"
    assert {answer.cell.input_tokens for answer in answers(found)} == {20}
    assert {answer.cell.input_tokens for answer in answers_at(found, second)} == {128}


def test_machines_compete_per_price_alone() -> None:
    older = sweep([dataclasses.replace(point, machine=A100) for point in POINTS], SLOWER, seed=7)
    results = [*sweep(POINTS, FAST), *older]
    found = by_goal(results, {"h200": 9.0, "A100": 2.0})
    assert found["lowest latency"].runner_up == "hf/generate tp 1"
    cheap = found["most tokens per $"]
    assert cheap.server == f"hf/generate tp 2 on {A100}"
    assert cheap.told
    assert cheap.ahead is not None
    assert cheap.ahead[0] < 3.0 < cheap.ahead[1]  # 1.5 times slower, 4.5 times cheaper
    assert cheap.value == pytest.approx(
        next(row.values["output_tokens_per_s"] for row in study(older).cells[cheap.cell].rows) * 0.9e-3,
        rel=0.05,
    )
    assert "most tokens per $" not in by_goal(results)


def test_prices_go_by_the_longest_name() -> None:
    prices = {"": 1.0, "H100": 2.0, "H100 NVL": 3.0}
    assert [price_of(name, prices) for name in ("NVIDIA H100 NVL", "NVIDIA H100", "L4")] == [3.0, 2.0, 1.0]
    assert price_of("L4", {"H100": 2.0}) is None


@pytest.mark.parametrize(
    ("ahead", "said"),
    [
        ((1.04, 1.09), "4–9 %"),
        ((0.99, 1.04), "−1 to +4 %"),
        ((1.5, 2.5), "50–150 %"),
        ((2.1, 2.4), "×2.1–2.4"),
    ],
)
def test_leads_in_words(ahead: tuple[float, float], said: str) -> None:
    assert lead_text(ahead) == said


def test_nothing_measured_has_no_answer() -> None:
    assert answers(study([])) == ()


def test_a_lone_trial_has_figures() -> None:
    found = by_goal([result(Point(), FAST)])
    assert found["lowest latency"].low is None
    assert "[" not in found["lowest latency"].sentence
