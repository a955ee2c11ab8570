"""The one place where all rooms meet: plan → servers → trials → store, watched from outside."""

from __future__ import annotations

import datetime
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from loadgen import frameworks, interrupt
from loadgen.budget import Budget
from loadgen.errors import BadInput, ServerError
from loadgen.plan import Plan
from loadgen.process import Server, free_ports, port_is_free
from loadgen.progress import server_label
from loadgen.protocols import Framework, Watcher
from loadgen.records import Environment, Failure, ServerSpec, TelemetrySpec, Trial, TrialResult
from loadgen.store import Store
from loadgen.telemetry.nvml import Gpu
from loadgen.telemetry.recorder import CONTAINERS, Recorder, look
from loadgen.trial import OUT_OF_MEMORY, Endpoint, run_trial, server_info


def start_server(
    spec: ServerSpec, log_path: Path, run_dir: Path, on_state: Callable[[str], None]
) -> tuple[Server, Endpoint]:
    """Start what ``spec`` asks for and wait until it takes work.

    Raises BadInput when it cannot run here, ServerError when it does not come up; nothing is left then.
    """
    framework = frameworks.find(spec.framework)
    framework.check(spec)
    if spec.port and not port_is_free(spec.port, spec.host):
        raise BadInput(
            f"--port {spec.port}: already in use on {spec.host} (accepted: a free port, or 0 to pick one)"
        )
    first = (spec.port,) if spec.port else ()
    ports = (*first, *free_ports(framework.ports - len(first), spec.host))
    command = framework.command(spec, str(run_dir.resolve()), ports)
    server = Server(command, run_dir, log_path)
    server.start(spec.ready_timeout_s, on_state)
    return server, endpoint_of(framework, spec, server)


def endpoint_of(framework: Framework, spec: ServerSpec, server: Server) -> Endpoint:
    """The endpoint of a running server, with its death told as the error it is."""
    return Endpoint(
        base_url=server.command.base_url,
        protocol=framework.protocol,
        driver_options=framework.driver_options(spec),
        info_url=server.command.info_url,
        metrics_url=server.command.metrics_url,
        fault=lambda: None if server.alive() else server.death(),
    )


def ran_out_of_memory(result: TrialResult) -> bool:
    """Whether a trial failed because its server ran out of memory."""
    return result.failure is not None and result.failure.error == OUT_OF_MEMORY


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
    _recorder: Recorder | None = field(default=None, init=False)

    def run(self) -> None:
        """Run all missing trials that fit into the budget: one that does not is passed over, later ones may still.

        KeyboardInterrupt passes through, servers stopped and results kept.
        """
        self.store.add_environment(self.environment)
        done = self.finished()
        self.watcher.plan(self.plan.trials, done)
        skip = {result.trial.id for result in done}
        for result in done:
            self.budget.learn(result)
        try:
            for spec, trials in self.plan.groups():
                self._run_group(spec, [trial for trial in trials if trial.id not in skip])
        except interrupt.TimeIsUp:
            self.watcher.note("the time limit came: what was in flight is not kept")

    def stored(self) -> list[TrialResult]:
        """The stored results of this plan's trials."""
        planned = {trial.id for trial in self.plan.trials}
        return [result for result in self.store.results() if result.trial.id in planned]

    def finished(self) -> list[TrialResult]:
        """Those of them that need no second run."""
        return [result for result in self.stored() if not (self.retry_failed and result.failure is not None)]

    def _run_group(self, spec: ServerSpec | None, trials: Sequence[Trial]) -> None:
        """Trials of one server, started again after a death; if it cannot start, all that is left fails."""
        rest = list(trials)
        while rest := [trial for trial in rest if self.budget.fits(trial, starting=True)]:
            try:
                with self._serving(spec, rest[0]) as endpoint:
                    while rest:
                        trial = rest.pop(0)
                        if not self.budget.fits(trial):
                            continue
                        result = self._run_one(trial, endpoint)
                        self._keep(result)
                        if endpoint.fault() is not None or ran_out_of_memory(result):
                            break  # an engine that ran out once is left with a torn heap: start it anew
            except (ServerError, BadInput) as error:
                failure = Failure(error=type(error).__name__, message=str(error), phase="start")
                for trial in rest:
                    self._keep(self._unstarted(trial, failure))
                return

    @contextmanager
    def _serving(self, spec: ServerSpec | None, trial: Trial) -> Iterator[Endpoint]:
        if spec is None:
            assert trial.url is not None
            endpoint = Endpoint(base_url=trial.url)
            with self._recording(None, endpoint, None, ()):
                yield endpoint
            return
        label = server_label(spec)
        stamp = datetime.datetime.now(datetime.UTC).strftime("%Y%m%dT%H%M%S")
        log_path = self.store.path / "logs" / f"{label.replace('/', '-').replace(' ', '_')}-{stamp}.log"
        before = look() if self.telemetry.enabled else []
        with tempfile.TemporaryDirectory(prefix="loadgen-") as run_dir:
            began_s = time.monotonic()
            server, endpoint = start_server(
                spec, log_path.absolute(), Path(run_dir), lambda state: self.watcher.server(label, state)
            )
            self.budget.learn_start(trial, time.monotonic() - began_s)
            try:
                with self._recording(spec, endpoint, server, before):
                    yield endpoint
            finally:
                self.watcher.server(label, "stopping")
                server.stop()
                self.watcher.server(label, "stopped")

    @contextmanager
    def _recording(
        self, spec: ServerSpec | None, endpoint: Endpoint, server: Server | None, before: Sequence[Gpu]
    ) -> Iterator[None]:
        """Telemetry for the length of a server. An endpoint that already runs has only what the profile names."""
        asked = self.telemetry
        if spec is None:
            asked = replace(asked, exporter=False)
        if not asked.enabled or not (asked.exporter or asked.sources or asked.prometheus):
            yield
            return
        # What runs in a container is no child of ours: its client's few megabytes would pass for the server's.
        hidden = server is None or CONTAINERS & {Path(word).name for word in server.command.argv}
        recorder = Recorder(
            asked,
            server=spec,
            environment=self.environment,
            pid=None if hidden or server is None else server.pid,
            metrics_url=endpoint.metrics_url,
            before=before,
            page=lambda: server_info(endpoint.info_url),
        )
        try:
            with recorder as self._recorder:
                yield
        finally:
            self._recorder = None

    def _run_one(self, trial: Trial, endpoint: Endpoint) -> TrialResult:
        interrupt.check()
        recorder = self._recorder
        if recorder is not None:
            recorder.begin()
        result = run_trial(
            trial,
            endpoint,
            self.watcher,
            environment=self.environment.id,
            writer=self.store.sample_writer(trial.id),
        )
        if recorder is None:
            return result
        return recorder.finish(result, self.store.samples_path(trial.id), self.store.telemetry_path(trial.id))

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
