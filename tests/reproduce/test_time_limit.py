"""Sweeps with a time limit, on cores of their own."""

from __future__ import annotations

from pathlib import Path

import pytest
from null_study import check_whole, here, loadgen, stored, write

from loadgen.results.store import open_results
from loadgen.system import cpus


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
    again = here("sweep", part, "--resume", "--time-limit", 10, "--no-live", "--no-report", cwd=tmp_path)
    assert again.exit_code == 0, again.output
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
    done = here("sweep", write(tmp_path / "part.toml", "part"), option, value, cwd=tmp_path)
    assert done.exit_code == 2
    assert option in done.stderr
    assert not (tmp_path / "results").exists()
