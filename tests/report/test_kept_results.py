"""Results kept in a repository: they say what their sweep said, and hold nothing that cannot be true.

Every folder under docs/results is held to it; a sweep made here, of a real model, shows that the rules bite.
"""

from __future__ import annotations

import dataclasses
import functools
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import orjson
import pytest
from click.testing import CliRunner
from synthetic import Point, grid, limited, roofline_world, sweep, write

from loadgen.analysis.analyse import Analysis, analyse
from loadgen.analysis.audit import breaches
from loadgen.cli import main
from loadgen.report.archive import KEPT, LARGEST_BYTES, keep
from loadgen.report.html import charts
from loadgen.report.markdown import gather
from loadgen.results import capacity_log
from loadgen.results.record_json import to_json
from loadgen.results.store import Results, open_results, read_samples
from loadgen.selfcheck.probe import save
from loadgen.system.environment import cpu_model
from loadgen.theory.ceilings import Ceilings

ROOT = Path(__file__).resolve().parents[2]
STORED = sorted(path.parent for path in (ROOT / "docs/results").rglob("sweep.json"))
SMALL = """
name = "small"
[server]
framework = "hf"
model = "tiny"
dtype = "float32"
gpus = []
ready_timeout_s = 120
[[sweep]]
mode = "static"
repeat = 2
batch_size = [1, 4]
input_tokens = 20
output_tokens = 12
requests = 3
[[sweep]]
mode = "closed"
repeat = 2
concurrency = 2
input_tokens = 20
output_tokens = 12
requests = 6
"""


def loadgen(*args: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    env = os.environ | {"XDG_CACHE_HOME": str(cwd / "cache")}  # no ceilings of an earlier probe
    command = [sys.executable, "-m", "loadgen.cli", *map(str, args)]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=240, env=env)


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sweep of a real server, with ceilings that no CPU reaches."""
    cwd = tmp_path_factory.mktemp("swept")
    (cwd / "small.toml").write_text(SMALL)
    done = loadgen("sweep", "small.toml", "--no-live", cwd=cwd)
    assert done.returncode == 0, done.stdout + done.stderr
    ceilings = Ceilings(
        device=cpu_model(), source="datasheet", bandwidth=1e12, matrix={"float32": 1e13}, shared=True
    )
    save([ceilings], cwd / "results/small")
    return cwd / "results/small"


@pytest.fixture(scope="module")
def kept(swept: Path) -> Path:
    target = swept.parents[1] / "kept/small"
    done = loadgen("keep", swept, target, cwd=swept.parents[1])
    assert done.returncode == 0, done.stderr
    assert str(target) in done.stdout
    return target


def without_notes(analysis: Analysis) -> tuple[Any, ...]:
    drawn = [
        (chart.id, {name: figure.plain() for name, figure in chart.choices.items()})
        for chart in charts(analysis)
    ]
    return analysis.findings, analysis.excluded, analysis.proofs, analysis.noise, analysis.drift, drawn


def test_a_kept_sweep_says_what_it_said(swept: Path, kept: Path) -> None:
    before, after = analyse([swept]), analyse([kept])
    assert len(before.rows) == 6
    assert without_notes(after) == without_notes(before)
    for row, same in zip(before.rows, after.rows, strict=True):
        assert same.result.summary == row.result.summary
        assert same.result.caveats == row.result.caveats
    one, other = gather(swept), gather(kept)
    assert other.tables == one.tables
    assert after.notes == (other.left_out, *before.notes)


def test_a_kept_sweep_is_small_and_tells_nothing_of_the_machine(swept: Path, kept: Path) -> None:
    assert not (kept / "logs").exists()
    assert {path.suffix for path in kept.rglob("*") if path.is_file()} == {".json", ".jsonl", ".parquet"}
    assert all(path.stat().st_size < LARGEST_BYTES for path in kept.rglob("*"))
    words = (kept / "sweep.json").read_text() + (kept / "trials.jsonl").read_text()
    assert str(swept.parents[1]) not in words
    assert sys.executable not in words
    for environment in open_results(swept).environments().values():
        assert environment.host in (swept / "sweep.json").read_text()
    assert {each.host for each in open_results(kept).environments().values()} == {"<host>"}
    sweep_json = orjson.loads((kept / "sweep.json").read_bytes())
    assert sweep_json[KEPT]["rule"] in open_results(kept).left_out
    assert sweep_json["argv"][1:] == ["sweep", "small.toml", "--no-live"]


@functools.cache
def analysed(folder: Path) -> Analysis:
    """The analysis of a folder that no test changes."""
    return analyse([folder])


@pytest.mark.parametrize("name", ["kept here", *(str(path.relative_to(ROOT)) for path in STORED)])
def test_the_report_regenerates_in_one_command(
    name: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    folder = request.getfixturevalue("kept") if name == "kept here" else ROOT / name
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy, ignore=shutil.ignore_patterns("report.*"))
    if name == "kept here":
        done = loadgen("report", copy, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        words = done.stdout
    else:  # the same command without a new interpreter for each folder
        here = CliRunner().invoke(main, ["report", str(copy)], catch_exceptions=False)
        assert here.exit_code == 0
        words = here.output
    assert "Findings" in words
    said = analysed(folder)
    page, words = (copy / "report.html").read_text(), (copy / "report.md").read_text()
    trials, cells = len(said.rows), len(said.study.cells)
    counts = f"{trials} trials in {cells} cell{'s' * (cells > 1)}"
    assert (counts if trials > 1 else "oubt") in page
    assert all(row.id in page for row in said.rows)
    assert words.count("\n") > len(said.study.cells)


@pytest.mark.parametrize("name", ["kept here", *(str(path.relative_to(ROOT)) for path in STORED)])
def test_nothing_kept_is_above_a_ceiling_or_unmarked(name: str, request: pytest.FixtureRequest) -> None:
    folder = request.getfixturevalue("kept") if name == "kept here" else ROOT / name
    analysis = analysed(folder)
    assert analysis.rows or capacity_log.outcomes(folder)
    assert breaches(analysis) == []
    assert all(
        path.stat().st_size < LARGEST_BYTES
        for path in folder.rglob("*")
        if not path.name.startswith("report.")
    )


def rewritten(folder: Path, target: Path, number: int, **changes: Any) -> Analysis:
    """The results with one trial's summary changed, as a wrong measurement would have stored it."""
    shutil.copytree(folder, target)
    results = open_results(target).results()
    summary = results[number].summary
    assert summary is not None
    results[number] = dataclasses.replace(results[number], summary=dataclasses.replace(summary, **changes))
    (target / "trials.jsonl").write_bytes(b"".join(to_json(each) + b"\n" for each in results))
    return analyse([target])


