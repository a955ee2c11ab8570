"""Load from several processes, where one core is not enough.

Each worker is a fresh interpreter with its own connections, event loop and share of the schedule; nothing is said
per request. Talk with the parent is one line of JSON each: job → worker, ``ready`` → parent (connections open,
warm-up drained), start instant → worker (the monotonic clock is one for all processes of a host), outcome → parent.
Samples go to a part file per worker, and are merged by the time they ended, as exactly as each worker's own order is.

A worker dies with its parent: its standard input closes, and the kernel kills it besides. A worker that dies early
fails the trial: a load that silently got lower would look like a faster server.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

import orjson

from loadgen.errors import BadInput, LoadgenError, WarmupRefused, WorkerDied
from loadgen.load.client import STOP_PERIOD_S, LoadOutcome, OnStart, Stop, places_of
from loadgen.load.dispatch import OnSample
from loadgen.load.merging import joined, merge
from loadgen.load.worker import import_name
from loadgen.protocols import DriverFactory
from loadgen.records import Trial
from loadgen.results.store import read_samples
from loadgen.units import nanoseconds

START_IN_S = 0.1  # every worker must have read the start instant before it comes
SILENT_S = (
    20.0  # a worker says every second that it lives; one that is silent for so long is stopped or hangs
)
Agree = Callable[["Team", Stop], int]
STOP_S = 15.0  # for a worker to write what has come, once told to stop


def run_workers(
    trial: Trial,
    base_url: str,
    make_driver: DriverFactory,
    driver_options: Mapping[str, Any],
    on_sample: OnSample,
    *,
    workers: int,
    host: tuple[int, int] = (0, 1),
    agree: Agree = lambda team, stop: time.monotonic_ns() + nanoseconds(START_IN_S),
    on_start: OnStart = lambda start_ns: None,
    stop: Stop = lambda: False,
) -> LoadOutcome | None:
    """Send a trial's load from ``workers`` processes; raises WorkerDied when one fails, as soon as it does.

    ``host`` is (number, hosts) where each of several has so many workers: only its own share is sent. ``agree`` gives
    the start instant once all workers are ready, a tenth of a second before it comes. Interrupted, or once ``stop``
    says true, it hands out the samples that every worker had, and raises on, or returns None.
    """
    place, hosts = host
    places_of(trial.load, (0, hosts * workers))  # says so here and now when there is not a request for each
    job = job_of(trial, base_url, make_driver, driver_options, hosts * workers)
    with Team(job, range(place * workers, (place + 1) * workers)) as team:
        try:
            team.wait_until_ready(stop)
            start_ns = agree(team, stop)
            on_start(start_ns)
            team.start(start_ns)
            outcomes = team.outcomes(stop)
        except (KeyboardInterrupt, Stopped) as why:
            merge([read_samples(part) for part in team.stop()], on_sample)
            if isinstance(why, Stopped):
                return None
            raise
        merged = merge([read_samples(part) for part in team.parts], on_sample)
        return joined(outcomes, start_ns, merged)


class Stopped(Exception):
    """The load is no longer wanted."""


def job_of(
    trial: Trial,
    base_url: str,
    make_driver: DriverFactory,
    driver_options: Mapping[str, Any],
    workers: int,
) -> dict[str, Any]:
    """What a worker is told, but for its number among all ``workers``. Raises BadInput where it cannot be told."""
    return {
        "trial": asdict(trial),
        "base_url": base_url,
        "make_driver": import_name(make_driver),
        "driver_options": dict(driver_options),
        "workers": workers,
    }


class Team:
    """The worker processes of this host, by their ``numbers`` among all that share the load; they end with it."""

    def __init__(self, job: Mapping[str, Any], numbers: range) -> None:
        self._job, self._numbers = job, numbers
        self._stack = ExitStack()
        self._members: list[_Worker] = []

    def __enter__(self) -> Team:
        with ExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="loadgen-workers-")))
            for number in self._numbers:
                self._members.append(stack.enter_context(_Worker(number, folder, self._job)))
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *why: Any) -> None:
        self._stack.__exit__(*why)

    @property
    def parts(self) -> list[Path]:
        """The files of samples, once the load has ended."""
        return [worker.part for worker in self._members]

    def wait_until_ready(self, stop: Stop) -> None:
        """Until every worker's warm-up is drained. Raises Stopped, WorkerDied, and what a worker says."""
        _wait_for_all(self._members, "ready", stop)

    def rest(self, seconds: float) -> None:
        """Wait so long, or until one gives a sign of life. Raises WorkerDied, and what a worker says."""
        waiting = {worker.output: worker for worker in self._members}
        for pipe in select.select(list(waiting), [], [], seconds)[0]:
            _heard(waiting[pipe])

    def start(self, start_ns: int) -> None:
        """Have all begin at an instant of this host's monotonic clock."""
        for worker in self._members:
            worker.tell({"start_ns": start_ns})

    def outcomes(self, stop: Stop) -> list[dict[str, Any]]:
        """What each worker says at its end. Raises Stopped, WorkerDied, and what a worker says."""
        told = [answer["outcome"] for answer in _wait_for_all(self._members, "outcome", stop)]
        for worker in self._members:
            worker.finish()
        return told

    def stop(self) -> list[Path]:
        """Have every worker write what has come; the files that there are then."""
        for worker in self._members:
            worker.stop()
        return [part for part in self.parts if part.exists()]


