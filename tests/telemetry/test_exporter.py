"""The exporter: what this machine has, and nothing that it has not."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from click.testing import CliRunner
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from loadgen.cli import main
from loadgen.errors import BadInput
from loadgen.telemetry import exporter
from loadgen.telemetry.nvml import Gpu, Nvml
from loadgen.telemetry.processes import TreeReader, pss_bytes
from loadgen.telemetry.prometheus_text import read_page

PAGE = "import sys; block = bytearray(64 << 20); print('ready', flush=True); sys.stdin.read()"


@pytest.fixture
def child() -> Iterator[subprocess.Popen[bytes]]:
    """A process that holds 64 MiB, with a child that holds as much."""
    code = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {PAGE!r}])"
    parent = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert parent.stdout is not None
    assert parent.stdin is not None
    assert parent.stdout.readline() == b"ready\n"
    yield parent
    parent.stdin.close()
    parent.stdout.close()
    parent.wait(30)


def scrape(url: str) -> str:
    reply = httpx.get(url, trust_env=False, timeout=20)
    assert reply.is_success
    return reply.text


def test_a_tree_is_told_whole(child: subprocess.Popen[bytes]) -> None:
    server, url = exporter.start("127.0.0.1", 0, [child.pid], pss=True)
    try:
        text = scrape(url)
    finally:
        server.shutdown()
        server.server_close()
    assert list(text_string_to_metric_families(text))  # the format's own reference parser takes it
    found = {(metric, subject): value for metric, subject, value in read_page(text).readings}
    root = str(child.pid)
    assert found["server_rss_bytes", root] > 64 << 20
    assert 64 << 20 < found["server_pss_bytes", root] <= found["server_rss_bytes", root]
    assert found["server_threads", root] == 2
    assert found["server_cpu_s", root] > 0
    assert found["host_memory_total_bytes", "host"] == psutil.virtual_memory().total
    assert f'loadgen_process_tree_processes{{root="{root}"}} 2.0' in text


@pytest.mark.skipif(bool(Nvml().read(links=False)), reason="this machine has GPUs")
def test_without_a_gpu_there_is_no_gpu_series() -> None:
    registry = CollectorRegistry()
    registry.register(exporter.Collector())
    text = generate_latest(registry).decode()
    assert "DCGM" not in text
    assert "loadgen_gpu" not in text
    assert "loadgen_process_tree" not in text
    assert "loadgen_host_memory_total_bytes" in text


def test_a_tree_that_is_gone_is_absent_and_not_zero(child: subprocess.Popen[bytes]) -> None:
    reader = TreeReader(child.pid)
    tree = reader.read()
    assert tree is not None
    assert len(tree.pids) == 2
    child.kill()
    child.wait()
    assert reader.read() is None
    assert TreeReader(child.pid).read() is None
    assert not list(exporter.tree_families({}))


def test_pss_that_may_not_be_read_is_not_summed(tmp_path: Path) -> None:
    assert pss_bytes(os.getpid(), tmp_path) is None  # it runs, and its page cannot be had
    assert pss_bytes(2**22 + 1, tmp_path) == 0  # no such process: it holds nothing
    assert TreeReader(os.getpid(), pss_period_s=0, proc=tmp_path).read().pss_bytes is None  # type: ignore[union-attr]


def test_pss_is_read_only_where_it_was_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """A sweep's exporter scrapes during the load, when a reading would stall the server."""

    def never(pid: int, proc: Path) -> int:
        raise AssertionError("PSS was read")

    monkeypatch.setattr("loadgen.telemetry.processes.pss_bytes", never)
    registry = CollectorRegistry()
    registry.register(exporter.Collector([os.getpid()]))
    text = generate_latest(registry).decode()
    assert "loadgen_process_tree_resident_memory_bytes" in text
    assert "proportional" not in text


