"""Runs a schedule: one ``loadgen sweep`` a part, side by side on free GPUs, ended in time."""

from __future__ import annotations

import math
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import click

from loadgen.launch.process import GUARD, log_tail
from loadgen.reproduce.parts import Part
from loadgen.reproduce.prebuild import run_ahead
from loadgen.reproduce.schedule import Run, Schedule
from loadgen.system import cpus, interrupt
from loadgen.units import show_duration

POLL_S = 0.1


STOP_S = 60.0  # a child's time to stop its servers


RESERVE_S = 15.0  # of the time limit, for that


Say = Callable[[str], None]


@dataclass(slots=True)
class _Child:
    """A part that runs: a sweep under a guard, which ends it when this process ends, however that happens."""

    part: Part
    run: Run
    began_s: float
    log: Path
    process: subprocess.Popen[bytes]

    def ask_to_end(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()


def _run_all(
    schedule: Schedule,
    parts: dict[str, Part],
    out: Path,
    passed: Sequence[str],
    began_s: float,
    time_limit: float | None,
    part_limit: float | None,
    *,
    over_ray: bool = False,
) -> dict[str, str]:
    """Run all jobs to their end, or to that of the time. Returns what broke: id → its last words.

    ``passed`` are options that every child gets; ``over_ray``: they are spread over a cluster, and Ray says where.
    """

    def say(text: str) -> None:
        click.echo(f"[{_clock(time.monotonic() - began_s)}] {text}")

    def left_s() -> float:
        return math.inf if time_limit is None else began_s + time_limit - RESERVE_S - time.monotonic()

    children: list[_Child] = []
    broken: dict[str, str] = {}
    gpus = [slot.gpu for slot in schedule.slots if slot.gpu is not None]
    specs = [spec for job in schedule.waiting for spec, _ in parts[job.id].plan.groups() if spec is not None]
    if not over_ray:
        here = [replace(spec, gpus=tuple(gpus[: len(spec.gpus)])) for spec in specs]
        run_ahead(here, out / "logs", left_s, say)
    try:
        while True:
            if left_s() <= 0:
                schedule.waiting.clear()
            for run in schedule.start():
                limit_s = min(left_s(), part_limit or math.inf)
                told = [*passed, *([] if over_ray else _place(run))]
                children.append(_start(parts[run.job.id], run, out, told, limit_s))
                missing = len(children[-1].part.missing().trials)
                say(f"{run.job.id} starts on {_where(run, over_ray)}: {missing} trials missing")
            for child in [child for child in children if child.process.poll() is not None]:
                children.remove(child)
                schedule.end(child.run)
                _tell_end(child, say, broken)
            if not children and not schedule.waiting:
                return broken
            interrupt.check()
            time.sleep(POLL_S)
    finally:
        _end(children)


def _start(part: Part, run: Run, out: Path, passed: Sequence[str], limit_s: float) -> _Child:
    argv = [sys.executable, "-m", "loadgen.cli", "sweep", str(part.file), "--out", str(part.folder)]
    argv += ["--resume", "--no-live", "--no-report", *passed]
    argv += ["--time-limit", f"{limit_s:.1f}"] if math.isfinite(limit_s) else []
    log = out / "logs" / f"{part.id.replace('/', '-')}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as file:
        process = subprocess.Popen(
            [sys.executable, "-I", "-S", str(GUARD), str(STOP_S), *argv],
            stdin=subprocess.PIPE,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C is for this process to pass on
        )
    return _Child(part=part, run=run, began_s=time.monotonic(), log=log, process=process)


def _place(run: Run) -> list[str]:
    """Options that keep a part on its share of this machine."""
    gpus = ["--set", f"gpus=[{','.join(map(str, run.gpus))}]"] if run.gpus else []
    return ["--cpus", cpus.compact(run.cores), *gpus]


def _tell_end(child: _Child, say: Say, broken: dict[str, str]) -> None:
    code = child.process.returncode
    took = show_duration(time.monotonic() - child.began_s)
    say(f"{child.part.id} ended after {took}: {_counts(child.part)} (log: {child.log})")
    if code not in (0, 1) or (code == 1 and not child.part.results()):
        last = log_tail(child.log, 3).strip() or "nothing in its log"
        broken[child.part.id] = f"exit code {code}: {last}"
        say(f"{child.part.id} broke: {broken[child.part.id]}")


def _end(children: Sequence[_Child]) -> None:
    """Ask all to end, then wait for all; their guards see to it that they do."""
    for child in children:
        child.ask_to_end()
    for child in children:
        child.process.wait()


def _counts(part: Part) -> str:
    results = part.results()
    failed = sum(result.failure is not None for result in results)
    said = f"{len(results)} stored, {failed} failed, {len(part.plan.trials) - len(results)} left"
    return said + (f", {part.held} in folders of --have" if part.held else "")


def _where(run: Run, over_ray: bool = False) -> str:
    if over_ray:
        return f"the cluster, {len(run.gpus)} GPUs at once" if run.gpus else "the cluster"
    gpus = ", ".join(map(str, run.gpus))
    return (f"GPU {gpus}, " if gpus else "") + f"cores {cpus.compact(run.cores)}"


def _clock(seconds: float) -> str:
    return f"{int(seconds) // 60:3d}:{int(seconds) % 60:02d}"
