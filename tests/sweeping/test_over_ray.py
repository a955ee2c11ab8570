"""Sweeps over the nodes of a real Ray cluster on this host's loopback addresses. Run by `make cluster`."""

from __future__ import annotations

import importlib.util
import json
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import psutil
import pytest
from ray_cluster import Loopback, Node

from loadgen.api.sweeps import SweepOptions, Swept, conduct, make
from loadgen.cluster import agreement
from loadgen.cluster.connection import Cluster, connected
from loadgen.errors import BadInput
from loadgen.plan.bisection import Unseen
from loadgen.plan.plan import make_plan
from loadgen.profile.read import load_profile
from loadgen.records import TrialResult
from loadgen.results.store import open_results, read_samples
from loadgen.system import plugins

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not installed: make cluster"),
]
PROFILE = """
name = "spread"
starts = 3
[server]
framework = "null"
model = "tiny"
dtype = "float32"
gpus = []
[server.options]
ttft_ms = 100
itl_ms = 20
[sweep]
mode = "closed"
concurrency = [1, 2, 3]
input_tokens = 8
output_tokens = 6
requests = 6
warmup = 1
[telemetry]
enabled = false
"""
ON_GPUS = (
    PROFILE.replace('"null"', '"null-on-gpus"')
    .replace("gpus = []\n", "")
    .replace("starts = 3", "starts = 1")
    .replace("[1, 2, 3]", "2\ntp = [1, 2]")
)


@pytest.fixture(scope="module")
def joined(ray_up: Loopback) -> Iterator[Cluster]:
    """After the tests whose commands are processes of their own."""
    ray_up.nodes(3)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(ray_up.packages)
        plugins.offered.cache_clear()
        with connected(ray_up.address) as found:
            yield found
    plugins.offered.cache_clear()


