"""The tiny ``hf`` server on the CPU that several files share: starting one costs seconds."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from loadgen.launch.process import Server, free_ports, serving
from loadgen.records import ServerSpec
from loadgen.servers.hf import FRAMEWORK
from loadgen.theory.models import PRESETS

TINY_HF = ServerSpec(framework="hf", model=PRESETS["tiny"], dtype="float32", max_batch=8)


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Threads of a tiny model's products wait for each other longer than they compute, on a busy machine above all."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def tiny_hf(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder: Path = tmp_path_factory.mktemp("hf")
    command = FRAMEWORK.command(TINY_HF, str(folder), free_ports(1))
    with serving(command, folder, folder / "log", ready_timeout_s=120) as running:
        yield running
