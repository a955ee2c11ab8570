"""Results for other tools: every format holds every trial, and absence stays absence."""

from __future__ import annotations

import csv
import json
import os
import shutil
from pathlib import Path

import browser as headless
import pyarrow.parquet as pq
import pytest
from synthetic import Point, failed, grid, roofline_world, sweep, write

from loadgen.analysis.finding import CLAIMS, LONGEST
from loadgen.commands import report
from loadgen.errors import BadInput, MissingDependency, StoreError
from loadgen.report import export, format_of
from loadgen.report.export_columns import VERSION
from loadgen.results.writing import write_whole


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    points = grid(batch=(1, 8), input_tokens=(20, 128), stream=(False,))
    results = sweep(points, roofline_world(plateau_s=60e-3), starts=1)
    target = tmp_path_factory.mktemp("world") / "results"
    return write(target, [*results, failed(Point(batch=512))], samples=False)


def test_csv_has_a_line_per_trial_and_empty_for_unmeasured(folder: Path) -> None:
    path, requests = export.write([folder], "csv")
    assert (path.name, requests.name) == ("trials.csv", "requests.csv")
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 13
    assert rows[0]["ttft_p50_s"] == ""  # not streamed
    assert rows[0]["gpu_memory_bytes"] == ""
    assert float(rows[0]["e2e_p50_s"]) > 0
    assert rows[0]["e2e_p99_s"] == rows[0]["e2e_p90_s"] == ""  # of 8 requests there is none
    assert (rows[0]["e2e_n"], rows[0]["failed_share"], rows[-1]["failed_share"]) == ("8", "0", "1")
    assert float(rows[0]["e2e_max_s"]) >= float(rows[0]["e2e_p50_s"])
    assert "ServerOutOfMemory" in rows[-1]["excluded"]
    assert rows[-1]["e2e_p50_s"] == ""


@pytest.mark.parametrize("format", ["csv", "parquet", "json"])
def test_a_link_stays_a_link_and_what_cannot_be_written_is_told(
    folder: Path, tmp_path: Path, format: str
) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "there")
    export.write([folder], format, tmp_path / "link")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "there").stat().st_size > 0
    with pytest.raises(StoreError, match="cannot be written: No such file"):
        export.write([folder], format, tmp_path / "none" / "there")


def test_nothing_takes_the_place_of_a_pipe(folder: Path, tmp_path: Path) -> None:
    """Nor of a device: as root, a rename would."""
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(BadInput, match="is no file, and several are written"):
        export.write([folder], "csv", tmp_path / "pipe")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    with open(reader, "rb"):
        write_whole(tmp_path / "pipe", b"{}")
        assert os.read(reader, 9) == b"{}"
    assert (tmp_path / "pipe").is_fifo()


def test_parquet_is_typed_and_null_where_not_measured(folder: Path) -> None:
    path, _ = export.write([folder], "parquet")
    table = pq.read_table(path)
    assert table.num_rows == 13
    assert table["ttft_p50_s"].null_count == 13
    assert table["e2e_p50_s"].null_count == 1
    assert table["ttft_p50_s"].type == table["mbu"].type == "double"
    assert set(table["batch"].to_pylist()) == {1, 8, 512}


def test_json_holds_findings_with_numbers_and_cells(folder: Path) -> None:
    (path,) = export.write([folder], "json")
    data = json.loads(path.read_bytes())
    assert [row["id"] for row in data["claims"]] == list(CLAIMS)
    assert all(len(row["sentence"]) <= LONGEST and row["said"] for row in data["claims"])
    assert {finding["id"] for finding in data["findings"]} == set(CLAIMS)
    assert {finding["verdict"] for finding in data["findings"]} <= {"holds", "refuted", "not tested"}
    first = next(finding for finding in data["findings"] if finding["id"] == "F1")
    assert first["cells"][0]["machine"] == "NVIDIA H200"
    assert len(data["trials"]) == 13
    assert data["trials"][0]["ttft_p50_s"] is None
    assert data["noise"]["cells"] == 4


def test_out_names_the_file(folder: Path, tmp_path: Path) -> None:
    beside = tmp_path / "mine-requests.csv"
    assert export.write([folder], "csv", tmp_path / "mine.csv") == [tmp_path / "mine.csv", beside]
    assert export.write([folder], "html", tmp_path / "mine.html") == [tmp_path / "mine.html"]
    assert (tmp_path / "mine.html").stat().st_size > 1_200_000


@pytest.mark.skipif(headless.find() is None, reason="no Chromium here: apt-get install chromium")
def test_png_draws_each_chart(tmp_path: Path) -> None:
    """A browser is started for each, so there are few: no two choices, and no batch to compare."""
    results = sweep([Point(), Point(input_tokens=128)], roofline_world(plateau_s=60e-3), repeats=1)
    written = export.write([write(tmp_path / "few", results, samples=False)], "png")
    assert {path.name for path in written} == {"input-0.png", "roofline-0.png"}
    for path in written:
        data = path.read_bytes()
        assert data.startswith(b"\x89PNG")
        assert len(data) > 15_000, path


def test_png_without_a_browser_says_what_is_missing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda _name: None)
    with pytest.raises(MissingDependency, match="apt-get install chromium"):
        export.write([folder], "png")


@pytest.mark.parametrize(("name", "kind"), [("a.html", "html"), ("a.b.CSV", "csv"), ("a.parquet", "parquet")])
def test_a_files_name_tells_its_format(name: str, kind: str) -> None:
    assert format_of(Path(name), "--out") == kind


@pytest.mark.parametrize("name", ["a", "a.png", "a.xlsx", ".html"])
def test_a_name_of_no_format_is_bad_input(name: str) -> None:
    with pytest.raises(BadInput, match=r"--out .*accepted: .*\.parquet"):
        format_of(Path(name), "--out")


def test_the_report_takes_the_format_from_the_name(folder: Path, tmp_path: Path) -> None:
    assert report.run([folder], (), tmp_path / "all.json") == 0
    assert json.loads((tmp_path / "all.json").read_bytes())["schema_version"] == VERSION
    with pytest.raises(BadInput, match="one file"):
        report.run([folder], ("csv", "md"), tmp_path / "all.csv", None)