def test_pss_is_asked_for_seldom(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def count(pid: int, proc: Path) -> int:
        asked.append(pid)
        return 5

    monkeypatch.setattr("loadgen.telemetry.processes.pss_bytes", count)
    reader = TreeReader(os.getpid(), pss_period_s=3600)
    first, second = reader.read(), reader.read()
    assert first is not None
    assert second is not None
    assert first.pss_bytes == second.pss_bytes == 5 * len(first.pids)
    assert len(asked) == len(first.pids)


FULL = Gpu(
    index=0,
    uuid="GPU-a",
    name="NVIDIA H200",
    memory_total_bytes=150_754_820_096,
    memory_used_bytes=27_000_000_001,
    memory_free_bytes=123_000_000_000,
    utilization=0.97,
    power_w=412.5,
    power_cap_w=700.0,
    energy_j=13428913.042,
    sm_clock_mhz=1980,
    memory_clock_mhz=3201,
    temperature_c=41,
    throttle_reasons=4,
    pcie_sent_bytes_per_s=1024.0,
    nvlink_bytes=2048.0,
    processes={os.getpid(): 26_000_000_000, 2**22 + 1: 5, 1: None},
)


def gpu_text(*gpus: Gpu, ours: frozenset[int] = frozenset()) -> str:
    class Fixed:
        def collect(self) -> Any:
            return exporter.gpu_families(gpus, ours)

    registry = CollectorRegistry()
    registry.register(Fixed())  # type: ignore[arg-type]
    return generate_latest(registry).decode()


def test_what_nvml_said_comes_back_to_the_byte() -> None:
    text = gpu_text(FULL, ours=frozenset({os.getpid()}))
    found = {metric: value for metric, subject, value in read_page(text).readings if subject == "GPU-a"}
    assert found == {
        "gpu_memory_total_bytes": 150_754_820_096,
        "gpu_memory_used_bytes": 27_000_000_001,
        "gpu_memory_free_bytes": 123_000_000_000,
        "gpu_utilization": pytest.approx(0.97),
        "gpu_power_w": 412.5,
        "gpu_power_cap_w": 700,
        "gpu_energy_j": pytest.approx(13428913.042),
        "gpu_sm_clock_hz": 1.98e9,
        "gpu_memory_clock_hz": 3.201e9,
        "gpu_temperature_c": 41,
        "gpu_throttle_reasons": 4,
        "gpu_server_memory_bytes": 26_000_000_000,
        "gpu_server_processes": 1,
        "gpu_unseen_memory_bytes": 5,
        "gpu_unseen_processes": 1,
    }
    assert "loadgen_gpu_nvlink_bytes_total" in text
    assert "received" not in text


def test_a_gpu_that_withholds_everything_has_no_series() -> None:
    assert gpu_text(Gpu(index=0, uuid="GPU-a", name="")) == ""


def test_whose_a_process_is() -> None:
    here, nowhere = os.getpid(), 2**22 + 1
    assert exporter.owner(here, frozenset({here})) == "server"
    assert exporter.owner(here, frozenset({1})) == "foreign"
    assert exporter.owner(nowhere, frozenset({1})) == "unseen"  # the host's number, seen from a container
    assert exporter.owner(here, frozenset()) == "unseen"  # of no server, nobody is foreign


def test_a_port_that_is_taken_is_bad_input() -> None:
    server, url = exporter.start("127.0.0.1", 0, [])
    try:
        with pytest.raises(BadInput, match=r"--port \d+: cannot listen"):
            exporter.start("127.0.0.1", int(url.split(":")[2].split("/")[0]), [])
    finally:
        server.shutdown()
        server.server_close()


def test_the_command_serves_until_it_is_interrupted() -> None:
    command = [sys.executable, "-m", "loadgen.cli", "exporter", "--port", "0", "--pid", str(os.getpid())]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        ready = process.stdout.readline()
        try:
            assert ready.startswith("ready: http://127.0.0.1:")
            assert f'root="{os.getpid()}"' in scrape(ready.split()[1])
        finally:
            process.terminate()
        assert process.wait(20) == 0


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["--pid", str(2**22 + 1)], "no such process"),
        (["--pid", "-5"], "no such process"),
        (["--pid", "9" * 20], "no such process"),
        (["--port", "65536"], "not in the range"),
    ],
)
def test_the_command_refuses_what_is_not_there(given: list[str], said: str) -> None:
    done = CliRunner().invoke(main, ["exporter", "--port", "0", *given])
    assert done.exit_code == 2
    assert said in done.output
