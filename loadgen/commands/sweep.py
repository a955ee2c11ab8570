"""``loadgen sweep``: a profile's plan, run trial by trial into a results folder."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import click

from loadgen.commands import nodes
from loadgen.drivers.find import check_load, driver_factory
from loadgen.drivers.openai import check_options
from loadgen.errors import BadInput, MissingDependency
from loadgen.launch import frameworks
from loadgen.launch.discover import asked_of
from loadgen.plan import interleave
from loadgen.plan.budget import Budget
from loadgen.plan.capacity_outcome import title, words
from loadgen.plan.plan import Plan, make_plan
from loadgen.profile.profile import Profile
from loadgen.profile.read import load_profile
from loadgen.protocols import Watcher
from loadgen.records import Environment
from loadgen.results import capacity_log
from loadgen.results.other_folders import held
from loadgen.results.store import Store, open_to_go_on, refuse_busy
from loadgen.system import interrupt
from loadgen.system.environment import capture, visible_gpus
from loadgen.telemetry_records import TelemetrySpec
from loadgen.units import show_bytes


def make(profile_name: str, sets: tuple[str, ...], *, dry_run: bool) -> tuple[Profile, Plan]:
    """A profile and its plan, every server checked by its framework before anything starts.

    A dry run on a machine without GPUs plans for one that has enough.
    """
    gpu_count = len(visible_gpus())
    profile = load_profile(
        profile_name, sets, gpu_count or (None if dry_run else 0), frameworks.names(), frameworks.find
    )
    if profile.findings:
        from loadgen.analysis.findings import (
            declared,  # it imports the analysis, which most sweeps need at the end
        )

        declared.parse(profile.findings, profile.file)
    plan = make_plan(profile)
    searched = [(search.point.server, (search.point,)) for search in plan.capacities]
    for spec, trials in [*plan.groups(), *searched]:
        if spec is None:
            if not (trials[0].url or "").startswith(
                "grpc"
            ):  # whose drivers look at theirs when they are asked
                check_options(asked_of(trials[0]).options)
        else:
            try:
                framework = frameworks.of(spec)
                framework.check(spec)
                for trial in trials:
                    check_load(framework.protocol, trial.load)
                driver_factory(framework.protocol)
            except MissingDependency:
                if not dry_run:  # a plan can be seen on any machine
                    raise
    check_host_memory(plan)
    return profile, plan


def check_host_memory(plan: Plan) -> None:
    """Raises BadInput when servers on the CPU cannot be up together: they are predicted to need more than there is."""
    if plan.order == "grouped":
        return
    import psutil

    have = psutil.virtual_memory().total
    for trials in plan.sets():
        real = [t for t in trials if t.server and frameworks.find(t.server.framework).uses_gpus]
        need = interleave.host_memory_bytes(real)
        if need > have:
            raise BadInput(
                f"order = 'interleaved': servers that are to be up together are predicted to need {show_bytes(need)} "
                f'of this host\'s {show_bytes(have)} (accepted: smaller models or batches, or order = "grouped")'
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepOptions:
    """How a sweep is run, beside what its profile says; each a flag of ``loadgen sweep``.

    ``out`` is the results folder (None: results/NAME). ``live`` None: a live view where there is a terminal. ``have``
    names results folders whose trials are not this sweep's: its plan is without them. ``ray`` is the address of the
    cluster whose nodes send loads of several, ``ray_without_token`` takes one that stands open.
    """

    argv: tuple[str, ...] = ()
    out: Path | None = None
    resume: bool = False
    retry_failed: bool = False
    live: bool | None = None
    strict: bool = False
    metrics_port: int | None = None
    probe: bool = False
    refine: bool = False
    time_limit_s: float | None = None
    report_after: bool = True
    ray: str | None = None
    ray_without_token: bool = False
    have: Sequence[str] = ()


def run(profile: Profile, plan: Plan, options: SweepOptions) -> int:
    """Run what is missing, then report. Returns the exit code: 1 when a trial failed.

    Raises BadInput for a results folder that must not be written to and a Prometheus that does not answer.
    """
    budget = Budget(limit_s=options.time_limit_s, clock=time.monotonic)
    interrupt.end_at(None if options.time_limit_s is None else time.monotonic() + options.time_limit_s)
    from loadgen.commands import report
    from loadgen.live.console import console
    from loadgen.sweep import Sweep

    folder = options.out or Path("results") / profile.name
    refuse_busy(folder)
    stored = refuse_mixing(folder, options.resume)
    check_prometheus(profile)
    telemetry = scraped(profile.telemetry, options.metrics_port)
    every = len(plan.trials)
    plan = plan.without(held(options.have, options.retry_failed))
    environment = capture(options.argv)
    loads = [trial.load for trial in plan.trials] + [each.point.load for each in plan.capacities]
    with (
        nodes.connected(loads, options.ray, options.ray_without_token),
        Store.create(folder, sweep_record(profile, plan, environment)) as store,
        console(live=options.live is not False) as shown,
        exposed(shown, options.metrics_port, telemetry) as watcher,
    ):
        if store.repaired:
            watcher.note(
                "trials.jsonl ended in a torn line (a crash); it was cut off, and its trial runs again"
            )
        if every > len(plan.trials):
            watcher.note(f"{every - len(plan.trials)} of {every} trials are in folders of --have")
        keep_ceilings(folder, plan, options.probe, watcher.note)
        sweep = Sweep(
            plan=plan,
            store=store,
            watcher=watcher,
            environment=environment,
            strict=options.strict,
            retry_failed=options.retry_failed,
            telemetry=telemetry,
            budget=budget,
        )
        if stored:
            watcher.note(f"resuming: {len(sweep.finished())} of {len(plan.trials)} trials are already stored")
        sweep.run()
        if options.refine:
            sweep.plan = refined(plan, folder, watcher.note)
            sweep.run()
    if options.report_after:
        try:
            report.end(folder)
        except MissingDependency as error:  # of a page to look at, when all results are on disk
            click.echo(f"no report: {error}", err=True)
    results = sweep.stored()
    if options.time_limit_s is not None and (left := len(sweep.plan.trials) - len(results)):
        click.echo(f"time limit: {left} of {len(sweep.plan.trials)} trials are left; --resume goes on")
    lacking = unsettled(plan, folder)
    for line in lacking:
        click.echo(line, err=True)
    failed = sum(result.failure is not None for result in results)
    if failed or sweep.limited:
        click.echo(f"{failed} trials failed, {sweep.limited} counted as failed by --strict", err=True)
    return 1 if failed or sweep.limited or lacking else 0


def unsettled(plan: Plan, folder: Path) -> list[str]:
    """The searches for capacity that found none, each in a line with why."""
    found = capacity_log.outcomes(folder)
    lines = [words(each) for each in found if each.search in plan.capacities and each.capacity is None]
    settled = [each.search for each in found]
    return lines + [
        f"{title(each)}: not searched to its end" for each in plan.capacities if each not in settled
    ]


def keep_ceilings(folder: Path, plan: Plan, measure: bool, note: Callable[[str], None]) -> None:
    """Put what is known of this machine's ceilings beside the results; measure it first when asked to."""
    from loadgen.selfcheck.probe import cache_folder, cached, probe, save

    found = cached()
    if measure and not found:
        on_gpus = any(spec is not None and spec.gpus for spec, _ in plan.groups())
        found = probe(gpus=None if on_gpus else (), seconds=25.0 if on_gpus else 5.0, on_step=note)
        save(found, cache_folder())
    if found:
        save(found, folder)


