"""A Ray cluster on this host's loopback addresses, for tests: started and ended by pid, never by `ray stop`."""

from __future__ import annotations

import contextlib
import os
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
CPUS = 4


class Node:
    """One `ray start`, with all that it started; ``address`` is its own, such as 127.0.0.2."""

    def __init__(self, address: str, folder: Path, *more: str) -> None:
        self.address, self.log = address, folder / f"{address}.log"
        command = [
            str(Path(sys.executable).with_name("ray")), "start", "--block", "--disable-usage-stats",
            f"--node-ip-address={address}", f"--num-cpus={CPUS}", *more,
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
        """To every process of it."""
        with contextlib.suppress(psutil.NoSuchProcess):
            top = psutil.Process(self.process.pid)
            for process in [top, *top.children(recursive=True)]:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.send_signal(number)

    def end(self) -> None:
        """As by a power cut."""
        self.signal(signal.SIGKILL)
        self.process.wait()


@contextlib.contextmanager
def cluster(folder: Path, nodes: int) -> Iterator[tuple[str, list[Node]]]:
    """Its address, and its nodes: the head, then the others."""
    (port,) = free_ports(1, "127.0.0.2")
    while 10002 <= port <= 19999:  # of Ray's own workers
        (port,) = free_ports(1, "127.0.0.2")
    up: list[Node] = []
    try:
        # Ray's sockets are named below it, and a socket's name has 107 characters at most.
        up.append(Node("127.0.0.2", folder, "--head", f"--port={port}", "--include-dashboard=false"))
        for number in range(1, nodes):
            up.append(Node(f"127.0.0.{2 + number}", folder, f"--address=127.0.0.2:{port}"))
        yield f"127.0.0.2:{port}", up
    finally:
        for node in reversed(up):
            node.end()


def nobody() -> str:
    """An address at which nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{probe.getsockname()[1]}"
