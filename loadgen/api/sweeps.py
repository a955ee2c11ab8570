"""A profile's plan, checked whole before anything starts, then run trial by trial into a results folder."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from loadgen.api.alone import alone
from loadgen.api.nodes import connected, of_several
from loadgen.cluster.places import of_one_type
from loadgen.drivers.find import check_load, driver_factory
from loadgen.drivers.openai import check_options
from loadgen.errors import BadInput, MissingDependency, ProfileError
from loadgen.launch import frameworks
from loadgen.launch.discover import asked_of, unreachable
from loadgen.load_records import LoadSpec
from loadgen.plan import interleave
from loadgen.plan.bisection import Unseen
from loadgen.plan.budget import Budget
from loadgen.plan.capacity_outcome import title, words
from loadgen.plan.plan import Plan, make_plan
from loadgen.profile.profile import Profile
from loadgen.profile.read import load_profile
from loadgen.protocols import Watcher
from loadgen.records import Environment, TrialResult
from loadgen.results import capacity_log
from loadgen.results.other_folders import held
from loadgen.results.store import Store, open_to_go_on, refuse_busy
from loadgen.system import interrupt
from loadgen.system.environment import capture, visible_gpus
from loadgen.units import show_bytes

if TYPE_CHECKING:
    from loadgen.cluster.connection import Cluster


def make(
    profile_name: str,
    sets: tuple[str, ...],
    *,
    dry_run: bool,
    cluster: Cluster | None = None,
    gpu_type: str | None = None,
) -> tuple[Profile, Plan]:
    """A profile and its plan, every server checked by its framework before anything starts.

    A dry run on a machine without GPUs plans for one that has enough. With a ``cluster``, loads that are not of several
    nodes are planned for its nodes, of one ``gpu_type``. Raises BadInput where a group fits on none.
    """
    here = len(visible_gpus()) or (None if dry_run else 0)
    profile, plan = _planned(profile_name, sets, here if cluster is None else None)
    if cluster is not None and of_several(loads_of(plan)) == 1:
        from loadgen.sweeping.given_gpus import nodes_for

        nodes = of_one_type(cluster.nodes(), gpu_type, on_gpus=False)
        if not any(node.gpus for node in nodes):
            with suppress(
                ProfileError
            ):  # but for gpus = "auto", which is CPUs then, it is told below in figures
                profile, plan = _planned(profile_name, sets, 0)
        check_servers(plan, elsewhere=True)
        nodes_for(plan.parts(), nodes, gpu_type)
        return profile, plan
    if cluster is not None:  # its nodes send what servers on this machine are asked
        profile, plan = _planned(profile_name, sets, here)
    if gpu_type is not None:
        raise BadInput(
            f"--ray-type {gpu_type}: no group of trials is spread over a cluster (accepted: with --ray)"
        )
    check_servers(plan, elsewhere=dry_run)
    check_host_memory(plan)
    return profile, plan


def _planned(profile_name: str, sets: tuple[str, ...], gpu_count: int | None) -> tuple[Profile, Plan]:
    profile = load_profile(profile_name, sets, gpu_count, frameworks.names(), frameworks.find)
    if profile.findings:
        from loadgen.analysis.findings import (
            declared,  # it imports the analysis, which most sweeps need at the end
        )

        declared.parse(profile.findings, profile.file)
    return profile, make_plan(profile)


def loads_of(plan: Plan) -> list[LoadSpec]:
    """The loads of its trials and searches."""
    return [trial.load for trial in plan.trials] + [search.point.load for search in plan.capacities]


def check_servers(plan: Plan, *, elsewhere: bool) -> None:
    """Raises BadInput for a server or an endpoint that its framework or driver refuses; MissingDependency for what this
    machine lacks, unless it is to run ``elsewhere``."""
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
                if not elsewhere:  # a plan can be seen on any machine
                    raise


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

    ``out`` is the results folder (None: results/NAME). ``have`` names results folders whose trials are not this
    sweep's: its plan is without them. ``ray`` is the address of a cluster: its nodes send loads of several together;
    without such loads, they run groups of trials, on nodes of ``ray_type`` alone. ``ray_without_token`` takes one that
    stands open.
    """

    argv: tuple[str, ...] = ()
    out: Path | None = None
    resume: bool = False
    retry_failed: bool = False
    strict: bool = False
    probe: bool = False
    refine: bool = False
    time_limit_s: float | None = None
    ray: str | None = None
    ray_type: str | None = None
    ray_without_token: bool = False
    have: Sequence[str] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Swept:
    """What a sweep left in its ``folder``: the ``results`` of its plan, earlier calls' too, and what is missing.

    ``left`` counts trials that a time limit kept from starting, ``limited`` those that the client limited, where that
    is asked to count (``strict``). ``unsettled`` are searches for capacity that found none, each in a line with why.
    """

    folder: Path
    results: tuple[TrialResult, ...]
    left: int
    limited: int
    unsettled: tuple[str, ...]

    @property
    def failed(self) -> int:
        """How many trials have a failure in place of figures."""
        return sum(result.failure is not None for result in self.results)


