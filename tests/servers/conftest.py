"""The tiny ``hf`` server on the CPU that several files share: starting one costs seconds."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from loadgen.launch.process import Server, free_ports, serving
from loadgen.records import ServerSpec
from loadgen.servers.hf import FRAMEWORK
from loadgen.theory.models import PRESETS

TINY_HF = ServerSpec(framework="hf", model=PRESETS["tiny"], dtype="float32", max_batch=8)


@pytest.fixture(scope="session")
def tiny_hf(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder: Path = tmp_path_factory.mktemp("hf")
    command = FRAMEWORK.command(TINY_HF, str(folder), free_ports(1))
    with serving(command, folder, folder / "log", ready_timeout_s=120) as running:
        yield running
