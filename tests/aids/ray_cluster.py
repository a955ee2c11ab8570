"""A Ray cluster on this host's loopback addresses, for tests: started and ended by pid, never by `ray stop`."""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil

from loadgen.launch.process import free_ports

UP_S, TRIES = 45.0, 3  # a node whose agent takes more than 15 s to come up, on a loaded host, ends itself
CPUS, GPUS = 4, 2  # of which Ray is told: there need be no GPU

# A framework of another package, as its author would install it: null, which takes GPUs and does nothing with them.
ENTRIES = "[loadgen.servers]\nnull-on-gpus = null_on_gpus:FRAMEWORK\n"
PACKAGE = """
from dataclasses import replace

from loadgen.servers.null import Null


class NullOnGpus(Null):
    name = "null-on-gpus"
    uses_gpus = True

    def check(self, spec):
        super().check(replace(spec, gpus=(), tp=1))

    def command(self, spec, run_dir, ports):
        command = super().command(spec, run_dir, ports)
        return replace(command, setup=(("echo", "sees GPUs", *map(str, spec.gpus)),))


FRAMEWORK = NullOnGpus()
"""


class Node:
    """One `ray start`, with all that it started; ``address`` is its own, such as 127.7.0.2."""

    def __init__(self, address: str, folder: Path, *more: str) -> None:
        self.address, self.log = address, folder / f"{address}.log"
        self.struck = False
        command = [
            str(Path(sys.executable).with_name("ray")), "start", "--block", "--disable-usage-stats",
            f"--node-ip-address={address}", f"--num-cpus={CPUS}", f"--num-gpus={GPUS}",
            *more,
        ]  # fmt: skip
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                command,
                stdout=log,
                stderr=log,
                start_new_session=True,
                env=os.environ
                | {
                    "RAY_DEDUP_LOGS": "0",
                    "RAY_raylet_start_wait_time_s": f"{UP_S:g}",
                    "RAY_agent_register_timeout_ms": f"{UP_S * 1000:.0f}",
                },
            )
        end_s = time.monotonic() + UP_S
        while "Ray runtime started" not in self.log.read_text():
            if time.monotonic() > end_s or self.process.poll() is not None:
                self.end()
                raise RuntimeError(f"{address} did not come up: {self.log.read_text()[-2000:]}")
            time.sleep(0.1)

    def signal(self, number: int) -> None:
        """To every process of it; it counts as lost from then on."""
        self.struck = True
        with contextlib.suppress(psutil.NoSuchProcess):
            top = psutil.Process(self.process.pid)
            for process in [top, *top.children(recursive=True)]:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.send_signal(number)

    def end(self) -> None:
        """As by a power cut."""
        self.signal(signal.SIGKILL)
        self.process.wait()


class Loopback:
    """A cluster that asks for a token: its head, and as many nodes as were ever asked for; dead ones are replaced."""

    def __init__(self, folder: Path, packages: Path) -> None:
        self._folder, self._nodes = folder, list[Node]()
        self.packages = packages
        # Two clusters with one address take each other's ports, so each run of tests has a network of its own.
        self._network = f"127.{1 + os.getpid() % 250}.0"
        self._addresses = (f"{self._network}.{number}" for number in range(3, 255))
        (port,) = free_ports(1, f"{self._network}.2")
        self.address = f"{self._network}.2:{port}"

    def nodes(self, count: int) -> list[Node]:
        """The head, then others that are up: ``count`` in all."""
        if not self._nodes:
            # Ray's sockets are named below it, and a socket's name has 107 characters at most.
            port = self.address.rpartition(":")[2]
            self._add("--head", f"--port={port}", "--include-dashboard=false")
        while len(self.up()) < count:  # one after another: two at once take each other's ports
            self._add(f"--address={self.address}")
        return self.up()[:count]

    def up(self) -> list[Node]:
        """Those to which nothing was done."""
        return [node for node in self._nodes if not node.struck]

    def _add(self, *words: str) -> None:
        for tries_left in reversed(range(TRIES)):
            try:
                address = f"{self._network}.2" if not self._nodes else next(self._addresses)
                self._nodes.append(Node(address, self._folder, *words))
                return
            except RuntimeError:
                if not tries_left:
                    raise

    def end(self) -> None:
        """End all of it."""
        for node in reversed(self._nodes):
            node.end()


@contextlib.contextmanager
def loopback(folder: Path) -> Iterator[Loopback]:
    """A cluster that is not up yet, with whatever its nodes and this process need to join it."""
    home = folder / "packages"
    info = home / "null_on_gpus-1.0.dist-info"
    info.mkdir(parents=True)
    (home / "null_on_gpus.py").write_text(PACKAGE)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: null-on-gpus\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(ENTRIES)
    told = {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(16),
        "PYTHONPATH": str(home),
    }
    before = {name: os.environ.get(name) for name in told}
    os.environ |= told
    found = Loopback(folder, home)
    try:
        yield found
    finally:
        found.end()
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


def nobody() -> str:
    """An address at which nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{probe.getsockname()[1]}"
