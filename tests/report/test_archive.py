"""What a compact copy leaves out, what it refuses, and that it never says otherwise than its source."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from synthetic import Point, environment, failed, grid, roofline_world, samples_of, sweep, write

from loadgen.analysis.analyse import analyse
from loadgen.analysis.requests import first_tokens
from loadgen.cli import main
from loadgen.errors import BadInput, StoreError
from loadgen.records import Failure, TrialResult
from loadgen.report import archive as command
from loadgen.report.archive import keep
from loadgen.report.html import charts
from loadgen.report.timeline import chosen
from loadgen.results.rows import Rows
from loadgen.results.samples import SampleWriter, read_samples, thinned
from loadgen.results.store import open_results
from loadgen.telemetry.downsample import thinned as thinned_telemetry
from loadgen.telemetry.scrapes import Scrape, read_scrapes, write_parquet

HOST, PYTHON = "gpu-node-7", "/home/ann/venvs/hf/bin/python"


def world(path: Path, **changes: Any) -> Path:
    points = grid(tp=(1, 2), batch=(1, 4, 16), output_tokens=(20, 100))
    return write(path, sweep(points, roofline_world(), repeats=2), **changes)


def timed(stored: Rows | None) -> list[bool]:
    assert stored is not None
    return [times is not None for times in stored.table()["token_ns"].to_pylist()]


def thin(source: Path, target: Path, **how: Any) -> None:
    pq.write_table(pa.concat_tables(thinned(Rows(source), **how)), target)


def thin_telemetry(source: Path, target: Path) -> None:
    pq.write_table(thinned_telemetry(Rows(source).table(), scrapes=20), target)


def test_token_times_are_kept_up_to_the_limit_and_everything_else_in_full(tmp_path: Path) -> None:
    folder = world(tmp_path / "world")
    target = keep([folder], tmp_path / "kept", samples_limit=70)[0]
    drawn = {row.id for row in chosen(analyse([folder]).rows).values()}
    before, after = open_results(folder), open_results(target)
    assert 0 < len(drawn) < len(before.results())
    for result in before.results():
        trial_id, each = result.trial.id, result.trial.load.output_tokens
        first = 8 if trial_id in drawn else 70 // each
        assert timed(after.samples(trial_id)) == [True] * first + [False] * (8 - first)
        whole, ours = (place.samples(trial_id).table().to_pylist() for place in (before, after))  # type: ignore[union-attr]
        for row, kept in zip(whole, ours, strict=True):
            for name in row:
                assert kept[name] == row[name] or (
                    name in ("token_ns", "tokens_per_arrival") and kept[name] is None
                )


@pytest.mark.parametrize("limit", [0, 70, 10_000])
def test_findings_charts_and_proofs_do_not_depend_on_the_limit(tmp_path: Path, limit: int) -> None:
    folder = world(tmp_path / "world")
    before, after = (
        analyse([each]) for each in (folder, *keep([folder], tmp_path / "kept", samples_limit=limit))
    )
    assert after.findings == before.findings
    assert after.proofs == before.proofs
    for drawn, same in zip(charts(before), charts(after), strict=True):
        assert {name: figure.plain() for name, figure in same.choices.items()} == {
            name: figure.plain() for name, figure in drawn.choices.items()
        }
    for row, kept in zip(before.rows, after.rows, strict=True):
        assert first_tokens(kept.results, kept.id) == first_tokens(row.results, row.id)


def test_a_kept_copy_gives_the_same_intervals(tmp_path: Path) -> None:
    results = sweep(grid(tp=(1, 2), batch=(1, 4)), roofline_world(), repeats=2)
    folder = write(tmp_path / "twice", results, requests=40)
    kept = keep([folder], tmp_path / "kept", samples_limit=0)[0]
    for (key, cell), (same_key, same) in zip(
        analyse([folder]).study.cells.items(), analyse([kept]).study.cells.items(), strict=True
    ):
        assert key == same_key
        before, after = (
            analyse([place]).study.estimate(one, "e2e_s") for place, one in ((folder, cell), (kept, same))
        )
        assert before is not None
        assert before.low is not None
        assert (after.value, after.low, after.high) == (before.value, before.low, before.high)  # type: ignore[union-attr]


def test_a_timeline_of_thinned_samples_says_how_far_it_goes(tmp_path: Path) -> None:
    folder = write(tmp_path / "world", sweep([Point()], roofline_world(), repeats=1))
    path = open_results(folder).samples_path(analyse([folder]).rows[0].id)
    thin(path, tmp_path / "thin.parquet", arrivals=45, first_tokens=8)
    (tmp_path / "thin.parquet").rename(path)
    names = list(next(chart for chart in charts(analyse([folder])) if chart.id == "timeline").choices)
    assert names
    assert all(name.endswith("its first 2 requests") for name in names)


def test_thinned_samples_do_not_pass_for_whole_ones(tmp_path: Path) -> None:
    (found,) = sweep([Point()], roofline_world(), repeats=1)
    writer = SampleWriter(tmp_path / "whole.parquet")
    for sample in samples_of(found):
        writer.add(sample)
    writer.close()
    thin(writer.path, tmp_path / "thin.parquet", arrivals=45, first_tokens=8)
    with pytest.raises(StoreError, match="token_ns of request 2 was left out"):
        list(read_samples(tmp_path / "thin.parquet"))
    thin(writer.path, tmp_path / "whole-again.parquet", arrivals=8 * 20, first_tokens=8)
    assert list(read_samples(tmp_path / "whole-again.parquet")) == samples_of(found)
    thin(writer.path, tmp_path / "thin.parquet", arrivals=8 * 20, first_tokens=3)
    with pytest.raises(StoreError, match="first_tokens of request 3"):
        list(read_samples(tmp_path / "thin.parquet"))
    with pytest.raises(StoreError, match="no such file"):
        thin(tmp_path / "none.parquet", tmp_path / "thin.parquet", arrivals=1, first_tokens=1)


def test_replies_that_were_not_streamed_have_no_times_to_leave_out(tmp_path: Path) -> None:
    (found,) = sweep([Point(stream=False)], roofline_world(), repeats=1)
    writer = SampleWriter(tmp_path / "whole.parquet")
    for sample in samples_of(found):
        writer.add(sample)
    writer.close()
    thin(writer.path, tmp_path / "thin.parquet", arrivals=0, first_tokens=8)
    assert list(read_samples(tmp_path / "thin.parquet")) == samples_of(found)


def scrapes(count: int = 100) -> list[Scrape]:
    """A power that peaks once, a clock that dips once, and one scrape that failed."""
    found = []
    for at in range(count):
        power, clock = 300.0 + (at == 37) * 400, 1980e6 - (at == 58) * 1e9
        readings = (("gpu_power_w", "GPU-1", power), ("gpu_sm_clock_hz", "GPU-1", clock))
        error = f"ConnectError: {HOST}" if at == 71 else None
        found.append(
            Scrape(
                source=f"http://{HOST}:9400/metrics",
                at_ns=at * 200_000_000,
                took_ns=5_000_000,
                error=error,
                readings=() if error else readings,
            )
        )
    return found


def test_telemetry_keeps_every_kth_scrape_and_all_extremes(tmp_path: Path) -> None:
    write_parquet(tmp_path / "all.parquet", scrapes())
    thin_telemetry(tmp_path / "all.parquet", tmp_path / "few.parquet")
    before = {each.at_ns // 200_000_000: each for each in read_scrapes(Rows(tmp_path / "all.parquet"))}
    found = {each.at_ns // 200_000_000: each for each in read_scrapes(Rows(tmp_path / "few.parquet"))}
    assert set(found) == {*range(0, 100, 5), 37, 58, 71}
    assert all(found[at] == before[at] for at in range(0, 100, 5))
    assert found[37].readings == (("gpu_power_w", "GPU-1", 700.0),)
    assert found[58].readings == (("gpu_sm_clock_hz", "GPU-1", 980e6),)
    assert found[71].error == before[71].error


def test_few_scrapes_are_kept_whole(tmp_path: Path) -> None:
    write_parquet(tmp_path / "all.parquet", scrapes(20))
    thin_telemetry(tmp_path / "all.parquet", tmp_path / "few.parquet")
    assert read_scrapes(Rows(tmp_path / "few.parquet")) == read_scrapes(Rows(tmp_path / "all.parquet"))
    write_parquet(tmp_path / "none.parquet", [])
    thin_telemetry(tmp_path / "none.parquet", tmp_path / "few.parquet")
    assert read_scrapes(Rows(tmp_path / "few.parquet")) == []
    with pytest.raises(StoreError, match="no such file"):
        thin_telemetry(tmp_path / "gone.parquet", tmp_path / "few.parquet")


def private(path: Path) -> Path:
    """Results full of what is nobody's business: in specs, commands, failures, telemetry, and the profile."""
    results: list[TrialResult] = []
    for each in sweep(grid(batch=(1, 2)), roofline_world()):
        server = each.trial.server
        assert server is not None
        mine = dataclasses.replace(server, python=PYTHON, host="10.1.2.3")
        results.append(dataclasses.replace(each, trial=dataclasses.replace(each.trial, server=mine)))
    broken = failed(Point(batch=8))
    message = f"the server on {HOST} ended; log: /home/ann/x/logs/hf.log\n  File '/srv/lib/x.py', ann@{HOST}"
    results.append(
        dataclasses.replace(broken, failure=Failure(error="ServerDied", message=message, phase="load"))
    )
    folder = write(
        path,
        results,
        environments=[
            environment(host=HOST, argv=(PYTHON, "-m", "loadgen.cli", "sweep", f"/data/{HOST}/q.toml"))
        ],
        argv=[PYTHON, "sweep", "/data/p.toml", "--out=/home/ann/out", HOST],
        profile='name = "private"\n[server]\nframework = "hf"\npython = "/home/ann/venvs/hf/bin/python"\n',
        description=f"ann's sweep on {HOST}",
    )
    (folder / "logs/hf.log").write_text("secret")
    write_parquet(folder / "telemetry" / f"{results[0].trial.id}.parquet", scrapes())
    return folder


