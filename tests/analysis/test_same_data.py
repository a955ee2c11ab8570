"""Data that decide the clock: cells at the power cap on weights of different makers have no winner."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from synthetic import Point, grid, result, roofline_world, sweep, write

from loadgen.analysis.analyse import Analysis, analyse
from loadgen.analysis.compare import compare
from loadgen.analysis.same_data import AT_CAP, other_data, power_cap_share
from loadgen.analysis.table import Row, rows_of
from loadgen.analysis.winners import jobs
from loadgen.engine_facts import ITS_OWN, Weights
from loadgen.records import Caveat, TrialResult
from loadgen.report.comparison import headline, tables_of
from loadgen.report.server_tables import server_tables
from loadgen.telemetry_records import PhaseFigures, TelemetrySummary

WORLD = roofline_world(plateau_s=30e-3)
BACKENDS = "random (made by the backend itself: its warnings of missing files are meant)"


def capped(
    found: TrialResult, share: float = 100.0, ghz: float = 1.6, weights: object = "random"
) -> TrialResult:
    """As telemetry tells of it: what held the GPU down, and at which clock it ran."""
    message = (
        f"GPU-1 was held down during the load: power cap in {share:.1f} % of the readings, thermal in 1.0 %"
    )
    load = PhaseFigures(seconds=5.0, readings=25, sm_clock_mean_hz=ghz * 1e9)
    return replace(
        found,
        engine={**found.engine, "weights": weights},
        caveats=(Caveat(kind="throttled", message=message, remedy="-"),),
        telemetry=TelemetrySummary(phases={"load": load}),
    )


def row(
    share: float = 100.0, ghz: float = 1.6, weights: object = "random", framework: str = "hf"
) -> list[Row]:
    return rows_of([capped(result(Point(framework=framework), WORLD), share, ghz, weights)], {})


def test_at_the_cap_other_weights_are_other_data() -> None:
    theirs = Weights(maker="FasterTransformer", distribution=ITS_OWN)
    assert other_data(row(), row(ghz=1.81, weights=BACKENDS, framework="ft")) == (
        "both ran at the power cap, where the data decide the clock, on other weights: loadgen's (normal, std 0.02) at "
        f"1.60 GHz, against {theirs.text} at 1.81 GHz"
    )
    unknown = other_data(row(), row(weights={"maker": 3}, framework="new"))
    assert "against weights not told" in unknown


def test_one_distribution_or_no_cap_is_no_obstacle() -> None:
    own = {"maker": "loadgen", "distribution": "normal, std 0.02", "seed": 7}
    assert other_data(row(), row(weights=own, framework="new")) == ""
    backends = row(weights=BACKENDS, framework="ft")
    assert other_data(row(share=100 * AT_CAP - 1), backends) == ""
    assert other_data(rows_of([result(Point(), WORLD)], {}), backends) == ""
    assert power_cap_share(backends[0]) == 1.0


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """One engine twice, the second 10 % faster, at the cap from batch 64 on with weights of its own."""
    points = grid(batch=(1, 4, 64, 256), engine=("compiled",))
    faster = roofline_world(plateau_s=27e-3)

    def at(found: TrialResult, weights: object) -> TrialResult:
        return capped(found, 100.0 if found.trial.load.batch_size >= 64 else 0.0, weights=weights)

    return tuple(  # type: ignore[return-value]
        write(
            tmp_path / name,
            [at(each, weights) for each in sweep(points, world, repeats=2, seed=seed)],
            samples=False,
        )
        for seed, name, world, weights in (
            (1, "a", WORLD, "random"),
            (2, "b", faster, {"maker": "other", "distribution": "x"}),
        )
    )


def test_a_comparison_says_so_in_place_of_a_winner(folders: tuple[Path, Path]) -> None:
    found = compare(*folders)
    told = {pair.a.key.batch: pair.work.verdict for pair in found.pairs}
    assert told == {1: "not proven", 4: "not proven", 64: "not the same data", 256: "not the same data"}
    assert not any(pair.ratios["e2e_s"].differs for pair in found.pairs if not pair.work.comparable)
    (gated,) = compare(*folders, gates=["e2e <= +3%"]).gates
    assert gated.judged.verdict == "passes"
    assert gated.verdict == "not shown"
    assert [reason.endswith(": not the same data") for reason in gated.reasons] == [True, True]
    rows = {row[0]: row[1] for table in tables_of(found) if "/" in table.title for row in table.rows}
    assert [name for name, text in rows.items() if "not the same data" in text] == [
        pair.text for pair in found.pairs if pair.a.key.batch >= 64
    ]
    assert "not the same data in 2, which have no part in the mean" in headline(found)


def test_findings_and_the_map_of_winners_say_so(tmp_path: Path) -> None:
    """hf against ds at the cap, on weights of other makers: no verdict, and no winner at any batch."""
    points = grid(framework=("hf", "ds"), batch=(64, 256), engine=("compiled",))
    slower = roofline_world(plateau_s=40e-3)

    def study(*, alike: bool) -> Analysis:
        results = [
            capped(
                each,
                weights="random"
                if alike or point.framework == "hf"
                else {"maker": "other", "distribution": "x"},
            )
            for point in points
            for each in sweep([point], slower if point.framework == "ds" else WORLD, repeats=3)
        ]
        return analyse([write(tmp_path / f"alike-{alike}", results, samples=False)])

    other = study(alike=False)
    assert any("Not the same data" in finding.sentence for finding in other.findings)
    assert not any("takes" in finding.sentence for finding in other.findings if finding.id.startswith("F10"))
    assert {text.partition(":")[0] for text in fields(other)} == {"not the same data"}
    alike = study(alike=True)
    assert not any("Not the same data" in finding.sentence for finding in alike.findings)
    assert not any("data" in text for text in fields(alike))


def fields(analysis: Analysis) -> list[str]:
    """The words of every field in the map of winners."""
    maps = [server_tables(analysis.study, cells)[-1] for cells in jobs(analysis.study).values()]
    assert {table.title for table in maps} == {"Lowest latency by load and number of GPUs"}
    return [text for table in maps for row in table.rows for text in row[1:]]
