"""Plans: ids that stand for results, seeds that keep prompts apart, and the order of work."""

from __future__ import annotations

import dataclasses
import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loadgen.load.prompts import PromptSource
from loadgen.load_records import LoadSpec, Timeouts
from loadgen.plan.plan import Plan, endpoint_trial, make_plan, trial_of
from loadgen.profile.profile import Cell, Profile, Target
from loadgen.profile.read import load_profile
from loadgen.records import ServerSpec
from loadgen.search_records import CapacitySearch, Search
from loadgen.theory.models import resolve

SERVER = ServerSpec(framework="hf", model=resolve("llama-13b"), gpus=(0,))
LOAD = LoadSpec(kind="static", input_tokens=20, output_tokens=100, batch_size=8, requests=5)


def cell(load: dict[str, Any] | None = None, repeat: int = 0, **server: Any) -> Cell:
    return Cell(
        load=dataclasses.replace(LOAD, **(load or {})),
        server=dataclasses.replace(SERVER, **server),
        repeat=repeat,
    )


def plan_of(*cells: Cell) -> Plan:
    return make_plan(Profile(name="x", description="", file="x.toml", text="", sets=(), cells=cells))


def test_golden_ids() -> None:
    """Stored results are found by these: a change here orphans every results folder."""
    assert trial_of(cell()).id == "8e2e386f9859bb38"
    assert (
        trial_of(cell(tp=2, gpus=(0, 1), repeat=3, options={"engine": "compiled"})).id == "508052582c248309"
    )
    assert endpoint_trial(LOAD, "http://127.0.0.1:8000", "llama", 32000).id == "630befad01ced039"


def test_what_is_chosen_of_an_endpoint_decides_the_id_where_it_is_not_the_usual() -> None:
    ids = {
        endpoint_trial(LOAD, "http://127.0.0.1:8000", "llama", 32000, **more).id
        for more in ({}, {"driver": {}}, {"driver": {"endpoint": "chat"}}, {"exact": True}, {"exact": False})
    }
    assert len(ids) == 3
    assert "630befad01ced039" in ids


@pytest.mark.parametrize(
    "changed",
    [
        cell({"batch_size": 4}),
        cell({"input_tokens": 21}),
        cell({"output_tokens": 101}),
        cell({"kind": "closed", "batch_size": 1, "concurrency": 8}),
        cell({"requests": 6}),
        cell({"warmup": 2}),
        cell({"stream": False}),
        cell({"seed": 1}),
        cell({"workers": 2}),
        cell({"timeouts": Timeouts(total_s=5)}),
        cell(repeat=1),
        cell(framework="ds"),
        cell(tp=2),
        cell(pp=2),
        cell(dtype="float16"),
        cell(max_batch=8),
        cell(dummy_weights=False),
        cell(options={"engine": "compiled"}),
        cell(gpus=()),
        cell(model=resolve("llama-65b")),
        cell(model=dataclasses.replace(SERVER.model, max_context=4096)),
        cell(model=dataclasses.replace(SERVER.model, checkpoint="/models/a", fingerprint="abc")),
        dataclasses.replace(cell(), trace_digest="abc"),
        Cell(load=LOAD, target=Target(url="http://127.0.0.1:1")),
        Cell(load=LOAD, target=Target(url="http://127.0.0.1:2")),
        Cell(load=LOAD, target=Target(url="http://127.0.0.1:1", model_name="m")),
    ],
)
def test_whatever_decides_the_result_decides_the_id(changed: Cell) -> None:
    assert trial_of(changed).id != trial_of(cell()).id


@pytest.mark.parametrize(
    "changed",
    [
        cell(gpus=(3,)),
        cell(port=4000),
        cell(host="0.0.0.0"),
        cell(python="/opt/python"),
        cell(ready_timeout_s=5.0),
        cell(model=dataclasses.replace(SERVER.model, name="my-13b")),
    ],
)
def test_where_it_runs_does_not(changed: Cell) -> None:
    assert trial_of(changed).id == trial_of(cell()).id


def test_a_checkpoint_is_its_content() -> None:
    def at(path: str, fingerprint: str) -> str:
        return trial_of(
            cell(model=dataclasses.replace(SERVER.model, checkpoint=path, fingerprint=fingerprint))
        ).id

    assert at("/a", "one") == at("/b", "one") != at("/a", "two")


def test_a_trace_is_its_content(tmp_path: Path) -> None:
    traced = {"kind": "trace", "batch_size": 1, "trace": "/a.jsonl"}
    first = dataclasses.replace(cell(traced), trace_digest="one")
    moved = dataclasses.replace(cell(traced | {"trace": "/b.jsonl"}), trace_digest="one")
    other = dataclasses.replace(cell(traced), trace_digest="two")
    assert trial_of(first).id == trial_of(moved).id != trial_of(other).id


