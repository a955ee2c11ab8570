"""Which cores a server may use: real processes bound and unbound, made-up cgroups, ports that somebody listens on."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from loadgen.system import cpus
from loadgen.telemetry.caveats import of_cores
from loadgen.telemetry.cores import cgroup_cores, listening, read_cores
from loadgen.telemetry_records import ServerCores

# A launcher that waits, and the engine that it bound to one core, as mpirun does: it works, and then listens.
BOUND = """
import os, socket, subprocess, sys, time
if sys.argv[1:] == ["engine"]:
    while time.process_time() < 1.5:
        pass
    with socket.create_server(("127.0.0.1", 0)) as server:
        print(os.getpid(), server.getsockname()[1], flush=True)
        sys.stdin.read()
else:
    core = min(os.sched_getaffinity(0))
    bind = lambda: os.sched_setaffinity(0, {core})
    child = subprocess.Popen([sys.executable, "-c", os.environ["SOURCE"], "engine"], preexec_fn=bind)
    child.wait()
"""


@pytest.fixture(scope="module")
def bound() -> Iterator[tuple[int, int, int]]:
    """The ids of the launcher and of its engine, and the engine's port."""
    with subprocess.Popen(
        [sys.executable, "-c", BOUND],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "SOURCE": BOUND},
    ) as launcher:
        assert launcher.stdout is not None
        engine, port = map(int, launcher.stdout.readline().split())
        yield launcher.pid, engine, port
        assert launcher.stdin is not None
        launcher.stdin.close()


def test_the_engine_s_own_binding_is_found_beside_a_launcher_that_has_none(
    bound: tuple[int, int, int],
) -> None:
    launcher, engine, _ = bound
    found = read_cores([launcher, engine], gpus=2)
    core = str(min(os.sched_getaffinity(0)))
    assert found is not None
    assert (found.cores, found.affinity, found.processes, found.threads, found.gpus) == (1, core, 1, 1, 2)
    free = read_cores([launcher])
    assert free is not None
    assert free.affinity == cpus.compact(os.sched_getaffinity(0))


def test_a_process_that_is_gone_tells_nothing() -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as child:
        child.wait()
    assert read_cores([child.pid]) is None
    assert read_cores([]) is None


def test_who_serves_a_url_is_found_by_its_port(bound: tuple[int, int, int]) -> None:
    _, engine, port = bound
    assert listening(f"grpc://127.0.0.1:{port}") == {engine}
    assert listening(f"http://localhost:{port}") == {engine}
    assert listening(f"http://192.0.2.1:{port}") == frozenset()  # another machine's (RFC 5737)
    assert listening("http://127.0.0.1") == frozenset()
    assert listening("http://[") == frozenset()


def group(folder: Path, **files: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(text)


@pytest.mark.parametrize(
    ("line", "cores"),
    [("0::/a/b", 1.5), ("0::/a", 4.0), ("0::/", None), ("0::/../elsewhere", None), ("0::/gone/b", None)],
)
def test_the_tightest_quota_above_a_process_counts(tmp_path: Path, line: str, cores: float | None) -> None:
    group(tmp_path / "proc" / "7", cgroup=line + "\n")
    group(tmp_path / "cg", cpu__max="max 100000\n")
    group(tmp_path / "cg" / "a", cpu__max="400000 100000\n")
    group(tmp_path / "cg" / "a" / "b", cpu__max="150000 100000\n")
    assert cgroup_cores(7, tmp_path / "proc", tmp_path / "cg") == cores
    assert cgroup_cores(8, tmp_path / "proc", tmp_path / "cg") is None


def test_quotas_of_version_1(tmp_path: Path) -> None:
    group(tmp_path / "proc" / "7", cgroup="5:memory:/x\n4:cpu,cpuacct:/x\n")
    group(tmp_path / "cg" / "cpu", cpu__cfs_quota_us="-1\n", cpu__cfs_period_us="100000\n")
    group(tmp_path / "cg" / "cpu" / "x", cpu__cfs_quota_us="50000\n", cpu__cfs_period_us="100000\n")
    assert cgroup_cores(7, tmp_path / "proc", tmp_path / "cg") == 0.5


def cores(count: int, *, limit: float | None = None, gpus: int | None = None) -> ServerCores:
    text = cpus.compact(range(count))
    return ServerCores(cores=count, affinity=text, processes=1, threads=9, limit_cores=limit, gpus=gpus)


def test_fewer_cores_than_gpus_or_than_threads_that_compute_are_a_doubt() -> None:
    (told,) = of_cores(cores(1, gpus=2), {})
    assert told.kind == "few-cores"
    assert "may run on 1 core (0), and has 2 GPUs" in told.message
    assert "--bind-to none" in told.remedy
    (told,) = of_cores(cores(8, limit=1.5, gpus=2), {})
    assert "8 cores (0-7), its cgroup 1.5 at a time" in told.message
    (told,) = of_cores(cores(2), {"device": "cpu", "cpu_threads": 16})
    assert "has 16 threads that compute" in told.message
    assert not list(of_cores(cores(2, gpus=2), {"cpu_threads": 16}))
    assert not list(of_cores(cores(2), {"device": "cpu", "cpu_threads": 2}))
    assert not list(of_cores(cores(1), {}))
    assert not list(of_cores(None, {"device": "cpu", "cpu_threads": 2}))
