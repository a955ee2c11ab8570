"""Sides of a comparison: starts that lie in several folders, and one server of several."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner
from synthetic import Point, failed, grid, roofline_world, sweep, write

from loadgen.analysis.analyse import analyse
from loadgen.analysis.compare import compare
from loadgen.analysis.side import side_of
from loadgen.cli import main
from loadgen.errors import BadInput, StoreError

GRID = grid(batch=(1, 4, 16))
OTHER = [dataclasses.replace(point, framework="vllm", engine="vllm 0.25.1") for point in GRID]


def starts(folder: Path, *, seed: int = 0, points: list[Point] | None = None, count: int = 3) -> Path:
    """Three starts of a server in each of some folders."""
    world = roofline_world(plateau_s=30e-3, noise=0.01)
    for start in range(count):
        write(folder / f"start{start}", sweep(points or GRID, world, seed=10 * seed + start), samples=False)
    return folder


def test_a_folder_of_results_folders_is_all_their_starts(tmp_path: Path) -> None:
    before, after = starts(tmp_path / "before", seed=1), starts(tmp_path / "after", seed=2)
    found = compare(before, after)
    assert (found.a, found.b) == ("before", "after")
    assert len(found.pairs) == len(GRID)
    assert found.overall["e2e_s"].starts == (9, 9)
    assert found.overall["e2e_s"].told
    one = compare(before / "start0", after / "start0")
    assert one.overall["e2e_s"].starts == (3, 3)
    with pytest.raises(BadInput, match="same server starts"):
        compare(before, before / "start1")
    (tmp_path / "empty").mkdir()
    with pytest.raises(StoreError, match="not a results folder"):
        compare(before, tmp_path / "empty")


def test_a_copy_is_no_start_of_its_own(tmp_path: Path) -> None:
    before, after = starts(tmp_path / "before", seed=1), starts(tmp_path / "after", seed=2)
    shutil.copytree(before / "start0", before / "again")
    for call in (lambda: compare(before, after), lambda: analyse([before / "start0", before / "again"])):
        with pytest.raises(BadInput, match=r"(again|start0) and .*(again|start0) hold the same runs"):
            call()
    assert analyse([before / "start0", after / "start0"]).rows


def test_one_server_of_several_is_compared(tmp_path: Path) -> None:
    both = starts(tmp_path / "both", points=[*GRID, *OTHER], seed=1)
    dead = failed(OTHER[0], "ServerStartFailed")
    assert dead.trial.server is not None
    nameless = dataclasses.replace(dead.trial.server, options={})  # its engine was never told
    dead = dataclasses.replace(dead, engine={}, trial=dataclasses.replace(dead.trial, server=nameless))
    write(both / "start9", [dead], samples=False)
    found = side_of(both, "vllm/vllm")
    assert {row.key.label for row in found.rows} == {"vllm/vllm 0.25.1", "vllm"}
    assert sum(not row.usable for row in found.rows) == 1
    hf = starts(tmp_path / "hf", seed=2)
    pairs = compare(hf, both, servers=(None, "vllm")).pairs
    assert {(pair.a.key.framework, pair.b.key.framework) for pair in pairs} == {("hf", "vllm")}
    assert len(pairs) == len(GRID)
    assert {pair.b.key.framework for pair in compare(hf, both, servers=("hf", "hf/generate")).pairs} == {"hf"}
    for wrong in ("vll", "hf/gen", "generate"):
        run = CliRunner().invoke(main, ["compare", str(hf), str(both), "--server-b", wrong])
        assert run.exit_code == 2
        assert f"no trial of a server '{wrong}'" in run.output
        assert "accepted: hf/generate, vllm, vllm/vllm 0.25.1" in run.output
