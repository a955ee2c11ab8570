"""DeepSpeed's compiled ops: built ahead of the server, once per machine, Python, torch and GPU, and loaded from there.

DeepSpeed builds an op when it is first used, in every rank, for minutes without a word, and behind a lock file that a
killed build leaves for ever. Here one process per op builds under a lock of the kernel's, which dies with its owner;
what is built lies in a folder named after all that it depends on, and ranks load it without building anything.
"""

from __future__ import annotations

import fcntl
import glob
import hashlib
import importlib.machinery
import importlib.util
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from loadgen.servers._ds.options import FASTGEN, KERNEL

# Op name → its builder class in deepspeed.ops.op_builder; minutes are what nvcc took on 16 cores, all at once.
BUILDERS = {
    "ragged_ops": "RaggedUtilsBuilder",
    "ragged_device_ops": "RaggedOpsBuilder",
    "inference_core_ops": "InferenceCoreBuilder",
    "transformer_inference": "InferenceBuilder",
    "deepspeed_shm_comm": "ShareMemCommBuilder",
}


# FastGen is said to load this one too; it has served without it, so that its absence must not stop a start.
OPTIONAL = {FASTGEN: ("transformer_inference",)}


def needed(engine: str, tp: int, on_gpus: bool) -> tuple[str, ...]:
    """The ops that an engine loads, those in ``OPTIONAL`` included."""
    if engine == FASTGEN:
        return ("ragged_ops", "ragged_device_ops", "inference_core_ops", "transformer_inference")
    if engine == KERNEL:
        return ("transformer_inference",)
    return ("deepspeed_shm_comm",) if tp > 1 and not on_gpus else ()


def compute_capability(on_gpus: bool) -> str:
    """The compute capability of the first visible GPU as ``9.0``; empty for a CPU."""
    if not on_gpus:
        return ""
    import torch

    major, minor = torch.cuda.get_device_capability(0)
    return f"{major}.{minor}"


def folder(cache: str, arch: str) -> str:
    """Where the ops of this interpreter lie, named after what they depend on: Python, torch, DeepSpeed, GPU, machine.

    They depend on nothing else, so that the folder may be carried to another machine of the kind.
    """
    from importlib.metadata import version

    import torch

    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    facts = (
        python,
        torch.__version__,
        version("deepspeed"),
        arch,
        platform.machine(),
    )
    digest = hashlib.sha256("\n".join(facts).encode()).hexdigest()[:10]
    return os.path.join(
        cache, f"py{python}-torch{torch.__version__}-{arch or 'cpu'}-{digest}".replace("+", "_")
    )


def build_environment(place: str, arch: str) -> dict[str, str]:
    """What the compilers need beside the environment there is."""
    found = {"TORCH_EXTENSIONS_DIR": place}
    if not arch:
        return found
    found |= {"DS_NVCC_THREADS": "1", "TORCH_CUDA_ARCH_LIST": arch}
    if "CUDA_HOME" not in os.environ and (home := _toolkit()) is not None:
        found["CUDA_HOME"] = home
    home = found.get("CUDA_HOME") or os.environ.get("CUDA_HOME") or ""
    if home and not os.path.exists(os.path.join(home, "include", "cublas_v2.h")):
        # A toolkit of nvcc alone: the CUDA packages that torch came with bring the rest.
        headers, libraries = _pip_headers(), _pip_libraries(place)
        for variable, folders in (("CPATH", headers), ("LIBRARY_PATH", libraries)):
            if folders:
                found[variable] = os.pathsep.join([*folders, *filter(None, [os.environ.get(variable)])])
    return found


