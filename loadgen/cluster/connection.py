"""The one door to Ray: a connection to a cluster that the user started, and actors on its nodes.

Nothing of Ray is imported before ``connected`` is called. No cluster is started or stopped here: `ray stop` kills
every Ray process of a host, whoever's it is.
"""

from __future__ import annotations

import contextlib
import logging
import signal
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from loadgen.cluster.address import check_token, probe, resolved
from loadgen.cluster.places import Node, Place, node_of
from loadgen.errors import BadInput, LoadgenError, MissingDependency, WorkerDied

PLACED_S = 30.0  # for free places on as many nodes
ANSWER_S = (
    60.0  # for a call that has nothing to wait for: a node's first process takes some seconds to come up
)
CALLS = 8  # that an actor takes at once

_current: Cluster | None = None


@dataclass(eq=False, slots=True)
class Member:
    """An actor on a node of its own, at ``address``."""

    address: str
    actor: Any

    def call(self, method: str, *arguments: Any) -> Any:
        """Begin a call; what comes back is to be waited for."""
        return getattr(self.actor, method).remote(*arguments)


class Cluster:
    """A connection; ``name`` is its address."""

    def __init__(self, ray: Any, name: str) -> None:
        self._ray, self.name = ray, name
        self._placed: Any = None
        self._members: list[Member] = []
        self._asked: tuple[Any, ...] = ()

    def addresses(self) -> list[str]:
        """Of all nodes that are alive."""
        return [str(node["NodeManagerAddress"]) for node in self._nodes()]

    def spread(self, kind: type, count: int, cpus: int) -> list[Member]:
        """One actor of ``kind`` on each of ``count`` nodes, with so many CPUs; those of before where nothing changed.

        Raises BadInput where there are not so many nodes, LoadgenError where they are taken.
        """
        asked = (kind, count, cpus)
        if asked == self._asked:
            return self._members
        self.drop()
        fit = [node for node in self._nodes() if node["Resources"].get("CPU", 0) >= cpus]
        if len(fit) < count:
            raise BadInput(
                f"nodes = {count}: the cluster at {self.name} has {len(fit)} with {cpus} CPUs or more "
                f"(accepted: up to {len(fit)})"
            )
        from ray.util.placement_group import placement_group, placement_group_table
        from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

        self._placed = placement_group([{"CPU": cpus}] * count, strategy="STRICT_SPREAD")
        if not self._placed.wait(PLACED_S):
            self.drop()
            raise LoadgenError(
                f"{count} nodes with {cpus} free CPUs each did not come in {PLACED_S:g} s: what else runs there?"
            )
        where = placement_group_table(self._placed)["bundles_to_node_id"]
        named = {node["NodeID"]: str(node["NodeManagerAddress"]) for node in self._nodes()}
        remote = self._ray.remote(kind)
        for place in range(count):
            strategy = PlacementGroupSchedulingStrategy(self._placed, placement_group_bundle_index=place)
            actor = remote.options(
                num_cpus=cpus,
                max_concurrency=CALLS,
                max_restarts=0,
                max_task_retries=0,
                scheduling_strategy=strategy,
            ).remote()
            self._members.append(Member(named[where[place]], actor))
        self._asked = asked
        return self._members

    def nodes(self) -> list[Node]:
        """All that are alive."""
        return [node_of(node) for node in self._nodes()]

    def free(self) -> dict[str, tuple[float, float]]:
        """The CPUs and GPUs of each node that nobody has taken, by its id, as of a moment ago."""
        from ray._private.state import available_resources_per_node

        found = available_resources_per_node()
        return {id_: (each.get("CPU", 0.0), each.get("GPU", 0.0)) for id_, each in found.items()}

    def start(self, kind: type, place: Place) -> Member:
        """An actor of ``kind`` on one node, with a place there; it waits where somebody else was faster."""
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        actor = (
            self._ray.remote(kind)
            .options(
                num_cpus=place.cpus,
                num_gpus=place.gpus,
                max_concurrency=CALLS,
                max_restarts=0,
                max_task_retries=0,
                scheduling_strategy=NodeAffinitySchedulingStrategy(place.node.id, soft=False),
            )
            .remote()
        )
        return Member(place.node.address, actor)

    def end(self, member: Member) -> None:
        """End one actor, and what runs below it."""
        self._ray.kill(member.actor)

    def drop(self) -> None:
        """End the actors of ``spread``, and what runs below them."""
        from ray.util.placement_group import remove_placement_group

        for member in self._members:
            self._ray.kill(member.actor)
        if self._placed is not None:
            remove_placement_group(self._placed)
        self._members, self._placed, self._asked = [], None, ()

    def ready(self, calls: Sequence[Any], seconds: float) -> list[Any]:
        """Those of some calls that have ended, after so many seconds or as soon as there is one."""
        return list(self._ray.wait(list(calls), num_returns=1, timeout=seconds)[0])

    def answer(self, member: Member, call: Any, seconds: float = ANSWER_S) -> Any:
        """What a call gave. Raises WorkerDied where its node was lost, or says nothing for so long."""
        from ray import exceptions

        try:
            return self._ray.get(call, timeout=seconds)
        except exceptions.GetTimeoutError:
            raise WorkerDied(f"node {member.address} was lost: no answer in {seconds:g} s") from None
        except exceptions.RayError as error:
            words = str(error).strip()
            if "No module named 'loadgen" in words:
                raise BadInput(
                    f"node {member.address}: loadgen is not installed there (accepted: the same version on every node)"
                ) from None
            if isinstance(error, exceptions.RayTaskError):
                raise LoadgenError(
                    f"node {member.address}: {type(error.cause).__name__}: {error.cause}"
                ) from error
            raise WorkerDied(
                f"node {member.address} was lost: {type(error).__name__}: {words.splitlines()[0]}"
            ) from None

    def _nodes(self) -> list[dict[str, Any]]:
        return [node for node in self._ray.nodes() if node["Alive"]]


@contextlib.contextmanager
def connected(address: str, *, without_token: bool = False) -> Iterator[Cluster]:
    """A connection to the cluster at ``address`` (HOST:PORT, or auto), which is ``current`` meanwhile.

    Inside, further ones are the same. Raises MissingDependency without Ray, BadInput where nobody answers or the
    cluster stands open.
    """
    global _current
    if _current is not None:
        yield _current
        return
    try:
        import ray
    except ModuleNotFoundError:
        raise MissingDependency(
            "--ray needs Ray, which is not installed", "pip install 'llm-loadgen[ray]'"
        ) from None
    place = resolved(address)
    probe(place)
    check_token([place.rpartition(":")[0]], without_token)
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    try:
        ray.init(
            address=place,
            log_to_driver=False,
            logging_level=logging.ERROR,
            configure_logging=False,
        )
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise BadInput(f"--ray {address}: Ray refuses: {str(error).strip().splitlines()[0]}") from None
    finally:
        for number, handler in handlers.items():  # Ray puts in its own
            signal.signal(number, handler)
    try:
        _current = Cluster(ray, place)
        check_token(_current.addresses(), without_token)
        yield _current
        _current.drop()
    finally:
        _current = None
        ray.shutdown()


def current() -> Cluster:
    """The connection there is. Raises BadInput without one."""
    if _current is None:
        raise BadInput(
            "a load from several nodes needs their cluster (accepted: --ray auto, or --ray HOST:PORT)"
        )
    return _current
