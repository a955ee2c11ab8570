"""``loadgen reproduce``: the parts of a reproduction, side by side on disjoint GPUs and cores, each a child sweep."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
import orjson

from loadgen.api.nodes import reached
from loadgen.cluster.places import Node, of_one_type
from loadgen.errors import BadInput
from loadgen.reproduce.parts import Part, find, home
from loadgen.reproduce.run import _clock, _counts, _run_all, _where
from loadgen.reproduce.schedule import Job, Schedule, cluster_slots, forecast, slots
from loadgen.results.other_folders import held
from loadgen.system import cpus
from loadgen.system.environment import visible_gpus
from loadgen.theory.predict import outlook
from loadgen.units import show_duration

DEVICE = "H200"  # whose datasheet estimates times where there is no GPU that could be asked


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
    ray: str | None = None,
    ray_type: str | None = None,
    ray_without_token: bool = False,
) -> int:
    """Run what is missing of the parts. Returns the exit code: 1 when a trial failed or a part broke.

    With ``ray``, each part is a sweep over that cluster, as many at once as its GPUs serve.
    """
    began_s = time.monotonic()
    patterns = [pattern.strip() for text in wanted for pattern in text.split(",") if pattern.strip()]
    nodes = _nodes(ray, ray_type, ray_without_token)
    if nodes and gpus is not None:
        raise BadInput("--gpus: Ray says which GPUs a part gets (accepted: --gpus or --ray)")
    total = sum(node.gpus for node in nodes)
    devices = tuple(range(total)) if nodes else _devices(gpus, dry_run)
    most = max((node.gpus for node in nodes), default=len(devices))
    every = find(home(profiles), patterns, sets, out, held(have, retry_failed))
    runnable = {
        part.id: part for part in every if (part.lacks is None or dry_run or nodes) and part.gpus <= most
    }
    jobs = [_job(part, retry_failed) for part in runnable.values()]
    schedule = Schedule(
        slots=cluster_slots(total, len(nodes))
        if nodes
        else slots(devices, cpus.usable(), max(1, len({job.folder for job in jobs}))),
        waiting=[job for job in jobs if job.id not in _done(runnable, retry_failed)],
        alone=sequential,
    )
    here = f"{len(devices)} GPUs ({', '.join(map(str, devices)) or 'none'}), {len(cpus.usable())} cores, "
    there = f"{total} GPUs on {len(nodes)} nodes, "
    click.echo(
        f"{there if nodes else here}{len(every)} parts, {sum(len(part.plan.trials) for part in every)} trials"
        + (f" beside {sum(part.held for part in every)} of --have" if have else "")
        + (f", at most {show_duration(time_limit)}" if time_limit else "")
    )
    left_out = {part.id: why for part in every if (why := _why_not(part, most, bool(nodes)))}
    for id_, why in left_out.items():
        click.echo(f"{id_}: {'would not run' if dry_run else 'not run'}: {why.splitlines()[0]}")
    if dry_run:
        _print_schedule(schedule, runnable, bool(nodes))
        return 0
    passed = [word for text in sets for word in ("--set", text)]
    passed += [word for text in have for word in ("--have", text)]
    passed += ["--retry-failed"] if retry_failed else []
    passed += ["--ray", ray] if ray else []
    passed += ["--ray-type", ray_type] if ray_type else []
    passed += ["--ray-without-token"] if ray_without_token else []
    broken = _run_all(schedule, runnable, out, passed, began_s, time_limit, part_limit, over_ray=bool(nodes))
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


def _nodes(ray: str | None, ray_type: str | None, without_token: bool) -> list[Node]:
    """The cluster's nodes; none where none is named. The connection ends: each part has its own."""
    if ray_type is not None and ray is None:
        raise BadInput(f"--ray-type {ray_type}: of which cluster? (accepted: together with --ray)")
    with reached(ray, without_token) as cluster:
        return [] if cluster is None else of_one_type(cluster.nodes(), ray_type, on_gpus=True)


def _why_not(part: Part, have: int, over_ray: bool) -> str | None:
    if part.gpus > have:
        return f"needs {part.gpus} GPUs, there are {have}" + (" on one node" if over_ray else "")
    return None if over_ray else part.lacks


def _job(part: Part, retry_failed: bool) -> Job:
    from loadgen.system.environment import read_gpus
    from loadgen.theory.ceilings import datasheet

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


def _print_schedule(schedule: Schedule, parts: dict[str, Part], over_ray: bool) -> None:
    end_s = 0.0
    for run, from_s, to_s in forecast(schedule):
        left = len(parts[run.job.id].missing().trials)
        took = show_duration(run.job.estimate_s) if run.job.estimate_s else "a time not known"
        click.echo(f"[{_clock(from_s)}] {run.job.id} on {_where(run, over_ray)}: {left} trials, about {took}")
        end_s = max(end_s, to_s)
    click.echo(f"[{_clock(end_s)}] end, by rough estimates (no CUDA graphs, {DEVICE} where no GPU is here)")


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
    not_here = sum(len(row["missing"]) for row in rows if row["not_run"] is not None)
    if missing:
        click.echo(f"{missing} trials are left; the same command goes on")
    if not_here:
        click.echo(f"{not_here} trials are left in parts that this machine cannot run")
    return 1 if broken or any(row["failed"] for row in rows) else 0
