"""``loadgen sweep``: a profile's plan, run trial by trial into a results folder."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import click

from loadgen import frameworks
from loadgen.environment import capture, visible_gpus
from loadgen.errors import BadInput
from loadgen.plan import Plan, make_plan
from loadgen.profile import Profile, load_profile
from loadgen.records import Environment
from loadgen.store import Store, open_results


def make(profile_name: str, sets: tuple[str, ...], *, dry_run: bool) -> tuple[Profile, Plan]:
    """A profile and its plan, every server checked by its framework before anything starts.

    A dry run on a machine without GPUs plans for one that has enough.
    """
    gpu_count = len(visible_gpus())
    profile = load_profile(profile_name, sets, gpu_count or (None if dry_run else 0), frameworks.names())
    plan = make_plan(profile)
    for spec, _trials in plan.groups():
        if spec is not None:
            frameworks.find(spec.framework).check(spec)
    return profile, plan


def run(
    profile: Profile,
    plan: Plan,
    *,
    out: Path | None,
    resume: bool,
    retry_failed: bool,
    live: bool | None,
    strict: bool,
    argv: tuple[str, ...],
) -> int:
    """Run what is missing, then write the report. Returns the exit code: 1 when a trial failed."""
    from loadgen.console import console
    from loadgen.report import markdown
    from loadgen.sweep import Sweep

    folder = out or Path("results") / profile.name
    stored = refuse_mixing(folder, resume)
    environment = capture(argv)
    with (
        Store.create(folder, sweep_record(profile, plan, environment)) as store,
        console(live=live is not False) as watcher,
    ):
        if store.repaired:
            watcher.note(
                "trials.jsonl ended in a torn line (a crash); it was cut off and its trial runs again"
            )
        sweep = Sweep(
            plan=plan,
            store=store,
            watcher=watcher,
            environment=environment,
            strict=strict,
            retry_failed=retry_failed,
        )
        if stored:
            watcher.note(f"resuming: {len(sweep.finished())} of {len(plan.trials)} trials are already stored")
        sweep.run()
    markdown.print_tables(folder)
    click.echo(f"report: {markdown.write_report(folder)}")
    failed = sum(result.failure is not None for result in sweep.stored())
    if failed or sweep.limited:
        click.echo(f"{failed} trials failed, {sweep.limited} counted as failed by --strict", err=True)
    return 1 if failed or sweep.limited else 0


def refuse_mixing(folder: Path, resume: bool) -> int:
    """How many results the folder holds already. Raises BadInput unless --resume says to go on with them."""
    if not (folder / "sweep.json").exists():
        if folder.exists() and any(folder.iterdir()):
            raise BadInput(
                f"--out {folder}: a folder with other things in it (accepted: a new or empty folder)"
            )
        return 0
    stored = len(open_results(folder).results())
    if stored and not resume:
        raise BadInput(
            f"{folder} already holds {stored} trials (accepted: --resume to go on, or --out another folder)"
        )
    return stored


def sweep_record(profile: Profile, plan: Plan, environment: Environment) -> dict[str, object]:
    """What ``sweep.json`` says of a sweep."""
    return {
        "name": profile.name,
        "description": profile.description,
        "profile": profile.text,
        "sets": list(profile.sets),
        "argv": list(environment.argv),
        "plan": [asdict(trial) for trial in plan.trials],
    }
