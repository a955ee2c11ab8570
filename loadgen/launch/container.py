"""A server from a container image, and see to it that the container does not outlive its client.

Usage as a child: ``container.py --program docker --name NAME --grace SECONDS -- docker run …``. The client passes
SIGTERM on to the container; but a client that is killed leaves the container running, so after ``grace`` the
container itself is killed.

The container shares the host's network, so that nothing stands between client and server: a published port would put a
proxy, and its latency, into every figure. The server inside binds the loopback address that it is told.
"""

from __future__ import annotations

import argparse
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from loadgen.errors import BadInput, MissingDependency
from loadgen.launch.child import CHILD, child_argv, servers_folder
from loadgen.launch.options import Options
from loadgen.protocols import Command, Need
from loadgen.records import ServerSpec

GRACE_S = 20
POLL_S = 0.1
PROGRAMS = ("docker", "podman")
# What every framework takes beside its own options.
OPTIONS: Mapping[str, str] = {
    "image": "run the server from this container image, which has its program and libraries",
    "container": "auto, docker or podman: what runs the image. Default auto",
    "shm_size": "shared memory of the container, such as 2g. Default 2g",
}
# As docker's references are: registry and path, then a tag or a digest. None begins with a dash, so none is an option.
IMAGE = re.compile(r"[A-Za-z0-9][\w.\-]*(?::\d+)?(?:/[\w.\-]+)*(?::[\w.\-]+)?(?:@[\w:+.\-]+)?")
SIZE = re.compile(r"[1-9]\d*[bkmgBKMG]?")


@dataclass(frozen=True, slots=True, kw_only=True)
class Image:
    """What was asked for. ``program`` is the container engine, whether it is on PATH or not."""

    name: str
    program: str
    shm_size: str


def image_of(options: Options) -> Image | None:
    """The image that was asked for, ``None`` without one. Raises BadInput for what is no image's name and no size."""
    name, size = options.text("image"), options.text("shm_size") or "2g"
    wanted = options.choice("container", ("auto", *PROGRAMS))
    if name is None:
        return None
    if not IMAGE.fullmatch(name):
        why = "an option, not an image's name" if name.startswith("-") else "not an image's name"
        raise BadInput(
            f"{options.framework}: option image = {name!r}: {why} (accepted: such as registry/name:tag)"
        )
    if not SIZE.fullmatch(size):
        raise BadInput(f"{options.framework}: option shm_size = {size!r} (accepted: such as 512m, 2g)")
    there = (each for each in PROGRAMS if shutil.which(each) is not None)
    return Image(name=name, program=next(there, PROGRAMS[0]) if wanted == "auto" else wanted, shm_size=size)


def check(options: Options) -> None:
    """Raise BadInput for an image that cannot be, MissingDependency where nothing here runs one."""
    image = image_of(options)
    if image is None or shutil.which(image.program) is not None:
        return
    auto = options.choice("container", ("auto", *PROGRAMS)) == "auto"
    raise MissingDependency(
        f"{options.framework}: option image needs {' or '.join(PROGRAMS) if auto else image.program} on PATH",
        "install one, or bring the server itself",
    )


def need() -> Need:
    """Which container engine is here, for ``loadgen doctor``; only frameworks from an image need one."""
    found = [path for name in PROGRAMS if (path := shutil.which(name)) is not None]
    return Need(
        name="container engine",
        ok=bool(found),
        found=", ".join(found) or f"neither {' nor '.join(PROGRAMS)} on PATH",
        remedy="" if found else "for --option image= alone: install docker or podman",
    )


def argv(
    image: Image,
    command: Sequence[str],
    env: Mapping[str, str | None],
    mounts: Mapping[str, str],
    *,
    name: str,
    gpus: str,
    entrypoint: bool = False,
    grace_s: float = GRACE_S,
) -> tuple[str, ...]:
    """The command in a container: host network, same paths inside as outside, only the GPUs it may see.

    ``mounts`` are paths and ``ro`` or ``rw``. ``entrypoint``: the command takes the place of the image's own.
    """
    given = [gpu for gpu in gpus.split(",") if gpu]
    if image.program == "docker":
        devices: tuple[str, ...] = ("--gpus", f'"device={",".join(given)}"') if given else ()
    else:
        devices = tuple(part for gpu in given for part in ("--device", f"nvidia.com/gpu={gpu}"))
    # The devices given are numbered from 0 in there.
    inside = {**env, "CUDA_VISIBLE_DEVICES": None if given else env.get("CUDA_VISIBLE_DEVICES")}
    return child_argv(
        None,
        "loadgen.launch.container",
        *("--program", image.program, "--name", name, "--grace", f"{grace_s:g}", "--"),
        *(image.program, "run", "--rm", "--init", "--name", name, *devices),
        *("--network", "host", "--shm-size", image.shm_size, "--ulimit", "memlock=-1"),
        *(part for path, mode in mounts.items() for part in ("--volume", f"{path}:{path}:{mode}")),
        *(part for key, value in inside.items() if value is not None for part in ("--env", f"{key}={value}")),
        *(("--entrypoint", command[0], image.name, *command[1:]) if entrypoint else (image.name, *command)),
    )


def contained(command: Command, image: Image, spec: ServerSpec, run_dir: str, port: int) -> Command:
    """A framework's command, set-up steps included, from an image: its own program and Python, our source read-only.

    A program or an interpreter that was found on this machine is asked for by its name alone: inside it lies elsewhere.
    """
    ours = (CHILD.parents[1], servers_folder())
    mounts = {run_dir: "rw", **{str(folder): "ro" for folder in ours}, **command.mounts}
    if spec.model.checkpoint is not None:
        mounts.setdefault(spec.model.checkpoint, "ro")
    gpus = ",".join(map(str, spec.gpus))

    def inside(words: Sequence[str], name: str) -> tuple[str, ...]:
        named = Path(words[0]).name
        program = (spec.python or "python3") if named.startswith("python") else named
        return argv(
            image, (program, *words[1:]), {**command.env, "HOME": run_dir}, mounts, name=name, gpus=gpus,
            entrypoint=True, grace_s=command.stop_timeout_s,
        )  # fmt: skip

    name = f"loadgen-{spec.framework}-{port}"
    return replace(
        command,
        argv=inside(command.argv, name),
        setup=tuple(inside(step, f"{name}-setup-{number}") for number, step in enumerate(command.setup)),
        stop_timeout_s=command.stop_timeout_s + 10,  # the runner's own grace comes first, then its kill
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
