"""Limited sweeps and reproductions as users run them: tiny parts on the CPU, real servers without a model."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import psutil
import pytest

from loadgen.results.other_folders import held
from loadgen.results.store import open_results, read_samples
from loadgen.system import cpus

PART = """
name = "{name}"
[server]
framework = "null"
model = "tiny"
dtype = "float32"
gpus = []
[server.options]
ttft_ms = {ttft_ms}
itl_ms = 20
[sweep]
mode = "static"
batch_size = [1, 2, 3]
input_tokens = 8
output_tokens = 6
requests = {requests}
warmup = 1
"""


def write(path: Path, name: str, ttft_ms: int = 20, requests: int = 4) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(PART.format(name=name, ttft_ms=ttft_ms, requests=requests))
    return path


def command(*args: object) -> list[str]:
    return [sys.executable, "-m", "loadgen.cli", *map(str, args)]


def loadgen(*args: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(*args), cwd=cwd, capture_output=True, text=True, timeout=120)


def stored(folder: Path) -> list[str]:
    path = folder / "trials.jsonl"
    lines = path.read_bytes().split(b"\n")[:-1] if path.exists() else []
    return [json.loads(line)["trial"]["id"] for line in lines]


def check_whole(folder: Path, trials: int, requests: int = 4) -> None:
    """Every trial once, without failure, with all its samples, and nothing half written."""
    ids = stored(folder)
    assert len(ids) == trials
    assert set(Counter(ids).values()) == {1}
    for result in open_results(folder).results():
        assert result.failure is None
        assert len(list(read_samples(folder / "samples" / f"{result.trial.id}.parquet"))) == requests + 1
    assert not list((folder / "samples").glob("*.part"))
    assert len(list((folder / "samples").iterdir())) == trials


def wait_until(done: Any, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 60
    while not done():
        assert process.poll() is None, process.stdout and process.stdout.read()
        assert time.monotonic() < deadline
        time.sleep(0.02)


# A sweep with a time limit.


def test_a_trial_in_flight_at_the_limit_is_not_kept_and_a_resume_goes_on(tmp_path: Path) -> None:
    # One request takes two minutes: the first trial cannot end, and nothing was measured that would tell.
    slow = write(tmp_path / "slow.toml", "slow", ttft_ms=120_000)
    done = loadgen("sweep", slow, "--time-limit", 9, "--no-live", "--no-report", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "what was in flight is not kept" in done.stderr
    assert "time limit: 3 of 3 trials are left; --resume goes on" in done.stdout
    folder = tmp_path / "results/slow"
    assert stored(folder) == []
    assert list((folder / "samples").iterdir()) == []


def test_trials_that_would_not_end_in_time_are_left(tmp_path: Path) -> None:
    # After the first trial, of eight seconds, the others are expected to take as long: two do not fit.
    part = write(tmp_path / "part.toml", "part", ttft_ms=1_500)
    done = loadgen("sweep", part, "--time-limit", 15, "--no-live", "--no-report", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "time limit: 2 of 3 trials are left; --resume goes on" in done.stdout
    assert "is not kept" not in done.stderr
    check_whole(tmp_path / "results/part", 1)
    again = loadgen("sweep", part, "--resume", "--time-limit", 10, "--no-live", "--no-report", cwd=tmp_path)
    assert again.returncode == 0, again.stdout + again.stderr
    assert "server null" not in again.stderr, "no server is started for what is known not to fit"


def test_a_limit_that_suffices_changes_nothing(tmp_path: Path) -> None:
    part = write(tmp_path / "part.toml", "part")
    done = loadgen("sweep", part, "--time-limit", 100, "--cpus", cpus.usable()[-1], "--no-live", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "time limit" not in done.stdout
    check_whole(tmp_path / "results/part", 3)
    (environment,) = open_results(tmp_path / "results/part").environments().values()
    assert (environment.cpus, environment.affinity) == (1, str(cpus.usable()[-1]))
    assert f"(cores {environment.affinity})" in (tmp_path / "results/part/report.md").read_text()


@pytest.mark.parametrize(
    ("option", "value"), [("--cpus", "98765"), ("--cpus", "x"), ("--time-limit", "0"), ("--time-limit", "no")]
)
def test_bad_limits_are_refused_before_anything_starts(tmp_path: Path, option: str, value: str) -> None:
    done = loadgen("sweep", write(tmp_path / "part.toml", "part"), option, value, cwd=tmp_path)
    assert done.returncode == 2
    assert option in done.stderr
    assert not (tmp_path / "results").exists()


# A reproduction.


@pytest.fixture
def study(tmp_path: Path) -> Path:
    return parts_in(tmp_path)


def parts_in(folder: Path) -> Path:
    for name in ("10-one", "20-two"):
        write(folder / f"parts/core/{name}.toml", name, ttft_ms=200)
    return folder


def reproduce(study: Path, *args: object) -> subprocess.CompletedProcess[str]:
    return loadgen("reproduce", "--profiles", "parts", "--out", "out", *args, cwd=study)


def test_parts_run_side_by_side_and_are_found_done(study: Path) -> None:
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
    again = reproduce(study)
    assert again.returncode == 0
    assert "starts on" not in again.stdout


def test_a_wider_tier_runs_only_what_the_first_left(study: Path) -> None:
    core = reproduce(study, "--parts", "10-one")
    assert core.returncode == 0, core.stdout + core.stderr
    wider = PART.format(name="10-one", ttft_ms=200, requests=4).replace("[1, 2, 3]", "[1, 2, 3, 4]")
    (study / "parts/full").mkdir()
    (study / "parts/full/10-one.toml").write_text(wider)
    done = reproduce(study, "--parts", "full/*", "--sequential")
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"starts on cores {cpus.compact(cpus.usable())}: 1 trials missing" in done.stdout
    check_whole(study / "out/10-one", 4)


# What other folders hold.


@pytest.fixture(scope="module")
def once_kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One part measured and kept; its wider grid is what is asked for next, and the original is gone."""
    study = parts_in(tmp_path_factory.mktemp("kept"))
    assert reproduce(study, "--parts", "10-one").returncode == 0
    done = loadgen("keep", "out/10-one", "kept/10-one", cwd=study)
    assert done.returncode == 0, done.stderr
    shutil.rmtree(study / "out")
    part = study / "parts/core/10-one.toml"
    part.write_text(part.read_text().replace("[1, 2, 3]", "[1, 2, 3, 4]"))
    return study


