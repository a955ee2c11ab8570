"""The bench of telemetry's period: what it concludes from readings, and that it says when there is no GPU."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from loadgen.telemetry.recorder import look

PATH = Path(__file__).parents[1] / "benches/telemetry_period.py"
MS = 1_000_000


@pytest.fixture(scope="module")
def bench() -> Any:
    before = list(sys.path)
    spec = importlib.util.spec_from_file_location("telemetry_period", PATH)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["telemetry_period"] = module
    try:
        spec.loader.exec_module(module)
        yield module
    finally:
        del sys.modules["telemetry_period"]
        sys.path[:] = before


def test_a_burst_survives_when_a_reading_falls_into_it(bench: Any) -> None:
    """Three bursts of 100 over an idle 10: read whole, read by half, and between two readings."""
    bursts = [
        bench.Burst(start * MS, (start + length) * MS, 100)
        for start, length in ((0, 30), (200, 150), (405, 10))
    ]
    points = [(10 * MS, 106.0), (250 * MS, 60.0), (400 * MS, 10.0), (420 * MS, 10.0)]
    rows = {label: (count, kept) for label, count, kept in bench.survivors(points, bursts, 10.0)}
    assert rows["20–50 ms"] == (1, 1)
    assert rows["100–200 ms"] == (1, 0)
    assert rows["5–20 ms"] == (1, 0)
    assert bench.seen(points, bursts[2]) is None


def test_energy_is_scaled_to_the_whole_stretch(bench: Any) -> None:
    power = [(at * 100 * MS, 50.0) for at in range(11)]
    assert bench.integral(power, 50 * MS, 950 * MS) == pytest.approx(45.0)
    counter = [(at * 100 * MS, 7.0 + 5 * at) for at in range(11)]
    assert bench.grown(counter, 50 * MS, 950 * MS) == pytest.approx(45.0)
    assert bench.grown(counter[:1], 0, 950 * MS) is None


@pytest.mark.skipif(bool(look()), reason="this machine has a GPU")
def test_without_a_gpu_it_says_so() -> None:
    done = subprocess.run(
        [sys.executable, str(PATH)], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode != 0
    assert "no GPU 0 here" in done.stderr
