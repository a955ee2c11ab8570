"""Framework ``ds``: DeepSpeed's inference engines behind DeepSpeed-MII's gRPC service (``_ds/``).

Engines are named for what they are: ``mii-fastgen`` is MII; ``ds-inference-autotp`` and ``ds-inference-kernel`` are
``deepspeed.init_inference`` under the same service, so that one driver serves all of them, on a CPU too.
"""

from __future__ import annotations

import dataclasses
import glob
import importlib.util
import json
import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from loadgen.errors import MissingDependency
from loadgen.launch.child import child_argv, url_host
from loadgen.launch.interpreter import interpreter_of
from loadgen.protocols import Command, Need
from loadgen.records import ServerSpec
from loadgen.servers._ds import options
from loadgen.servers._ds.ops import needed
from loadgen.servers._ds.text import has_tokenizer

INSTALL = "DS_BUILD_OPS=0 pip install 'llm-loadgen[ds,hf]' in the interpreter that runs the server"
# Import name → (what it is for, remedy). The last is needed on GPUs only.
LIBRARIES = {
    "torch": INSTALL,
    "transformers": INSTALL,
    "deepspeed": INSTALL,
    "mii": INSTALL,
    "requests": "pip install requests",
    "grpc": "pip install grpcio",
}
KERNELS = ("dskernels", "pip install --pre deepspeed-kernels")
PROGRAMS = {
    "g++": "install a C++ compiler: DeepSpeed compiles its ops when they are first needed",
    "ninja": "pip install ninja",
}
NVCC = ("nvcc", "install the CUDA toolkit of torch's CUDA version, and put nvcc on the PATH")


class DeepSpeed:
    """See protocols.Framework. ``ports`` are gRPC, HTTP (readiness and facts), a unique name, ZMQ."""

    name = "ds"
    protocol = "mii-grpc"
    ports = 4
    uses_gpus = True
    needs_gpus = False
    options: Mapping[str, str] = options.HELP

    def default_dtype(self, on_gpu: bool) -> str:
        """bfloat16 on GPUs; float32 on CPUs."""
        return "bfloat16" if on_gpu else "float32"

    def library(self, spec: ServerSpec) -> str:
        """Nothing that its versions do not tell."""
        return ""

    def check(self, spec: ServerSpec) -> None:
        """Raise BadInput for a spec that cannot run anywhere, MissingDependency for one that cannot run here."""
        read = options.read(spec)
        if spec.gpus:
            _check_gpus(spec, read)
        if not _foreign(spec):  # another interpreter looks at itself when the server is prepared
            _check_libraries(read)
            _check_compilers(spec, read)

    def command(self, spec: ServerSpec, run_dir: str, ports: Sequence[int]) -> Command:
        """How to start it: preparation (libraries, compiled ops) first, then a launcher that starts the ranks."""
        grpc_port = spec.port or ports[0]
        host = url_host(spec.host)
        fields = dataclasses.asdict(dataclasses.replace(spec, port=grpc_port))
        fields["options"] = dict(spec.options)
        child = child_argv(
            interpreter_of(self.name, spec.python),
            "loadgen.servers._ds.main",
            "--spec",
            json.dumps(fields),
        )
        pages = f"http://{host}:{ports[1]}"
        return Command(
            argv=(*child, "--run-dir", run_dir, "--ports", json.dumps([grpc_port, *ports[1:4]])),
            setup=((*child, "--task", "prepare"),) if _prepared(spec) else (),
            setup_stays=bool(needed(options.read(spec).engine, spec.tp, bool(spec.gpus))),
            env={
                "CUDA_VISIBLE_DEVICES": ",".join(map(str, spec.gpus)),
                "DS_ACCELERATOR": "cuda" if spec.gpus else "cpu",
                "HF_HUB_OFFLINE": "1",
                "MII_CACHE_PATH": os.path.join(run_dir, "mii"),
                "PYTHONUNBUFFERED": "1",
                "TOKENIZERS_PARALLELISM": "false",
                "TORCH_EXTENSIONS_DIR": os.path.join(run_dir, "ops"),  # for an op that nobody foresaw
                "TRITON_CACHE_DIR": None if spec.gpus else os.path.join(run_dir, "triton"),
            },
            ready_url=f"{pages}/health",
            base_url=f"grpc://{host}:{grpc_port}",
            info_url=f"{pages}/info",
            stop_timeout_s=15.0,
            # DeepSpeed's host all-reduce leaves its shared memory behind.
            cleanup=(f"/dev/shm/deepspeed_allreduce_buffer_*_127.0.0.1_{ports[2]}_*",),  # noqa: S108 - its place
            oom_pattern=r"CUDA out of memory|OutOfMemoryError|Insufficient memory to allocate KV-caches",
        )

    def driver_options(self, spec: ServerSpec) -> Mapping[str, Any]:
        """How the driver turns token ids into the text that MII takes."""
        if has_tokenizer(spec.model.checkpoint):
            return {"text": "tokenizer", "tokenizer": spec.model.checkpoint}
        return {"text": "ids"}

    def needs(self) -> Sequence[Need]:
        """What loadgen's own interpreter and this machine have; a server with its own ``python`` may have others."""
        found = [_library(name, remedy) for name, remedy in LIBRARIES.items()]
        found += [_program(name, remedy) for name, remedy in PROGRAMS.items()]
        gpus, words = _capabilities()
        enough = bool(gpus) and all(c is not None and c >= options.FASTGEN_CAPABILITY for c in gpus)
        found.append(
            Need(
                name=f"GPU for {options.FASTGEN}",
                ok=enough,
                found=words,
                remedy=""
                if enough
                else f"a GPU of compute capability 8.0 or more; without one: {options.AUTOTP}",
            )
        )
        return [*found, _library(*KERNELS), _program(*NVCC)]


