from __future__ import annotations

from typing import Any

import pytest

from loadgen.errors import ProfileError
from loadgen.profile.read import build_profile
from loadgen.slo_records import Goal

BASE: dict[str, Any] = {
    "server": {"framework": "null", "model": "tiny", "gpus": []},
    "load": {"mode": "poisson", "input_tokens": 8, "output_tokens": 4},
}


def profile(**tables: Any) -> Any:
    return build_profile({**BASE, **tables})


def test_objectives_are_of_every_trial_and_decide_no_id() -> None:
    from loadgen.plan.plan import make_plan

    load = {**BASE["load"], "rate": 5.0}
    plain = make_plan(profile(load=load))
    held = make_plan(profile(load=load, slo={"ttft": "500ms", "tpot": "50ms@99%", "share": "90%"}))
    assert [trial.id for trial in plain.trials] == [trial.id for trial in held.trials]
    slo = held.trials[0].slo
    assert slo is not None
    assert slo.goals == (Goal(objectives=("ttft",), share=0.9), Goal(objectives=("tpot",), share=0.99))
    assert plain.trials[0].slo is None


def test_an_open_loop_without_a_rate_stands_for_its_search() -> None:
    found = profile(slo={"ttft": "500ms"}, capacity={"window": "10s", "confirm": True})
    assert found.cells == ()
    (search,) = found.capacities
    assert (search.window_s, search.lead_in_s, search.confirm, search.variable) == (10.0, None, True, "rate")
    assert search.point.slo is not None
    assert search.point.load.kind == "poisson"


def test_every_server_and_pair_of_lengths_is_searched_beside_its_trials() -> None:
    sweep = [
        {"mode": "static", "batch_size": [1, 4], "input_tokens": [8, 16]},
        {"mode": "gamma", "input_tokens": [8, 16], "options": {"itl_ms": [0, 1]}},
    ]
    load = {"output_tokens": 4, "burstiness": 0.5}
    found = profile(load=load, sweep=sweep, slo={"e2e": "1s"}, capacity={})
    assert {cell.load.kind for cell in found.cells} == {"static"}
    assert len(found.cells) == 4
    lengths = [(each.point.load.kind, each.point.load.input_tokens) for each in found.capacities]
    assert sorted(lengths) == [("gamma", 8)] * 2 + [("gamma", 16)] * 2 + [("static", 8), ("static", 16)]


def test_workloads_with_the_same_longest_prompt_are_two() -> None:
    spreads = [
        {"kind": "lognormal", "median": middle, "sigma": 0.5, "min": 1, "max": 64} for middle in (8, 16)
    ]
    load = {"mode": "poisson", "output_tokens": 4}
    found = profile(load=load, sweep={"input_tokens": spreads}, slo={"e2e": "1s"}, capacity={})
    assert [each.point.load.input_spread.median for each in found.capacities] == [8, 16]


def test_ways_of_arriving_are_searched_apart() -> None:
    load = {"burstiness": 0.25, "input_tokens": 8, "output_tokens": 4}
    sweep = [{"mode": "gamma"}, {"mode": "constant"}, {"mode": "poisson"}]
    found = profile(load=load, sweep=sweep, slo={"e2e": "1s"}, capacity={})
    assert [each.point.load.kind for each in found.capacities] == ["gamma", "constant", "poisson"]
    at_once = profile(load=load, sweep=sweep, slo={"e2e": "1s"}, capacity={"variable": "concurrency"})
    assert len(at_once.capacities) == 1


@pytest.mark.parametrize(
    ("tables", "message"),
    [
        ({"capacity": {}}, r"slo.*is missing: capacity is of objectives"),
        ({"slo": {"ttft": "soon"}, "capacity": {}}, "slo.ttft = 'soon': is not a bound"),
        ({"slo": {"tfft": "1s"}, "capacity": {}}, "slo.tfft.*did you mean 'ttft'"),
        ({"slo": {"ttft": "1s", "share": 0.2}, "capacity": {}}, "slo.share = 0.2: is not a share"),
        ({"slo": {"share": 0.9}, "load": {**BASE["load"], "rate": 1.0}}, "of no objective"),
        ({"slo": {"ttft": "1s"}, "capacity": {"variable": "batch"}}, "capacity.variable = 'batch'"),
        (
            {"slo": {"ttft": "1s"}, "capacity": {}, "load": {**BASE["load"], "stream": False}},
            "without streaming",
        ),
        ({"slo": {"ttft": "1s"}}, "rate.*is missing"),
    ],
)
def test_what_cannot_be_is_refused(tables: dict[str, Any], message: str) -> None:
    with pytest.raises(ProfileError, match=message):
        profile(**tables)
