"""Searches for capacity through a sweep: real servers; the trials real, or simulated where a search is whole."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from simulated_server import Engine, result_of

from loadgen.analysis.winners import Prices
from loadgen.api.sweeps import SweepOptions
from loadgen.commands import sweep as command
from loadgen.commands.report import end
from loadgen.errors import BadInput
from loadgen.metrics.summary import summarise
from loadgen.plan.capacity_outcome import words
from loadgen.plan.plan import Plan, make_plan
from loadgen.profile.read import build_profile
from loadgen.records import Trial, TrialResult
from loadgen.report.archive import keep
from loadgen.report.capacity_found import found_in
from loadgen.report.capacity_table import capacity_tables
from loadgen.report.document import write_document
from loadgen.report.export import write
from loadgen.results import capacity_log
from loadgen.results.store import Store
from loadgen.search_records import Capacity
from loadgen.sweeping.sweep import Sweep
from loadgen.text_table import Table

PROFILE: dict[str, Any] = {
    "name": "cap",
    "server": {"framework": "null", "model": "tiny", "gpus": [], "options": {"slots": 4, "step_ms": 20.0}},
    "load": {"mode": "poisson", "input_tokens": 32, "output_tokens": 12},
    "slo": {"tpot": "60ms", "share": "90%"},
    "capacity": {"window": "60s", "lead_in": "15s", "within": 0.9},
    "telemetry": {"enabled": False},
}
SLOW = Engine(slots=64, step_ns=40_000_000, sequence_ns=1_000_000, prompt_ns=200_000, spread=0.3)


@pytest.fixture
def simulated(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Trials of sweeps are simulated, without their servers; their ids, in order."""
    ran: list[str] = []

    def attempt(
        sweep: Sweep, _running: object, trial: Trial, _watcher: object, *, may_end: bool
    ) -> TrialResult:
        ran.append(trial.id)
        result = result_of(trial, SLOW, stop_growing=may_end)
        return replace(result, environment=sweep.environment.id, started=f"as number {len(ran)}")

    monkeypatch.setattr(Sweep, "_attempt", attempt)
    return ran


def search(out: Path, *, resume: bool = False, **tables: Any) -> tuple[int, Capacity]:
    profile = build_profile({**PROFILE, **tables})
    options = SweepOptions(out=out, resume=resume)
    code = command.run(profile, make_plan(profile), options, live=False, report_after=False)
    (found,) = capacity_log.outcomes(out)
    return code, found


def tables_of(*folders: Path, prices: Prices | None = None) -> list[Table]:
    return capacity_tables(found_in(folders), folders, prices)


