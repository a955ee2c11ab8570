"""Where tritonserver and its backends lie on this machine. Looks at files and the environment; runs nothing."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from loadgen.errors import MissingDependency

FT_LIBRARY = "libtriton_fastertransformer.so"
FT_VARIABLE = "LOADGEN_FT_BACKEND_DIR"
CONTAINER_HOME = Path("/opt/tritonserver")  # where NVIDIA's images keep it


@dataclass(frozen=True, slots=True, kw_only=True)
class Triton:
    """A server's executable and the folder of its backends."""

    server: Path
    backends: Path

    @property
    def stubs(self) -> Path:
        """The PyPI wheel's Python stubs, one folder per Python version; absent in other installations."""
        return self.backends.parent / "python_backend_stubs"


def places(given: str | None, python: str | None) -> Iterator[tuple[str, Path | None]]:
    """(what was looked at, executable found there or None), in the order in which they count."""
    if given is not None:
        path = Path(given).expanduser()
        yield f"option tritonserver={given}", _executable(path / "bin" / "tritonserver", path)
        return
    on_path = shutil.which("tritonserver")
    yield "tritonserver on PATH", Path(on_path).resolve() if on_path else None
    spec = importlib.util.find_spec("pytriton")
    if spec is not None and spec.submodule_search_locations is not None:
        (package,) = spec.submodule_search_locations
        yield (
            "the wheel nvidia-pytriton",
            _executable(Path(package) / "tritonserver" / "bin" / "tritonserver"),
        )
    else:
        yield f"the wheel nvidia-pytriton in {sys.prefix}", None
    if python is not None:
        home = Path(python).absolute().parent.parent
        found = sorted(home.glob("lib/python3*/site-packages/pytriton/tritonserver/bin/tritonserver"))
        yield f"the wheel nvidia-pytriton in {home}", found[0] if found else None
    yield str(CONTAINER_HOME), _executable(CONTAINER_HOME / "bin" / "tritonserver")


def _executable(*candidates: Path) -> Path | None:
    for path in candidates:
        if path.is_file() and os.access(path, os.X_OK):
            return path.resolve()
    return None


def find_triton(given: str | None = None, python: str | None = None) -> Triton:
    """The first tritonserver found. Raises MissingDependency with every place that was looked at."""
    looked = []
    for what, path in places(given, python):
        if path is not None:
            return Triton(server=path, backends=path.parent.parent / "backends")
        looked.append(what)
    raise MissingDependency(
        f"no tritonserver found; looked at: {'; '.join(looked)}",
        "pip install 'llm-loadgen[triton]' (its wheel nvidia-pytriton holds the server), or --option tritonserver=PATH",
    )


def find_ft_backends(given: str | None, triton: Triton | None) -> Path:
    """The backend directory that holds ``fastertransformer/libtriton_fastertransformer.so``.

    ``given``, and the environment variable, may name that directory or the ``fastertransformer`` folder itself.
    Raises MissingDependency with every place that was looked at.
    """
    variable = os.environ.get(FT_VARIABLE)
    if given is not None:
        wanted = [(f"option backend_dir={given}", Path(given).expanduser())]
    else:
        wanted = [(f"{FT_VARIABLE}={variable}", Path(variable).expanduser())] if variable else []
        if triton is not None:
            wanted.append((str(triton.backends), triton.backends))
        wanted.append((str(CONTAINER_HOME / "backends"), CONTAINER_HOME / "backends"))
    for _, folder in wanted:
        for home in (folder, folder.parent):
            if (home / "fastertransformer" / FT_LIBRARY).is_file() and folder in (
                home,
                home / "fastertransformer",
            ):
                return home.resolve()
    looked = "; ".join(what for what, _ in wanted)
    unset = "" if variable or given is not None else f" ({FT_VARIABLE} is not set)"
    raise MissingDependency(
        f"no {FT_LIBRARY}, the FasterTransformer backend; looked at: {looked}{unset}",
        "no package registry has it: build a fork that knows llama (variant a or b) and name its folder with "
        f"--option backend_dir=DIR or {FT_VARIABLE}, or a container image that has it with --option image=NAME; "
        "framework triton serves the same contract without it",
    )


def hashes(backends: Path) -> dict[str, str]:
    """Name → SHA-256 of each shared library in the backend's folder: stock builds keep the kernels in a second one."""
    found = {}
    for path in sorted((backends / "fastertransformer").glob("*.so*")):
        if path.is_file():
            stat = path.stat()
            found[path.name] = _sha256(path, stat.st_size, stat.st_mtime_ns)
    return found


@cache
def _sha256(path: Path, _size: int, _changed_ns: int) -> str:
    """Read once: a plan asks for every cell, and the file may have hundreds of MiB."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
