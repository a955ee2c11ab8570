"""``loadgen reproduce``: the parts of a reproduction, side by side on disjoint GPUs and cores, each a child sweep."""

from __future__ import annotations

import math
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import click
import orjson

from loadgen import cpus, interrupt
from loadgen.elsewhere import held
from loadgen.environment import visible_gpus
from loadgen.errors import BadInput
from loadgen.lanes import Job, Lanes, Run, forecast, slots
from loadgen.parts import Part, find, home
from loadgen.predict import outlook
from loadgen.process import GUARD, log_tail
from loadgen.setups import run_ahead
from loadgen.units import show_duration

POLL_S = 0.1
STOP_S = 60.0  # a child's time to stop its servers
RESERVE_S = 15.0  # of the time limit, for that
DEVICE = "H200"  # whose datasheet estimates times where there is no GPU that could be asked

Say = Callable[[str], None]


def run(
    *,
    out: Path,
    profiles: Path | None,
    wanted: Sequence[str],
    sets: Sequence[str],
    gpus: str | None,
    time_limit: float | None,
    part_limit: float | None,
    sequential: bool,
    retry_failed: bool,
    dry_run: bool,
    have: Sequence[str] = (),
) -> int:
    """Run what is missing of the parts. Returns the exit code: 1 when a trial failed or a part broke."""
    began_s = time.monotonic()
    patterns = [pattern.strip() for text in wanted for pattern in text.split(",") if pattern.strip()]
    devices = _devices(gpus, dry_run)
    every = find(home(profiles), patterns, sets, out, held(have, retry_failed))
    runnable = {
        part.id: part for part in every if (part.lacks is None or dry_run) and part.gpus <= len(devices)
    }
    jobs = [_job(part, retry_failed) for part in runnable.values()]
    lanes = Lanes(
        slots=slots(devices, cpus.usable(), max(1, len({job.folder for job in jobs}))),
        waiting=[job for job in jobs if job.id not in _done(runnable, retry_failed)],
        alone=sequential,
    )
    click.echo(
        f"{len(devices)} GPUs ({', '.join(map(str, devices)) or 'none'}), {len(cpus.usable())} cores, "
        f"{len(every)} parts, {sum(len(part.plan.trials) for part in every)} trials"
        + (f" beside {sum(part.held for part in every)} of --have" if have else "")
        + (f", at most {show_duration(time_limit)}" if time_limit else "")
    )
    left_out = {part.id: why for part in every if (why := _why_not(part, len(devices)))}
    for id_, why in left_out.items():
        click.echo(f"{id_}: {'would not run' if dry_run else 'not run'}: {why.splitlines()[0]}")
    if dry_run:
        _print_schedule(lanes, runnable)
        return 0
    passed = [word for text in sets for word in ("--set", text)]
    passed += [word for text in have for word in ("--have", text)]
    passed += ["--retry-failed"] if retry_failed else []
    broken = _run_all(lanes, runnable, out, passed, began_s, time_limit, part_limit)
    return _sum_up(every, left_out, broken, out)


def _devices(gpus: str | None, dry_run: bool) -> tuple[int, ...]:
    """The GPUs to use: as named, else all. A dry run may name some that are not here."""
    have = visible_gpus()
    if gpus is None:
        return have
    words = [word.strip() for word in gpus.split(",") if word.strip()]
    if not all(word.isdecimal() for word in words) or len(set(words)) != len(words):
        raise BadInput(f"--gpus {gpus}: not a list of device indices (accepted: such as 0,1)")
    named = tuple(int(word) for word in words)
    if not dry_run and not set(named) <= set(have):
        raise BadInput(
            f"--gpus {gpus}: this machine shows {len(have)} GPUs (accepted: of {', '.join(map(str, have)) or 'none'})"
        )
    return named


def _why_not(part: Part, have: int) -> str | None:
    if part.gpus > have:
        return f"needs {part.gpus} GPUs, there are {have}"
    return part.lacks


def _job(part: Part, retry_failed: bool) -> Job:
    from loadgen.ceilings import datasheet
    from loadgen.environment import read_gpus

    found, _, _ = read_gpus()
    device = datasheet(str(found[0]["name"])) if found else datasheet(DEVICE)
    left = part.plan if retry_failed else part.missing()
    ahead = outlook(left.trials, len(left.groups()), device)
    return Job(
        id=part.id, folder=part.name, gpus=part.gpus, tier=part.tier, estimate_s=ahead.estimate_s or 0.0
    )


def _done(parts: dict[str, Part], retry_failed: bool) -> set[str]:
    """Parts of which nothing is missing; a failed trial is not, unless it is to be tried again."""
    done = set()
    for id_, part in parts.items():
        results = part.results()
        failed = retry_failed and any(result.failure is not None for result in results)
        if len(results) == len(part.plan.trials) and not failed:
            done.add(id_)
    return done


