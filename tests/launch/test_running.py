"""Servers that are up: a stolen port costs another port, a client that is missing no start, a second hang the rest."""

from __future__ import annotations

import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest
from serve_options import SERVE

from loadgen.commands.serve import server_spec
from loadgen.errors import MissingDependency, ServerHung
from loadgen.launch import frameworks, running
from loadgen.launch.endpoint import Endpoint
from loadgen.launch.running import RunningServers, start_server
from loadgen.load_records import LoadSpec
from loadgen.plan.plan import endpoint_trial
from loadgen.records import ServerSpec
from loadgen.telemetry_records import TelemetrySpec


@pytest.fixture
def null() -> ServerSpec:
    return server_spec(**SERVE)


def test_a_port_that_is_stolen_costs_another_one(
    null: ServerSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    picked: list[list[int]] = []
    with socket.socket() as thief:
        thief.bind(("127.0.0.1", 0))
        thief.listen()
        free = running.free_ports

        def pick(count: int, host: str = "127.0.0.1") -> list[int]:
            picked.append(free(count, host) if picked else [thief.getsockname()[1]])
            return picked[-1]

        monkeypatch.setattr(running, "free_ports", pick)
        server, endpoint = start_server(null, tmp_path / "log", tmp_path / "run", lambda _state: None)
        server.stop()
    assert len(picked) == 2
    assert str(picked[1][0]) in endpoint.base_url


def test_a_client_that_cannot_be_imported_is_told_before_any_start(
    null: ServerSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    half = SimpleNamespace(
        check=lambda _spec: None, protocol="triton-grpc", ports=1
    )  # it has no command to start
    monkeypatch.setattr(frameworks, "of", lambda _spec: half)
    monkeypatch.delitem(sys.modules, "loadgen.drivers.triton_grpc", raising=False)
    monkeypatch.setitem(sys.modules, "tritonclient.grpc", None)
    with pytest.raises(MissingDependency, match=r"pip install 'llm-loadgen\[triton\]'"):
        start_server(null, tmp_path / "log", tmp_path / "run", lambda _state: None)


def test_a_server_that_hangs_again_fails_what_is_left_with_one_message(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    trial = endpoint_trial(
        LoadSpec(kind="static", input_tokens=4, output_tokens=2, requests=1), "http://h", "m", 9
    )
    starts = []

    @contextmanager
    def serving(_self: RunningServers, _trial: object) -> Iterator[tuple[Endpoint, None]]:
        starts.append(1)
        yield Endpoint(base_url="http://h"), None

    monkeypatch.setattr(RunningServers, "_serving", serving)
    with RunningServers(
        watcher=None,  # type: ignore[arg-type]
        environment=None,  # type: ignore[arg-type]
        telemetry=TelemetrySpec(enabled=False),
        logs=tmp_path,
    ) as servers:
        for _ in range(2):
            servers.up(trial)
            servers.drop_hung(trial)
        for _ in range(2):
            with pytest.raises(ServerHung, match="hung twice; its remaining trials are not tried"):
                servers.up(trial)
    assert len(starts) == 2