@contextmanager
def started(folder: Path, up: Loopback) -> Iterator[subprocess.Popen[str]]:
    command = [
        "sweep",
        "spread.toml",
        "--ray",
        up.address,
        "--out",
        "out",
        "--resume",
        "--no-report",
        "--no-live",
    ]
    with subprocess.Popen(
        [sys.executable, "-m", "loadgen.cli", *command],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def lines(folder: Path) -> list[dict[str, Any]]:
    path = folder / "out/trials.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def wait_for(what: Any, process: subprocess.Popen[str]) -> None:
    end_s = time.monotonic() + 90
    while not what():
        assert process.poll() is None, process.stdout and process.stdout.read()
        assert time.monotonic() < end_s
        time.sleep(0.1)


def servers(up: Loopback) -> list[psutil.Process]:
    """Those that run below the cluster's nodes."""
    found = []
    for node in up.up():
        for process in psutil.Process(node.process.pid).children(recursive=True):
            try:
                if "loadgen.servers._null.main" in process.cmdline():
                    found.append(process)
            except psutil.Error:
                continue
    return found


def all_gone(processes: list[psutil.Process]) -> bool:
    _, alive = psutil.wait_procs(processes, timeout=15)
    return not [process for process in alive if process.status() != psutil.STATUS_ZOMBIE]


@pytest.mark.timeout(600)
def test_what_is_interrupted_and_killed_is_resumed(ray_up: Loopback, tmp_path: Path) -> None:
    ray_up.nodes(3)
    (tmp_path / "spread.toml").write_text(PROFILE)
    with started(tmp_path, ray_up) as told:
        wait_for(lambda: len(lines(tmp_path)) >= 2, told)
        assert servers(ray_up)
        told.send_signal(signal.SIGINT)
        said, _ = told.communicate(timeout=90)
        assert told.returncode == 130, said
        assert f"{ray_up.up()[0].address}: null tiny tp1: stopped" in said
        assert servers(ray_up) == []
    kept = lines(tmp_path)
    assert 2 <= len(kept) < 9

    with started(tmp_path, ray_up) as killed:
        wait_for(lambda: len(lines(tmp_path)) > len(kept) and servers(ray_up), killed)
        running = servers(ray_up)
        killed.kill()
        assert all_gone(running)
    kept = lines(tmp_path)

    with started(tmp_path, ray_up) as done:
        said, _ = done.communicate(timeout=180)
        assert done.returncode == 0, said
    assert f"{len(kept)} of 9 trials are already stored" in said
    every = lines(tmp_path)
    assert every[: len(kept)] == kept
    plan = make_plan(load_profile(str(tmp_path / "spread.toml"), gpu_count=0))
    assert Counter(line["trial"]["id"] for line in every) == Counter(trial.id for trial in plan.trials)
    check(open_results(tmp_path / "out").results(), tmp_path / "out")


def check(results: list[TrialResult], folder: Path) -> None:
    """All went well, on machines that are known, with all samples."""
    known = open_results(folder).environments()
    for result in results:
        assert result.failure is None, result.failure
        assert result.environment in known
        assert len(list(read_samples(folder / "samples" / f"{result.trial.id}.parquet"))) == 7


def swept(folder: Path, cluster: Cluster, watcher: Any, text: str = PROFILE) -> Swept:
    (folder / "spread.toml").write_text(text)
    profile, plan = make(str(folder / "spread.toml"), (), dry_run=False, cluster=cluster)
    options = SweepOptions(out=folder / "out", ray=cluster.name)
    return conduct(profile, plan, options, nullcontext(watcher))


def test_groups_get_the_gpus_that_ray_counts(joined: Cluster, tmp_path: Path) -> None:
    found = swept(tmp_path, joined, Unseen(), ON_GPUS)
    plan = make_plan(load_profile(str(tmp_path / "spread.toml"), gpu_count=2))
    assert sorted(result.trial.id for result in found.results) == sorted(trial.id for trial in plan.trials)
    check(list(found.results), found.folder)
    gpus = sorted(len(result.trial.server.gpus) for result in found.results if result.trial.server)
    assert gpus == [1, 2]
    logs = "".join(log.read_text() for log in (found.folder / "logs").iterdir())
    assert "sees GPUs 0 1" in logs
    with pytest.raises(
        BadInput, match=r"needs 4 GPUs of one node, more than any has: 127\.\d+\.0\.\d+ 2 GPUs"
    ):
        make(str(tmp_path / "spread.toml"), ("tp=4", "model=llama-7b"), dry_run=True, cluster=joined)
    with pytest.raises(BadInput, match="--ray-type H200: no node of the cluster has it"):
        make(str(tmp_path / "spread.toml"), (), dry_run=True, cluster=joined, gpu_type="H200")


def test_nothing_runs_on_a_node_that_cannot_take_part(
    joined: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(agreement.KEY, "secret")
    with pytest.raises(BadInput, match=r"node 127\.\d+\.0\.\d+ .*LOADGEN_API_KEY is not set there") as told:
        swept(tmp_path, joined, Unseen())
    assert "secret" not in str(told.value)
    monkeypatch.delenv(agreement.KEY)
    monkeypatch.setattr(agreement, "package_hash", lambda: "another")
    (tmp_path / "out").rename(tmp_path / "before")
    with pytest.raises(BadInput, match=r"node 127\.\d+\.0\.\d+ .*its loadgen is another one"):
        swept(tmp_path, joined, Unseen())
    assert lines(tmp_path) == []


class Striker(Unseen):
    """Strikes one node when its second trial has begun, and another one so at the same time."""

    def __init__(self, victims: dict[str, tuple[Node, int]]) -> None:
        self._victims = victims
        self.trials: Counter[str] = Counter()
        self.notes: list[str] = []
        self.struck = threading.Event()

    def place(self, name: str, doing: str) -> None:
        self.trials[name] += "in flight" in doing
        if self.trials[name] == 2 and name in self._victims:
            node, number = self._victims.pop(name)
            node.signal(number)

    def note(self, message: str) -> None:
        self.notes.append(message)


def test_lost_nodes_cost_the_trials_in_flight(joined: Cluster, ray_up: Loopback, tmp_path: Path) -> None:
    """One is killed, one frozen: neither comes back."""
    head, second, third = ray_up.nodes(3)
    watcher = Striker({second.address: (second, signal.SIGKILL), third.address: (third, signal.SIGSTOP)})
    found = swept(tmp_path, joined, watcher)
    assert len(found.results) == 9
    assert Counter(line["trial"]["id"] for line in lines(tmp_path)).most_common(1)[0][1] == 1
    check(list(found.results), found.folder)
    told = "\n".join(watcher.notes)
    assert f"node {second.address} was lost: Actor" in told
    assert f"node {third.address} was lost: no sign of life" in told
    assert watcher.trials[head.address] + watcher.trials[second.address] + watcher.trials[third.address] == 11
    assert len(list((found.folder / "samples").iterdir())) == 9
