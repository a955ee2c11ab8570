"""What every server process of torch tells of itself, for the results."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable
from importlib import metadata
from typing import Any

import torch

from loadgen.engine_facts import own_weights
from loadgen.records import ServerSpec
from loadgen.system.source import running_code


def process_facts(spec: ServerSpec, libraries: Iterable[str], started_by: Iterable[str]) -> dict[str, Any]:
    """Model, split, devices and versions, which do not change while the server runs; JSON's own types.

    A library that is not installed is left out of ``versions``. ``started_by`` are our modules that made its command.
    To be asked once the engine is up, which loads the rest of its code.
    """
    versions = {"python": platform.python_version()}
    for name in libraries:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())] if spec.gpus else []
    return {
        "model": spec.model.name,
        "weights": own_weights(spec).page(),
        "dtype": spec.dtype,
        "tp": spec.tp,
        "pp": spec.pp,
        "gpus": gpus,
        "device": "cuda" if spec.gpus else "cpu",
        "cpu_threads": torch.get_num_threads(),
        "versions": versions,
        "code": running_code(*started_by),
        "cuda": torch.version.cuda if spec.gpus else None,
        "pid": os.getpid(),
    }
