"""What a cluster of clients costs and how exact it is: a load against the null server, from 1, 2, 4, … of its nodes.

A node sends the same for any number of them, so that what more nodes cost shows. Arrival times of other hosts are
compared with the server's log by clocks that agree within a bound, and hold the wire: gaps between tokens hold neither.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from loadgen.cluster.address import own_address
from loadgen.cluster.connection import Cluster, Member, connected
from loadgen.load.client import LoadOutcome, places_of
from loadgen.load.node import LoadNode
from loadgen.load.nodes import run_nodes
from loadgen.load_records import LoadSpec
from loadgen.metrics.percentiles import percentile_words
from loadgen.records import Dist
from loadgen.selfcheck.calibrate import REPLAY_S, VOCAB, shape, verdict
from loadgen.selfcheck.replay import Null, Replay, shorten
from loadgen.text_table import Table
from loadgen.units import show_bytes, show_number, show_s, show_share


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """A replay from ``nodes`` nodes with ``workers`` processes each.

    Seconds until an actor of every node answered, and from then until every worker's warm-up was drained. CPU seconds
    and peak memory of each node's actor, which runs beside its workers; the replay holds the workers' own.
    """

    nodes: int
    workers: int
    replay: Replay
    actors_up_s: float
    workers_up_s: float
    actor_cpu_s: tuple[float, ...]
    actor_rss_bytes: tuple[int | None, ...]

    @property
    def bound_s(self) -> float | None:
        """How far the clocks may be apart from ours, at most."""
        return max(
            (node.bound_s for node in self.replay.quality.nodes if node.bound_s is not None), default=None
        )

    @property
    def skew_s(self) -> float | None:
        """From the first node's beginning to the last one's, each against its own first due time."""
        began = [node.began_s for node in self.replay.quality.nodes if node.began_s is not None]
        return max(began) - min(began) if began else None

    @property
    def node_rss_bytes(self) -> float | None:
        """Peak memory of one node's workers and actor, on average; without Ray's own processes."""
        workers = self.replay.quality.rss_bytes
        actors = [each for each in self.actor_rss_bytes if each is not None]
        return None if workers is None or not actors else (workers + sum(actors)) / self.nodes


def measure(
    load: LoadSpec,
    address: str,
    *,
    nodes: int | None = None,
    without_token: bool = False,
    ttft_ms: float,
    itl_ms: float,
    bound_ms: float,
    note: Callable[[str], None] = lambda _line: None,
) -> list[Cost]:
    """Replay ``load`` from ``nodes`` nodes (``None``: all) of the cluster at ``address``, and parts of it from 1, 2, 4,
    … of them.

    Raises BadInput for a cluster or a load that cannot be, ServerError when the null server does not last, WorkerDied
    for a node that is lost.
    """
    began_s = time.monotonic()
    with connected(address, without_token=without_token) as cluster:
        note(f"connected to {cluster.name} in {show_s(time.monotonic() - began_s)}")
        most = len(cluster.addresses()) if nodes is None else nodes
        for count in counts(most):
            places_of(part_of(load, count, most), (0, count * load.workers))
        null = Null(ttft_ms=ttft_ms, itl_ms=itl_ms, vocab=VOCAB, host=own_address(cluster.name))
        load = shorten(load, null.answer_s(load), REPLAY_S)
        found = []
        for count in counts(most):
            found.append(_cost(cluster, null, part_of(load, count, most)))
            why = verdict(found[-1].replay, bound_ms / 1e3)[0] or "within the bound"
            note(f"{shape(found[-1].replay.load)} from {_nodes(count)}: {why}")
        return found


def counts(most: int) -> list[int]:
    """1, 2, 4, … and the most."""
    found = [1]
    while found[-1] < most:
        found.append(min(2 * found[-1], most))
    return found


def part_of(load: LoadSpec, count: int, most: int) -> LoadSpec:
    """What ``count`` nodes send so that each has as much to do as when ``most`` send the whole load; a trace is sent
    whole."""
    if load.kind == "trace":
        return dataclasses.replace(load, nodes=count)

    def part(value: float | None) -> float | None:
        return None if value is None else value * count / most

    return dataclasses.replace(
        load,
        nodes=count,
        rate=part(load.rate),
        rate_end=part(load.rate_end),
        max_rate=part(load.max_rate),
        concurrency=max(1, load.concurrency * count // most),
        requests=max(1, load.requests * count // most),
        warmup=load.warmup * count // most,
    )


def _cost(cluster: Cluster, null: Null, load: LoadSpec) -> Cost:
    began_s = time.monotonic()
    cluster.drop()
    members = cluster.spread(LoadNode, load.nodes, load.workers)
    before = _usage(cluster, members)
    up_s = time.monotonic()
    ready_s: list[float] = []

    def send(*given: Any, **more: Any) -> LoadOutcome | None:
        sent_s = time.monotonic()

        def ready(_start_ns: int) -> None:
            ready_s.append(time.monotonic() - sent_s)

        return run_nodes(*given, nodes=load.nodes, workers=load.workers, on_start=ready, **more)

    replay = null.replay(load, send=send)
    after = _usage(cluster, members)
    return Cost(
        nodes=load.nodes,
        workers=load.workers,
        replay=replay,
        actors_up_s=up_s - began_s,
        workers_up_s=ready_s[0],
        actor_cpu_s=tuple(last["cpu_s"] - first["cpu_s"] for first, last in zip(before, after, strict=True)),
        actor_rss_bytes=tuple(each["rss_bytes"] for each in after),
    )


def _usage(cluster: Cluster, members: Sequence[Member]) -> list[Mapping[str, Any]]:
    calls = [each.call("usage") for each in members]
    return [cluster.answer(each, call) for each, call in zip(members, calls, strict=True)]


def table(found: Sequence[Cost]) -> Table:
    """A column for each number of nodes: what a user wants to know of this cluster."""
    rows: list[tuple[str, Callable[[Cost], str]]] = [
        ("load", lambda cost: shape(cost.replay.load)),
        ("requests", lambda cost: str(cost.replay.requests)),
        ("load generator processes", lambda cost: f"{cost.nodes} × {cost.workers}"),
        ("failed", lambda cost: str(sum(cost.replay.failed.values()))),
        ("requests/s", lambda cost: show_number(cost.replay.per_s(cost.replay.requests))),
        ("tokens/s", lambda cost: show_number(cost.replay.per_s(cost.replay.tokens))),
        ("load kept up", lambda cost: show_share(cost.replay.rate_share)),
        ("CPU per request", lambda cost: show_s(cost.replay.cpu_s_per_request)),
        ("CPU per token", lambda cost: show_s(cost.replay.cpu_s_per_token)),
        ("CPU of a node's actor, at most", lambda cost: show_s(max(cost.actor_cpu_s))),
        ("send lag, p50 / p99", lambda cost: _both(cost.replay.quality.send_lag_s)),
        ("ITL error, p50 / p99", lambda cost: _both(cost.replay.errors.itl_s)),
        ("TTFT error with wire and clocks, p50 / p99", lambda cost: _both(cost.replay.errors.ttft_s)),
        ("clock bound", lambda cost: show_s(cost.bound_s)),
        ("start skew", lambda cost: show_s(cost.skew_s)),
        ("start-up of actors", lambda cost: show_s(cost.actors_up_s)),
        ("start-up of workers, warm-up and all", lambda cost: show_s(cost.workers_up_s)),
        ("memory of a node", lambda cost: show_bytes(cost.node_rss_bytes)),
    ]
    return Table(
        title="This cluster as a client",
        head=("figure", *(_nodes(cost.nodes) for cost in found)),
        rows=tuple((name, *(show(cost) for cost in found)) for name, show in rows),
        note="As much from a node in each column. CPU per request and token is that of the workers while they send; an "
        "actor starts them and brings their samples. Memory is the peak of both, without Ray's own processes.",
    )


def _nodes(count: int) -> str:
    return f"{count} node{'s' if count > 1 else ''}"


def _both(dist: Dist | None) -> str:
    return "–" if dist is None else f"{show_s(dist.p50)} / {percentile_words(dist, 'p99')}"
