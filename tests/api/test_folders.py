"""Results folders read by a program: what the tables and the comparison of the commands say."""

from __future__ import annotations

from pathlib import Path

import pytest
from synthetic import grid, roofline_world, sweep, write

import loadgen
from loadgen.report.export import write as export

GRID = grid(batch=(1, 8))


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    place = tmp_path_factory.mktemp("folders")
    a, b = (
        write(place / name, sweep(GRID, roofline_world(), repeats=2, seed=at)) for at, name in enumerate("ab")
    )
    return a, b


def test_the_tables_are_those_of_the_export(folders: tuple[Path, Path], tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    tables = loadgen.read(folders[0])
    export([folders[0]], "parquet", tmp_path / "trials.parquet")
    assert tables.trials.equals(pq.read_table(tmp_path / "trials.parquet"))
    assert tables.trials.num_rows == 4
    assert tables.trials is tables.trials


def test_compare_is_the_commands(folders: tuple[Path, Path], tmp_path: Path) -> None:
    found = loadgen.compare(*folders, ["e2e_p50<=+300%"])
    assert isinstance(found, loadgen.Comparison)
    assert len(found.pairs) == 2
    assert found.gates[0].verdict in ("passes", "not shown")
    with pytest.raises(loadgen.errors.BadInput, match="not a results folder"):
        loadgen.compare(folders[0], tmp_path)
    assert loadgen.compare(*folders, servers=("hf", "hf/generate")).pairs
