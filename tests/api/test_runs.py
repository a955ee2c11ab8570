"""The API against one null server: the same trial as the command's, in a program, in a notebook's loop, and wrong."""

from __future__ import annotations

import asyncio
import re
import runpy
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

import loadgen
from loadgen.cli import main
from loadgen.results.store import open_results, read_samples

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "docs/examples/one_run.py"
LOAD = loadgen.Load(concurrency=2, input_tokens=16, output_tokens=4, requests=8, seed=7)
LEAST_S = 0.05 + 3 * 0.02  # the server's own pace: no reply ends before it


def one(folder: Path) -> loadgen.Result:
    (result,) = open_results(folder).results()
    return result


def sent(folder: Path) -> list[tuple[int, str, int, int, tuple[int, ...]]]:
    """What decides a request, and the ids that the null server made of its prompt."""
    rows = read_samples(folder / "samples" / f"{one(folder).trial.id}.parquet")
    found = [
        (row.seq, row.phase, row.input_tokens, row.output_tokens_asked, row.reply.first_tokens)
        for row in rows
    ]
    return sorted(found)


def test_fifteen_lines_give_the_figures_of_the_command(
    null: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    by_script, by_command = tmp_path / "script", tmp_path / "command"
    shape = [
        "--concurrency",
        "2",
        "--input-tokens",
        "16",
        "--output-tokens",
        "4",
        "--requests",
        "8",
        "--seed",
        "7",
    ]
    told = CliRunner().invoke(main, ["run", "--url", null, *shape, "--out", str(by_command)])
    assert told.exit_code == 0, told.output
    monkeypatch.setattr(sys, "argv", [str(EXAMPLE), null, str(by_script)])
    runpy.run_path(str(EXAMPLE), run_name="__main__")
    said = capsys.readouterr().out
    assert (
        len([line for line in EXAMPLE.read_text().splitlines() if line and not line.startswith('"""')]) <= 15
    )

    ours, theirs = one(by_script), one(by_command)
    assert (ours.trial.id, ours.trial, ours.engine) == (theirs.trial.id, theirs.trial, theirs.engine)
    assert ours.summary is not None
    assert theirs.summary is not None
    for name in ("requests_ok", "requests_failed", "errors", "output_tokens", "input_tokens", "definitions"):
        assert getattr(ours.summary, name) == getattr(theirs.summary, name), name
    assert sent(by_script) == sent(by_command)
    for each in (ours.summary, theirs.summary):
        assert each.e2e_s is not None
        assert each.e2e_s.min >= LEAST_S
    assert ours.summary.e2e_s is not None
    assert f"E2E p50 {ours.summary.e2e_s.p50:.6f} s" in said
    assert f"{ours.summary.output_tokens_per_s:.3f} tok/s" in said
    assert re.search(r"slowest: [\d.]+ s of 10 requests", said)

    tables = loadgen.read(by_script)
    assert tables.trials["trial"].to_pylist() == [ours.trial.id]
    assert tables.trials["e2e_p50_s"].to_pylist() == [pytest.approx(ours.summary.e2e_s.p50, rel=1e-9)]
    assert sorted(tables.requests["phase"].to_pylist()) == ["measured"] * 8 + ["warmup"] * 2


def test_within_a_running_loop_and_from_a_thread_of_it(null: str) -> None:
    async def notebook() -> tuple[loadgen.Result, loadgen.Result]:
        blocking = loadgen.run(null, LOAD)
        return blocking, await asyncio.to_thread(loadgen.run, null, LOAD)

    for result in asyncio.run(notebook()):
        assert result.failure is None
        assert result.summary is not None
        assert result.summary.requests_ok == 8


def test_a_fault_is_in_the_result_and_bad_input_is_raised(null: str, tmp_path: Path) -> None:
    refused = loadgen.run(f"{null}/nowhere", LOAD, target=loadgen.Target(model="m"))
    assert refused.failure is not None
    assert refused.failure.error == "Refused"
    for wrong, words in (
        (lambda: loadgen.run("http://127.0.0.1:1", LOAD), "no server answers there"),
        (lambda: loadgen.run(null, LOAD, slo=["ttft=soon"]), "--slo ttft"),
        (lambda: loadgen.run(null, LOAD, target=loadgen.Target(driver={"pigeon": 1})), "'pigeon': unknown"),
        (lambda: loadgen.read(tmp_path), "not a results folder"),
        (lambda: loadgen.sweep("no-such-profile"), "no such file or shipped profile"),
    ):
        with pytest.raises(loadgen.errors.BadInput, match=words):
            wrong()


def test_a_sweep_goes_on_where_it_stopped(null: str, tmp_path: Path) -> None:
    profile = tmp_path / "two.toml"
    profile.write_text(
        f'[target]\nurl = "{null}"\n[telemetry]\nenabled = false\n[load]\nmode = "closed"\ninput_tokens = 8\n'
        "output_tokens = 2\nrequests = 2\nwarmup = 0\n[sweep]\nconcurrency = [1, 2]\n"
    )
    swept = loadgen.sweep(profile, out=tmp_path / "out")
    assert (swept.folder, swept.failed, swept.left, swept.unsettled) == (tmp_path / "out", 0, 0, ())
    assert sorted(result.trial.load.concurrency for result in swept.results) == [1, 2]
    with pytest.raises(loadgen.errors.BadInput, match="already holds 2 trials"):
        loadgen.sweep(profile, out=tmp_path / "out")
    again = loadgen.sweep(profile, out=tmp_path / "out", resume=True)
    assert again.results == swept.results
    gone: Any = {"sets": ['url="http://127.0.0.1:1"'], "out": tmp_path / "gone"}
    with pytest.raises(loadgen.errors.BadInput, match=r"two.toml: target.url = .*: no server answers there"):
        loadgen.sweep(profile, **gone)
    assert not gone["out"].exists()
    late = loadgen.sweep(profile, sets=["concurrency=4"], out=tmp_path / "late", time_limit_s=1e-9)
    assert (late.results, late.left) == ((), 1)
    assert loadgen.run(null, LOAD).failure is None  # the limit is over
