"""The whole tool as its users run it: sweeps that are interrupted, killed, resumed, and hit by dying servers."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import psutil
import pytest

from loadgen.results.store import open_results, read_samples

SLOW = """
name = "slow"
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
concurrency = [1, 2, 3, 4]
input_tokens = 8
output_tokens = 6
requests = 6
warmup = 1
"""


STARTS = """
name = "starts"
starts = 2
[server]
framework = "null"
model = "tiny"
dtype = "float32"
gpus = []
[load]
input_tokens = 8
output_tokens = 6
requests = 2
[sweep]
batch_size = [1, 2]
"""


def loadgen(*args: object, cwd: Path, timeout: float = 120) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "loadgen.cli", *map(str, args)],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=timeout,
    )


def start(*args: object, cwd: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "loadgen.cli", *map(str, args)],
        cwd=cwd,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def stored_lines(folder: Path) -> list[dict[str, Any]]:
    path = folder / "trials.jsonl"
    whole = path.read_bytes().split(b"\n")[:-1] if path.exists() else []
    return [json.loads(line) for line in whole]


def wait_for_results(folder: Path, count: int, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 60
    while len(stored_lines(folder)) < count:
        assert process.poll() is None, process.stdout and process.stdout.read()
        assert time.monotonic() < deadline
        time.sleep(0.02)


def family(process: subprocess.Popen[str]) -> list[psutil.Process]:
    return psutil.Process(process.pid).children(recursive=True)


def all_gone(processes: list[psutil.Process]) -> bool:
    _, alive = psutil.wait_procs(processes, timeout=15)
    return not [p for p in alive if p.status() != psutil.STATUS_ZOMBIE]


@pytest.fixture
def slow(tmp_path: Path) -> Path:
    (tmp_path / "slow.toml").write_text(SLOW)
    return tmp_path


def check_complete(folder: Path, trials: int = 4) -> None:
    """Nothing lost, nothing twice, every sample there."""
    lines = stored_lines(folder)
    assert Counter(line["trial"]["id"] for line in lines) == Counter(
        {line["trial"]["id"]: 1 for line in lines}
    )
    results = open_results(folder).results()
    assert len(results) == trials
    for result in results:
        assert result.failure is None
        assert result.summary is not None
        assert result.summary.requests_ok == 6
        samples = list(read_samples(folder / "samples" / f"{result.trial.id}.parquet"))
        assert len(samples) == 7  # the warm-up is stored, too
        assert [sample.error for sample in samples] == [None] * 7
        assert result.cores is not None
        assert (result.cores.cores, result.cores.gpus) == (len(os.sched_getaffinity(0)), None)
    assert not list((folder / "samples").glob("*.part"))


def test_a_sweep_runs_reports_and_a_resume_finds_nothing_to_do(slow: Path) -> None:
    done = loadgen("sweep", "slow.toml", cwd=slow)
    assert done.returncode == 0, done.stdout + done.stderr
    folder = slow / "results/slow"
    check_complete(folder)
    assert (folder / "report.md").exists()
    again = loadgen("sweep", "slow.toml", cwd=slow)
    assert again.returncode == 2
    assert "--resume" in again.stderr
    resumed = loadgen("sweep", "slow.toml", "--resume", cwd=slow)
    assert resumed.returncode == 0, resumed.stdout + resumed.stderr
    assert "4 of 4 trials are already stored" in resumed.stderr
    check_complete(folder)


def check_refused_beside(process: subprocess.Popen[str], cwd: Path) -> None:
    """Nothing else writes into the folder of a sweep that runs; it is stopped meanwhile, so that it does not end."""
    os.kill(process.pid, signal.SIGSTOP)
    run = ("run", "--url", "http://127.0.0.1:9", "--model", "m", "--vocab", "1000", "--requests", "1")
    for command in (("sweep", "slow.toml", "--resume"), (*run, "--out", "results/slow")):
        beside = loadgen(*command, cwd=cwd)
        assert beside.returncode == 2, beside.stderr
        assert f"process {process.pid} is writing to it" in beside.stderr


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGKILL, -signal.SIGKILL)])
def test_an_interrupted_sweep_leaves_nothing_running_and_resumes(slow: Path, number: int, code: int) -> None:
    folder = slow / "results/slow"
    process = start("sweep", "slow.toml", cwd=slow)
    wait_for_results(folder, 1, process)
    children = family(process)
    assert children
    if number == signal.SIGKILL:  # which no lock may outlive
        check_refused_beside(process, slow)
    os.kill(process.pid, number)
    process.communicate(timeout=30)
    assert process.returncode == code
    assert all_gone(children)
    before = len(stored_lines(folder))
    assert before < 4
    resumed = loadgen("sweep", "slow.toml", "--resume", cwd=slow)
    assert resumed.returncode == 0, resumed.stdout + resumed.stderr
    assert f"{before} of 4 trials are already stored" in resumed.stderr
    check_complete(folder)


def test_a_server_that_dies_costs_its_trial_and_the_next_gets_a_new_one(slow: Path) -> None:
    folder = slow / "results/slow"
    process = start("sweep", "slow.toml", cwd=slow)
    wait_for_results(folder, 1, process)
    servers = [child for child in family(process) if any("_null.main" in part for part in child.cmdline())]
    victim = max(servers, key=lambda child: child.pid)
    victim.kill()
    process.communicate(timeout=60)
    assert process.returncode == 1
    failures = [result.failure for result in open_results(folder).results()]
    assert [failure.error for failure in failures if failure is not None] == ["ServerDied"]
    kept = loadgen("sweep", "slow.toml", "--resume", cwd=slow)
    assert kept.returncode == 1  # a failed trial is a result until it is asked for again
    again = loadgen("sweep", "slow.toml", "--resume", "--retry-failed", cwd=slow)
    assert again.returncode == 0, again.stdout + again.stderr
    assert [result.failure for result in open_results(folder).results()] == [None] * 4


def test_a_server_that_cannot_start_fails_its_trials_and_not_the_others(slow: Path) -> None:
    text = SLOW.replace("concurrency = [1, 2, 3, 4]", 'concurrency = [1]\nframework = ["null", "hf"]')
    text = text.replace('framework = "null"\n', "", 1).replace(
        "[server.options]\nttft_ms = 100\nitl_ms = 20\n", ""
    )
    broken = slow / "broken"  # answers when it is looked at, and starts no server
    broken.write_text(f'#!/bin/sh\ncase "$1" in *_look.py) exec {sys.executable} "$@";; esac\nexit 3\n')
    broken.chmod(0o755)
    (slow / "two.toml").write_text(text + f'\n[frameworks.hf]\npython = "{broken}"\n')
    done = loadgen("sweep", "two.toml", cwd=slow)
    assert done.returncode == 1, done.stdout + done.stderr
    by_framework = {}
    for result in open_results(slow / "results/slow").results():
        assert result.trial.server is not None
        by_framework[result.trial.server.framework] = result
    assert by_framework["null"].failure is None
    failure = by_framework["hf"].failure
    assert failure is not None
    assert failure.phase == "start"
    assert "exit status 3" in failure.message


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("concurrency = [1, 2, 3, 4]", "concurrency = [0]"), "concurrency"),
        (("itl_ms = 20", "itl_mss = 20"), "itl_mss"),
        (('framework = "null"', 'framework = "nul"'), "did you mean 'null'"),
        (("input_tokens = 8", "input_tokens = 5000"), "4096"),
    ],
)
def test_bad_profiles_are_told_before_anything_starts(slow: Path, change: tuple[str, str], said: str) -> None:
    (slow / "slow.toml").write_text(SLOW.replace(*change))
    done = loadgen("sweep", "slow.toml", cwd=slow)
    assert done.returncode == 2
    assert said.lower() in done.stderr.lower()
    assert "Traceback" not in done.stderr
    assert not (slow / "results").exists()


def test_dry_run_prints_the_plan_and_starts_nothing(slow: Path) -> None:
    done = loadgen("sweep", "slow.toml", "--dry-run", cwd=slow)
    assert done.returncode == 0, done.stderr
    assert "4 trials, 1 server starts" in done.stdout
    assert not (slow / "results").exists()


def test_a_foreign_folder_is_not_written_into(slow: Path) -> None:
    (slow / "mine").mkdir()
    (slow / "mine/thesis.txt").write_text("keep")
    done = loadgen("sweep", "slow.toml", "--out", "mine", cwd=slow)
    assert done.returncode == 2
    assert [path.name for path in (slow / "mine").iterdir()] == ["thesis.txt"]


def test_a_trial_that_the_client_limited_is_marked_and_fails_a_strict_sweep(slow: Path) -> None:
    text = SLOW.replace("ttft_ms = 100\nitl_ms = 20\n", "").replace("[server.options]\n", "")
    text = text.replace('mode = "closed"\nconcurrency = [1, 2, 3, 4]', 'mode = "constant"\nrate = 500000')
    text = text.replace("requests = 6", "requests = 3000")  # no client sends one every two microseconds
    (slow / "fast.toml").write_text(text)
    done = loadgen("sweep", "fast.toml", "--out", "lenient", cwd=slow)
    assert done.returncode == 0, done.stdout + done.stderr
    (result,) = open_results(slow / "lenient").results()
    assert any(caveat.client for caveat in result.caveats)
    assert "!client" in done.stdout
    assert "!client" in (slow / "lenient/report.md").read_text()
    strict = loadgen("sweep", "fast.toml", "--out", "strict", "--strict", cwd=slow)
    assert strict.returncode == 1
    assert "1 counted as failed by --strict" in strict.stderr


def test_each_start_is_a_server_of_its_own_and_named_with_its_results(tmp_path: Path) -> None:
    (tmp_path / "starts.toml").write_text(STARTS)
    plan = loadgen("sweep", "starts.toml", "--dry-run", cwd=tmp_path)
    assert "4 trials, 2 server starts" in plan.stdout
    assert "start 2" in plan.stdout
    done = loadgen("sweep", "starts.toml", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    results = open_results(tmp_path / "results/starts").results()
    assert [(each.trial.start, each.trial.load.batch_size) for each in results] == [
        (0, 1),
        (0, 2),
        (1, 1),
        (1, 2),
    ]
    ids = [each.start for each in results]
    assert None not in ids
    assert ids[0] == ids[1] != ids[2] == ids[3]
    again = loadgen("sweep", "starts.toml", "--resume", cwd=tmp_path)
    assert again.returncode == 0
    assert len(open_results(tmp_path / "results/starts").results()) == 4
