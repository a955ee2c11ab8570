"""A sweep on this machine: plan → servers → trials → store, watched from outside."""

from __future__ import annotations

import datetime
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace

from loadgen.errors import BadInput, ServerDied, ServerError, ServerHung, ServerRestarted
from loadgen.identity import server_key
from loadgen.launch.endpoint import fitted
from loadgen.launch.running import RunningServer, RunningServers
from loadgen.plan import bisection, capacity_outcome
from loadgen.plan.budget import Budget
from loadgen.plan.capacity import Step
from loadgen.plan.plan import Plan
from loadgen.protocols import Watcher
from loadgen.records import Environment, Failure, Trial, TrialResult
from loadgen.results import capacity_log, max_batch_log
from loadgen.results.store import Store, read_samples
from loadgen.search_records import CapacitySearch, Search
from loadgen.system import interrupt
from loadgen.telemetry.host import Gauge
from loadgen.telemetry_records import TelemetrySpec
from loadgen.trial import OUT_OF_MEMORY, run_trial


def ran_out_of_memory(result: TrialResult) -> bool:
    """Whether a trial failed because its server ran out of memory."""
    return result.failure is not None and result.failure.error == OUT_OF_MEMORY


def died(result: TrialResult) -> bool:
    """Whether a trial failed because its server, or a part of it, ended; what is left of it serves no other."""
    ends = (ServerDied.__name__, ServerRestarted.__name__)
    return result.failure is not None and result.failure.error in ends


def machine_of(environment: Environment) -> tuple[object, ...]:
    """What decides how much memory there is."""
    gpus = [(gpu.get("name"), gpu.get("memory_bytes")) for gpu in environment.gpus]
    return environment.host, environment.memory_bytes, gpus


def first_of_each(trials: Sequence[Trial]) -> list[Trial]:
    """The first trial of each server."""
    firsts: dict[str, Trial] = {}
    for trial in trials:
        firsts.setdefault(server_key(trial), trial)
    return list(firsts.values())


