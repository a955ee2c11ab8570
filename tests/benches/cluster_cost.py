"""What more nodes cost on one host: `loadgen calibrate --ray` on a loopback cluster of three, in rounds; medians.

    .venv/bin/python tests/benches/cluster_cost.py             # three rounds, minutes; Ray must be installed
    .venv/bin/python tests/benches/cluster_cost.py --rounds 1

A quiet machine: requests/s, send lag and start-up are wall time. Exit 1 where a goal is missed: CPU per token from
three nodes at most 10 % above that from one, clocks within 50 µs, no request failed.
"""

from __future__ import annotations

import argparse
import contextlib
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import psutil

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "aids"))

from ray_cluster import loopback

from loadgen.load_records import LoadSpec
from loadgen.selfcheck.cluster_cost import Cost, measure, table
from loadgen.text_table import Table
from loadgen.units import show_bytes, show_number, show_s

NODES = 3
MORE_CPU, BOUND_S = 1.10, 50e-6
LOADS = {
    "poisson": LoadSpec(
        kind="poisson", rate=90.0, input_tokens=64, output_tokens=32, requests=1800, warmup=12, workers=1
    ),
    "closed": LoadSpec(
        kind="closed", concurrency=48, input_tokens=64, output_tokens=64, requests=480, warmup=48, workers=1
    ),
}


def main() -> int:
    """Print the table of each round and one of medians; 1 where a goal is missed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3)
    rounds = parser.parse_args().rounds
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that no node outlives this
    from loadgen.live import terminal

    missed = []
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-ray-")))
        began_s = time.monotonic()
        up = stack.enter_context(loopback(folder))
        address, nodes = up.address, up.nodes(NODES)
        took_s = time.monotonic() - began_s
        idle = [show_bytes(memory_of(node.process.pid)) for node in nodes]
        print(
            f"{NODES} nodes up in {show_s(took_s)}; Ray's own processes, idle, head first: {', '.join(idle)}"
        )
        for name, load in LOADS.items():
            found = [
                measure(load, address, nodes=NODES, ttft_ms=20.0, itl_ms=20.0, bound_ms=1.0, note=print)
                for _ in range(rounds)
            ]
            terminal.print_tables([*map(table, found), medians(name, found)])
            missed += [f"{name}: {words}" for words in misses(found)]
    print("\n".join(missed) or "every goal is met")
    return 1 if missed else 0


def memory_of(pid: int) -> int:
    """Bytes of a process and all below it, shared pages counted once."""
    top = psutil.Process(pid)
    return sum(each.memory_full_info().pss for each in [top, *top.children(recursive=True)])


FIGURES: tuple[tuple[str, Callable[[Cost], float | None], Callable[[float | None], str]], ...] = (
    ("requests/s", lambda cost: cost.replay.per_s(cost.replay.requests), show_number),
    ("tokens/s", lambda cost: cost.replay.per_s(cost.replay.tokens), show_number),
    ("CPU per request", lambda cost: cost.replay.cpu_s_per_request, show_s),
    ("CPU per token", lambda cost: cost.replay.cpu_s_per_token, show_s),
    ("CPU of a node's actor", lambda cost: max(cost.actor_cpu_s), show_s),
    ("clock bound", lambda cost: cost.bound_s, show_s),
    ("start skew", lambda cost: cost.skew_s, show_s),
    ("start-up, actors and workers", lambda cost: cost.actors_up_s + cost.workers_up_s, show_s),
    ("memory of a node's client", lambda cost: cost.node_rss_bytes, show_bytes),
)


def medians(name: str, found: Sequence[Sequence[Cost]]) -> Table:
    """Of all rounds, with the smallest and the largest."""

    def cell(at: int, get: Callable[[Cost], float | None], show: Callable[[float | None], str]) -> str:
        values = [value for costs in found if (value := get(costs[at])) is not None]
        if not values:
            return "–"
        return f"{show(statistics.median(values))} ({show(min(values))} to {show(max(values))})"

    head = ("median (least to most)", *(f"{cost.nodes} nodes" for cost in found[0]))
    rows = [(what, *(cell(at, get, show) for at in range(len(found[0])))) for what, get, show in FIGURES]
    return Table(title=f"{name}, {len(found)} rounds", head=head, rows=tuple(rows))


def misses(found: Sequence[Sequence[Cost]]) -> list[str]:
    """The goals that were not met, each in words."""
    told = []
    per_token = [
        statistics.median(costs[at].replay.cpu_s_per_token or 0.0 for costs in found) for at in (0, -1)
    ]
    if per_token[1] > MORE_CPU * per_token[0]:
        told.append(
            f"CPU per token {show_s(per_token[0])} from 1 node, {show_s(per_token[1])} from {NODES} (goal: at most "
            f"{MORE_CPU - 1:.0%} more)"
        )
    bounds = [cost.bound_s for costs in found for cost in costs if cost.bound_s is not None]
    if statistics.median(bounds) > BOUND_S:
        told.append(f"clock bound {show_s(statistics.median(bounds))} (goal: {show_s(BOUND_S)})")
    failed = sum(sum(cost.replay.failed.values()) for costs in found for cost in costs)
    if failed:
        told.append(f"{failed} requests failed")
    return told


if __name__ == "__main__":
    sys.exit(main())
