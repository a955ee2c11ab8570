"""Which node takes a group of trials, and what is refused before anything starts. Pure: Ray's own counts are given.

A group of servers on GPUs takes as many GPUs of one node as they use together, and an equal share of its CPUs. One on
CPUs takes a whole node: another beside it would be measured, too.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from loadgen.errors import BadInput

TYPE = "accelerator_type:"  # the resource by which Ray names a node's kind of GPU, and the label of later versions
LABEL = "ray.io/accelerator-type"
RAYS_OWN = ("CPU", "GPU", "memory", "object_store_memory")


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """A node as Ray counts it. ``gpu_type`` is the kind of its GPUs, where that is known; ``names`` is all that
    ``--ray-type`` may call it: that, and resources that its user gave it."""

    id: str
    address: str
    cpus: int
    gpus: int
    gpu_type: str | None = None
    names: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """What a group takes of a node."""

    node: Node
    cpus: int
    gpus: int


def node_of(told: Mapping[str, Any]) -> Node:
    """One of ``ray.nodes()``."""
    resources = told["Resources"]
    types = [name.removeprefix(TYPE) for name in resources if name.startswith(TYPE)]
    types += filter(None, [told.get("Labels", {}).get(LABEL)])
    given = {name for name in resources if name not in RAYS_OWN and ":" not in name}
    return Node(
        id=told["NodeID"],
        address=str(told["NodeManagerAddress"]),
        cpus=int(resources.get("CPU", 0)),
        gpus=int(resources.get("GPU", 0)),
        gpu_type=types[0] if types else None,
        names=frozenset([*types, *given]),
    )


def of_one_type(nodes: Sequence[Node], wanted: str | None, *, on_gpus: bool) -> list[Node]:
    """The nodes that trials may run on, which are compared with one another: those of the ``wanted`` type, else all.

    Raises BadInput where none is of that type, and where none is named and GPUs of several are there.
    """
    known = sorted({name for node in nodes for name in node.names})
    accepted = ", ".join(f"--ray-type {name}" for name in known) or "without it: no node's type is known"
    if wanted is not None:
        found = [node for node in nodes if wanted in node.names]
        if not found:
            raise BadInput(f"--ray-type {wanted}: no node of the cluster has it (accepted: {accepted})")
        return found
    types = Counter(node.gpu_type or "a type not known" for node in nodes if node.gpus)
    if on_gpus and len(types) > 1:
        told = ", ".join(f"{name} on {count}" for name, count in sorted(types.items()))
        raise BadInput(
            f"--ray: nodes have GPUs of several types: {told}; their trials would be compared (accepted: {accepted})"
        )
    return list(nodes)


def check_room(needs: Iterable[int], nodes: Sequence[Node]) -> None:
    """Raise BadInput for a group whose GPUs no node has: Ray would let it wait for ever."""
    need = max(needs, default=None)
    if need is None:
        return
    if not need and not any(node.cpus for node in nodes):
        raise BadInput(f"--ray: no node offers a CPU: {_told(nodes)} (accepted: ray start --num-cpus)")
    most = max((node.gpus for node in nodes), default=0)
    if need > most:
        raise BadInput(
            f"--ray: a group of servers needs {need} GPUs of one node, more than any has: {_told(nodes)} "
            f"(accepted: {f'tp × pp up to {most}' if most else 'server.gpus = [] to run on CPUs'})"
        )


def _told(nodes: Sequence[Node]) -> str:
    return ", ".join(f"{node.address} {node.gpus} GPUs and {node.cpus} CPUs" for node in nodes) or "none"


@dataclass(slots=True)
class Places:
    """Hands out nodes to groups; a node that was lost is set aside for a while."""

    nodes: Sequence[Node]
    taken: list[Place] = field(default_factory=list)
    _aside_until_s: dict[str, float] = field(default_factory=dict)

    def take(self, need: int, free: Mapping[str, tuple[float, float]], now_s: float) -> Place | None:
        """A place for a group that needs so many GPUs: where the most are free, since neighbours disturb each other.

        ``free`` are the CPUs and GPUs of each node that is alive, as Ray counts them, which others' jobs use as well.
        """
        fits = [
            (-gpus if need else node.gpus, at, place)
            for at, node in enumerate(self.nodes)
            if node.id in free and self._aside_until_s.get(node.id, now_s) <= now_s
            for place, gpus in [self._on(node, need, *free[node.id])]
            if place is not None
        ]
        if not fits:
            return None
        place = min(fits, key=lambda each: each[:2])[2]
        self.taken.append(place)
        return place

    def _on(self, node: Node, need: int, free_cpus: float, free_gpus: float) -> tuple[Place | None, float]:
        ours = [place for place in self.taken if place.node == node]
        cpus = min(free_cpus, node.cpus - sum(place.cpus for place in ours))
        gpus = min(free_gpus, node.gpus - sum(place.gpus for place in ours))
        share = node.cpus * need // node.gpus if need and node.gpus else node.cpus
        fits = need <= gpus and share <= cpus and (share or need) and not (ours and not need)
        return (Place(node=node, cpus=share, gpus=need) if fits else None), gpus

    def give_back(self, place: Place) -> None:
        """Its group has ended."""
        self.taken.remove(place)

    def set_aside(self, node: Node, until_s: float) -> None:
        """Take no place there until then."""
        self._aside_until_s[node.id] = until_s