def test_paths_hosts_and_users_are_redacted_everywhere(tmp_path: Path) -> None:
    folder = private(tmp_path / "private")
    (target,) = keep([folder], tmp_path / "kept")
    for path in target.rglob("*"):
        if path.suffix == ".parquet":
            text = repr(pq.read_table(path).to_pylist())
        else:
            text = path.read_text() if path.is_file() else ""
        for word in (HOST, "ann", "/home", "/srv", "/data", "10.1.2.3", "secret"):
            assert word not in text.replace("channel", ""), (path, word)
    sweep_json = orjson.loads((target / "sweep.json").read_bytes())
    assert sweep_json["argv"] == ["<path>/python", "sweep", "<path>/p.toml", "--out=<path>/out", "<host>"]
    assert sweep_json["description"] == "<user>'s sweep on <host>"
    (stored,) = sweep_json["environments"].values()
    assert stored["host"] == "<host>"
    assert stored["argv"][0] == "<path>/python"  # the same path reads the same
    failure = open_results(target).results()[-1].failure
    assert failure is not None
    assert failure.message.startswith("the server on <host> ended; log: <path>/hf.log\n")
    assert not (target / "logs").exists()


def test_a_copy_that_says_otherwise_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = world(tmp_path / "world")
    real = command.whole_lines
    monkeypatch.setattr(command, "whole_lines", lambda path: real(path)[:-1])
    with pytest.raises(StoreError, match="would say otherwise"):
        keep([folder], tmp_path / "kept")
    assert [path.name for path in tmp_path.iterdir()] == ["world"]


