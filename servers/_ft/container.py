"""Run the server from a container image, and see to it that the container does not outlive its client.

Usage as a child: ``container.py --program docker --name NAME --grace SECONDS -- docker run …``. The client passes
SIGTERM on to the container; but a client that is killed leaves the container running, so after ``grace`` the
container itself is killed.
"""

from __future__ import annotations

import argparse
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence

from loadgen.errors import MissingDependency
from loadgen.launch.child import child_argv
from loadgen.servers._triton.launch import Options

GRACE_S = 20
POLL_S = 0.1
PROGRAMS = ("docker", "podman")


def program(options: Options) -> str:
    """The container engine: as asked for, or the first on PATH. Raises MissingDependency."""
    wanted = options.choice("container", ("auto", *PROGRAMS))
    for name in PROGRAMS if wanted == "auto" else (wanted,):
        if shutil.which(name) is not None:
            return name
    looked = " or ".join(PROGRAMS) if wanted == "auto" else wanted
    raise MissingDependency(
        f"ft: option image needs {looked} on PATH", "install one, or bring the backend itself"
    )


def argv(
    options: Options,
    command: Sequence[str],
    env: Mapping[str, str | None],
    mounts: Mapping[str, str],
    *,
    name: str,
    gpus: str,
) -> tuple[str, ...]:
    """The command in a container: host network, same paths inside as outside, only the GPUs it may see."""
    image = options.text("image")
    assert image is not None
    try:
        engine = program(options)
    except MissingDependency:  # a plan can be shown where it is not installed
        wanted = options.choice("container", ("auto", *PROGRAMS))
        engine = PROGRAMS[0] if wanted == "auto" else wanted
    devices = (
        ("--gpus", f'"device={gpus}"')
        if engine == "docker"
        else tuple(part for gpu in gpus.split(",") for part in ("--device", f"nvidia.com/gpu={gpu}"))
    )
    inside = {**env, "CUDA_VISIBLE_DEVICES": None}  # the devices given are numbered from 0 in there
    return child_argv(
        None,
        "loadgen.servers._ft.container",
        *("--program", engine, "--name", name, "--grace", str(GRACE_S), "--"),
        *(engine, "run", "--rm", "--init", "--name", name, *devices),
        *("--network", "host", "--shm-size", "2g", "--ulimit", "memlock=-1"),
        *(part for path, mode in mounts.items() for part in ("--volume", f"{path}:{path}:{mode}")),
        *(part for key, value in inside.items() if value is not None for part in ("--env", f"{key}={value}")),
        image,
        *command,
    )


def main(arguments: list[str]) -> int:
    """Run the container's client and pass signals on to it; the container is killed when it outlasts
    ``--grace`` seconds.
    """
    parser = argparse.ArgumentParser(prog="container")
    parser.add_argument("--program", required=True)
    parser.add_argument("--name", required=True)
    parser.add_argument("--grace", type=float, required=True)
    parser.add_argument("rest", nargs=argparse.REMAINDER)
    options = parser.parse_args(arguments)
    asked: list[int] = []
    # Before the client is there: a signal in between would end this process and leave the container.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, _frame: asked.append(number))
    client = subprocess.Popen(options.rest[1:])
    deadline: float | None = None
    while True:
        try:
            return client.wait(POLL_S)
        except subprocess.TimeoutExpired:
            if asked and deadline is None:
                client.send_signal(asked[0])
                deadline = time.monotonic() + options.grace
            if deadline is not None and time.monotonic() > deadline:
                subprocess.run([options.program, "kill", options.name], check=False)
                return client.wait()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
