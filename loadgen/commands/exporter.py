"""``loadgen exporter``: this host's GPUs, server processes and memory for Prometheus."""

from __future__ import annotations

import time

import click
import psutil

from loadgen.errors import BadInput
from loadgen.system import interrupt
from loadgen.system.environment import read_gpus
from loadgen.telemetry.exporter import start


def run(*, host: str, port: int, pids: tuple[int, ...], links: bool, pss: bool) -> int:
    """Serve until Ctrl-C. Raises BadInput for a port that is taken or a process that is not there."""
    for pid in pids:
        if not (0 < pid < 2**31 and psutil.pid_exists(pid)):
            raise BadInput(f"--pid {pid}: no such process (accepted: the process id of a running server)")
    server, url = start(host, port, pids, links=links, pss=pss)
    gpus, _, _ = read_gpus()
    click.echo(f"ready: {url}  {len(gpus)} GPUs, {len(pids)} process trees")
    try:
        while True:
            interrupt.check()
            time.sleep(0.2)
    except KeyboardInterrupt:
        return 0
    finally:
        server.shutdown()
        server.server_close()
