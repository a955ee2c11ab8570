"""The fast part of the matrix: what hits a sweep loses nothing, leaves nothing, and says what it was."""

import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest
from fault_check import Verdict
from fault_list import FAULTS
from fault_matrix import FRAMEWORKS, run

from loadgen.results.store import open_results

NULL = FRAMEWORKS[0]
FAST = {"server killed", "server stopped", "results deleted", "disk full", "terminal closed"}


@pytest.fixture(scope="module")
def verdicts() -> Iterator[dict[str, Future[Verdict]]]:
    """All of them under way at once: a sweep that is hit waits more than it computes."""
    with ThreadPoolExecutor(len(FAST)) as pool:
        yield {fault.name: pool.submit(run, NULL, fault) for fault in FAULTS if fault.name in FAST}


@pytest.mark.parametrize("fault", sorted(FAST))
def test_a_fault_costs_its_trial_and_nothing_else(fault: str, verdicts: dict[str, Future[Verdict]]) -> None:
    assert verdicts[fault].result().faults == []


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