@dataclass(slots=True)
class Sweep:
    """Runs a plan's missing trials in order; a fault costs at most the trial it hits.

    ``limited`` counts the trials that the client limited, when the sweep is ``strict`` about them.
    """

    plan: Plan
    store: Store
    watcher: Watcher
    environment: Environment
    strict: bool = False
    retry_failed: bool = False
    telemetry: TelemetrySpec = field(default_factory=TelemetrySpec)
    budget: Budget = field(default_factory=Budget)
    limited: int = 0
    gauge: Gauge = field(default_factory=Gauge)

    def run(self) -> None:
        """Run all missing trials that fit into the budget: one that does not is passed over, later ones may still.

        KeyboardInterrupt passes through, servers stopped and results kept.
        """
        done = self.finished()
        self.watcher.plan(self.plan.trials, done)
        for result in done:
            self.budget.learn(result)
            host = result.telemetry.host if result.telemetry is not None else None
            if host is not None and result.environment == self.environment.id:
                self.gauge.learn(host.spin_best_s)
        try:
            self._run_parts([part.without(result.trial.id for result in done) for part in self.plan.parts()])
        except interrupt.TimeIsUp:
            self.watcher.note("the time limit came: what was in flight is not kept")

    def _run_parts(self, parts: Sequence[Plan]) -> None:
        """Parts of the plan that can run apart, without the trials that are done."""
        self.store.add_environment(self.environment)
        for part in parts:
            self._run_together(part)

    def stored(self) -> list[TrialResult]:
        """The stored results of this plan's trials."""
        planned = {trial.id for trial in self.plan.trials}
        return [result for result in self.store.results() if result.trial.id in planned]

    def finished(self) -> list[TrialResult]:
        """Those of them that need no second run."""
        kept = [result for result in self.stored() if not (self.retry_failed and result.failure is not None)]
        return [
            result for result in kept if result.failure is not None or self.store.has_samples(result.trial.id)
        ]

    def _run_together(self, part: Plan) -> None:
        """Trials in order on servers that are up side by side, then the searches on them."""
        with self._running() as running:
            for trial in first_of_each(
                part.trials
            ):  # before any trial, so that none has the machine to itself
                if self.budget.fits(trial, starting=True):
                    with suppress(ServerError, BadInput):  # its trials will tell
                        self._up(running, trial)
            for trial in part.trials:
                if self.budget.fits(trial, starting=not running.has(trial)):
                    self._keep(self._attempt(running, trial, self.watcher))
            for search in part.searches:
                self._settle(running, search)
            for capacity in part.capacities:
                self._find_capacity(running, capacity)

    def _settle(self, running: RunningServers, search: Search) -> None:
        """Find a server's largest batch, from what is stored on."""
        folder = self.store.path
        stored = [*self.store.results(), *max_batch_log.probes(folder)]
        known = bisection.known_results(search, (each for each in stored if self._same_machine(each)))
        if self.retry_failed:
            known = {
                batch: each
                for batch, each in known.items()
                if each.failure is None or ran_out_of_memory(each)
            }

        def attempt(trial: Trial) -> TrialResult | None:
            if not self.budget.fits(trial, starting=not running.has(trial)):
                return None
            result = self._attempt(running, trial, bisection.Unseen())
            max_batch_log.add_probe(folder, result)
            self.budget.learn(result)
            return result

        found = bisection.settle(search, known, self.environment, attempt, self.watcher.note, self._reason)
        if found is None:
            self.watcher.note(f"{bisection.title(search)}: no time to find it; --resume goes on")
            return
        max_batch_log.add_outcome(folder, found)
        self.watcher.note(bisection.words(found))

    def _find_capacity(self, running: RunningServers, search: CapacitySearch) -> None:
        """Find a server's highest load within its objectives, from what is stored on."""
        folder = self.store.path
        stored = {
            each.trial.id: each
            for each in capacity_log.trials(folder)
            if self._same_machine(each) and not (self.retry_failed and each.failure is not None)
        }

        def attempt(step: Step) -> TrialResult | None:
            trial = step.trial
            if not self.budget.fits(trial, starting=not running.has(trial)):
                return None
            self.watcher.note(f"{capacity_outcome.title(search)}: {capacity_outcome.plan_words(step)}")
            result = self._attempt(running, trial, self.watcher, may_end=step.role == "bracket")
            capacity_log.add_trial(folder, result)
            self.watcher.result(result)
            self.budget.learn(result)
            return result

        for known in capacity_log.outcomes(folder):
            same = known.search == search and search.near in (None, known.search.near)
            if same and all(name in stored for _, name in known.trials):
                # Whatever rules found it: today's may ask for other trials, and so may a capacity found since.
                self.watcher.note(capacity_outcome.words(known))
                return
        search = self._near(search)
        found = capacity_outcome.settle(search, stored, self.environment.id, attempt, self.watcher.note)
        if found is None:
            self.watcher.note(f"{capacity_outcome.title(search)}: no time to find it; --resume goes on")
            return
        capacity_log.add_outcome(folder, found)
        self.watcher.note(capacity_outcome.words(found))
        for caveat in found.caveats:
            self.watcher.note(f"[{caveat.kind}] {caveat.message}; remedy: {caveat.remedy}")

    def _near(self, search: CapacitySearch) -> CapacitySearch:
        """The search, told where the first start of its server that has a capacity found it."""
        if search.near:
            return search
        first = replace(search, point=replace(search.point, start=0))
        starts = {
            each.search.point.start: each.capacity
            for each in capacity_log.outcomes(self.store.path)
            if each.capacity and replace(each.search, point=replace(each.search.point, start=0)) == first
        }
        before = [start for start in sorted(starts) if start < search.point.start]
        return replace(search, near=starts[before[0]]) if before else search

    def _same_machine(self, result: TrialResult) -> bool:
        """Another machine's memory says nothing of this one's."""
        known = self.store.environments().get(result.environment)
        return known is not None and machine_of(known) == machine_of(self.environment)

    def _reason(self, result: TrialResult) -> str:
        """Why a trial was not served: the first error of its requests, else its own, else that it ran in parts."""
        stored = self.store.samples(result.trial.id)
        samples = () if stored is None else read_samples(stored)
        told = next((sample.error for sample in samples if sample.error is not None), None)
        failure = result.failure
        own = f"{failure.error}: {failure.message}" if failure else bisection.apart(result)
        return (told or own).partition("\n")[0]

    def _running(self) -> RunningServers:
        return RunningServers(
            watcher=self.watcher,
            environment=self.environment,
            telemetry=self.telemetry,
            logs=self.store.path / "logs",
            gauge=self.gauge,
        )

    def _up(self, running: RunningServers, trial: Trial) -> RunningServer:
        starting, began_s = not running.has(trial), time.monotonic()
        up = running.up(trial)
        if starting:
            self.budget.learn_start(trial, time.monotonic() - began_s)
        return up

    def _attempt(
        self, running: RunningServers, trial: Trial, watcher: Watcher, *, may_end: bool = False
    ) -> TrialResult:
        """One trial on its server, which is stopped if that killed it; a server that cannot start fails it."""
        interrupt.check()
        try:
            up = self._up(running, trial)
            trial = fitted(trial, up.endpoint)
        except (ServerError, BadInput) as error:
            failure = Failure(error=type(error).__name__, message=str(error), phase="start")
            return self._unstarted(trial, failure)
        result = self._run_one(trial, up, watcher, may_end=may_end)
        if result.failure is not None and result.failure.error == ServerHung.__name__:
            running.drop_hung(trial)
        elif up.endpoint.fault() is not None or died(result) or ran_out_of_memory(result):
            running.drop(trial)  # an engine that ran out once is left with a torn heap: start it anew
        return result

    def _run_one(self, trial: Trial, up: RunningServer, watcher: Watcher, *, may_end: bool) -> TrialResult:
        if up.recorder is not None:
            up.recorder.begin()
        result = run_trial(
            trial,
            up.endpoint,
            watcher,
            environment=self.environment.id,
            writer=self.store.sample_writer(trial.id),
            may_end=may_end,
        )
        if up.recorder is None:
            return result
        samples, telemetry = self.store.samples_path(trial.id), self.store.telemetry_path(trial.id)
        return up.recorder.finish(result, samples, telemetry)

    def _unstarted(self, trial: Trial, failure: Failure) -> TrialResult:
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")
        return TrialResult(
            trial=trial,
            environment=self.environment.id,
            engine={},
            started=now,
            wall_s=0.0,
            failure=failure,
        )

    def _keep(self, result: TrialResult) -> None:
        self.store.append(result)
        self.budget.learn(result)
        self.limited += self.strict and any(caveat.client for caveat in result.caveats)
        self.watcher.result(result)