@pytest.fixture
def kept(study: Path, once_kept: Path) -> Path:
    shutil.copytree(once_kept, study, dirs_exist_ok=True)
    return study / "kept/10-one"


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.mark.parametrize(
    "args",
    [
        ("sweep", "parts/core/10-one.toml", "--resume", "--out", "kept/10-one"),
        ("sweep", "parts/core/10-one.toml", "--out", "kept/10-one"),
        ("reproduce", "--profiles", "parts", "--out", "kept"),
        ("reproduce", "--profiles", "parts", "--out", "kept", "--dry-run"),
        ("run", "--url", "http://127.0.0.1:9", "--out", "kept/10-one", "--model", "m", "--vocab", "9"),
    ],
)
def test_no_trial_is_added_to_a_kept_copy(study: Path, kept: Path, args: tuple[str, ...]) -> None:
    before = contents(study / "kept")
    done = loadgen(*args, cwd=study)
    assert done.returncode == 2
    assert (
        "kept/10-one: a kept copy, to which no trial is added (accepted: the original results folder, carried here, "
        "or another --out)"
    ) in done.stderr
    assert contents(study / "kept") == before


@pytest.mark.parametrize("have", ["kept", "kept/10-one", "kept/[0-9]*"])
def test_trials_of_other_folders_count_as_done(study: Path, kept: Path, have: str) -> None:
    before = contents(kept)
    done = reproduce(study, "--parts", "10-one", "--have", have)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 parts, 1 trials beside 3 of --have" in done.stdout
    assert "core/10-one: 1 stored, 0 failed, 0 left, 3 in folders of --have" in done.stdout
    check_whole(study / "out/10-one", 1)
    assert not set(stored(study / "out/10-one")) & set(stored(kept))
    (row,) = json.loads((study / "out/summary.json").read_bytes())["parts"]
    assert (row["planned"], row["stored"], row["missing"], row["held_elsewhere"]) == (1, 1, [], 3)
    assert contents(kept) == before
    again = reproduce(study, "--parts", "10-one", "--have", have)
    assert again.returncode == 0
    assert "starts on" not in again.stdout
    report = loadgen("report", kept, "out/10-one", "--format", "csv", "--out", "all.csv", cwd=study)
    assert report.returncode == 0, report.stderr
    rows = list(csv.DictReader((study / "all.csv").read_text().splitlines()))
    assert sorted(row["batch"] for row in rows) == ["1", "2", "3", "4"]


