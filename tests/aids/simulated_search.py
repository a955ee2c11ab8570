"""Searches for capacity on a simulated server, step by step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from simulated_server import Engine, Servers, result_of

from loadgen.load_records import LoadSpec
from loadgen.metrics.objectives import slo_of_options
from loadgen.plan.capacity import Step, next_step
from loadgen.plan.capacity_estimate import Done
from loadgen.records import Trial, TrialResult
from loadgen.search_records import CapacitySearch

SLOW = Engine(slots=64, step_ns=40_000_000, sequence_ns=1_000_000, prompt_ns=200_000, spread=0.3)
Change = Callable[[Step, TrialResult], TrialResult]


def search(*slo: str, **more: Any) -> CapacitySearch:
    """A search at an endpoint for ``slo``, with fields of its own."""
    load = LoadSpec(kind="poisson", input_tokens=32, output_tokens=12, seed=1)
    point = Trial(
        id="", load=load, url="http://127.0.0.1:1", slo=slo_of_options(slo or ("tpot=60ms", "share=90%"))
    )
    return CapacitySearch(point=point, **{"window_s": 60.0, "lead_in_s": 15.0, "within": 0.001, **more})


def run(
    of: CapacitySearch, server: Engine | Servers = SLOW, change: Change = lambda _, result: result
) -> list[Done]:
    """All its trials on a simulated server, each result as ``change`` makes it."""
    done: list[Done] = []
    while (step := next_step(of, done)) is not None:
        result = result_of(step.trial, server, stop_growing=step.role == "bracket")
        done.append(Done(role=step.role, result=change(step, result)))
    return done
