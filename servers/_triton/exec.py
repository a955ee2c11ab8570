"""Run tritonserver with a Python backend that works in this very interpreter, or say why it cannot.

Triton's Python backend runs models in a stub process that embeds its own Python. The stub must be the one of this
Python's version, must find this environment first on PATH, and must be able to load libpython: a stub that cannot
is never heard of again, and the server waits for it for ever. So everything is looked at before. Nor does the server
end when its stub does later on: it refuses every request from then on, and hangs when told to stop. So the stub is
watched, and the server ended with it.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import sysconfig
from pathlib import Path

from loadgen.errors import BadInput, MissingDependency
from loadgen.servers._triton.libraries import missing_libraries

STUB = "triton_python_backend_stub"
POLL_S = 0.2
CRASHES = (signal.SIGABRT, signal.SIGSEGV, signal.SIGBUS)
NEEDED = ("triton_python_backend_utils.py", "libtriton_python.so")


def assemble(source: Path, stubs: Path, target: Path, version: str) -> Path:
    """A backend directory whose ``python`` folder has the stub of this version. Returns the stub.

    Raises MissingDependency where a part of the backend is not there.
    """
    stub = stubs / version / STUB
    if not stub.is_file():
        stub = source / "python" / STUB
        if not stub.is_file():
            there = sorted(path.name for path in stubs.glob("3.*")) if stubs.is_dir() else []
            raise MissingDependency(
                f"tritonserver at {source.parent} has no Python stub for Python {version}",
                f"run the server with Python {', '.join(there)}" if there else "install its Python backend",
            )
    folder = target / "python"
    folder.mkdir(parents=True, exist_ok=True)
    for path in (*(source / "python" / name for name in NEEDED), stub):
        if not path.is_file():
            raise MissingDependency(f"tritonserver's Python backend lacks {path}", "install it whole")
        link = folder / path.name
        link.unlink(missing_ok=True)
        link.symlink_to(path.resolve())
    return stub


def library_path(folder: Path) -> str:
    """LD_LIBRARY_PATH with ``folder`` first, into which this interpreter's libpython is linked, alone.

    Its own folder will not do: where that is the system's, another cuDNN or cuBLAS there would take the place of the
    one that torch brings, and another engine than ``hf``'s would be measured.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for library in Path(sysconfig.get_config_var("LIBDIR") or "/nowhere").glob(
        f"libpython{sys.version_info.major}.{sys.version_info.minor}*.so.*"
    ):
        link = folder / library.name
        link.unlink(missing_ok=True)
        link.symlink_to(library.resolve())
    found = [str(folder), os.environ.get("LD_LIBRARY_PATH")]
    return os.pathsep.join(path for path in found if path)


def check_stub(stub: Path, env: dict[str, str]) -> None:
    """Raises MissingDependency for what would make the stub die, or wait, without a word."""
    missing = missing_libraries(stub, env)
    if missing:
        raise MissingDependency(
            f"Triton's Python stub cannot load {', '.join(missing)}; the server would hang",
            f"use a Python built with a shared library (looked in {env['LD_LIBRARY_PATH']} and the system's folders)",
        )
    here = Path(sys.executable).parent
    first = shutil.which("python3", path=env["PATH"])
    if first is None or Path(first).parent != here:
        raise MissingDependency(
            f"the stub takes the first python3 on PATH for its environment, and there is none in {here}",
            "use an interpreter with a python3 beside it (a virtual environment has one)",
        )


def main(argv: list[str]) -> int:
    """Lay out the backends, check them, and run tritonserver to its end. Returns the exit status: 2 where a
    part lacks.
    """
    parser = argparse.ArgumentParser(prog="exec")
    parser.add_argument("--server", type=Path, required=True)
    parser.add_argument("--backends", type=Path, required=True)
    parser.add_argument("--stubs", type=Path, required=True)
    parser.add_argument("--assemble", type=Path, required=True, help="where to put the backend directory")
    parser.add_argument("--info", type=Path, required=True, help="what the model writes when it is up")
    parser.add_argument("rest", nargs=argparse.REMAINDER, help="-- and tritonserver's own arguments")
    options = parser.parse_args(argv)
    env = dict(os.environ)
    env["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), env.get("PATH", os.defpath)])
    env["LD_LIBRARY_PATH"] = library_path(options.assemble.parent / "python-lib")
    try:
        version = f"{sys.version_info.major}.{sys.version_info.minor}"
        check_stub(assemble(options.backends, options.stubs, options.assemble, version), env)
        missing = missing_libraries(options.server, env)
        if missing:
            raise MissingDependency(f"{options.server} cannot load {', '.join(missing)}", "install them")
    except BadInput as error:
        print(error, file=sys.stderr, flush=True)
        return 2
    return supervise([str(options.server), *options.rest[1:]], env, options.info)


def supervise(argv: list[str], env: dict[str, str], info: Path) -> int:
    """Run the server until it ends, or until the engine process that ``info`` names has ended. Returns the status, 128
    and its number for a signal.

    One that crashes before its model is up is started once more: its backend may abort where making its shared memory
    fails, which happens now and then on a busy machine.
    """
    server = subprocess.Popen(argv, env=env)
    told = again = False

    def pass_on(number: int, _frame: object) -> None:
        nonlocal told
        told = True
        server.send_signal(number)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, pass_on)
    engine: int | None = None
    while True:
        try:
            code = server.wait(POLL_S)
            if code >= 0:
                return code
            if told or again or info.exists() or -code not in CRASHES:
                return 128 - code
            again = True
            print(
                f"tritonserver crashed while it started ({signal.Signals(-code).name}); once more", flush=True
            )
            server = subprocess.Popen(argv, env=env)
        except subprocess.TimeoutExpired:
            if engine is None and info.exists():
                engine = json.loads(info.read_text())["pid"]
            if engine is not None and not told and has_ended(engine):
                print(
                    f"the engine's process {engine} has ended; tritonserver is of no use without it",
                    flush=True,
                )
                server.kill()
                server.wait()
                return 1


def has_ended(pid: int) -> bool:
    """Whether a process is gone, or a zombie that its parent has not looked after."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return True
    return stat.rpartition(")")[2].split()[0] == "Z"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
