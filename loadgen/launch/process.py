"""Spawn a server from a Command, await its readiness, read its log, and end its whole family."""

from __future__ import annotations

import glob
import os
import random
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

import httpx

from loadgen.errors import BadInput, ServerDied, ServerError, ServerHung, ServerNotReady, ServerOutOfMemory
from loadgen.launch import shared_memory
from loadgen.launch.family import Family, end, family_of, stopped_in
from loadgen.launch.last_error import last_error
from loadgen.protocols import Command
from loadgen.system import interrupt

GUARD = Path(__file__).with_name("_guard.py")
# Below Linux's ephemeral range (32768…), so that no outgoing connection can take a port in between.
PORTS = range(20000, 32000)
TAIL_LINES = 30
SAID_BYTES = 8 << 20  # of a log, when its server takes work
POLL_S = 0.05
WELL_S = 1.0  # a server that answers, whole, for so long after requests were lost is well
JUDGE_S = 10.0  # one that does neither answer nor end within this has hung
STOPPED_S = 3.0  # one of which a process stays stopped for so long has, too
ANSWER_S = 5.0  # for its health page


def free_ports(count: int, host: str = "127.0.0.1") -> list[int]:
    """``count`` different ports that could be bound on ``host`` a moment ago.

    Raises BadInput when there are too few, and for a host that is no address of this machine.
    """
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        try:
            probe.bind((host, 0))  # else each port would be tried, and each look the name up again
        except (OSError, UnicodeError) as error:
            why = getattr(error, "strerror", None) or error
            raise BadInput(f"host {host!r}: {why} (accepted: an address of this machine)") from None
    found: list[int] = []
    for port in random.SystemRandom().sample(PORTS, len(PORTS)):
        if len(found) == count:
            return found
        if port_is_free(port, host):
            found.append(port)
    raise BadInput(f"no {count} free ports in {PORTS.start}–{PORTS.stop} on {host}")


