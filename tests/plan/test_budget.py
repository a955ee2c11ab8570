"""What fits into a limited time, by a clock that the test moves."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from loadgen.plan.budget import Budget
from loadgen.records import Trial
from loadgen.theory.models import PRESETS


def _with(trial: Trial, **changes: Any) -> Trial:
    assert trial.server is not None
    return replace(trial, server=replace(trial.server, **changes))


class Clock:
    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def budget(clock: Clock) -> Budget:
    return Budget(limit_s=100.0, clock=clock)


def test_without_a_limit_everything_fits(build: Any) -> None:
    budget = Budget()
    budget.learn(build.result(build.trial(), wall_s=1e9))
    assert budget.fits(build.trial(), starting=True)
    assert budget.left_s == float("inf")


def test_time_passes_by_the_clock_alone(budget: Budget, clock: Clock) -> None:
    clock.now_s += 30
    assert budget.left_s == 70


def test_the_same_cell_is_expected_to_take_what_it_took(build: Any, budget: Budget) -> None:
    budget.learn(build.result(build.trial(8), wall_s=40.0))
    again = build.trial(8, repeat=1)
    assert budget.expected_s(again) == 40.0
    assert budget.fits(again)


def test_a_trial_that_would_run_past_the_limit_does_not_fit_and_a_cheaper_one_does(
    build: Any, budget: Budget, clock: Clock
) -> None:
    budget.learn(build.result(build.trial(8, output_tokens=100), wall_s=40.0))
    budget.learn(build.result(build.trial(1), wall_s=5.0))
    clock.now_s += 70
    assert not budget.fits(build.trial(8, output_tokens=100, repeat=1))
    assert budget.fits(build.trial(1, repeat=1))


def test_a_dearer_cell_is_scaled_up_by_its_relative_cost(build: Any, budget: Budget) -> None:
    budget.learn(build.result(build.trial(1, output_tokens=20), wall_s=10.0))
    expected = budget.expected_s(build.trial(1, output_tokens=80))
    assert expected == pytest.approx(40.0, rel=0.05)  # at batch 1 every token reads the weights once


def test_a_cheaper_cell_is_not_scaled_down(build: Any, budget: Budget) -> None:
    budget.learn(build.result(build.trial(64, input_tokens=2048), wall_s=10.0))
    assert budget.expected_s(build.trial(64, input_tokens=20)) == 10.0


def test_the_nearest_cell_is_asked_and_of_its_own_server_first(build: Any, budget: Budget) -> None:
    budget.learn(build.result(build.trial(1, tp=2), wall_s=1.0))
    assert budget.expected_s(build.trial(1)) is not None, "another server's time is better than none"
    budget.learn(build.result(build.trial(256), wall_s=20.0))
    budget.learn(build.result(build.trial(2), wall_s=7.0))
    assert budget.expected_s(build.trial(1)) == 7.0


def test_a_failed_trial_teaches_nothing(build: Any, budget: Budget) -> None:
    budget.learn(build.result(build.trial(), failure=build.out_of_memory, wall_s=0.5))
    assert budget.expected_s(build.trial()) is None
    assert budget.fits(build.trial()), "what is not known must be tried"


def test_a_start_must_fit_too(build: Any, budget: Budget, clock: Clock) -> None:
    trial = build.trial()
    budget.learn(build.result(trial, wall_s=20.0))
    assert budget.fits(trial, starting=True), (
        "26 GB of random weights are expected to be up in a quarter of a minute"
    )
    budget.learn_start(trial, 81.0)
    assert not budget.fits(trial, starting=True)
    assert budget.fits(trial)
    assert budget.fits(build.trial(tp=2), starting=True), "another server's start was not measured"


def test_random_weights_are_made_on_every_gpu_at_once_and_others_read_one_after_the_other(
    build: Any, budget: Budget
) -> None:
    one, four = build.trial(tp=1), build.trial(tp=4)
    made = [budget.expected_start_s(trial) for trial in (one, four)]
    assert made[0] > made[1], "a quarter of the weights on each of four GPUs"
    read = [budget.expected_start_s(_with(trial, dummy_weights=False)) for trial in (one, four)]
    assert read[0] == read[1] > made[0]
    assert budget.expected_start_s(_with(one, gpus=())) == read[0], "a CPU is no faster than a disk"


def test_llama_65b_is_tried_in_a_minute_and_a_half_on_one_gpu(build: Any, clock: Clock) -> None:
    trial = _with(build.trial(), model=PRESETS["llama-65b"])
    assert Budget(limit_s=90.0, clock=clock).fits(trial, starting=True)
    assert not Budget(limit_s=90.0, clock=clock).fits(_with(trial, dummy_weights=False), starting=True)


def test_an_endpoint_that_already_runs_needs_no_start(build: Any, budget: Budget) -> None:
    assert budget.expected_start_s(build.endpoint_trial()) == 0.0


def test_nothing_fits_when_the_time_is_over(build: Any, budget: Budget, clock: Clock) -> None:
    clock.now_s += 100
    assert not budget.fits(build.trial())


def test_an_open_loop_must_have_time_for_its_schedule(build: Any, budget: Budget) -> None:
    assert budget.fits(build.trial(kind="constant", rate=2.0, requests=180))
    assert not budget.fits(build.trial(kind="constant", rate=2.0, requests=220)), "though none was measured"
