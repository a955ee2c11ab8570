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

UP_S = 60.0
CPUS, GPUS = 4, 2  # of which Ray is told: there need be no GPU


class Node:
    """One `ray start`, with all that it started; ``address`` is its own, such as 127.0.0.2."""

    def __init__(self, address: str, folder: Path, *more: str) -> None:
        self.address, self.log = address, folder / f"{address}.log"
        self.struck = False
        command = [
            str(Path(sys.executable).with_name("ray")), "start", "--block", "--disable-usage-stats",
            f"--node-ip-address={address}", f"--num-cpus={CPUS}", f"--num-gpus={GPUS}", *more,
        ]  # fmt: skip
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                command,
                stdout=log,
                stderr=log,
                start_new_session=True,
                env=os.environ | {"RAY_DEDUP_LOGS": "0"},
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

    def __init__(self, folder: Path) -> None:
        self._folder, self._nodes = folder, list[Node]()
        self._addresses = iter(range(2, 255))
        (port,) = free_ports(1, "127.0.0.2")
        while 10002 <= port <= 19999:  # of Ray's own workers
            (port,) = free_ports(1, "127.0.0.2")
        self.address = f"127.0.0.2:{port}"

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
        self._nodes.append(Node(f"127.0.0.{next(self._addresses)}", self._folder, *words))

    def end(self) -> None:
        """End all of it."""
        for node in reversed(self._nodes):
            node.end()


@contextlib.contextmanager
def loopback(folder: Path) -> Iterator[Loopback]:
    """A cluster that is not up yet, with whatever its nodes and this process need to join it."""
    told = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(16)}
    before = {name: os.environ.get(name) for name in told}
    os.environ |= told
    found = Loopback(folder)
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
