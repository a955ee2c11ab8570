"""``starts``: the same work on several fresh servers, in an order that drift cannot use."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from loadgen.errors import ProfileError
from loadgen.plan.plan import Plan, make_plan
from loadgen.profile.read import build_profile

SERVER = {"framework": "hf", "model": "llama-7b"}
LOAD = {"input_tokens": 8, "output_tokens": 8}
TWO = {"batch_size": [1, 4], "options": {"engine": ["generate", "compiled"]}}


def plan(sweep: Mapping[str, Any], sets: tuple[str, ...] = (), **tables: Any) -> Plan:
    given = {"server": SERVER, "load": LOAD, "sweep": sweep} | tables
    return make_plan(build_profile(given, file="p.toml", gpu_count=8, sets=sets))


def turns(found: Plan) -> list[str]:
    """Start and engine of each group of trials that one server serves."""
    return [f"{each[0].start}{spec.options['engine'][0]}" for spec, each in found.groups() if spec]  # type: ignore[index]


def test_one_start_leaves_plan_and_ids_as_they_were() -> None:
    assert plan(TWO, starts=1) == plan(TWO)
    assert {trial.start for trial in plan(TWO).trials} == {0}


def test_starts_go_forward_and_backward_over_the_servers() -> None:
    found = plan(TWO, starts=3)
    assert turns(found) == ["0g", "0c", "1c", "1g", "2g", "2c"]
    assert [len(trials) for trials in found.sets()] == [2] * 6


def test_the_first_start_keeps_its_ids_and_further_ones_have_their_own() -> None:
    ids = [trial.id for trial in plan(TWO, starts=3).trials]
    assert len(set(ids)) == 12
    assert ids[:4] == [trial.id for trial in plan(TWO).trials]


def test_every_start_is_sent_the_same_prompts() -> None:
    seeds: dict[tuple[int, int], set[int]] = {}
    for trial in plan(TWO, starts=2, load=LOAD | {"repeat": 2}).trials:
        seeds.setdefault((trial.load.batch_size, trial.repeat), set()).add(trial.load.seed)
    assert [len(found) for found in seeds.values()] == [1] * 4


def test_rivals_are_up_together_start_after_start() -> None:
    found = plan(TWO, starts=2, order="interleaved")
    assert [{trial.start for trial in trials} for trials in found.sets()] == [{0}, {1}]
    engines = ["".join(t.server.options["engine"][0] for t in trials) for trials in found.sets()]  # type: ignore
    assert engines == ["gccg", "cggc"]


def test_a_list_names_the_very_starts_and_a_block_may_have_its_own() -> None:
    assert {trial.start for trial in plan(TWO, starts=[2]).trials} == {2}
    sweeps: Any = [TWO, {"batch_size": 8, "starts": 2}]
    found = plan(sweeps)
    assert {trial.start for trial in found.trials if trial.load.batch_size == 8} == {0, 1}
    assert {trial.start for trial in found.trials if trial.load.batch_size < 8} == {0}
    assert {trial.start for trial in plan(sweeps, sets=("starts=3",)).trials} == {0, 1, 2}


@pytest.mark.parametrize("where", ["starts", "sweep"])
def test_an_endpoint_that_already_runs_cannot_be_started_again(where: str) -> None:
    tables: dict[str, Any] = {
        "target": {"url": "http://127.0.0.1:1"},
        "load": LOAD,
        "sweep": {"batch_size": 1},
    }
    if where == "starts":
        tables["starts"] = 2
    else:
        tables["sweep"]["starts"] = 2
    with pytest.raises(ProfileError, match=r"starts.*already runs"):
        build_profile(tables, file="p.toml")


def test_the_largest_batch_is_searched_for_on_the_first_start() -> None:
    server = SERVER | {"max_batch": "auto"}
    assert len(plan(TWO, server=server, starts=3).searches) == len(plan(TWO, server=server).searches) == 2
    with pytest.raises(ProfileError, match="no static batch"):
        plan(TWO, server=server, starts=[2])
