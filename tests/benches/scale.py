"""What many trials and many requests cost: memory, and seconds behind the last reply, against goals.

    .venv/bin/python tests/benches/scale.py                 # all of it: minutes on a quiet machine
    .venv/bin/python tests/benches/scale.py trials          # a report of 1,000 trials
    .venv/bin/python tests/benches/scale.py requests 50000  # one trial of so many one-token requests [1,000,000]

Folders are written by the project's own store, or by ``loadgen run`` itself. Beside each wall time stands the CPU time,
which says more on a machine that does other work as well: the goal is held against it.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pyarrow.compute as pc
import pyarrow.parquet as pq
from client_cost import Figure, build, server

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "aids"))
import synthetic

BATCHES, LENGTHS, REPEATS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512), (20, 100, 200, 400, 800), 5
SERVERS = (
    {"framework": "hf"},
    {"framework": "hf", "tp": 2},
    {"framework": "ds"},
    {"framework": "ds", "tp": 2},
)
REPORT_S, AFTER_S, MEMORY = 15.0, 20.0, 250.0
FORMATS = ("html", "md")


@dataclass(slots=True)
class Ran:
    """A command that ended: seconds, CPU seconds, and the peak memory in MiB of it and of every process it started."""

    wall_s: float
    cpu_s: float
    ended_ns: int
    peaks: dict[str, float] = field(default_factory=dict)


def loadgen(*arguments: str) -> Ran:
    """Run a command; AssertionError where it fails."""
    began = time.monotonic()
    child = subprocess.Popen([sys.executable, "-m", "loadgen.cli", *arguments], stdout=subprocess.DEVNULL)
    peaks: dict[int, tuple[str, float]] = {}
    over = threading.Event()
    watch = threading.Thread(target=_watch, args=(child.pid, peaks, over))
    watch.start()
    _, status, usage = os.wait4(child.pid, 0)
    ended_ns = time.monotonic_ns()
    over.set()
    watch.join()
    child.returncode = os.waitstatus_to_exitcode(status)
    assert child.returncode == 0, f"loadgen {arguments[0]}: exit status {child.returncode}"
    named = {"the command itself": usage.ru_maxrss / 1024}
    named |= {name: mib for pid, (name, mib) in peaks.items() if pid != child.pid}
    return Ran(time.monotonic() - began, usage.ru_utime + usage.ru_stime, ended_ns, named)


def _watch(pid: int, peaks: dict[int, tuple[str, float]], over: threading.Event) -> None:
    while not over.wait(0.2):
        try:
            processes = psutil.Process(pid).children(recursive=True)
        except psutil.Error:
            return
        for process in processes:
            try:
                name = next(
                    (word for word in process.cmdline() if word.startswith("loadgen.")), process.name()
                )
                most = max(process.memory_info().rss / 2**20, peaks.get(process.pid, ("", 0.0))[1])
            except psutil.Error:
                continue
            peaks[process.pid] = (name, most)


def reported(folder: Path, what: str) -> list[Figure]:
    """A report of a folder, in each format; tables on the terminal come with each."""
    found = []
    for kind in FORMATS:
        ran = loadgen("report", str(folder), "--format", kind)
        name = f"report of {what}, {kind} and terminal"
        found += [
            Figure(name=f"{name}: CPU", value=ran.cpu_s, unit="s", goal=REPORT_S),
            Figure(name=f"{name}: wall", value=ran.wall_s, unit="s"),
            Figure(name=f"{name}: memory", value=max(ran.peaks.values()), unit="MiB"),
        ]
    return found


def trials(_count: int) -> list[Figure]:
    """A thousand trials, each with its samples, of four servers."""
    world = synthetic.roofline_world()
    points = [
        synthetic.Point(**{**each, "batch": batch, "input_tokens": length})  # type: ignore[arg-type]
        for each in SERVERS for batch in BATCHES for length in LENGTHS
    ]  # fmt: skip
    results = synthetic.sweep(points, world, repeats=REPEATS)
    with tempfile.TemporaryDirectory() as place:
        folder = synthetic.write(Path(place) / "many", results)
        return reported(folder, f"{len(results):,} trials")


def requests(count: int) -> list[Figure]:
    """One trial of so many requests of one token each, by the command line, and its report."""
    with tempfile.TemporaryDirectory() as place:
        cores = sorted(os.sched_getaffinity(0))
        arguments = f"--concurrency 64 --input-tokens 16 --output-tokens 1 --requests {count} --no-live"
        with server(build(place), 0, 0, False, cores[0]) as (url, _):
            asked = ("--url", url, "--model", "null", "--vocab", "32000", "--out", f"{place}/large")
            ran = loadgen("run", *asked, *arguments.split())
        samples = next(Path(place, "large/samples").iterdir())
        last_ns: Any = pc.max(pq.read_table(samples, columns=["end_ns"])["end_ns"]).as_py()
        name, after_s = f"{count:,} one-token requests", (ran.ended_ns - last_ns) / 1e9
        return [
            Figure(name=f"{name}: last reply to prompt", value=after_s, unit="s", goal=AFTER_S),
            Figure(name=f"{name}: CPU of all", value=ran.cpu_s / count * 1e6, unit="µs/request"),
            *(
                Figure(name=f"{name}: memory of {who}", value=mib, unit="MiB", goal=MEMORY)
                for who, mib in ran.peaks.items()
            ),
            *reported(Path(place, "large"), f"{count:,} samples"),
        ]


def main(words: list[str]) -> int:
    """Print every figure beside its goal; 1 when one missed it."""
    names = {"trials": trials, "requests": requests}
    count = int(words[1]) if len(words) > 1 else 1_000_000
    missed = 0
    for name in words[:1] or names:
        for figure in names[name](count):
            print(figure.line(), flush=True)
            missed += figure.goal is not None and figure.value > figure.goal
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