def test_a_file_that_stays_too_large_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = world(tmp_path / "world")
    monkeypatch.setattr(command, "LARGEST_BYTES", 20_000)
    done = CliRunner().invoke(main, ["keep", str(folder), str(tmp_path / "kept")])
    assert done.exit_code == 2
    assert "trials.jsonl" in done.output or "sweep.json" in done.output
    assert "must stay under 0.02 MB" in done.output
    assert "a folder of its own" in done.output
    monkeypatch.setattr(command, "LARGEST_BYTES", 1_000)
    with pytest.raises(BadInput, match=r"samples\.parquet: .*--samples-limit below 10000"):
        keep([folder], tmp_path / "kept")
    assert not (tmp_path / "kept").exists()


def test_several_folders_become_folders_in_one(tmp_path: Path) -> None:
    one = write(tmp_path / "one", sweep([Point()], roofline_world()))
    two = write(tmp_path / "two", sweep([Point(batch=2)], roofline_world()))
    assert keep([one, two], tmp_path / "kept") == [tmp_path / "kept/one", tmp_path / "kept/two"]
    assert len(analyse([tmp_path / "kept/one", tmp_path / "kept/two"]).rows) == 6
    (tmp_path / "other").mkdir()
    twin = write(tmp_path / "other/one", sweep([Point()], roofline_world()))
    with pytest.raises(BadInput, match="two folders are called one"):
        keep([one, twin], tmp_path / "both")


