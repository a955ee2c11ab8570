"""A null server of a known pace, for all of these tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from loadgen.launch.process import free_ports, serving
from loadgen.records import ServerSpec
from loadgen.servers.null import FRAMEWORK
from loadgen.theory import models


@pytest.fixture(scope="session")
def null(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("null")
    spec = ServerSpec(
        framework="null", model=models.resolve("tiny"), options={"ttft_ms": 50.0, "itl_ms": 20.0}
    )
    command = FRAMEWORK.command(spec, str(folder / "run"), free_ports(1))
    with serving(command, folder / "run", folder / "log", ready_timeout_s=30):
        yield command.base_url
