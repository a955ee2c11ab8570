"""The faults that a sweep is hit by, and how each finds what it hits: by TMPDIR, wherever it hangs in the tree."""

from __future__ import annotations

import contextlib
import resource
import shutil
import signal
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import psutil


@dataclass(slots=True, kw_only=True)
class Hit:
    """A sweep that runs: its process, its folder, and the TMPDIR by which all that it started is known."""

    process: subprocess.Popen[bytes]
    folder: Path
    temporary: Path

    @property
    def said(self) -> str:
        """Its standard error so far."""
        return (self.folder / "stderr").read_text(errors="replace")

    def family(self) -> list[psutil.Process]:
        """Every process with its TMPDIR but the sweep itself, wherever it hangs in the tree."""
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if process.pid != self.process.pid and str(self.temporary) in process.environ().get(
                    "TMPDIR", ""
                ):
                    found.append(process)
        return found

    def named(self, *words: str) -> list[psutil.Process]:
        """Those of them whose command line holds one of the words, oldest first, without guards."""
        found = []
        for process in self.family():
            with contextlib.suppress(psutil.Error):
                line = " ".join(process.cmdline())
                if any(word in line for word in words) and "_guard.py" not in line:
                    found.append(process)
        return sorted(found, key=lambda process: process.create_time())

    def server(self) -> list[psutil.Process]:
        """The server's processes, the one that the guard started first, without trackers of Python's multiprocessing:
        nothing depends on one until the end."""
        workers = {
            process.pid for process in self.named("loadgen.load.worker", "multiprocessing.resource_tracker")
        }
        guards = {process.pid for process in self.family() if "_guard.py" in " ".join(process.cmdline())}
        others = [p for p in self.family() if p.pid not in workers | guards and p.ppid() != self.process.pid]
        return sorted(others, key=lambda process: process.create_time())


def _server(number: int, which: int) -> Callable[[Hit], None]:
    return lambda hit: hit.server()[which].send_signal(number)


def _stop_all(hit: Hit) -> None:
    """Every process of the server: a launcher alone may be stopped, and its engine serves on."""
    for process in hit.server():
        process.send_signal(signal.SIGSTOP)


def _guard(hit: Hit) -> None:
    next(p for p in hit.family() if "_guard.py" in " ".join(p.cmdline())).kill()


def _worker(number: int) -> Callable[[Hit], None]:
    return lambda hit: hit.named("loadgen.load.worker")[0].send_signal(number)


def _sweep(number: int) -> Callable[[Hit], None]:
    return lambda hit: hit.process.send_signal(number)


def _full(hit: Hit) -> None:
    """From now on no file of the sweep grows beyond a kilobyte: a disk that is full, for one process."""
    resource.prlimit(hit.process.pid, resource.RLIMIT_FSIZE, (1024, 1024))


def _delete(hit: Hit) -> None:
    shutil.rmtree(hit.folder / "r")


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """What is done, the exit codes that are right, a word that must be said, and the ``--set`` it needs."""

    name: str
    do: Callable[[Hit], None]
    codes: tuple[int, ...]
    word: str = ""
    sets: tuple[str, ...] = ()


FAULTS = (
    Fault(name="server killed", do=_server(signal.SIGKILL, 0), codes=(1,), word="ServerDied"),
    Fault(name="last process of the server killed", do=_server(signal.SIGKILL, -1), codes=(1,), word="ServerDied"),
    Fault(name="server stopped", do=_stop_all, codes=(1,), word="ServerHung"),
    Fault(name="last process of the server stopped", do=_server(signal.SIGSTOP, -1), codes=(1,), word="ServerHung"),
    Fault(name="guard killed", do=_guard, codes=(1,), word="ServerDied"),
    Fault(name="worker killed", do=_worker(signal.SIGKILL), codes=(1,), word="WorkerDied", sets=("concurrency=2,3", "workers=2")),
    Fault(name="worker stopped", do=_worker(signal.SIGSTOP), codes=(1,), word="WorkerDied", sets=("concurrency=2,3", "workers=2")),
    Fault(name="sweep interrupted", do=_sweep(signal.SIGINT), codes=(130,), word="interrupted"),
    Fault(name="sweep terminated", do=_sweep(signal.SIGTERM), codes=(130,), word="interrupted"),
    Fault(name="terminal closed", do=_sweep(signal.SIGHUP), codes=(130,), word="interrupted"),
    Fault(name="sweep killed", do=_sweep(signal.SIGKILL), codes=(-9,)),
    Fault(name="results deleted", do=_delete, codes=(1,), word="StoreError"),
    Fault(name="disk full", do=_full, codes=(1,), word="StoreError"),
)  # fmt: skip
