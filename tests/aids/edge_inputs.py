"""Fuzzing of the edges: whatever comes from outside ends in a value or a LoadgenError, never in another exception.

``python tests/aids/edge_inputs.py N`` tries N inputs in all, over ``--jobs`` processes (``make fuzz``: 200,000), and
prints a table; ``EDGE …`` behind it names some edges alone. The suite tries a few of each.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import resource
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from typing import Any

import edge_files
import edge_grpc
import edge_pages
import edge_profiles
import edge_replies
from edge_replies import Edges
from hypothesis import HealthCheck, given, seed, settings

from loadgen.errors import LoadgenError

EDGES: Edges = {
    **edge_replies.EDGES,
    **edge_grpc.EDGES,
    **edge_pages.EDGES,
    **edge_profiles.EDGES,
    **edge_files.EDGES,
}
PIECE = 4000  # inputs of one process: a machine with many cores shares out a slow edge
LONGEST_S = 60  # that one input may take: what takes longer hangs
MEMORY = 9 << 30  # bytes that one process may map: a number that was read must not become memory


@dataclass(slots=True)
class Tried:
    """What came of inputs to an edge: how many, how many were refused, and a short input of each other exception."""

    edge: str
    inputs: int = 0
    refused: int = 0
    seconds: float = 0.0
    slowest_s: float = 0.0
    peak_mib: int = 0
    wrong: dict[str, str] = field(default_factory=dict)

    def add(self, other: Tried) -> None:
        """Take in another piece of the same edge."""
        self.inputs += other.inputs
        self.refused += other.refused
        self.seconds += other.seconds
        self.slowest_s, self.peak_mib = (
            max(self.slowest_s, other.slowest_s),
            max(self.peak_mib, other.peak_mib),
        )
        self.wrong = {**other.wrong, **self.wrong}


def fuzz(edge: str, inputs: int, number: int | None = None) -> Tried:
    """Try that many inputs on an edge; ``number`` seeds them."""
    strategy, target = EDGES[edge]
    tried = Tried(edge)

    def attempt(found: Any) -> None:
        tried.inputs += 1
        began = time.perf_counter()
        try:
            with no_longer_than(LONGEST_S):
                target(found)
        except LoadgenError:
            tried.refused += 1
        except Exception as error:  # noqa: BLE001 this is what is looked for
            where = traceback.extract_tb(error.__traceback__)[-1]
            place = f"{type(error).__name__} in {os.path.relpath(where.filename)}:{where.lineno}"
            words = f"{str(error)[:120]} of {found!r:.400}"
            if place not in tried.wrong or len(words) < len(tried.wrong[place]):
                tried.wrong[place] = words
        tried.slowest_s = max(tried.slowest_s, time.perf_counter() - began)

    limits = settings(
        max_examples=inputs, deadline=None, database=None, suppress_health_check=list(HealthCheck)
    )
    test = limits(given(strategy)(attempt))
    began = time.perf_counter()
    (test if number is None else seed(number)(test))()
    tried.seconds = time.perf_counter() - began
    tried.peak_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
    return tried


@contextlib.contextmanager
def no_longer_than(limit_s: int) -> Iterator[None]:
    """Raise TimeoutError in what takes longer."""

    def over(_number: int, _frame: object) -> None:
        raise TimeoutError(f"took over {limit_s} s")

    before = signal.signal(signal.SIGALRM, over)
    signal.alarm(limit_s)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def piece(edge: str, inputs: int, number: int) -> Tried:
    """The same in a process of its own, whose death is an exception, too."""
    command = [sys.executable, __file__, str(inputs), edge, "--piece", str(number)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    try:
        return Tried(**json.loads(done.stdout.splitlines()[-1]))
    except (IndexError, ValueError, TypeError):
        last = (done.stderr.strip().splitlines() or [""])[-1]
        return Tried(edge, wrong={f"exit status {done.returncode}": f"{last[:200]} (seed {number})"})


def main(argv: list[str]) -> int:
    """Fuzz edges, print what each gave; 1 when one raised anything but a LoadgenError."""
    parser = argparse.ArgumentParser(prog="edge_inputs", description=__doc__)
    parser.add_argument("inputs", type=int, help="in all")
    parser.add_argument(
        "edges", nargs="*", metavar="EDGE", help=f"all when none is named: {', '.join(EDGES)}"
    )
    parser.add_argument(
        "--jobs", type=int, default=len(os.sched_getaffinity(0)), help="processes at once [cores]"
    )
    parser.add_argument(
        "--seed", type=int, default=int.from_bytes(os.urandom(3)), help="of the inputs [random]"
    )
    parser.add_argument("--piece", type=int, help=argparse.SUPPRESS)
    asked = parser.parse_intermixed_args(argv)
    edges = asked.edges or list(EDGES)
    if asked.piece is not None:
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
        print(json.dumps(asdict(fuzz(edges[0], asked.inputs, asked.piece))))
        return 0
    each = max(1, asked.inputs // len(edges))
    began = time.monotonic()
    found = {edge: Tried(edge) for edge in edges}
    with ThreadPoolExecutor(asked.jobs) as pool:
        asks = [
            (edge, min(PIECE, each - at), asked.seed + at) for edge in edges for at in range(0, each, PIECE)
        ]
        for done in pool.map(lambda ask: piece(*ask), asks):
            found[done.edge].add(done)
    print(table(list(found.values())))
    wrong = [
        f"{tried.edge}: {key}: {words}" for tried in found.values() for key, words in tried.wrong.items()
    ]
    print("\n".join(wrong))
    total = sum(tried.inputs for tried in found.values())
    took_s = time.monotonic() - began
    print(f"{total:,} inputs, {len(wrong)} exceptions beside our own, {took_s:.0f} s, seed {asked.seed}")
    return 1 if wrong else 0


def table(tried: list[Tried]) -> str:
    """A row for each edge."""
    head = ("edge", "inputs", "refused", "exceptions", "seconds", "slowest", "memory")
    rows = [
        (
            each.edge,
            f"{each.inputs:,}",
            f"{each.refused:,}",
            str(len(each.wrong)),
            f"{each.seconds:.0f}",
            f"{each.slowest_s * 1e3:.0f} ms",
            f"{each.peak_mib} MiB",
        )
        for each in tried
    ]
    widths = [max(len(line[at]) for line in (head, *rows)) for at in range(len(head))]
    return "\n".join(
        "  ".join(word.ljust(width) for word, width in zip(line, widths, strict=True))
        for line in (head, *rows)
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
