"""Before the ranks start: is everything here that the engine needs, and are DeepSpeed's ops compiled."""

from __future__ import annotations

import importlib.util
import shutil

from loadgen.errors import MissingDependency
from loadgen.records import ServerSpec
from loadgen.servers._ds import ops
from loadgen.servers._ds.options import FASTGEN, FASTGEN_CAPABILITY, Options

LIBRARIES = ("torch", "transformers", "deepspeed", "mii", "requests", "grpc")


def prepare(spec: ServerSpec, options: Options) -> None:
    """Raise MissingDependency with the remedy, or leave everything built."""
    missing = [name for name in LIBRARIES if importlib.util.find_spec(name) is None]
    if missing:
        raise MissingDependency(
            f"ds: the server's Python has no {', '.join(missing)}",
            "DS_BUILD_OPS=0 pip install deepspeed deepspeed-mii requests transformers torch",
        )
    if spec.gpus:
        _check_gpus(spec, options)
    names = ops.needed(options.engine, spec.tp, bool(spec.gpus))
    if not names:
        return
    arch = ops.compute_capability(bool(spec.gpus))
    place = ops.folder(options.op_cache, arch)
    if not all(ops.built(place, name) for name in names):
        _check_compilers(spec)
    ops.build(names, place, arch, ops.OPTIONAL.get(options.engine, ()))


def _check_gpus(spec: ServerSpec, options: Options) -> None:
    import torch

    count = torch.cuda.device_count()
    if count < spec.tp:
        raise MissingDependency(
            f"ds: {spec.tp} GPUs are asked for, and torch {torch.__version__} sees {count} of {spec.gpus}",
            "install an NVIDIA driver and a torch built for its CUDA, or leave out the GPUs (CPU: ds-inference-autotp)",
        )
    if options.engine != FASTGEN:
        return
    for index in range(spec.tp):
        capability = torch.cuda.get_device_capability(index)
        if capability < FASTGEN_CAPABILITY:
            raise MissingDependency(
                f"ds: {torch.cuda.get_device_name(index)} has compute capability {capability[0]}.{capability[1]}, "
                f"and {FASTGEN} needs {FASTGEN_CAPABILITY[0]}.{FASTGEN_CAPABILITY[1]}",
                "use a GPU of the A100's generation or later, or --option engine=ds-inference-autotp",
            )
    if importlib.util.find_spec("dskernels") is None:
        raise MissingDependency(
            f"ds: the server's Python has no deepspeed-kernels, which {FASTGEN} links against",
            "pip install --pre deepspeed-kernels",
        )


def _check_compilers(spec: ServerSpec) -> None:
    programs = {"g++": "install a C++ compiler (g++)", "ninja": "pip install ninja"}
    if spec.gpus:
        programs["nvcc"] = "install the CUDA toolkit of torch's CUDA version, and put nvcc on the PATH"
    for program, remedy in programs.items():
        if shutil.which(program) is None:
            raise MissingDependency(
                f"ds: DeepSpeed's ops must be compiled, and there is no {program}", remedy
            )