def sweep(
    profile: str | Path,
    *,
    sets: Sequence[str] = (),
    out: str | Path | None = None,
    resume: bool = False,
    retry_failed: bool = False,
    time_limit_s: float | None = None,
) -> Swept:
    """Run all trials of a profile, a TOML file or a shipped one by name: what ``loadgen sweep`` does, without its view
    and its report.

    ``sets`` override keys, as ``"tp=1,2"``. Every finished trial is on disk at once; ``resume`` goes on in a folder
    that holds some. A fault of a server's fails its trial alone. Raises ProfileError and other BadInput before anything
    starts, StoreError where results cannot be written. KeyboardInterrupt passes through, servers stopped. Blocks and
    takes turns as ``run`` does.
    """

    def work() -> Swept:
        checked, plan = make(str(profile), tuple(sets), dry_run=False)
        options = SweepOptions(
            out=None if out is None else Path(out),
            resume=resume,
            retry_failed=retry_failed,
            time_limit_s=time_limit_s,
        )
        return conduct(checked, plan, options, nullcontext(Unseen()))

    return alone(work)


def conduct(
    profile: Profile, plan: Plan, options: SweepOptions, watching: AbstractContextManager[Watcher]
) -> Swept:
    """Run what is missing of a plan, watched; ``watching`` is entered once the folder is there.

    Raises BadInput for a results folder that must not be written to, a Prometheus that does not answer, and a time
    limit that is none.
    """
    if options.time_limit_s is not None and not 0 < options.time_limit_s < math.inf:
        raise BadInput(
            f"time_limit_s = {options.time_limit_s} (accepted: a finite number of seconds above 0)"
        )
    budget = Budget(limit_s=options.time_limit_s, clock=time.monotonic)
    deadline_s = None if options.time_limit_s is None else time.monotonic() + options.time_limit_s
    from loadgen.sweeping.sweep import Sweep

    folder = options.out or Path("results") / profile.name
    refuse_busy(folder)
    stored = refuse_mixing(folder, options.resume)
    check_prometheus(profile)
    if not stored and options.ray is None:
        check_target(profile, plan)
    every = len(plan.trials)
    plan = plan.without(held(options.have, options.retry_failed))
    environment = capture(options.argv)
    over = options.ray is not None and of_several(loads_of(plan)) == 1
    if over and options.probe:
        raise BadInput(
            "--probe: measures this machine, where no trial runs with --ray (accepted: without it)"
        )
    with (
        interrupt.limited(deadline_s),
        connected(loads_of(plan), options.ray, options.ray_without_token, groups=True) as cluster,
        Store.create(folder, sweep_record(profile, plan, environment)) as store,
        watching as watcher,
    ):
        if store.repaired:
            watcher.note(
                "trials.jsonl ended in a torn line (a crash); it was cut off, and its trial runs again"
            )
        if every > len(plan.trials):
            watcher.note(f"{every - len(plan.trials)} of {every} trials are in folders of --have")
        told: dict[str, Any] = {
            "plan": plan,
            "store": store,
            "watcher": watcher,
            "environment": environment,
            "strict": options.strict,
            "retry_failed": options.retry_failed,
            "telemetry": profile.telemetry,
            "budget": budget,
        }
        if over and cluster is not None:
            from loadgen.sweeping.cluster_sweep import ClusterSweep

            sweep: Sweep = ClusterSweep(**told, cluster=cluster, gpu_type=options.ray_type)
        else:
            keep_ceilings(folder, plan, options.probe, watcher.note)
            sweep = Sweep(**told)
        if stored:
            watcher.note(f"resuming: {len(sweep.finished())} of {len(plan.trials)} trials are already stored")
        sweep.run()
        if options.refine:
            sweep.plan = refined(plan, folder, watcher.note)
            sweep.run()
    results = sweep.stored()
    return Swept(
        folder=folder,
        results=tuple(results),
        left=len(sweep.plan.trials) - len(results),
        limited=sweep.limited,
        unsettled=tuple(unsettled(plan, folder)),
    )


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


def check_target(profile: Profile, plan: Plan) -> None:
    """Raises BadInput where nothing listens at the profile's endpoint: before there is a folder of failed trials."""
    trials = [*plan.trials, *(each.point for each in plan.capacities)]
    if trials and trials[0].url is not None and (why := unreachable(trials[0])) is not None:
        key = f"{profile.file}: target.url =" if profile.text else "--url"
        raise BadInput(f"{key} {trials[0].url}: no server answers there ({why})")


def check_prometheus(profile: Profile) -> None:
    """Raises BadInput when the Prometheus server that the profile names does not answer, or not as one."""
    named = profile.telemetry
    if named.enabled and named.prometheus is not None:
        from loadgen.telemetry.promql import Prometheus

        Prometheus(named.prometheus, named.selector).check()


def refuse_mixing(folder: Path, resume: bool) -> int:
    """How many results the folder holds already. Raises BadInput unless --resume says to go on with them.

    Nothing goes on in a kept copy.
    """
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