def test_a_part_that_other_folders_hold_whole_is_not_started(study: Path, kept: Path) -> None:
    write(study / "parts/core/10-one.toml", "10-one", ttft_ms=200)
    done = reproduce(study, "--parts", "10-one", "--have", "kept")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "starts on" not in done.stdout
    assert "core/10-one: 0 stored, 0 failed, 0 left, 3 in folders of --have" in done.stdout
    assert not (study / "out/10-one").exists()


def test_a_failed_trial_elsewhere_is_done_unless_it_is_to_be_tried_again(study: Path, kept: Path) -> None:
    lines = [json.loads(line) for line in (kept / "trials.jsonl").read_bytes().splitlines()]
    lines[0]["failure"] = {"error": "ServerDied", "message": "gone", "phase": "load"}
    (kept / "trials.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    ids = {line["trial"]["id"] for line in lines}
    assert held([str(kept)], retry_failed=False) == ids
    assert held([str(kept)], retry_failed=True) == ids - {lines[0]["trial"]["id"]}
    done = reproduce(study, "--parts", "10-one", "--have", "kept", "--retry-failed", "--dry-run")
    assert "2 trials beside 2 of --have" in done.stdout, done.stderr


@pytest.mark.parametrize("name", ["sweep", "reproduce"])
def test_a_folder_without_results_is_told(study: Path, name: str) -> None:
    rest = ["parts/core/10-one.toml"] if name == "sweep" else ["--profiles", "parts", "--out", "out"]
    done = loadgen(name, *rest, "--have", "parts", cwd=study)
    assert done.returncode == 2
    assert (
        "--have parts: no results there (accepted: a results folder, a folder of some, or a glob)"
        in done.stderr
    )


def test_an_interrupted_reproduction_leaves_nothing_running_and_goes_on(study: Path) -> None:
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


def test_children_do_not_outlive_a_killed_parent(study: Path) -> None:
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


def test_what_cannot_run_here_is_named_and_the_rest_runs(study: Path) -> None:
    wide = PART.format(name="30-wide", ttft_ms=20, requests=4).replace("gpus = []", "tp = 8")
    for old, new in (('"null"', '"hf"'), ('"tiny"', '"llama-65b"'), ("ttft_ms = 20\nitl_ms = 20\n", "")):
        wide = wide.replace(old, new)
    (study / "parts/core/30-wide.toml").write_text(wide)
    done = reproduce(study, "--gpus", "")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "core/30-wide: not run: needs 8 GPUs, there are 0" in done.stdout
    assert "3 trials are left in parts that this machine cannot run" in done.stdout
    check_whole(study / "out/10-one", 3)
    rows = {part["part"]: part for part in json.loads((study / "out/summary.json").read_bytes())["parts"]}
    assert rows["core/30-wide"]["not_run"].startswith("needs 8 GPUs")


def test_a_part_that_breaks_is_told_with_its_last_words(study: Path) -> None:
    (study / "out/10-one").mkdir(parents=True)
    (study / "out/10-one/something-else").touch()
    done = reproduce(study)
    assert done.returncode == 1
    assert "core/10-one broke: exit code 2: " in done.stdout
    assert "a folder with other things in it" in done.stdout
    check_whole(study / "out/20-two", 3)


def test_a_dry_run_shows_the_schedule_of_a_machine_that_is_not_here(tmp_path: Path) -> None:
    done = loadgen("reproduce", "--dry-run", "--gpus", "0,1,2,3", "--parts", "core/*", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
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
    one = loadgen("reproduce", "--dry-run", "--gpus", "0", "--parts", "core/*tp[14]", cwd=tmp_path)
    assert "core/40-hf-generate-tp4: would not run: needs 4 GPUs, there are 1" in one.stdout


@pytest.mark.parametrize("gpus", ["a", "0,0", "-1", "77"])
def test_gpus_that_are_none_are_refused(study: Path, gpus: str) -> None:
    done = reproduce(study, "--gpus", gpus)
    assert done.returncode == 2
    assert f"--gpus {gpus}: " in done.stderr
