"""Which node takes a group, and what no cluster is asked for."""

from __future__ import annotations

from typing import Any

import pytest

from loadgen.cluster.places import Node, Place, Places, check_room, node_of, of_one_type
from loadgen.errors import BadInput


def node(name: str, gpus: int = 2, cpus: int = 8, gpu_type: str | None = None, *names: str) -> Node:
    types = (gpu_type,) if gpu_type else ()
    known = frozenset([*types, *names])
    return Node(id=name, address=name, cpus=cpus, gpus=gpus, gpu_type=gpu_type, names=known)


def free(*nodes: Node) -> dict[str, tuple[float, float]]:
    return {each.id: (float(each.cpus), float(each.gpus)) for each in nodes}


A, B, LARGE = node("a"), node("b"), node("large", gpus=8, cpus=16)


def test_what_ray_tells_of_a_node() -> None:
    told: dict[str, Any] = {
        "NodeID": "1",
        "NodeManagerAddress": "10.0.0.1",
        "Resources": {
            "CPU": 4.0,
            "GPU": 2.0,
            "memory": 1.0,
            "node:10.0.0.1": 1.0,
            "object_store_memory": 1.0,
        },
    }
    assert node_of(told) == Node(id="1", address="10.0.0.1", cpus=4, gpus=2)
    told["Resources"] |= {"accelerator_type:H200": 1.0, "fast": 1.0}
    assert node_of(told) == Node(
        id="1", address="10.0.0.1", cpus=4, gpus=2, gpu_type="H200", names=frozenset({"H200", "fast"})
    )
    told["Resources"].pop("accelerator_type:H200")
    assert node_of(told | {"Labels": {"ray.io/accelerator-type": "H100"}}).gpu_type == "H100"


def test_trials_that_are_compared_run_on_one_type() -> None:
    h100, h200 = node("h100", 2, 8, "H100"), node("h200", 2, 8, "H200", "mine")
    with pytest.raises(
        BadInput, match=r"H100 on 1, H200 on 1; .*--ray-type H100, --ray-type H200, --ray-type mine"
    ):
        of_one_type([h100, h200], None, on_gpus=True)
    assert of_one_type([h100, h200], None, on_gpus=False) == [h100, h200]
    assert of_one_type([h100, h200], "H100", on_gpus=True) == [h100]
    assert of_one_type([h100, h200], "mine", on_gpus=True) == [h200]
    with pytest.raises(BadInput, match="a type not known on 1"):
        of_one_type([h100, A], None, on_gpus=True)
    with pytest.raises(BadInput, match="--ray-type A100: no node of the cluster has it"):
        of_one_type([h100, h200], "A100", on_gpus=True)


def test_a_group_larger_than_any_node_is_refused_with_figures() -> None:
    check_room([2, 1, 0], [A, LARGE])
    check_room([], [])
    with pytest.raises(BadInput, match=r"needs 4 GPUs .*a 2 GPUs and 8 CPUs, b 2 GPUs .*tp × pp up to 2"):
        check_room([1, 4], [A, B])
    with pytest.raises(BadInput, match=r"server.gpus = \[\] to run on CPUs"):
        check_room([1], [node("cpus", gpus=0)])
    with pytest.raises(BadInput, match="no node offers a CPU: head 0 GPUs and 0 CPUs"):
        check_room([0], [node("head", gpus=0, cpus=0)])


def test_groups_keep_out_of_each_others_way() -> None:
    places = Places([A, B])
    first, second = (places.take(1, free(A, B), 0.0) for _ in range(2))
    assert first == Place(node=A, cpus=4, gpus=1), "half of the GPUs, half of the CPUs"
    assert second == Place(node=B, cpus=4, gpus=1)
    assert places.take(2, free(A, B), 0.0) is None
    assert places.take(0, free(A, B), 0.0) is None, "servers on CPUs have a node to themselves"
    third = places.take(1, free(A, B), 0.0)
    assert third == Place(node=A, cpus=4, gpus=1)
    places.give_back(first)
    places.give_back(third)
    assert places.take(0, free(A, B), 0.0) == Place(node=A, cpus=8, gpus=0)
    assert places.take(1, free(A), 0.0) is None


def test_what_others_have_taken_is_taken() -> None:
    assert Places([A]).take(1, {"a": (8.0, 0.0)}, 0.0) is None
    assert Places([A]).take(0, {"a": (7.0, 2.0)}, 0.0) is None
    assert Places([A]).take(1, {}, 0.0) is None, "it is gone"
    assert Places([A, LARGE]).take(0, free(A, LARGE), 0.0) == Place(node=A, cpus=8, gpus=0), "GPUs stay free"


def test_a_lost_node_gets_nothing_for_a_while() -> None:
    places = Places([A, B])
    places.set_aside(A, 10.0)
    found = places.take(1, free(A, B), 0.0)
    assert found is not None
    assert found.node == B
    found = places.take(2, free(A, B), 11.0)
    assert found is not None
    assert found.node == A