def test_what_cannot_be_kept_is_said(tmp_path: Path) -> None:
    folder = write(tmp_path / "world", sweep([Point()], roofline_world()))
    with pytest.raises(StoreError, match="not a results folder"):
        keep([tmp_path], tmp_path / "kept")
    with pytest.raises(BadInput, match="--samples-limit -1"):
        keep([folder], tmp_path / "kept", samples_limit=-1)
    with pytest.raises(BadInput, match="holds other things"):
        keep([folder], folder)
    (tmp_path / "full").mkdir()
    (tmp_path / "full/thesis.tex").touch()
    with pytest.raises(BadInput, match="holds other things"):
        keep([folder], tmp_path / "full")
    with pytest.raises(BadInput, match="is a file"):
        keep([folder], tmp_path / "full/thesis.tex")
    (kept,) = keep([folder], tmp_path / "kept")
    with pytest.raises(BadInput, match="a kept copy itself"):
        keep([kept], tmp_path / "again")


def test_a_torn_last_line_is_left_out(tmp_path: Path) -> None:
    folder = write(tmp_path / "world", sweep([Point()], roofline_world()))
    with (folder / "trials.jsonl").open("ab") as file:
        file.write(b'{"trial": {"id"')
    (kept,) = keep([folder], tmp_path / "kept")
    assert (kept / "trials.jsonl").read_bytes().count(b"\n") == 3
    assert len(open_results(kept).results()) == 3


def test_broken_samples_are_told_and_not_left_out_in_silence(tmp_path: Path) -> None:
    folder = write(tmp_path / "world", sweep([Point()], roofline_world()))
    torn = open_results(folder).samples_path(open_results(folder).results()[0].trial.id)
    torn.write_bytes(torn.read_bytes()[:40])
    with pytest.raises(StoreError, match=rf"{torn.name}: .*(?s:.)*--resume runs its trial again"):
        keep([folder], tmp_path / "kept")
    assert not (tmp_path / "kept").exists()
    torn.unlink()
    with (folder / "trials.jsonl").open("ab") as file:
        file.write(b'\n{"trial": NaN}\n')
    with pytest.raises(BadInput, match=r"trials\.jsonl: line \d+ is not a trial"):
        keep([folder], tmp_path / "kept")
    path = folder / "trials.jsonl"
    path.write_bytes(path.read_bytes().rpartition(b"{")[0])
    assert keep([folder], tmp_path / "kept") == [tmp_path / "kept"]


@pytest.mark.parametrize("data", [b"", b"samples"])
def test_a_kept_copy_with_a_broken_file_is_reported_without_it(tmp_path: Path, data: bytes) -> None:
    folder = write(tmp_path / "world", sweep([Point()], roofline_world()))
    (kept,) = keep([folder], tmp_path / "kept")
    whole = (kept / "samples.parquet").read_bytes()
    for name in ("samples.parquet", "telemetry.parquet"):
        other = whole if data and name[0] == "t" else data
        (kept / name).write_bytes(other)
        run = CliRunner().invoke(main, ["report", str(kept)])
        assert run.exit_code == 0
        assert f"{name}: no" in run.output
        (kept / name).unlink()