def test_a_sweep_finds_and_stores_a_capacity(
    simulated: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    code, found = search(tmp_path / "r")
    assert (code, found.ended) == (0, "found")
    assert [name for _, name in found.trials] == simulated
    assert [each.trial.id for each in capacity_log.trials(tmp_path / "r")] == simulated
    assert words(found) in capsys.readouterr().err

    outcome, trials = tables_of(tmp_path / "r", prices={"": 2.0})
    assert len(outcome.rows) == 1
    assert outcome.rows[0][0] == "null tiny tp1, slots=4, step_ms=20.0"
    assert "req/s" in outcome.rows[0][4]
    assert [row[0] for row in trials.rows] == [role for role, _ in found.trials]
    reads: list[Path] = []
    read = capacity_log.outcomes
    monkeypatch.setattr(capacity_log, "outcomes", lambda folder: reads.append(folder) or read(folder))
    (page,) = write([tmp_path / "r"], "html")
    assert reads == [tmp_path / "r"]  # once, for tables, chart and first screen
    assert "Attainment of objectives against load" in page.read_text()
    for path in [page, *write([tmp_path / "r"], "md")]:
        assert "Capacity within objectives" in path.read_text()
    keep([tmp_path / "r"], tmp_path / "kept")
    assert tables_of(tmp_path / "kept")[0].rows == tables_of(tmp_path / "r")[0].rows
    with pytest.raises(BadInput, match="kept hold the same searches"):
        write_document([tmp_path / "r", tmp_path / "kept"], tmp_path / "both.md")


def test_a_search_that_was_interrupted_goes_on(simulated: list[str], tmp_path: Path) -> None:
    _, found = search(tmp_path / "r")
    whole = (tmp_path / "r" / capacity_log.TRIALS).read_bytes().splitlines(keepends=True)
    (tmp_path / "r" / capacity_log.OUTCOMES).unlink()
    (tmp_path / "r" / capacity_log.TRIALS).write_bytes(
        b"".join(whole[:4]) + whole[4][:80]
    )  # a crash while it wrote
    first = list(simulated)
    del simulated[:]
    assert search(tmp_path / "r", resume=True)[1] == found
    assert simulated == first[4:]
    del simulated[:]
    assert search(tmp_path / "r", resume=True)[1] == found
    assert simulated == []
    older = replace(found, trials=found.trials[:-1])  # by rules that had enough of fewer
    (tmp_path / "r" / capacity_log.OUTCOMES).unlink()
    capacity_log.add_outcome(tmp_path / "r", older)
    assert search(tmp_path / "r", resume=True)[1] == older
    assert simulated == []
    elsewhere = {**PROFILE["capacity"], "near": 12.0}
    assert search(tmp_path / "r", resume=True, capacity=elsewhere)[1].search.near == 12.0
    assert simulated


def test_two_servers_are_compared_by_capacity(simulated: list[str], tmp_path: Path) -> None:
    sweep = [{"options": {"itl_ms": [1.0, 2.0]}}]
    server = {**PROFILE["server"], "options": {}}
    profile = build_profile({**PROFILE, "server": server, "sweep": sweep})
    options = SweepOptions(out=tmp_path / "r")
    assert command.run(profile, make_plan(profile), options, live=False, report_after=False) == 0
    tables = {table.title: table for table in tables_of(tmp_path / "r")}
    assert [row[-1] for row in tables["Servers by capacity"].rows] == ["×1, one start each: not told"]


def test_servers_are_told_apart_by_their_starts(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A second start looks where the first one found, and its server is a little slower there."""

    def attempt(
        sweep: Sweep, _running: object, trial: Trial, _watcher: object, *, may_end: bool
    ) -> TrialResult:
        assert trial.server is not None
        slower = 1.6 if trial.server.options["itl_ms"] == 2.0 else 1.0
        step_ns = int(SLOW.step_ns * slower * (1 + 0.02 * trial.start))
        result = result_of(trial, replace(SLOW, step_ns=step_ns), stop_growing=may_end)
        start = f"{trial.server.options['itl_ms']} {trial.start}"
        engine = {"code": f"code {trial.start}" if slower > 1 else "code"}
        return replace(result, environment=sweep.environment.id, start=start, engine=engine)

    monkeypatch.setattr(Sweep, "_attempt", attempt)
    server = {**PROFILE["server"], "options": {}}
    capacity = {**PROFILE["capacity"], "within": 0.2}
    sweep = [{"options": {"itl_ms": [1.0, 2.0]}}]
    slo = {"tpot": "90ms", "share": "90%"}
    tables = {**PROFILE, "server": server, "sweep": sweep, "capacity": capacity, "slo": slo, "starts": 2}
    profile = build_profile(tables)
    plan = make_plan(profile)
    points = [each.point for each in plan.capacities]
    order = [(point.server.options["itl_ms"], point.start) for point in points if point.server]
    assert order == [(1.0, 0), (2.0, 0), (2.0, 1), (1.0, 1)]
    options = SweepOptions(out=tmp_path / "r")
    assert command.run(profile, plan, options, live=False, report_after=False) == 0
    first, second, again, back = capacity_log.outcomes(tmp_path / "r")
    assert (again.search.near, back.search.near) == (second.capacity, first.capacity)
    assert first.search.near is None
    assert [role for role, _ in first.trials][:3] == ["alone", "saturated", "bracket"]
    assert {role for role, _ in back.trials[1:]} == {"window"}
    assert ", start 2: " in capsys.readouterr().err
    found = {table.title: table for table in tables_of(tmp_path / "r")}
    ((fast, slow, _, its, others, _, ratio),) = found["Servers by capacity"].rows
    assert (fast, slow) == ("null tiny tp1, itl_ms=1.0", "null tiny tp1, itl_ms=2.0")
    assert "over 2 starts" in its
    assert "over 2 starts" in others
    assert ratio.startswith("×")
    assert "not told" not in ratio
    (mixed,) = found["One server, several versions: capacities"].rows
    assert mixed == (slow, "code", "code 0 (1 start), code 1 (1 start)")
    command.run(profile, plan, replace(options, resume=True), live=False, report_after=False)
    assert capacity_log.outcomes(tmp_path / "r") == [first, second, again, back]
    capsys.readouterr()
    end(tmp_path / "r")
    screen = " ".join(capsys.readouterr().out.split())
    count = sum(len(each.trials) for each in (first, second, again, back))
    assert f"{count} trials in" in screen
    assert f"{fast} {its}, tpot binds" in screen
    assert ratio in screen
    page = (tmp_path / "r" / "report.html").read_text()
    assert f"{count} trials of 4 searches." in page
    assert "No trial may speak" not in page
    for name in ("md", "html"):
        assert "start 2" in write([tmp_path / "r"], name)[0].read_text()


def test_a_start_that_has_its_outcome_is_not_searched_anew_once_an_earlier_one_has(
    simulated: list[str], tmp_path: Path
) -> None:
    profile = build_profile({**PROFILE, "starts": 2})
    plan, options = make_plan(profile), SweepOptions(out=tmp_path / "r")
    second = replace(plan, capacities=plan.capacities[1:])
    command.run(profile, second, options, live=False, report_after=False)
    count = len(simulated)
    command.run(profile, plan, replace(options, resume=True), live=False, report_after=False)
    later, first = capacity_log.outcomes(tmp_path / "r")
    assert (later.search.point.start, later.search.near) == (1, None)
    assert simulated[count:] == [name for _, name in first.trials]


def test_two_searches_of_one_endpoint_are_no_two_starts(
    simulated: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("loadgen.api.sweeps.unreachable", lambda _: None)
    folders = [tmp_path / name for name in "abcd"]
    for folder, port in zip(folders, (1, 1, 2, 2), strict=True):
        target = {"url": f"http://127.0.0.1:{port}"}
        profile = build_profile({**{k: v for k, v in PROFILE.items() if k != "server"}, "target": target})
        options = SweepOptions(out=folder)
        command.run(profile, make_plan(profile), options, live=False, report_after=False)
    found = {table.title: table for table in tables_of(*folders)}
    assert [row[-1] for row in found["Servers by capacity"].rows] == ["×1, one start each: not told"]


def test_static_batches_stand_beside_a_capacity(simulated: list[str], tmp_path: Path) -> None:
    from loadgen.commands import report

    load = {"input_tokens": 32, "output_tokens": 12}
    alone = {"mode": "static", "requests": 1, "warmup": 0, "batch_size": [1, 4]}
    search(tmp_path / "r", load={**load, "mode": "poisson"})
    static = build_profile({"name": "cap", "server": PROFILE["server"], "load": load, "sweep": [alone]})
    with Store.create(tmp_path / "r", {"plan": []}) as store:
        for trial, rate in zip(make_plan(static).trials, (50.0, 180.0), strict=True):
            summary = replace(summarise(()), output_tokens_per_s=rate)
            store.append(
                TrialResult(
                    trial=trial, environment="e", engine={}, started="2026-01-01", wall_s=1.0, summary=summary
                )
            )
    tables = {table.title: table for table in tables_of(tmp_path / "r")}
    (row,) = tables["Capacity beside static batches"].rows
    assert row[1:3] == ("32 → 12", "180 at batch 4")
    assert report.run([tmp_path / "r"], (), None, prices=("2",)) == 0  # a price of a folder of searches alone
    for word in ("Capacity beside static batches", "requests per price"):
        for name in ("report.md", "report.html"):
            assert word in (tmp_path / "r" / name).read_text()


def test_one_request_alone_that_misses_is_no_capacity(tmp_path: Path) -> None:
    """A real search, of one real trial."""
    code, found = search(tmp_path / "r", slo={"ttft": "2ms"}, capacity={"window": "0.6s"})
    assert (code, found.ended, found.why) == (1, "none", "one request alone misses ttft")
    (tried,) = capacity_log.trials(tmp_path / "r")
    assert tried.attained is not None
    assert (tried.attained.good, tried.failure) == (0, None)
    assert tried.attained.due >= 1
    assert tried.summary is not None
    assert tried.attained.due == tried.summary.requests_ok


def test_objectives_of_a_sweeps_trials_are_in_tables_and_exports(tmp_path: Path) -> None:
    load = {"mode": "closed", "input_tokens": 4, "output_tokens": 3, "requests": 4, "warmup": 0}
    slo = {"e2e": "60s", "ttft": "1ms@50%"}  # no step is so short
    profile = build_profile({**PROFILE, "load": load, "slo": slo, "capacity": None})
    options = SweepOptions(out=tmp_path / "r")
    assert command.run(profile, make_plan(profile), options, live=False, report_after=False) == 0
    text = write([tmp_path / "r"], "md")[0].read_text()
    assert "ttft (0.0 %)" in text
    assert "e2e ≤ 60.00 s (95 %), ttft ≤ 1.00 ms (50 %)" in text
    with next(path for path in write([tmp_path / "r"], "csv") if "requests" not in path.name).open() as file:
        (row,) = csv.DictReader(file)
    assert (float(row["attainment"]), float(row["goodput_per_s"]), row["binding"]) == (0.0, 0.0, "ttft")
    line = json.loads((tmp_path / "r" / "trials.jsonl").read_bytes())
    assert line["attained"]["kept"] == {"ttft": 0, "e2e": 4}


def test_a_plan_of_nothing_but_searches_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    from loadgen.commands import plan_tables

    plan: Plan = make_plan(build_profile(PROFILE))
    plan_tables.print_plan(plan)
    assert "Capacity" in capsys.readouterr().out


def test_the_command_asks_for_objectives(tmp_path: Path) -> None:
    from loadgen.commands import capacity

    asked: Callable[..., int] = capacity.run
    with pytest.raises(BadInput, match="--slo is missing"):
        asked(argv=(), slo=(), out=tmp_path / "r", resume=False)
