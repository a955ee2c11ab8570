"""Rows: which may speak, and why another may not; older telemetry read by the rules of now."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from synthetic import Point, failed, grid, limited, result, roofline_world, sweep, write

from loadgen.analysis.analyse import analyse
from loadgen.analysis.compare import compare
from loadgen.analysis.finding import Rules
from loadgen.analysis.table import rows_of, telemetry_of
from loadgen.records import Summary, TrialResult
from loadgen.telemetry_records import PhaseFigures, TelemetrySummary

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
    assert "4 trials that lost up to 18.2 % of their requests speak, as asked" in " ".join(asked.notes)
    told = [finding for finding in asked.findings if any(key.batch == 64 for key in finding.cells)]
    assert told
    assert all("Of the served ones: " in finding.sentence for finding in told)
    assert not any("served ones" in finding.sentence for finding in asked.findings if finding not in told)


def test_a_comparison_leaves_them_out_unless_asked(tmp_path: Path) -> None:
    results = sweep(GRID, WORLD, repeats=2)
    a = write(tmp_path / "a", results, samples=False)
    b = write(
        tmp_path / "b", [lossy(each) if each.trial.load.batch_size == 64 else each for each in results],
        samples=False,
    )  # fmt: skip
    found = compare(a, b)
    assert {pair.a.key.batch for pair in found.pairs} == {1, 4, 16}
    assert any("batch 64" in line for line in found.unpaired)
    assert any("18.2 % (2 of 11)" in line for line in found.excluded)
    asked = compare(a, b, with_failures=True)
    assert {pair.a.key.batch for pair in asked.pairs} == {1, 4, 16, 64}
    assert {pair.a.key.batch for pair in asked.pairs if "of the served ones" in pair.text} == {64}


def with_telemetry(
    found: TrialResult, seconds: float, energy_from: str | None, **summary: object
) -> TrialResult:
    assert found.summary is not None
    load = PhaseFigures(seconds=seconds, readings=9, power_mean_w=630.0, energy_j=700.0 * seconds)
    telemetry = TelemetrySummary(
        power_w=630.0, joules_per_output_token=0.5, energy_from=energy_from, period_s=0.2, phases={"load": load},  # type: ignore[arg-type]
    )  # fmt: skip
    changed: Summary = replace(found.summary, **summary)  # type: ignore[arg-type]
    return replace(found, telemetry=telemetry, summary=changed)


def test_older_power_and_energy_of_short_and_uncounted_loads() -> None:
    good = result(Point(), WORLD)
    assert telemetry_of(with_telemetry(good, 1.0, "counter")) == {
        "power_w": pytest.approx(700.0),  # not 630: the counter's
        "joules_per_output_token": 0.5,
    }
    assert telemetry_of(with_telemetry(good, 1.0, "power")) == {}
    assert telemetry_of(with_telemetry(good, 3.0, "power")) == {
        "power_w": 630.0,
        "joules_per_output_token": 0.5,
    }
    assert "joules_per_output_token" not in telemetry_of(
        with_telemetry(good, 3.0, "counter", output_tokens=None)
    )
