"""The servers that are up: each started when its first trial comes, recorded by itself, stopped at the end."""

from __future__ import annotations

import datetime
import secrets
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import Any

from loadgen.drivers.find import driver_factory
from loadgen.errors import BadInput, ServerError, ServerHung
from loadgen.identity import server_key
from loadgen.labels import server_label
from loadgen.launch import frameworks
from loadgen.launch.discover import asked_of
from loadgen.launch.endpoint import Endpoint, page_of, server_info
from loadgen.launch.interpreter import interpreter_of, look_into
from loadgen.launch.process import Server, free_ports, port_is_free
from loadgen.launch.target import find_out
from loadgen.protocols import Framework, Watcher
from loadgen.records import Environment, ServerSpec, Trial
from loadgen.telemetry.host import Gauge
from loadgen.telemetry.nvml import Gpu
from loadgen.telemetry.recorder import CONTAINERS, Recorder, look
from loadgen.telemetry_records import TelemetrySpec

PORT_TRIES = 3


def start_server(
    spec: ServerSpec, log_path: Path, run_dir: Path, on_state: Callable[[str], None]
) -> tuple[Server, Endpoint]:
    """Start what ``spec`` asks for and wait until it takes work.

    Raises BadInput when it cannot run here, ServerError when it does not come up; nothing is left then.
    """
    framework = frameworks.of(spec)
    if "image" not in spec.options:  # which has an interpreter of its own
        look_into(interpreter_of(spec.framework, spec.python))
    framework.check(spec)
    driver_factory(framework.protocol)  # a client that cannot be imported is told before minutes of loading
    if spec.port and not port_is_free(spec.port, spec.host):
        raise BadInput(
            f"--port {spec.port}: already in use on {spec.host} (accepted: a free port, or 0 to pick one)"
        )
    first = (spec.port,) if spec.port else ()
    for tries_left in reversed(range(PORT_TRIES)):
        ports = (*first, *free_ports(framework.ports - len(first), spec.host))
        command = framework.command(spec, str(run_dir.resolve()), ports)
        server = Server(command, run_dir, log_path)
        try:
            server.start(spec.ready_timeout_s, on_state)
            break
        except ServerError:
            # Between the look and the server's own bind somebody else may take a port: that is not the server's fault.
            stolen = any(not port_is_free(port, spec.host) for port in ports[len(first) :])
            if not (stolen and tries_left):
                raise
    try:
        return server, endpoint_of(framework, spec, server)
    except BaseException:
        server.stop()
        raise


def endpoint_of(framework: Framework, spec: ServerSpec, server: Server) -> Endpoint:
    """The endpoint of a running server, with its death told as the error it is."""
    # What runs in a container is no child of ours: its client would pass for the server.
    inside = CONTAINERS & {Path(word).name for word in server.command.argv}
    return Endpoint(
        base_url=server.command.base_url,
        protocol=framework.protocol,
        driver_options=framework.driver_options(spec),
        info_url=server.command.info_url,
        metrics_url=server.command.metrics_url,
        records_url=server.command.records_url,
        start=secrets.token_hex(8),
        fault=lambda: None if server.alive() else server.death(),
        family=server.family,
        judge=server.judge,
        hung=server.hung,
        facts={**_holder(server.command.version_url), **_read_back(server)},
        if_silent=server.command.if_silent,
        processes=None if inside else lambda: [pid for pid, _ in server.family()],
    )


def _holder(url: str | None) -> dict[str, str]:
    """The name and version of the server that holds the engine, where it has a page for them."""
    page = server_info(url)
    return {"server": f"{page['name']} {page['version']}"} if page.keys() >= {"name", "version"} else {}


def _read_back(server: Server) -> dict[str, Any]:
    """What the framework reads from the running server. Raises ServerError where that is not what was asked for."""
    if server.command.read_back is None:
        return {}
    try:
        return dict(server.command.read_back(server.said()))
    except ServerError as error:
        raise server.failure(type(error), error.message) from None


@dataclass(frozen=True, slots=True, kw_only=True)
class RunningServer:
    """A server that takes work. ``recorder`` is its own telemetry, ``None`` where none was asked for."""

    endpoint: Endpoint
    recorder: Recorder | None
    stack: ExitStack