def _prepared(spec: ServerSpec) -> bool:
    """Whether there is anything to look at or to compile before the start."""
    return bool(spec.gpus) or spec.tp > 1 or _foreign(spec)


def _foreign(spec: ServerSpec) -> bool:
    """Whether it runs in another interpreter than loadgen's own."""
    return interpreter_of(spec.framework, spec.python) != sys.executable


def _check_libraries(read: options.Options) -> None:
    wanted = dict(LIBRARIES)
    if read.engine == options.FASTGEN:
        wanted.update([KERNELS])
    for name, remedy in wanted.items():
        if importlib.util.find_spec(name) is None:
            raise MissingDependency(f"ds: engine {read.engine} needs {name}, which is not installed", remedy)


def _check_compilers(spec: ServerSpec, read: options.Options) -> None:
    """Compilers are needed unless the ops lie built in the cache; which ones exactly, the preparation looks at."""
    if read.engine == options.AUTOTP and (spec.gpus or spec.tp == 1):
        return
    place = os.path.join(read.op_cache, f"py{sys.version_info.major}.{sys.version_info.minor}-*", "*.so")
    if glob.glob(place):
        return
    wanted = dict(PROGRAMS)
    if spec.gpus:
        wanted.update([NVCC])
    for name, remedy in wanted.items():
        if shutil.which(name) is None:
            raise MissingDependency(
                f"ds: engine {read.engine} has ops to compile, and there is no {name}", remedy
            )


def _check_gpus(spec: ServerSpec, read: options.Options) -> None:
    capabilities, _ = _capabilities()
    for index in spec.gpus:
        if index >= len(capabilities):
            raise MissingDependency(
                f"ds: GPU {index} is asked for, and this machine shows {len(capabilities)} NVIDIA GPUs",
                f"name GPUs that are there, or none: on a CPU {options.AUTOTP} runs",
            )
        capability = capabilities[index]
        if capability is None or read.engine != options.FASTGEN:
            continue
        if capability < options.FASTGEN_CAPABILITY:
            raise MissingDependency(
                f"ds: GPU {index} has compute capability {capability[0]}.{capability[1]}, and "
                f"{options.FASTGEN} needs 8.0",
                f"use a GPU of the A100's generation or later, or --option engine={options.AUTOTP}",
            )


def _capabilities() -> tuple[list[tuple[int, int] | None], str]:
    """(major, minor) of every GPU of this machine, and words for them."""
    from loadgen.system.environment import read_gpus

    gpus, _, _ = read_gpus()
    found: list[tuple[int, int] | None] = []
    for gpu in gpus:
        text = gpu.get("compute_capability")
        major, _, minor = str(text).partition(".")
        found.append((int(major), int(minor)) if major.isdigit() and minor.isdigit() else None)
    words = ", ".join(f"{gpu.get('name')} ({gpu.get('compute_capability')})" for gpu in gpus)
    return found, words or "no NVIDIA GPU"


def _library(name: str, remedy: str) -> Need:
    ok = importlib.util.find_spec(name) is not None
    return Need(name=name, ok=ok, found="installed" if ok else "missing", remedy="" if ok else remedy)


def _program(name: str, remedy: str) -> Need:
    path = shutil.which(name)
    return Need(name=name, ok=path is not None, found=path or "missing", remedy="" if path else remedy)


FRAMEWORK = DeepSpeed()