def _print_schedule(lanes: Lanes, parts: dict[str, Part]) -> None:
    end_s = 0.0
    for run, from_s, to_s in forecast(lanes):
        left = len(parts[run.job.id].missing().trials)
        took = show_duration(run.job.estimate_s) if run.job.estimate_s else "a time not known"
        click.echo(f"[{_clock(from_s)}] {run.job.id} on {_where(run)}: {left} trials, about {took}")
        end_s = max(end_s, to_s)
    click.echo(f"[{_clock(end_s)}] end, by rough estimates (no CUDA graphs, {DEVICE} where no GPU is here)")


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
    lanes: Lanes,
    parts: dict[str, Part],
    out: Path,
    passed: Sequence[str],
    began_s: float,
    time_limit: float | None,
    part_limit: float | None,
) -> dict[str, str]:
    """Run all jobs to their end, or to that of the time. Returns what broke: id → its last words.

    ``passed`` are options that every child gets.
    """

    def say(text: str) -> None:
        click.echo(f"[{_clock(time.monotonic() - began_s)}] {text}")

    def left_s() -> float:
        return math.inf if time_limit is None else began_s + time_limit - RESERVE_S - time.monotonic()

    children: list[_Child] = []
    broken: dict[str, str] = {}
    gpus = [slot.gpu for slot in lanes.slots if slot.gpu is not None]
    specs = [spec for job in lanes.waiting for spec, _ in parts[job.id].plan.groups() if spec is not None]
    here = [replace(spec, gpus=tuple(gpus[: len(spec.gpus)])) for spec in specs]
    run_ahead(here, out / "logs", left_s, say)
    try:
        while True:
            if left_s() <= 0:
                lanes.waiting.clear()
            for run in lanes.start():
                limit_s = min(left_s(), part_limit or math.inf)
                children.append(_start(parts[run.job.id], run, out, passed, limit_s))
                missing = len(children[-1].part.missing().trials)
                say(f"{run.job.id} starts on {_where(run)}: {missing} trials missing")
            for child in [child for child in children if child.process.poll() is not None]:
                children.remove(child)
                lanes.end(child.run)
                _tell_end(child, say, broken)
            if not children and not lanes.waiting:
                return broken
            interrupt.check()
            time.sleep(POLL_S)
    finally:
        _end(children)


def _start(part: Part, run: Run, out: Path, passed: Sequence[str], limit_s: float) -> _Child:
    argv = [sys.executable, "-m", "loadgen.cli", "sweep", str(part.file), "--out", str(part.folder)]
    argv += ["--resume", "--no-live", "--no-report", "--cpus", cpus.compact(run.cores)]
    argv += passed
    argv += ["--set", f"gpus=[{','.join(map(str, run.gpus))}]"] if part.gpus else []
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


def _sum_up(every: Sequence[Part], left_out: dict[str, str], broken: dict[str, str], out: Path) -> int:
    """Say and store what each part has and what it lacks. Returns the exit code."""
    rows: list[dict[str, Any]] = []
    for part in every:
        results = part.results()
        failed = [result.trial.id for result in results if result.failure is not None]
        row = {
            "part": part.id,
            "folder": part.name,
            "planned": len(part.plan.trials),
            "stored": len(results),
            "held_elsewhere": part.held,
            "failed": failed,
            "missing": [trial.id for trial in part.missing().trials],
            "not_run": left_out.get(part.id),
            "broke": broken.get(part.id),
        }
        rows.append(row)
        click.echo(f"{part.id}: {_counts(part)}" + (" (not run)" if part.id in left_out else ""))
    out.mkdir(parents=True, exist_ok=True)
    (out / "summary.json").write_bytes(orjson.dumps({"parts": rows}, option=orjson.OPT_INDENT_2))
    missing = sum(len(row["missing"]) for row in rows if row["not_run"] is None)
    elsewhere = sum(len(row["missing"]) for row in rows if row["not_run"] is not None)
    if missing:
        click.echo(f"{missing} trials are left; the same command goes on")
    if elsewhere:
        click.echo(f"{elsewhere} trials are left in parts that this machine cannot run")
    return 1 if broken or any(row["failed"] for row in rows) else 0


def _counts(part: Part) -> str:
    results = part.results()
    failed = sum(result.failure is not None for result in results)
    said = f"{len(results)} stored, {failed} failed, {len(part.plan.trials) - len(results)} left"
    return said + (f", {part.held} in folders of --have" if part.held else "")


def _where(run: Run) -> str:
    gpus = ", ".join(map(str, run.gpus))
    return (f"GPU {gpus}, " if gpus else "") + f"cores {cpus.compact(run.cores)}"


def _clock(seconds: float) -> str:
    return f"{int(seconds) // 60:3d}:{int(seconds) % 60:02d}"