@dataclass(slots=True, kw_only=True)
class RunningServers:
    """Servers side by side. Use as a context manager: none is left afterwards.

    ``logs`` is the folder for their logs, ``gauge`` the speed of this host's cores so far.
    """

    watcher: Watcher
    environment: Environment
    telemetry: TelemetrySpec
    logs: Path
    gauge: Gauge = field(default_factory=Gauge)
    _up: dict[str, RunningServer] = field(default_factory=dict, init=False)
    _lost: dict[str, ServerError | BadInput] = field(default_factory=dict, init=False)
    _hung: set[str] = field(default_factory=set, init=False)

    def has(self, trial: Trial) -> bool:
        """Whether its server is up, or known not to come up: no time would go into a start."""
        return (key := server_key(trial)) in self._up or key in self._lost

    def up(self, trial: Trial) -> RunningServer:
        """The server of a trial, started when it is not up.

        Raises BadInput or ServerError when it cannot start, which is not tried again.
        """
        key = server_key(trial)
        if key in self._lost:
            raise self._lost[key]
        if key not in self._up:
            try:
                with ExitStack() as stack:
                    endpoint, recorder = stack.enter_context(self._serving(trial))
                    self._up[key] = RunningServer(endpoint=endpoint, recorder=recorder, stack=stack.pop_all())
            except (ServerError, BadInput) as error:
                self._lost[key] = error
                raise
        return self._up[key]

    def drop(self, trial: Trial) -> None:
        """Stop the server of a trial: the next trial of it gets a new one. The others stay."""
        self._up.pop(server_key(trial)).stack.close()

    def drop_hung(self, trial: Trial) -> None:
        """The same for one that hung: it is started anew once. One that hangs again fails its remaining trials."""
        key = server_key(trial)
        self.drop(trial)
        if key in self._hung:
            self._lost[key] = ServerHung("the server hung twice; its remaining trials are not tried")
        self._hung.add(key)

    def __enter__(self) -> RunningServers:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with ExitStack() as every:  # one that fails to stop keeps no other from it
            for up in self._up.values():
                every.push(up.stack)
            self._up = {}

    @contextmanager
    def _serving(self, trial: Trial) -> Iterator[tuple[Endpoint, Recorder | None]]:
        spec = trial.server
        if spec is None:
            assert trial.url is not None
            found, endpoint = find_out(trial.url, asked_of(trial))
            if found.line:
                self.watcher.note(f"{trial.url}: {found.line}")
            with self._recording(None, endpoint, None, ()) as recorder:
                yield endpoint, recorder
            return
        label = server_label(spec)
        log_path = self._log_path(label)
        before = look() if self.telemetry.enabled else []
        with tempfile.TemporaryDirectory(prefix="loadgen-") as run_dir:
            server, endpoint = start_server(
                spec, log_path.absolute(), Path(run_dir), lambda state: self.watcher.server(label, state)
            )
            try:
                with self._recording(spec, endpoint, server, before) as recorder:
                    yield endpoint, recorder
            finally:
                self.watcher.server(label, "stopping")
                server.stop()
                self.watcher.server(label, "stopped")

    def _log_path(self, label: str) -> Path:
        """A file of its own for each start: a server's last words are read from its log."""
        stamp = datetime.datetime.now(datetime.UTC).strftime("%Y%m%dT%H%M%S")
        name = f"{label.replace('/', '-').replace(' ', '_')}-{stamp}"
        path, again = self.logs / f"{name}.log", 1
        while path.exists():
            again += 1
            path = self.logs / f"{name}-{again}.log"
        return path

    @contextmanager
    def _recording(
        self, spec: ServerSpec | None, endpoint: Endpoint, server: Server | None, before: Sequence[Gpu]
    ) -> Iterator[Recorder | None]:
        """Telemetry for the length of a server. An endpoint that already runs has only what the profile names."""
        asked = self.telemetry
        if spec is None:
            asked = replace(asked, exporter=False)
        if self._up:  # the port that was named is the first server's exporter's
            asked = replace(asked, exporter_port=0)
        if not asked.enabled or not (asked.exporter or asked.sources or asked.prometheus):
            yield None
            return
        hidden = server is None or endpoint.processes is None
        with Recorder(
            asked,
            server=spec,
            environment=self.environment,
            pid=None if hidden or server is None else server.pid,
            metrics_url=endpoint.metrics_url or endpoint.records_url,
            before=before,
            page=lambda: page_of(endpoint),
            gauge=None if spec is None else self.gauge,
        ) as recorder:
            yield recorder
