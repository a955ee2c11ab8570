"""The probe measures this CPU for real; its figures become ceilings; children that fail say why and leave nothing."""

from __future__ import annotations

import json
import os
from pathlib import Path

import psutil
import pytest

from loadgen.errors import BadInput, MissingDependency
from loadgen.selfcheck import probe as probe_module
from loadgen.selfcheck.probe import ProbeFailed, cache_folder, ceilings_from, ladder_sizes, load, probe, save
from loadgen.system.environment import cpu_model
from loadgen.theory.ceilings import CEILINGS_FILE, Ceilings


@pytest.fixture(scope="module")
def measured() -> Ceilings:
    steps: list[str] = []
    (found,) = probe(gpus=(), seconds=1.0, on_step=steps.append)
    assert any("all-reduce over 2" in step for step in steps)
    return found


def test_this_cpu_has_plausible_ceilings(measured: Ceilings) -> None:
    assert measured.device == cpu_model()
    assert measured.source == "measured"
    assert measured.shared
    assert 1e8 < measured.bandwidth < 1e13
    assert 1e9 < measured.matrix["float32"] < 1e15
    assert set(measured.matrix) == {"float32", "float16", "bfloat16"}
    assert len(measured.ladder) >= 3
    assert measured.launch_s is not None
    assert 1e-8 < measured.launch_s < 1e-2
    two = next(line for line in measured.all_reduce if line.ranks == 2)
    assert two.how == "gloo"
    assert 0 < two.seconds(1 << 20) < 1
    assert measured.facts["torch"]


def test_ceilings_are_kept_per_device_and_read_back(measured: Ceilings, tmp_path: Path) -> None:
    other = Ceilings(device="other", source="measured", bandwidth=1.0, matrix={"float32": 2.0})
    assert load(tmp_path) == []
    save([other], tmp_path)
    save([measured], tmp_path)
    assert load(tmp_path) == [other, measured]
    (tmp_path / CEILINGS_FILE).write_text('[{"device": "x"}]')
    with pytest.raises(BadInput, match="ceilings"):
        load(tmp_path)


def test_the_cache_is_this_machines_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder().is_relative_to(tmp_path)
    assert probe_module.cached() == []
    here = cache_folder()
    monkeypatch.setattr(probe_module, "cpu_model", lambda: "another CPU")
    assert cache_folder() != here


def test_the_largest_set_is_the_bandwidth_and_the_best_of_copy_and_read_counts() -> None:
    figures = {
        "bandwidth": [
            {"kind": "copy", "bytes": 100, "best": 9.0, "median": 8.0},
            {"kind": "read", "bytes": 100, "best": 7.0, "median": 6.0},
            {"kind": "copy", "bytes": 1000, "best": 3.0, "median": 2.0},
            {"kind": "read", "bytes": 1000, "best": 4.0, "median": 2.0},
        ],
        "matrix": [
            {"dtype": "float32", "side": 2, "best": 5.0, "median": 4.0},
            {"dtype": "float32", "side": 4, "best": 6.0, "median": 4.0},
        ],
        "launch_s": 1e-6, "torch": "2", "threads": 1, "took_s": 1.0,
    }  # fmt: skip
    ladder = {"ranks": 2, "lines": {"eager": [[10, 2e-6], [1000, 3e-6]], "graph": [[10, 1e-6], [1000, 2e-6]]}}
    found = ceilings_from("device", figures, [ladder])
    assert found.bandwidth == 4.0
    assert found.ladder == ((100, 9.0), (1000, 4.0))
    assert found.matrix == {"float32": 6.0}
    assert [line.how for line in found.all_reduce] == ["eager", "graph"]
    assert found.all_reduce_s(2, 10) == pytest.approx(1e-6)
    assert found.all_reduce_s(4, 10) is None


@pytest.mark.parametrize(("count", "sizes"), [(1, []), (2, [2]), (4, [2, 4]), (6, [2, 4, 6]), (8, [2, 4, 8])])
def test_ladders_double_up_to_all(count: int, sizes: list[int]) -> None:
    assert ladder_sizes(count) == sizes


def test_a_gpu_that_is_not_there_is_refused() -> None:
    with pytest.raises(BadInput, match="no such GPU"):
        probe(gpus=(99,))


def script(folder: Path, body: str) -> str:
    """An interpreter that is none: it prints, fails or hangs."""
    path = folder / "python"
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)
    return str(path)


def test_a_failing_child_is_told_with_its_last_words(tmp_path: Path) -> None:
    with pytest.raises(ProbeFailed, match="bad luck"):
        probe(gpus=(), python=script(tmp_path, "echo bad luck; exit 3"))
    with pytest.raises(ProbeFailed, match="no figures"):
        probe(gpus=(), python=script(tmp_path, "echo hello"))
    missing = "echo \"ModuleNotFoundError: No module named 'torch'\"; exit 1"
    with pytest.raises(MissingDependency, match="no torch"):
        probe(gpus=(), python=script(tmp_path, missing))


def test_a_hanging_child_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe_module, "DEVICE_TIMEOUT_S", 0.5)
    pids = tmp_path / "pids"
    with pytest.raises(ProbeFailed, match="more than"):
        probe(gpus=(), seconds=0.5, python=script(tmp_path, f"echo $$ > {pids}; exec sleep 600"))
    assert not psutil.pid_exists(int(pids.read_text()))


def test_the_child_prints_one_line_of_json(tmp_path: Path) -> None:
    figures = {"bandwidth": [{"bytes": 1, "best": 1.0}], "matrix": [], "launch_s": 1e-6, "torch": "x",
               "threads": 1, "took_s": 0.1}  # fmt: skip
    line = json.dumps(figures).replace('"', '\\"')
    found = probe_module._one("cpu", script(tmp_path, f'echo noise; echo "{line}"'), 1.0, dict(os.environ))
    assert found == figures