def test_order_of_options_does_not_matter() -> None:
    assert trial_of(cell(options={"a": 1, "b": 2})).id == trial_of(cell(options={"b": 2, "a": 1})).id


def test_prompts_are_equal_across_servers_and_differ_across_loads() -> None:
    """Frameworks are compared on equal work; on one server nothing is ever sent twice."""
    seed = trial_of(cell()).load.seed
    for same in (cell(framework="ds"), cell(tp=4), cell(dtype="float16"), cell(options={"engine": "x"})):
        assert trial_of(same).load.seed == seed
    others = [cell(repeat=1), cell({"batch_size": 4}), cell({"seed": 1}), cell({"output_tokens": 20})]
    seeds = {trial_of(other).load.seed for other in others}
    assert len(seeds | {seed}) == len(others) + 1
    first = [PromptSource(s, 32000, 20, 8).prompts(0)[0] for s in sorted(seeds | {seed})]
    assert len({tuple(prompt[:3]) for prompt in first}) == len(first)


@settings(max_examples=50)
@given(st.randoms(use_true_random=False))
def test_order_servers_together_passes_in_turn_cheapest_first(shuffle: random.Random) -> None:
    cells = [
        cell({"batch_size": b, "input_tokens": i}, repeat=r, tp=tp, gpus=tuple(range(tp)))
        for tp in (1, 2)
        for b in (1, 8, 64)
        for i in (20, 512)
        for r in (0, 1)
    ]
    shuffle.shuffle(cells)
    plan = plan_of(*cells)
    assert len(plan.trials) == 24
    groups = plan.groups()
    assert [trial for _, trials in groups for trial in trials] == list(plan.trials)
    assert len(groups) == 2
    assert groups[0][0] == cells[0].server
    for server, trials in groups:
        assert {trial.server for trial in trials if trial.server != server} == set()
        assert [trial.repeat for trial in trials] == [0] * 6 + [1] * 6
        sizes = [(trial.load.batch_size, trial.load.input_tokens) for trial in trials[:6]]
        for place, (batch, tokens) in enumerate(sizes):
            assert not any(b >= batch and i >= tokens for b, i in sizes[:place]), "a dearer trial came first"


def test_the_same_cell_is_run_once() -> None:
    assert len(plan_of(cell(), cell(tp=2), cell()).trials) == 2


def test_servers_that_differ_in_place_only_are_separate() -> None:
    plan = plan_of(cell(), cell({"batch_size": 1}, python="/opt/python"))
    assert len(plan.groups()) == 2


def test_endpoints_group_by_url() -> None:
    cells = [
        Cell(load=dataclasses.replace(LOAD, batch_size=b), target=Target(url="http://a:1", vocab=500))
        for b in (8, 1)
    ]
    plan = plan_of(*cells)
    ((server, trials),) = plan.groups()
    assert server is None
    assert [t.load.batch_size for t in trials] == [1, 8]
    assert {(t.url, t.vocab, t.server) for t in trials} == {("http://a:1", 500, None)}


def test_trials_know_the_vocabulary_of_their_model() -> None:
    assert trial_of(cell()).vocab == 32000
    assert endpoint_trial(LOAD, "http://a:1").vocab is None


def test_what_is_left() -> None:
    plan = plan_of(cell(), cell(tp=2), cell(tp=4))
    first, *rest = plan.trials
    assert plan.without([first.id, "unknown"]).trials == tuple(rest)
    assert plan.without(t.id for t in plan.trials).groups() == []


def test_parts_run_apart() -> None:
    plan = plan_of(cell(), cell(tp=2), cell({"batch_size": 16}, tp=2))
    point = dataclasses.replace(plan.trials[0], server=dataclasses.replace(SERVER, tp=8))
    searches = [Search(server=trial.server, load=trial.load) for trial in plan.trials[:2] if trial.server]
    whole = dataclasses.replace(plan, searches=tuple(searches), capacities=(CapacitySearch(point=point),))
    first, second, alone = whole.parts()
    assert (first.trials, first.searches) == (plan.trials[:1], (searches[0],))
    assert (second.trials, second.searches) == (plan.trials[1:], (searches[1],))
    assert (alone.trials, alone.searches, alone.capacities) == ((), (), whole.capacities)
    assert [part.parts() for part in (first, alone)] == [[first], [alone]]
    done = first.without([plan.trials[0].id])
    assert done.parts() == [done], "a search goes on when its trials are done"


def test_plans_of_shipped_profiles() -> None:
    plan = make_plan(load_profile("exp3", gpu_count=4))
    assert len(plan.trials) == 45
    assert [(s.tp, s.pp, len(t)) for s, t in plan.groups() if s] == [
        (1, 1, 9),
        (2, 1, 9),
        (4, 1, 9),
        (1, 2, 9),
        (1, 4, 9),
    ]
    assert make_plan(load_profile("exp3", gpu_count=8)) == plan
    assert len(make_plan(load_profile("quick")).groups()) == 1
