"""What parts of a plan need, and what they get."""

from __future__ import annotations

from dataclasses import replace

import pytest

from loadgen.cluster.places import Node
from loadgen.errors import BadInput, LoadgenError
from loadgen.plan.plan import Plan, make_plan
from loadgen.profile.read import build_profile
from loadgen.records import ServerSpec, TrialResult
from loadgen.search_records import Search
from loadgen.sweeping.given_gpus import given_gpus, gpus_needed, known_here, nodes_for, on_gpus
from loadgen.theory.models import PRESETS

NODE = Node(id="1", address="10.0.0.1", cpus=8, gpus=2)


RIVALS = {"order": "interleaved", "server": {"model": "llama-13b"}}


def plan_of(**tables: object) -> Plan:
    server = {"framework": "hf", "model": "llama-13b"}
    load = {"input_tokens": 8, "output_tokens": 8, "requests": 1}
    profile = {"name": "x", "server": server, "load": load, "sweep": {"batch_size": [1, 2]}}
    return make_plan(build_profile(profile | tables, gpu_count=8))


def test_a_part_needs_what_its_servers_use_together() -> None:
    of_tp = plan_of(sweep={"tp": [1, 2, 4], "batch_size": 1})
    assert [gpus_needed(part) for part in of_tp.parts()] == [1, 2, 4]
    rivals = plan_of(**RIVALS, sweep={"framework": ["hf", "vllm"], "tp": [2], "batch_size": [1]})
    assert [gpus_needed(part) for part in rivals.parts()] == [4], "they are up side by side"
    assert nodes_for(of_tp.parts()[:2], [NODE], None) == [NODE]
    with pytest.raises(BadInput, match="needs 4 GPUs of one node"):
        nodes_for(of_tp.parts(), [NODE], None)


def test_a_plan_moves_to_the_gpus_that_it_gets() -> None:
    rivals = plan_of(**RIVALS, sweep={"framework": ["hf", "vllm"], "batch_size": [1]})
    specs = [trial.server for trial in rivals.trials if trial.server]
    search = Search(server=specs[1], load=rivals.trials[0].load)
    moved = on_gpus(replace(rivals, searches=(search,)), (5, 3))
    assert [trial.server.gpus for trial in moved.trials if trial.server] == [(5,), (3,)]
    assert moved.searches[0].server.gpus == (3,)
    assert [trial.id for trial in moved.trials] == [trial.id for trial in rivals.trials]
    with pytest.raises(LoadgenError, match="Ray gave 1 GPUs of 2: 5"):
        on_gpus(rivals, (5,))


def test_the_gpus_are_those_of_rays_variable() -> None:
    assert given_gpus({"CUDA_VISIBLE_DEVICES": "3,1"}) == (3, 1)
    assert given_gpus({"CUDA_VISIBLE_DEVICES": ""}) == given_gpus({}) == ()


def test_what_is_known_of_a_server_holds_wherever_it_was() -> None:
    part = plan_of().parts()[0]
    there = on_gpus(part, (1,))
    other = ServerSpec(framework="vllm", model=PRESETS["llama-13b"], gpus=(0,))

    def result(trial: object) -> TrialResult:
        return TrialResult(trial=trial, environment="e", engine={}, started="", wall_s=1.0)  # type: ignore[arg-type]

    known = [result(part.trials[0]), result(replace(part.trials[1], server=other))]
    assert known_here(known, there) == [result(there.trials[0])]
