"""The fast part of the matrix: what hits a sweep loses nothing, leaves nothing, and says what it was."""

import subprocess
import sys
from pathlib import Path

import pytest
from fault_list import FAULTS, Fault
from fault_matrix import FRAMEWORKS, run

from loadgen.results.store import open_results

NULL = FRAMEWORKS[0]
FAST = {"server killed", "server stopped", "results deleted", "disk full", "terminal closed"}


@pytest.mark.parametrize("fault", [f for f in FAULTS if f.name in FAST], ids=lambda fault: fault.name)
def test_a_fault_costs_its_trial_and_nothing_else(fault: Fault) -> None:
    assert run(NULL, fault).faults == []


def test_samples_that_are_broken_or_gone_run_again(tmp_path: Path) -> None:
    (tmp_path / "p.toml").write_text(NULL.profile(tmp_path))

    def loadgen(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "loadgen.cli", *arguments]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)

    sweep = ("sweep", "p.toml", "--out", "r", "--no-live", "--no-report", "--set", "requests=2")
    assert loadgen(*sweep).returncode == 0
    first, second = sorted((tmp_path / "r/samples").iterdir())
    first.write_bytes(first.read_bytes()[:900])
    second.unlink()
    report = loadgen("report", "r", "--format", "md")
    assert report.returncode == 0, report.stderr
    assert "2 trials lack readable samples" in report.stdout
    assert loadgen(*sweep, "--resume").returncode == 0
    assert all(open_results(tmp_path / "r").has_samples(path.stem) for path in (first, second))
