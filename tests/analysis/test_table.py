"""Rows: which may speak, and why another may not; what older ones hold that is no figure."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import pytest
from click.testing import CliRunner
from synthetic import Point, failed, grid, limited, result, roofline_world, sweep, write

from loadgen.analysis.analyse import analyse
from loadgen.analysis.compare import compare
from loadgen.analysis.finding import Rules
from loadgen.analysis.table import rows_of
from loadgen.cli import main
from loadgen.records import TrialResult
from loadgen.report.html import charts

WORLD = roofline_world(plateau_s=30e-3)
GRID = grid(batch=(1, 4, 16, 64), input_tokens=(20, 512))


def lossy(found: TrialResult) -> TrialResult:
    """The trial with 2 of its 11 requests timed out."""
    assert found.summary is not None
    summary = replace(found.summary, requests_ok=9, requests_failed=2, errors={"TimedOut": 2}, definitions=2)
    return replace(found, summary=summary)


def test_why_a_row_may_not_speak() -> None:
    good, point = result(Point(), WORLD), Point(batch=2)
    (row,) = rows_of([good], {})
    assert (row.usable, row.unusable, row.failed_share) == (True, "", 0.0)
    (lost,) = rows_of([lossy(good)], {})
    assert lost.unusable == "requests failed (--with-failures lets it speak): 18.2 % (2 of 11), TimedOut × 2"
    assert lost.failed_share == pytest.approx(2 / 11)
    assert replace(lost, with_failures=True).usable
    assert replace(row, cold=True).unusable.startswith("its warm-up")
    assert replace(row, flags=("too fast",)).unusable == "impossible: too fast"
    client = replace(good, caveats=(limited(),))
    assert [each.unusable for each in rows_of([client, failed(point)], {})] == [
        "the load generator was the limit",
        "failed in measured: ServerOutOfMemory",
    ]
    # What makes a figure wrong for another reason stays out, whatever is asked.
    assert not replace(rows_of([lossy(client)], {})[0], with_failures=True).usable


@pytest.mark.parametrize(
    ("more", "text"),
    [
        ({"batch": 8}, "static batch 8"),
        ({"kind": "closed, in uniform 16–64", "batch": 4}, "closed 4 in flight, in uniform 16–64"),
        (
            {"kind": "poisson, out gamma 40, cv 0.5, 1–64", "rate": 0.5},
            "poisson 0.5/s, out gamma 40, cv 0.5, 1–64",
        ),
        ({"kind": "constant", "rate": 2.0, "batch": 4}, "constant 2/s × 4"),
        ({"kind": "trace, × 2"}, "trace, × 2"),
        ({"kind": "trace", "rate": 8.0}, "trace 8/s"),
        ({"kind": "sessions, 3 turns", "batch": 4}, "sessions of 4 users, 3 turns"),
    ],
)
def test_a_cells_words_tell_its_load_apart(more: dict[str, Any], text: str) -> None:
    (row,) = rows_of([result(Point(), WORLD)], {})
    assert replace(row.key, **more).load == text


def test_trials_that_lost_requests_are_kept_out_unless_asked(tmp_path: Path) -> None:
    results = sweep(GRID, WORLD, repeats=2)
    results = [lossy(each) if each.trial.load.batch_size == 64 else each for each in results]
    folder = write(tmp_path / "x", results, samples=False)
    found = analyse([folder])
    assert {key.batch for key in found.study.cells} == {1, 4, 16}
    assert len(found.excluded) == 4
    assert all("18.2 % (2 of 11)" in why for why in found.excluded.values())
    assert not any("served ones" in finding.sentence for finding in found.findings)
    asked = analyse([folder], Rules(with_failures=True))
    assert {key.batch for key in asked.study.cells} == {1, 4, 16, 64}
    assert asked.excluded == {}
    assert all("served requests" in chart.note for chart in charts(asked) if chart.id != "timeline")
    assert not any("served requests" in chart.note for chart in charts(found))
    assert "4 trials that lost up to 18.2 % of their requests speak, as asked" in " ".join(asked.notes)
    told = [finding for finding in asked.findings if any(key.batch == 64 for key in finding.cells)]
    assert told
    assert all("Of the served ones: " in finding.sentence for finding in told)
    assert not any("served ones" in finding.sentence for finding in asked.findings if finding not in told)


def test_the_commands_take_the_option(tmp_path: Path) -> None:
    folder = write(tmp_path / "x", [lossy(each) for each in sweep(GRID, WORLD, repeats=1)], samples=False)
    out = tmp_path / "out.json"
    for option, speaks in (([], False), (["--with-failures"], True)):
        done = CliRunner().invoke(
            main, ["report", str(folder), "--format", "json", "--out", str(out), *option]
        )
        assert done.exit_code == 0, done.output
        found = orjson.loads(out.read_bytes())
        assert [trial["excluded"] is None for trial in found["trials"]] == [speaks] * len(GRID)
        assert {trial["failed_share"] for trial in found["trials"]} == {2 / 11}
        assert any("as asked" in note for note in found["notes"]) is speaks
    other = write(
        tmp_path / "y", [lossy(each) for each in sweep(GRID, WORLD, repeats=1, seed=2)], samples=False
    )
    done = CliRunner().invoke(main, ["compare", str(folder), str(other), "--with-failures"])
    assert done.exit_code == 0, done.output
    assert f"{len(GRID)} cells compared" in done.output


def test_a_comparison_leaves_them_out_unless_asked(tmp_path: Path) -> None:
    results = sweep(GRID, WORLD, repeats=2)
    a = write(tmp_path / "a", results, samples=False)
    others = sweep(GRID, WORLD, repeats=2, seed=2)
    b = write(
        tmp_path / "b", [lossy(each) if each.trial.load.batch_size == 64 else each for each in others],
        samples=False,
    )  # fmt: skip
    found = compare(a, b)
    assert {pair.a.key.batch for pair in found.pairs} == {1, 4, 16}
    assert any("batch 64" in line for line in found.unpaired)
    assert any("18.2 % (2 of 11)" in line for line in found.excluded)
    asked = compare(a, b, with_failures=True)
    assert {pair.a.key.batch for pair in asked.pairs} == {1, 4, 16, 64}
    assert {pair.a.key.batch for pair in asked.pairs if "of the served ones" in pair.text} == {64}


def test_a_row_has_no_tail_that_an_older_version_interpolated() -> None:
    (row,) = rows_of([result(Point(), WORLD)], {})
    stored, shown = row.summary and row.summary.e2e_s, row.dist("e2e_s")
    assert stored is not None
    assert shown is not None
    assert stored.p99 is not None
    assert (shown.p50, shown.p90, shown.p99, shown.max) == (stored.p50, None, None, stored.max)
    assert row.dist("power_w") is None


def test_trials_of_two_ways_of_taking_percentiles_are_told(tmp_path: Path) -> None:
    results = sweep(GRID, WORLD, repeats=1)
    now = [replace(each, summary=each.summary and replace(each.summary, definitions=2)) for each in results]
    mixed = write(tmp_path / "mixed", [*results[:3], *now[3:]], samples=False)
    assert any("Percentiles of 3 of 8 trials are interpolated" in note for note in analyse([mixed]).notes)
    older = write(tmp_path / "older", results, samples=False)
    assert not any("interpolated" in note for note in analyse([older]).notes)
    others = [replace(each, start="another") for each in now]
    found = compare(older, write(tmp_path / "now", others, samples=False))
    assert found.changed["percentiles"] == ("interpolated", "nearest ranks")