class _Worker:
    """One child process, as its parent sees it."""

    def __init__(self, number: int, folder: Path, job: Mapping[str, Any]) -> None:
        self.number, self.part = number, folder / f"{number}.parquet"
        self._log = folder / f"{number}.log"
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "loadgen.load.worker"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                bufsize=0,
                start_new_session=True,  # Ctrl-C goes to the parent, which stops its workers in order
                env={**os.environ, "LOADGEN_PARENT": str(os.getpid())},
            )
        assert self.process.stdout is not None
        self.output = self.process.stdout.fileno()
        self._said = b""
        self.heard_s = time.monotonic()
        self.tell({**job, "number": number, "part": str(self.part)})

    def __enter__(self) -> _Worker:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            assert pipe is not None
            pipe.close()

    def tell(self, message: Mapping[str, Any]) -> None:
        assert self.process.stdin is not None
        line = memoryview(orjson.dumps(message) + b"\n")
        try:
            while line:
                line = line[self.process.stdin.write(line) or 0 :]
        except BrokenPipeError:
            self.died()

    def receive(self) -> dict[str, Any] | None:
        """What it says, once a whole line is there; None for a mere sign of life. Raises WorkerDied at its end."""
        got = os.read(self.output, 1 << 20)
        if not got:
            self.died()
        self.heard_s = time.monotonic()
        *lines, self._said = (self._said + got).split(b"\n")
        told = [line for line in lines if line]
        return cast(dict[str, Any], orjson.loads(told[-1])) if told else None

    def died(self) -> None:
        try:
            code = self.process.wait(STOP_S)
            how = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        except subprocess.TimeoutExpired:
            how = "it closed its output and hangs"
        try:
            said = self._log.read_text(errors="replace").splitlines()[-12:]
        except OSError:  # someone cleared the folder of temporary files
            said = []
        tail = "".join(f"\n  | {line}" for line in said)
        raise WorkerDied(f"load generator worker {self.number} ended early ({how}){tail}")

    def stop(self) -> None:
        """Have it write what it has, and wait for that."""
        self.process.send_signal(signal.SIGINT)
        try:
            self.process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self.process.kill()

    def finish(self) -> None:
        try:
            code = self.process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            raise WorkerDied(f"load generator worker {self.number} does not end") from None
        if code != 0:
            self.died()


def _wait_for_all(members: list[_Worker], key: str, stop: Stop) -> list[dict[str, Any]]:
    """The next message of each worker. Raises WorkerDied as soon as one ends instead, LoadgenError for its fault."""
    waiting = {worker.output: worker for worker in members}
    heard: dict[int, dict[str, Any]] = {}
    while waiting:
        if stop():
            raise Stopped
        for worker in waiting.values():
            if time.monotonic() - worker.heard_s > SILENT_S:
                raise WorkerDied(
                    f"load generator worker {worker.number} hangs: no sign of life for {SILENT_S:g} s"
                )
        for pipe in select.select(list(waiting), [], [], STOP_PERIOD_S)[0]:
            worker = waiting[pipe]
            message = _heard(worker)
            if message is None:
                continue
            assert key in message
            heard[worker.number] = message
            del waiting[pipe]
    return [heard[worker.number] for worker in members]


def _heard(worker: _Worker) -> dict[str, Any] | None:
    """What a worker says; None for a mere sign of life. Raises WorkerDied, and what it says went wrong."""
    message = worker.receive()
    if message is not None and "error" in message:
        if message["kind"] == WarmupRefused.__name__:
            raise WarmupRefused(message["error"])
        kind = BadInput if message["kind"] == BadInput.__name__ else LoadgenError
        raise kind(f"load generator worker {worker.number}: {message['error']}")
    return message
