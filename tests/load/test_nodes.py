"""Load from the nodes of a real Ray cluster on this host's loopback addresses. Run by `make cluster`."""

from __future__ import annotations

import contextlib
import importlib.util
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from ray_cluster import Node, cluster

from loadgen.cli import main
from loadgen.cluster import agreement
from loadgen.cluster.connection import Cluster, connected
from loadgen.drivers.openai import make_driver
from loadgen.errors import BadInput, LoadgenError, WarmupRefused, WorkerDied
from loadgen.launch.process import free_ports, serving
from loadgen.load.client import LoadOutcome
from loadgen.load.run import run_trial_load
from loadgen.metrics.summary import summarise
from loadgen.records import LoadSpec, Sample, ServerSpec, Trial
from loadgen.results.store import open_results
from loadgen.servers.null import FRAMEWORK as NULL
from loadgen.theory.models import PRESETS

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not installed: make cluster"),
]
SPEC = ServerSpec(framework="null", model=PRESETS["tiny"], options={"ttft_ms": 20.0, "itl_ms": 5.0})


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("null")
    command = NULL.command(SPEC, str(folder), free_ports(1))
    with serving(command, folder, folder / "log", ready_timeout_s=20.0):
        yield command.base_url


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, list[Node]]]:
    with cluster(tmp_path_factory.mktemp("ray"), 3) as found:
        yield found


@pytest.fixture(scope="module")
def joined(up: tuple[str, list[Node]]) -> Iterator[Cluster]:
    with connected(up[0]) as found:
        yield found


def play(url: str, **load: Any) -> tuple[LoadOutcome | None, list[Sample]]:
    spec = LoadSpec(
        **{"kind": "poisson", "rate": 200.0, "input_tokens": 8, "output_tokens": 5, "requests": 60} | load
    )
    samples: list[Sample] = []
    outcome = run_trial_load(
        Trial(id="t", load=spec, server=SPEC), url, make_driver, {}, lambda s, _: samples.append(s)
    )
    return outcome, samples


def test_a_command_loads_from_two_nodes(up: tuple[str, list[Node]], server: str, tmp_path: Path) -> None:
    """Before any other test has a connection, as a process has one at most."""
    asked = [
        "--url",
        server,
        "--requests",
        "20",
        "--concurrency",
        "4",
        "--output-tokens",
        "4",
        "--workers",
        "2",
    ]
    told = CliRunner().invoke(
        main, ["run", *asked, "--nodes", "2", "--ray", up[0], "--out", str(tmp_path / "r"), "--no-live"]
    )
    assert told.exit_code == 0, told.output
    (result,) = open_results(tmp_path / "r").results()
    assert result.client is not None
    assert (result.client.workers, [node.workers for node in result.client.nodes]) == (4, [2, 2])
    assert result.summary is not None
    assert result.summary.requests_ok == 20


def test_nodes_send_the_schedule_of_one_process(joined: Cluster, server: str) -> None:
    alone, one = play(server)
    shared, several = play(server, nodes=2, workers=2, warmup=4)
    assert alone is not None
    assert shared is not None

    def due(outcome: LoadOutcome, samples: list[Sample]) -> list[int]:
        return sorted(s.due_ns - outcome.start_ns for s in samples if s.due_ns is not None)

    assert len(due(alone, one)) == 60
    assert due(shared, several) == due(alone, one)
    assert [s.error for s in several if s.error] == []
    assert sorted(s.seq for s in several) == list(range(64))
    ends = [s.reply.end_ns for s in several if s.phase == "measured"]
    assert ends == sorted(ends)
    assert shared.quality.workers == 4
    assert len({node.address for node in shared.quality.nodes}) == 2
    for node in shared.quality.nodes:
        assert 0 < node.bound_s < 0.001  # the goal is 50 µs, on a quiet host: `make bench` is for figures
        assert node.began_s is not None
        assert node.began_s > -node.bound_s
    summary = summarise(several, shared.in_flight_mean, shared.in_flight_max)
    assert summary.e2e_s is not None
    assert summary.e2e_s.min > 0.039  # the server's own schedule, whatever the clocks


def test_a_load_that_is_stopped_gives_what_it_has(joined: Cluster, server: str) -> None:
    spec = LoadSpec(
        kind="poisson", rate=100.0, input_tokens=8, output_tokens=5, requests=100_000, warmup=2, nodes=2
    )
    begun: list[int] = []
    samples: list[Sample] = []
    outcome = run_trial_load(
        Trial(id="t", load=spec, server=SPEC),
        server,
        make_driver,
        {},
        lambda sample, _: samples.append(sample),
        on_start=begun.append,
        stop=lambda: bool(begun) and time.monotonic_ns() > begun[0] + 10**9,
    )
    assert outcome is None
    measured = [s for s in samples if s.phase == "measured"]
    assert len(measured) > 10
    assert all(s.due_ns is not None and s.due_ns > begun[0] and s.error is None for s in measured)


def test_a_node_that_cannot_take_part_is_named(
    joined: Cluster, server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setenv(agreement.KEY, "secret")
        with pytest.raises(BadInput, match=r"node 127\.0\.0\.\d .*LOADGEN_API_KEY is not set there") as told:
            play(server, nodes=2)
        assert "secret" not in str(told.value)
    with monkeypatch.context() as patch:
        patch.setattr(agreement, "package_hash", lambda: "another")
        with pytest.raises(BadInput, match=r"node 127\.0\.0\.\d .*its loadgen is another one"):
            play(server, nodes=2)
    with pytest.raises(BadInput, match=r"nodes = 4: the cluster at .* has 3"):
        play(server, nodes=4)
    with pytest.raises((WarmupRefused, LoadgenError)):
        play(server + "/nothing", nodes=2)


def test_a_node_that_is_lost_fails_the_load(joined: Cluster, up: tuple[str, list[Node]], server: str) -> None:
    """The last test: nothing is left of the third node, nor does the second come back."""
    _, (_, second, third) = up
    with struck(third, signal.SIGKILL), pytest.raises(WorkerDied, match="was lost: Actor"):
        play(server, nodes=3, rate=50.0, requests=100_000)
    with struck(second, signal.SIGSTOP), pytest.raises(WorkerDied, match="no sign of life"):
        play(server, nodes=2, rate=50.0, requests=100_000)


@contextlib.contextmanager
def struck(node: Node, number: int) -> Iterator[None]:
    """A signal to a node once its load has begun."""
    timer = threading.Timer(5.0, node.signal, [number])
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
