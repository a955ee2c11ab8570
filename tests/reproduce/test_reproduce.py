"""Reproductions as users run them: tiny parts on the CPU, real servers without a model."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import psutil
import pytest
from null_study import PART, check_whole, command, here, parts_in, reproduce, stored, wait_until, write

from loadgen.results.store import open_results
from loadgen.system import cpus


@pytest.fixture
def study(tmp_path: Path) -> Path:
    return parts_in(tmp_path)


@pytest.fixture
def slow_study(tmp_path: Path) -> Path:
    """Trials of 1.5 s, which a signal does not miss."""
    return parts_in(tmp_path, ttft_ms=200)


def test_parts_run_side_by_side_are_found_done_and_a_wider_tier_runs_only_what_they_left(study: Path) -> None:
    done = reproduce(study)
    assert done.returncode == 0, done.stdout + done.stderr
    for name in ("10-one", "20-two"):
        check_whole(study / "out" / name, 3)
        assert f"core/{name}: 3 stored, 0 failed, 0 left" in done.stdout
        assert "server null" in (study / f"out/logs/core-{name}.log").read_text()
    cores = [
        cpus.parse(environment.affinity)
        for name in ("10-one", "20-two")
        for environment in open_results(study / "out" / name).environments().values()
    ]
    lines = [line for line in done.stdout.splitlines() if "starts on" in line or "ended after" in line]
    assert len(lines) == 4
    if len(cpus.usable()) > 1:  # both start before one ends, on cores of their own
        assert ["starts on" in line for line in lines] == [True, True, False, False]
        assert not set(cores[0]) & set(cores[1])
    summary = json.loads((study / "out/summary.json").read_bytes())
    assert [part["missing"] for part in summary["parts"]] == [[], []]
    again = here("reproduce", "--profiles", "parts", "--out", "out", cwd=study)
    assert again.exit_code == 0
    assert "starts on" not in again.stdout
    wider = PART.format(name="10-one", ttft_ms=20, requests=4).replace("[1, 2, 3]", "[1, 2, 3, 4]")
    (study / "parts/full").mkdir()
    (study / "parts/full/10-one.toml").write_text(wider)
    done = reproduce(study, "--parts", "full/*", "--sequential")
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"starts on cores {cpus.compact(cpus.usable())}: 1 trials missing" in done.stdout
    check_whole(study / "out/10-one", 4)


def test_an_interrupted_reproduction_leaves_nothing_running_and_goes_on(slow_study: Path) -> None:
    study = slow_study
    process = subprocess.Popen(
        command("reproduce", "--profiles", "parts", "--out", "out"),
        cwd=study,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    wait_until(lambda: stored(study / "out/10-one"), process)
    family = psutil.Process(process.pid).children(recursive=True)
    assert family
    os.kill(process.pid, signal.SIGTERM)
    process.communicate(timeout=60)
    assert process.returncode == 130
    assert not psutil.wait_procs(family, timeout=15)[1]
    before = stored(study / "out/10-one")
    done = reproduce(study)
    assert done.returncode == 0, done.stdout + done.stderr
    for name in ("10-one", "20-two"):
        check_whole(study / "out" / name, 3)
    assert stored(study / "out/10-one")[: len(before)] == before


def test_children_do_not_outlive_a_killed_parent(slow_study: Path) -> None:
    study = slow_study
    process = subprocess.Popen(command("reproduce", "--profiles", "parts", "--out", "out"), cwd=study)
    deadline = time.monotonic() + 60
    while not stored(study / "out/10-one"):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)
    family = psutil.Process(process.pid).children(recursive=True)
    process.kill()
    process.wait()
    assert family
    assert not psutil.wait_procs(family, timeout=60)[1]


def test_a_time_limit_ends_all_parts_and_says_what_is_left(study: Path) -> None:
    for name in ("10-one", "20-two"):
        write(study / f"parts/core/{name}.toml", name, ttft_ms=120_000)
    done = reproduce(study, "--time-limit", 25)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "6 trials are left; the same command goes on" in done.stdout
    assert "time limit: 3 of 3 trials are left" in (study / "out/logs/core-10-one.log").read_text()
    assert [
        len(part["missing"]) for part in json.loads((study / "out/summary.json").read_bytes())["parts"]
    ] == [3, 3]


def test_what_cannot_run_here_or_breaks_is_told_and_the_rest_runs(study: Path) -> None:
    wide = PART.format(name="30-wide", ttft_ms=20, requests=4).replace("gpus = []", "tp = 8")
    for old, new in (('"null"', '"hf"'), ('"tiny"', '"llama-65b"'), ("ttft_ms = 20\nitl_ms = 20\n", "")):
        wide = wide.replace(old, new)
    (study / "parts/core/30-wide.toml").write_text(wide)
    (study / "out/10-one").mkdir(parents=True)
    (study / "out/10-one/something-else").touch()
    done = reproduce(study, "--gpus", "")
    assert done.returncode == 1, done.stdout + done.stderr
    assert "core/10-one broke: exit code 2: " in done.stdout
    assert "a folder with other things in it" in done.stdout
    assert "core/30-wide: not run: needs 8 GPUs, there are 0" in done.stdout
    assert "3 trials are left in parts that this machine cannot run" in done.stdout
    check_whole(study / "out/20-two", 3)
    rows = {part["part"]: part for part in json.loads((study / "out/summary.json").read_bytes())["parts"]}
    assert rows["core/30-wide"]["not_run"].startswith("needs 8 GPUs")


def test_a_dry_run_shows_the_schedule_of_a_machine_that_is_not_here(tmp_path: Path) -> None:
    done = here("reproduce", "--dry-run", "--gpus", "0,1,2,3", "--parts", "core/*", cwd=tmp_path)
    assert done.exit_code == 0, done.output
    lines = done.stdout.splitlines()
    assert lines[0].startswith("4 GPUs (0, 1, 2, 3), ")
    first = [line for line in lines if line.startswith("[  0:00]")]
    assert [line.split(" on ")[1].split(", cores")[0] for line in first] == [
        "GPU 0",
        "GPU 1",
        "GPU 2",
        "GPU 3",
    ]
    assert any("core/40-hf-generate-tp4 on GPU 0, 1, 2, 3, cores" in line for line in lines)
    assert all("trials, about" in line for line in first)
    assert "end, by rough estimates" in lines[-1]
    assert not list(tmp_path.iterdir())
    one = here("reproduce", "--dry-run", "--gpus", "0", "--parts", "core/*tp[14]", cwd=tmp_path)
    assert "core/40-hf-generate-tp4: would not run: needs 4 GPUs, there are 1" in one.stdout


@pytest.mark.parametrize("gpus", ["a", "0,0", "-1", "77"])
def test_gpus_that_are_none_are_refused(study: Path, gpus: str) -> None:
    done = here("reproduce", "--profiles", "parts", "--out", "out", "--gpus", gpus, cwd=study)
    assert done.exit_code == 2
    assert f"--gpus {gpus}: " in done.stderr
