"""A node's part of a sweep, without Ray: a real group in a process of its own, and what its actor tells of it."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import psutil
import pytest

from loadgen.plan.plan import Plan, make_plan
from loadgen.profile.read import build_profile
from loadgen.records import Environment, TrialResult
from loadgen.results.record_json import from_json
from loadgen.results.samples import read_samples
from loadgen.sweeping.group import GroupNode, News, own_environment, remove_left_over
from loadgen.sweeping.spool import Group
from loadgen.telemetry_records import TelemetrySpec

PROFILE = {
    "name": "x",
    "server": {"framework": "null", "model": "tiny", "gpus": []},
    "load": {"mode": "closed", "input_tokens": 8, "output_tokens": 4, "requests": 3, "warmup": 1},
    "sweep": {"concurrency": [1, 2]},
}


@pytest.fixture
def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> GroupNode:
    monkeypatch.setenv("RAY_RAYLET_PID", str(os.getpid()))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return GroupNode()


def group_of(plan: Plan, cwd: Path) -> Group:
    telemetry = TelemetrySpec(enabled=False)
    return Group(plan=plan, cwd=str(cwd), argv=("x",), telemetry=telemetry, retry_failed=False, limit_s=60.0)


def all_news(node: GroupNode) -> list[News]:
    found = [node.news(1.0)]
    while found[-1].code is None:
        found.append(node.news(1.0))
    return found


def events(news: list[News]) -> list[list[Any]]:
    return [orjson.loads(line) for each in news for line in each.events.splitlines()]


def test_a_group_is_told_as_it_runs_and_leaves_nothing(node: GroupNode, tmp_path: Path) -> None:
    plan = make_plan(build_profile(PROFILE))
    first, second = plan.trials
    before = TrialResult(trial=second, environment="there", engine={}, started="", wall_s=1.0)
    group = group_of(plan.without([second.id]), tmp_path)
    assert node.begin(group, {"trials.jsonl": [before]}, {}) == ()
    told = all_news(node)
    assert told[-1].code == 0, told[-1].words
    (line,) = [line for each in told for line in each.lines]
    result = from_json(TrialResult, line.record)
    assert (result.trial, result.failure) == (first, None), "what was known before is not told"
    kinds = events(told)
    assert [each for each in kinds if each[0] == "trial"] == [["trial", first.id]]
    assert ["server", "null tiny tp1", "ready"] in kinds
    environment = from_json(Environment, orjson.dumps(kinds[0][1]))
    assert (environment.id, environment.argv) == (result.environment, ("x",))
    assert line.samples is not None
    line.samples.tofile(tmp_path / "samples.parquet")
    assert len(list(read_samples(tmp_path / "samples.parquet"))) == 4
    logs = {name for each in told for name, _ in each.logs}
    assert all(name.startswith("null_tiny_tp1-") for name in logs)
    assert not list(tmp_path.glob("loadgen-group-*"))


def test_a_group_that_is_stopped_or_broken_says_so(node: GroupNode, tmp_path: Path) -> None:
    profile = PROFILE | {
        "server": {"framework": "null", "model": "tiny", "gpus": [], "options": {"itl_ms": 9000}}
    }
    others = set(psutil.Process().children(recursive=True))
    node.begin(group_of(make_plan(build_profile(profile)), tmp_path), {}, {})
    told: list[News] = []
    while not any(each[0] == "trial" for each in events(told)):
        told.append(node.news(1.0))
        assert told[-1].code is None, told[-1].words
    below = [each for each in psutil.Process().children(recursive=True) if each not in others]
    assert any("loadgen.servers._null.main" in process.cmdline() for process in below)
    (tmp_path / "loadgen-group-old").mkdir()
    (tmp_path / "loadgen-group-old/lock").touch()
    (tmp_path / "loadgen-group-new").mkdir()
    kept = {path.name for path in tmp_path.glob("loadgen-group-*")} - {"loadgen-group-old"}
    remove_left_over()
    assert {path.name for path in tmp_path.glob("loadgen-group-*")} == kept, (
        "its actor was killed; others run"
    )
    node.stop()
    told = all_news(node)
    assert told[-1].code == 130
    assert ["server", "null tiny tp1", "stopped"] in events(told)
    psutil.wait_procs(below, timeout=10)
    assert not [each for each in below if each.is_running() and each.status() != psutil.STATUS_ZOMBIE]

    torn = GroupNode()
    wrong = group_of(make_plan(build_profile(PROFILE)), tmp_path)
    torn.begin(replace(wrong, limit_s=-1.0), {}, {})
    told = all_news(torn)
    assert told[-1].code == 1
    assert "limit_s = -1.0 is out of range" in told[-1].words

    early = GroupNode()
    early.begin(wrong, {}, {})
    early.stop()
    told = all_news(early)
    assert told[-1].code in (130, 143), told[-1].words


def test_what_ray_gives_its_workers_is_not_passed_on() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", "input()"], stdin=subprocess.PIPE, env={"PATH": "/bin", "KEPT": "1"}
    ) as raylet:
        end_s = time.monotonic() + 10
        while b"KEPT" not in Path(f"/proc/{raylet.pid}/environ").read_bytes():  # not before its exec
            assert time.monotonic() < end_s
        here = {
            "PATH": "/bin",
            "KEPT": "1",
            "OMP_NUM_THREADS": "2",
            "CUDA_VISIBLE_DEVICES": "1",
            "RAY_JOB_ID": "f",
        }
        found = own_environment(here | {"RAY_RAYLET_PID": str(raylet.pid)})
        raylet.kill()
    assert found == {"PATH": "/bin", "KEPT": "1", "CUDA_VISIBLE_DEVICES": "1"}