def static(folder: Path) -> int:
    return next(
        at for at, each in enumerate(open_results(folder).results()) if each.trial.load.kind == "static"
    )


def test_a_figure_above_a_ceiling_is_told(kept: Path, tmp_path: Path) -> None:
    number = static(kept)
    result = open_results(kept).results()[number]
    assert result.summary is not None
    dist = result.summary.e2e_s
    assert dist is not None
    faster = {
        name: value / 1e6
        for name, value in dataclasses.asdict(dist).items()
        if name != "n" and isinstance(value, float)
    }
    changed = rewritten(kept, tmp_path / "fast", number, e2e_s=dataclasses.replace(dist, **faster))
    found = breaches(changed)
    assert found
    assert all(result.trial.id in line for line in found)
    assert any("below its floor" in line for line in found)


def test_keep_says_what_to_look_at_before_it_is_shown(tmp_path: Path) -> None:
    (slow,) = sweep([Point()], roofline_world(), repeats=1)
    assert slow.client is not None
    slow = dataclasses.replace(slow, client=dataclasses.replace(slow.client, cpu_share=0.98))
    folder = write(tmp_path / "world", [slow])
    done = CliRunner().invoke(main, ["keep", str(folder), str(tmp_path / "kept")])
    assert done.exit_code == 0
    assert "look at this before it is shown" in done.output
    assert "limited by the client and not marked" in done.output


def test_results_without_known_ceilings_are_told(kept: Path, tmp_path: Path) -> None:
    shutil.copytree(kept, tmp_path / "bare", ignore=shutil.ignore_patterns("ceilings.json"))
    assert len(breaches(analyse([tmp_path / "bare"]))) == 6


def test_a_client_that_was_the_limit_and_is_not_marked_is_told(tmp_path: Path) -> None:
    good, slow, unknown = sweep(grid(batch=(1, 2, 4)), roofline_world(), repeats=1)
    assert slow.client is not None
    slow = dataclasses.replace(slow, client=dataclasses.replace(slow.client, cpu_share=0.98))
    unknown = dataclasses.replace(unknown, client=None)
    found = breaches(analyse([write(tmp_path / "world", [good, slow, unknown])]))
    assert len(found) == 2
    assert slow.trial.id in found[0]
    assert "98.0 % of its core" in found[0]
    assert unknown.trial.id in found[1]
    marked = dataclasses.replace(slow, caveats=(limited(),))
    assert breaches(analyse([write(tmp_path / "marked", [good, marked])])) == []


def test_a_failed_trial_breaches_nothing(tmp_path: Path) -> None:
    from synthetic import failed

    folder = write(tmp_path / "world", [*sweep([Point()], roofline_world()), failed(Point(batch=4))])
    assert breaches(analyse([folder])) == []


def test_the_samples_of_a_kept_sweep_are_whole_where_they_fit(swept: Path, kept: Path) -> None:
    before, after = open_results(swept), open_results(kept)
    for result in before.results():
        ours = list(read_samples(after.samples(result.trial.id)))
        assert ours == list(read_samples(before.samples(result.trial.id)))


def test_keeping_again_replaces_and_leaves_the_rest(kept: Path, swept: Path) -> None:
    note = kept / "notes.md"
    note.write_text("mine")
    stale = kept / "samples/old.parquet"  # as copies of before had them
    stale.parent.mkdir()
    stale.write_bytes(b"")
    assert keep([swept], kept) == [kept]
    assert note.read_text() == "mine"
    assert not stale.exists()
    assert isinstance(open_results(kept), Results)
    note.unlink()