def port_is_free(port: int, host: str = "127.0.0.1") -> bool:
    """Whether the port can be bound now; another process may take it before it is used."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True


def log_tail(path: Path, lines: int = TAIL_LINES) -> str:
    """The last lines of a log, at most 64 KiB of it; empty when there is none."""
    try:
        with path.open("rb") as log:
            log.seek(0, os.SEEK_END)
            log.seek(max(0, log.tell() - 65536))
            text = log.read().decode(errors="replace")
    except FileNotFoundError:
        return ""
    return "\n".join(text.splitlines()[-lines:])


def step_name(argv: Sequence[str]) -> str:
    """What a set-up command is called: the module of ours that it runs, else its program."""
    return next((word for word in argv[1:4] if word.startswith("loadgen.")), Path(argv[0]).name)


def exit_words(code: int | None) -> str:
    """An exit status in words; the guard passes a signal on as 128 + its number."""
    number = 0 if code is None else -code if code < 0 else code - 128
    if number not in set(signal.Signals):
        return f"exit status {code}"
    name = signal.Signals(number).name
    killed = (
        ": killed from outside, which the kernel does where the host's memory, or the container's, runs out"
    )
    return f"signal {name}{killed if number == signal.SIGKILL else ''}"


def server_env(overlay: dict[str, str | None]) -> dict[str, str]:
    """This process's environment with the command's changes; a value of None removes a variable.

    CUDA counts GPUs as NVML does, by PCI bus, and not by its guess of which is the fastest.
    """
    env = {**os.environ, "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}
    for key, value in overlay.items():
        if value is None:
            env.pop(key, None)
        else:
            env[key] = value
    return env


class Server:
    """A running server family. Use as a context manager, or call ``stop``."""

    def __init__(self, command: Command, run_dir: Path, log_path: Path) -> None:
        self.command, self.run_dir, self.log_path = command, run_dir, log_path
        self._process: subprocess.Popen[bytes] | None = None
        self._said_from = 0
        self._seen: Family = frozenset()
        self._shared_before: frozenset[str] = frozenset()
        self._shared: frozenset[str] = frozenset()

    def start(self, ready_timeout_s: float, on_state: Callable[[str], None] = lambda _state: None) -> None:
        """Run the set-up commands, spawn, and wait until the server takes work.

        Raises ServerDied, ServerNotReady or ServerOutOfMemory with the log's last lines; nothing is left then.
        """
        deadline = time.monotonic() + ready_timeout_s
        self.set_up(ready_timeout_s, on_state)
        try:
            on_state("starting")
            self._shared_before = shared_memory.present()
            self._said_from = self.log_path.stat().st_size if self.log_path.exists() else 0
            self._spawn(self.command.argv)
            self._await_ready(deadline, ready_timeout_s)
            self._note_shared()
        except BaseException:
            self.stop()
            raise
        on_state("ready")

    def set_up(self, limit_s: float, on_state: Callable[[str], None] = lambda _state: None) -> None:
        """Write the command's files and run its set-up commands, no more. Raises as ``start`` does."""
        self.run_dir.mkdir(parents=True, exist_ok=True)
        self.log_path.parent.mkdir(parents=True, exist_ok=True)
        for name, text in self.command.files.items():
            target = self.run_dir / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(text)
        deadline = time.monotonic() + limit_s
        try:
            for step in self.command.setup:
                on_state("preparing")
                self._spawn(step)
                self._await_exit(step_name(step), deadline, limit_s)
        except BaseException:
            self.stop()
            raise

    def _spawn(self, argv: Sequence[str]) -> None:
        guard = [sys.executable, "-I", "-S", str(GUARD), str(self.command.stop_timeout_s), *argv]
        with self.log_path.open("ab") as log:
            self._process = subprocess.Popen(
                guard,
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=self.run_dir,
                env=server_env(dict(self.command.env)),
                start_new_session=True,
            )

    def _await_exit(self, step: str, deadline: float, limit_s: float) -> None:
        while self.alive():
            interrupt.check()
            if time.monotonic() > deadline:
                raise self.failure(ServerNotReady, f"its preparation ({step}) took more than {limit_s:g} s")
            time.sleep(POLL_S)
        assert self._process is not None
        if self._process.returncode != 0:
            raise self.death(f"its preparation ({step}) failed")
        self._release()

    def _await_ready(self, deadline: float, limit_s: float) -> None:
        with httpx.Client(timeout=2.0, trust_env=False) as client:
            while True:
                interrupt.check()
                if not self.alive():
                    raise self.death("the server ended while it loaded")
                try:
                    if client.get(self.command.ready_url).is_success:
                        return
                except httpx.TransportError:
                    pass  # not listening yet: the process's death and the deadline bound the wait
                if time.monotonic() > deadline:
                    raise self.failure(ServerNotReady, f"the server was not ready within {limit_s:g} s")
                time.sleep(POLL_S)

    def said(self) -> str:
        """Its log since this start, at most ``SAID_BYTES`` of it."""
        with self.log_path.open("rb") as log:
            log.seek(self._said_from)
            return log.read(SAID_BYTES).decode(errors="replace")

    @property
    def pid(self) -> int | None:
        """The guard's process id: the root of the server's process tree."""
        return self._process.pid if self._process is not None else None

    def alive(self) -> bool:
        """Whether the process was started and has not ended."""
        return self._process is not None and self._process.poll() is None

    def failure(self, kind: type[ServerError], message: str) -> ServerError:
        """An error of this kind that carries the log's path and its last lines."""
        return kind(message, str(self.log_path), log_tail(self.log_path))

    def death(self, what: str = "the server ended by itself") -> ServerError:
        """The error that tells why a server that nobody stopped, or a step before it, has ended."""
        code = self._process.returncode if self._process is not None else None
        tail = log_tail(self.log_path, 400)
        if re.search(self.command.oom_pattern, tail):
            return self.failure(ServerOutOfMemory, f"the server ran out of memory (exit status {code})")
        for pattern, meaning in self.command.meanings:
            if re.search(pattern, tail):
                return self.failure(ServerDied, f"{what} (exit status {code}): {meaning}")
        raised = (
            last_error(tail) if code is not None and 0 < code < 128 else None
        )  # a signal needs no other reason
        return self.failure(ServerDied, f"{what} ({exit_words(code)})" + (f": {raised}" if raised else ""))

    def family(self) -> Family:
        """Its processes now."""
        found = family_of(self.pid)
        self._seen |= found
        return found

    def hung(self) -> bool:
        """Whether it runs and answers nothing: a process of it is stopped, or its health page stays silent."""
        if not self.alive():
            return False
        return stopped_in(self.pid) or not (self._answers() or self._answers())

    def judge(self, before: Family) -> ServerError | None:
        """What it means that requests were lost, given the family of before. Waits until that is plain.

        The client sees a connection go before the guard has seen the last process go, so that a question asked once
        and at once is answered "alive". A process that is gone took its requests along, also where another took its
        place.
        """
        began = time.monotonic()
        well_since: float | None = None
        stopped_since: float | None = None
        while time.monotonic() - began < JUDGE_S:
            interrupt.check()
            if not self.alive():
                return self.death()
            whole, stopped = before <= self.family(), stopped_in(self.pid)
            stopped_since = (stopped_since or time.monotonic()) if stopped else None
            if stopped_since is not None and time.monotonic() - stopped_since >= STOPPED_S:
                break
            if not whole or stopped or not self._answers():
                well_since = None
            elif well_since is None:
                well_since = time.monotonic()
            elif time.monotonic() - well_since >= WELL_S:
                return None
            time.sleep(POLL_S)
        if not before <= self.family():
            return self.failure(
                ServerDied, "a process of the server ended by itself while requests were lost"
            )
        if stopped_since is not None:
            return self.failure(ServerHung, "a process of the server is stopped, so that it answers nothing")
        return self.failure(ServerHung, f"the server runs, and answers nothing for {JUDGE_S:g} s")

    def _answers(self) -> bool:
        try:
            return httpx.get(self.command.ready_url, timeout=ANSWER_S, trust_env=False).is_success
        except httpx.HTTPError:
            return False

    def stop(self) -> None:
        """End the family: SIGTERM, time to drain, SIGKILL. Returns when no process of it is left. Idempotent."""
        process = self._process
        if process is None:
            return
        self._note_shared()
        if stopped_in(process.pid):
            end(self.family())  # what is stopped drains nothing
        if process.stdin is not None and not process.stdin.closed:
            process.stdin.close()  # the guard sees the end of the pipe and stops everything
        try:
            process.wait(self.command.stop_timeout_s + 10)
        except subprocess.TimeoutExpired:
            process.kill()  # its child's death signal takes the command down; nothing softer is left to try
            process.wait()
        self._release()

    def _release(self) -> None:
        if self._process is not None and self._process.stdin is not None:
            self._process.stdin.close()
        self._process = None
        end(self._seen)
        self._seen = frozenset()
        for pattern in self.command.cleanup:
            for path in glob.glob(pattern):
                Path(path).unlink(missing_ok=True)
        for path in self._shared:  # what a clean end has removed is gone already
            Path(path).unlink(missing_ok=True)
        self._shared = frozenset()

    def _note_shared(self) -> None:
        """Its shared memory now: of processes that are gone nobody can tell it."""
        self._shared |= shared_memory.held(self.family()) - self._shared_before

    def __enter__(self) -> Server:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()


@contextmanager
def serving(
    command: Command,
    run_dir: Path,
    log_path: Path,
    *,
    ready_timeout_s: float,
    on_state: Callable[[str], None] = lambda _state: None,
) -> Iterator[Server]:
    """A ready server for the length of a ``with`` block."""
    with Server(command, run_dir, log_path) as server:
        server.start(ready_timeout_s, on_state)
        yield server