def refined(plan: Plan, folder: Path, note: Callable[[str], None]) -> Plan:
    """The plan with the cells that would settle what its results leave open."""
    from loadgen.analysis import refine
    from loadgen.analysis.analyse import analyse

    wanted = refine.trials(analyse([folder]).refine())
    known = {trial.id for trial in plan.trials}
    more = tuple(trial for trial in wanted if trial.id not in known)
    note(f"refining: {len(more)} more trials would settle open findings")
    return Plan(trials=plan.trials + more)


def check_prometheus(profile: Profile) -> None:
    """Raises BadInput when the Prometheus server that the profile names does not answer, or not as one."""
    named = profile.telemetry
    if named.enabled and named.prometheus is not None:
        from loadgen.telemetry.promql import Prometheus

        Prometheus(named.prometheus, named.selector).check()


def scraped(telemetry: TelemetrySpec, metrics_port: int | None) -> TelemetrySpec:
    """Telemetry whose exporter has the port after that of the live figures, unless the profile names one.

    So a Prometheus can be told both before the sweep starts. Raises BadInput for one that is taken.
    """
    if not metrics_port or not telemetry.enabled or not telemetry.exporter or telemetry.exporter_port:
        return telemetry
    port = metrics_port + 1
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise BadInput(
                f"--metrics-port {metrics_port}: the exporter cannot listen on the port after it, {port}: "
                f"{error.strerror or error} (accepted: two free ports in a row, or [telemetry] exporter_port)"
            ) from None
    return replace(telemetry, exporter_port=port)


@contextmanager
def exposed(shown: Watcher, port: int | None, telemetry: TelemetrySpec) -> Iterator[Watcher]:
    """The watcher, and with a port the live figures there besides. Raises BadInput for a port that is taken."""
    if port is None:
        yield shown
        return
    from loadgen.live.prometheus import LiveMetrics, MetricsPort

    metrics = LiveMetrics(shown)
    with MetricsPort(metrics, port) as place:
        shown.note(f"live figures for Prometheus: {place.url}")
        if telemetry.exporter_port:
            named = f"http://127.0.0.1:{telemetry.exporter_port}/metrics"
            shown.note(f"GPUs and the server's processes, while a server is up: {named}")
        yield metrics


def refuse_mixing(folder: Path, resume: bool) -> int:
    """How many results the folder holds already. Raises BadInput unless --resume says to go on with them.

    Nothing goes on in a kept copy.
    """
    if resume and not (folder / "sweep.json").exists():
        click.echo(f"--resume: {folder} holds no results yet, so all trials run", err=True)
    if not (folder / "sweep.json").exists():
        if folder.exists() and any(folder.iterdir()):
            raise BadInput(
                f"--out {folder}: a folder with other things in it (accepted: a new or empty folder)"
            )
        return 0
    stored = len(open_to_go_on(folder).results())
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
        "order": plan.order,
        "argv": list(environment.argv),
        "plan": [asdict(trial) for trial in plan.trials],
    }
