"""Reports of several folders whose starts of one server did not run the same code."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from synthetic import grid, roofline_world, sweep, write

from loadgen.analysis.analyse import analyse
from loadgen.report import export
from loadgen.report.analysis_tables import doubt_tables
from loadgen.report.html import render
from loadgen.report.version_table import TITLE, mixed_servers


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    home = tmp_path_factory.mktemp("world")
    found = []
    for seed, code in ((1, "aaa"), (2, "bbb")):
        results = sweep(grid(batch=(1, 8)), roofline_world(), repeats=2, seed=seed)
        coded = [replace(each, engine={**each.engine, "code": code}) for each in results]
        found.append(write(home / code, coded, samples=False))
    return found


def test_what_is_pooled_is_told_in_every_report(folders: list[Path], tmp_path: Path) -> None:
    both = analyse(folders)
    table = mixed_servers(both.study.servers)
    assert table is not None
    assert table.head[0] == "server, all llama-13b · bfloat16 · NVIDIA H200 · tp 1"
    assert table.rows == (("hf/generate", "code", "aaa (2 starts), bbb (2 starts)"),)
    assert "loadgen compare A B" in table.note
    assert doubt_tables(both)[0] == table
    (path,) = export.write(folders, "md", tmp_path / "both.md")
    assert f"## {TITLE}\n\n| {table.head[0]} | what differs | values |" in path.read_text()
    assert "aaa (2 starts), bbb (2 starts)" in render(both)


def test_one_sweep_has_no_such_table(folders: list[Path]) -> None:
    for folder in folders:
        alone = analyse([folder])
        assert mixed_servers(alone.study.servers) is None
        assert TITLE not in render(alone)


def test_a_resumed_sweep_tells_it_in_its_own_report(folders: list[Path], tmp_path: Path) -> None:
    """Of two folders whose reports are written at once each tells its own."""
    results = sweep(grid(batch=(1, 8)), roofline_world(), repeats=2, seed=4)
    codes = [
        replace(each, engine={**each.engine, "code": "aaa" if each.trial.repeat else "bbb"})
        for each in results
    ]
    resumed = write(tmp_path / "resumed", codes, samples=False)
    (path,) = export.write([resumed], "md")
    told = path.read_text()
    assert f"## {TITLE}\n" in told
    assert "aaa (1 start), bbb (1 start)" in told
    first, _ = export.write([resumed, folders[0]], "md")
    assert first.read_text() == told
    one, _ = export.write([folders[0], resumed], "md")
    assert TITLE not in one.read_text()
    assert "## To know\n" in one.read_text()


def test_folders_of_one_code_have_none(folders: list[Path], tmp_path: Path) -> None:
    results = sweep(grid(batch=(1, 8)), roofline_world(), repeats=2, seed=3)
    same = [replace(each, engine={**each.engine, "code": "aaa"}) for each in results]
    again = write(tmp_path / "again", same, samples=False)
    assert mixed_servers(analyse([folders[0], again]).study.servers) is None