def build(names: Sequence[str], place: str, arch: str, optional: Sequence[str] = ()) -> None:
    """Build what is missing, an op a process, telling on stdout what goes on. Raises RuntimeError if it fails."""
    missing = [name for name in names if not built(place, name)]
    if not missing:
        print(f"DeepSpeed ops: {', '.join(names)} are built, in {place}", flush=True)
        return
    os.makedirs(place, exist_ok=True)
    cores = len(os.sched_getaffinity(0))
    print(
        f"DeepSpeed ops: building {', '.join(missing)} in {place} with {cores} cores; "
        "this takes minutes the first time and is kept",
        flush=True,
    )
    started = time.monotonic()
    environment = {
        **os.environ,
        **build_environment(place, arch),
        "MAX_JOBS": str(max(1, -(-cores // len(missing)))),
    }
    running = {
        name: subprocess.Popen(
            [*sys.orig_argv, "--task", "build-op", "--op", name, "--place", place], env=environment
        )
        for name in missing
    }
    failed = []
    while running:
        for name, process in list(running.items()):
            if process.poll() is None:
                continue
            del running[name]
            took = time.monotonic() - started
            if process.returncode or not built(place, name):
                failed.append(name)
            print(
                f"DeepSpeed ops: {name} {'FAILED' if name in failed else 'built'} after {took:.0f} s",
                flush=True,
            )
        time.sleep(0.2)
    failed = [name for name in failed if name not in optional]
    if failed:
        raise RuntimeError(f"DeepSpeed could not build {', '.join(failed)}; the compiler's words are above")


def build_one(name: str, place: str) -> None:
    """Build one op here and put its library in place; another process that builds it is waited for."""
    with _only_builder(place, name):
        if built(place, name):
            return
        for stale in glob.glob(os.path.join(place, name, "lock")):
            os.unlink(stale)  # torch's lock of a build that was killed: nobody else builds here
        from deepspeed.ops import op_builder

        getattr(op_builder, BUILDERS[name])().jit_load(verbose=True)
        made = os.path.join(place, name, f"{name}.so")
        shutil.copyfile(made, f"{library(place, name)}.part")
        os.replace(f"{library(place, name)}.part", library(place, name))


def load(names: Sequence[str], place: str) -> None:
    """Load built ops from ``place`` into DeepSpeed's table of loaded ones, so that it neither builds nor locks."""
    from deepspeed.ops.op_builder.builder import OpBuilder

    for name in names:
        if built(place, name):
            OpBuilder._loaded_ops[name] = _import(name, library(place, name))


def built(place: str, name: str) -> bool:
    """Whether the op's library is in the folder already."""
    return os.path.exists(library(place, name))


def library(place: str, name: str) -> str:
    """Where the op's shared library lies."""
    return os.path.join(place, f"{name}.so")


def _import(name: str, path: str) -> Any:
    loader = importlib.machinery.ExtensionFileLoader(name, path)
    spec = importlib.util.spec_from_file_location(name, path, loader=loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    return module


@contextmanager
def _only_builder(place: str, name: str) -> Iterator[None]:
    with open(os.path.join(place, f"{name}.building"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _toolkit() -> str | None:
    """The CUDA toolkit's folder: nvcc on the PATH may be a wrapper in a folder without headers."""
    nvcc = shutil.which("nvcc")
    candidates = [os.path.dirname(os.path.dirname(os.path.realpath(nvcc)))] if nvcc else []
    candidates += ["/usr/local/cuda", *sorted(glob.glob("/usr/local/cuda-*"), reverse=True)]
    for home in candidates:
        headers = glob.glob(os.path.join(home, "include", "cuda_runtime.h"))
        headers += glob.glob(os.path.join(home, "targets", "*", "include", "cuda_runtime.h"))
        if headers and os.path.exists(os.path.join(home, "bin", "nvcc")):
            return home
    return None


def _pip_folders() -> list[str]:
    spec = importlib.util.find_spec("nvidia")
    return list(spec.submodule_search_locations or ()) if spec is not None else []


def _pip_headers() -> list[str]:
    found = [path for root in _pip_folders() for path in glob.glob(f"{root}/*/include/cublas_v2.h")]
    return sorted({os.path.dirname(path) for path in found})


def _pip_libraries(place: str) -> list[str]:
    """A folder of links ``libNAME.so``, which linkers ask for, to the packages' ``libNAME.so.VERSION``."""
    links = os.path.join(place, "libraries")
    os.makedirs(links, exist_ok=True)
    for root in _pip_folders():
        for path in glob.glob(f"{root}/*/lib/lib*.so.*"):
            link = os.path.join(links, os.path.basename(path).partition(".so")[0] + ".so")
            if not os.path.lexists(link):
                os.symlink(path, link)
    return [links]
