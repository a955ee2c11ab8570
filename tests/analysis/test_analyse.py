"""From folders to findings: ceilings, impossible and falling cells, drift, declared findings, notes."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import orjson
import pytest
from synthetic import (
    A100,
    BATCHES,
    H200,
    Point,
    World,
    dist,
    environment,
    failed,
    grid,
    limited,
    result,
    roofline_world,
    sweep,
    write,
)

from loadgen.analysis.analyse import Analysis, analyse
from loadgen.analysis.finding import CLAIMS
from loadgen.analysis.findings.declared import parse
from loadgen.analysis.roofline import examine
from loadgen.errors import ProfileError, StoreError
from loadgen.records import TrialResult
from loadgen.report.analysis_tables import tables_of
from loadgen.theory.ceilings import CEILINGS_FILE, Ceilings, to_dict

GRID = grid(batch=BATCHES, input_tokens=(20, 512))


def slow_world(noise: float = 0.01) -> World:
    """Slow enough for the ceilings of an H200 and an A100."""
    return roofline_world(plateau_s=30e-3, noise=noise)


def control(model: str, e2e_s: float) -> TrialResult:
    """The published row: one A100-80G, batch 1, 128 in, 20 out, no streaming."""
    point = Point(
        machine=A100,
        model=model,
        input_tokens=128,
        output_tokens=20,
        stream=False,
        framework="ft",
        engine="ft",
    )
    found = result(point, World(prefill=lambda _p: e2e_s / 20, step=lambda _p: e2e_s / 20))
    assert found.summary is not None
    summary = dataclasses.replace(found.summary, e2e_s=dist(e2e_s, 0.0))
    server = found.trial.server
    assert server is not None
    trial = dataclasses.replace(found.trial, server=dataclasses.replace(server, dtype="float16"), id=model)
    return dataclasses.replace(found, summary=summary, trial=trial)


def test_negative_control_is_rejected_and_its_neighbour_passes(tmp_path: Path) -> None:
    folder = write(tmp_path / "published", [control("llama-13b", 0.1425), control("llama-7b", 0.234)])
    found = analyse([folder])
    assert "impossible" in found.excluded["published: llama-13b"]
    assert "below its floor" in found.excluded["published: llama-13b"]
    assert "published: llama-7b" not in found.excluded
    assert [key.model for key in found.study.cells] == ["llama-7b"]
    assert found.physics["published: llama-13b"].impossible
    assert found.physics["published: llama-7b"].floor_share == pytest.approx(129.6 / 234, abs=0.02)


def test_a_pace_of_no_time_at_all_is_rejected(tmp_path: Path) -> None:
    """All tokens of every reply in one piece: a TPOT of 0."""
    found = result(
        Point(model="llama-13b", output_tokens=20), World(prefill=lambda _p: 1.0, step=lambda _p: 0.1)
    )
    assert found.summary is not None
    none = dataclasses.replace(
        dist(1.0, 0.0), **dict.fromkeys(("mean", "min", "p50", "p90", "p95", "p99", "max"), 0.0)
    )
    at_once = dataclasses.replace(found, summary=dataclasses.replace(found.summary, tpot_s=none))
    (why,) = analyse([write(tmp_path / "at once", [at_once])]).excluded.values()
    assert "the median TPOT 0.0 µs is below its floor" in why
    assert "beyond any share of the datasheet" in why


def test_the_same_trial_on_two_machines_is_judged_by_each_ones_own_ceilings(tmp_path: Path) -> None:
    """Equal ids: what is impossible on one machine says nothing of the other, whose bandwidth is another, too."""
    world = World(prefill=lambda _p: 9e-3, step=lambda _p: 8e-3, noise=0.0)
    trials = [result(Point(machine=machine), world) for machine in (H200, A100)]
    trials = [dataclasses.replace(each, trial=dataclasses.replace(each.trial, id="same")) for each in trials]
    folders = [
        write(tmp_path / name, [each], samples=False)
        for name, each in zip(("h200", "a100"), trials, strict=True)
    ]
    found = analyse(folders)
    alone = [analyse([folder]) for folder in folders]
    assert {**alone[0].physics, **alone[1].physics} == found.physics
    assert found.physics.keys() == {"h200: same", "a100: same"}
    assert found.excluded.keys() == {"a100: same"}
    assert [key.machine for key in found.study.cells] == [H200]


def test_a_falling_latency_is_flagged_and_its_honest_neighbours_are_not(tmp_path: Path) -> None:
    world = slow_world()
    wrong = Point(batch=32, input_tokens=512)
    results = []
    for each in sweep(GRID, world):
        load = each.trial.load
        if (load.batch_size, load.input_tokens) == (wrong.batch, wrong.input_tokens):
            assert each.summary is not None
            low = dataclasses.replace(each.summary, e2e_s=dist(0.95 + each.trial.repeat * 1e-3))
            each = dataclasses.replace(each, summary=low)
        results.append(each)
    found = analyse([write(tmp_path / "falls", results, samples=False)])
    flagged = {(row.key.batch, row.key.input_tokens) for row in found.rows if row.run in found.excluded}
    assert flagged == {(32, 512)}
    assert all("latency falls" in why for why in found.excluded.values())


def test_honest_sweeps_are_not_flagged(tmp_path: Path) -> None:
    for seed in range(3):
        world = slow_world(0.05)
        found = analyse([write(tmp_path / f"s{seed}", sweep(GRID, world, seed=seed), samples=False)])
        assert not found.excluded


def test_regimes_and_their_evidence(tmp_path: Path) -> None:
    def trial(step_s: float, prefill_s: float, **fields: object) -> TrialResult:
        world = World(prefill=lambda _p: prefill_s, step=lambda _p: step_s, noise=0.0)
        return result(Point(**fields), world)  # type: ignore[arg-type]

    host = trial(60e-3, 60e-3, batch=1)
    bandwidth = trial(8e-3, 9e-3, batch=2)
    compute = trial(9e-3, 1.2, batch=32, input_tokens=1000, output_tokens=2)
    found = analyse([write(tmp_path / "regimes", [host, bandwidth, compute], samples=False)])
    regimes = {row.key.batch: found.physics[row.run] for row in found.rows}
    assert regimes[1].regime == "host"
    assert "not explained" in regimes[1].evidence
    assert regimes[2].regime == "bandwidth"
    assert regimes[32].regime == "compute"
    assert regimes[32].prefill_mfu == pytest.approx(0.7, abs=0.1)
    assert regimes[2].decode_mbu == pytest.approx(5.4 / 8, abs=0.05)
    assert regimes[1].communication_share == 0
    assert regimes[1].ridge_tokens == pytest.approx(206, abs=1)


def test_a_regime_is_the_hosts_only_where_all_floors_together_explain_little(tmp_path: Path) -> None:
    """Half prefill at the compute floor, half decode at the bandwidth floor: neither alone explains most of it."""
    world = World(prefill=lambda _p: 0.2, step=lambda _p: 11e-3, noise=0.0)
    mixed = result(Point(batch=8, input_tokens=512), world)
    partly = result(Point(batch=1), World(prefill=lambda _p: 12e-3, step=lambda _p: 11e-3, noise=0.0))
    found = analyse([write(tmp_path / "mixed", [mixed, partly], samples=False)])
    ceilings = {H200: dataclasses.replace(found.ceilings[H200], launch_s=7e-6)}
    physics = examine(found.rows, ceilings)
    regimes = {row.key.batch: physics[row.run] for row in found.rows}
    assert regimes[8].regime in ("bandwidth", "compute")
    assert regimes[1].regime == "bandwidth"
    assert "as long as" in regimes[1].evidence  # half of it is the host's all the same


def test_prefill_and_decode_are_derived_from_a_twin_of_one_output_token(tmp_path: Path) -> None:
    world = World(prefill=lambda _p: 50e-3, step=lambda _p: 10e-3, noise=0.0)
    points = grid(output_tokens=(1, 20), stream=(False,))
    found = analyse([write(tmp_path / "twins", [result(point, world) for point in points], samples=False)])
    by_length = {row.key.output_tokens: found.physics[row.run] for row in found.rows}
    assert by_length[20].split == "derived"
    assert by_length[20].prefill_s == pytest.approx(50e-3)
    assert by_length[20].decode_step_s == pytest.approx(10e-3)
    alone = analyse([write(tmp_path / "alone", [result(points[1], world)], samples=False)])
    (only,) = alone.physics.values()
    assert only.prefill_s is None
    assert only.decode_mbu is None


def test_decode_that_is_more_efficient_on_more_gpus_is_suspicious(tmp_path: Path) -> None:
    points = grid(tp=(1, 2, 4))
    wrong = World(
        prefill=lambda _p: 60e-3, step=lambda p: 20e-3 if p.tp == 1 else 20e-3 / p.tp / 1.5, noise=0.0
    )
    right = World(prefill=lambda _p: 60e-3, step=lambda p: 20e-3 / p.tp**0.7, noise=0.0)
    for name, world, count in (("wrong", wrong, 2), ("right", right, 0)):
        folder = write(tmp_path / name, [result(point, world) for point in points], samples=False)
        found = analyse([folder])
        notes = [note for each in found.physics.values() for note in each.suspicious if "at tp 1" in note]
        assert len(notes) == count, notes
        assert not found.excluded  # possible, so it stays


def test_a_closed_loop_is_judged_by_its_decode_steps(tmp_path: Path) -> None:
    world = World(prefill=lambda _p: 60e-3, step=lambda _p: 8e-3, noise=0.0)
    joined = result(Point(kind="closed", batch=8), world)
    alone = dataclasses.replace(
        result(Point(kind="closed", batch=4), world), engine={**joined.engine, "in_flight_batching": False}
    )
    found = analyse([write(tmp_path / "closed", [joined, alone], samples=False)])
    assert found.physics[f"closed: {joined.trial.id}"].estimated
    assert found.physics[f"closed: {joined.trial.id}"].sequences == 8
    assert found.physics[f"closed: {joined.trial.id}"].regime == "bandwidth"
    assert "a decode step" in found.physics[f"closed: {joined.trial.id}"].evidence
    assert (
        found.physics[f"closed: {alone.trial.id}"].sequences == 1
    )  # it serves call by call, whatever is in flight


def test_servers_of_one_sweep_prove_the_same_work_or_do_not(tmp_path: Path) -> None:
    points = grid(tp=(1, 2), batch=(1, 8))
    results = sweep(points, slow_world())
    found = analyse([write(tmp_path / "alike", results)])
    (proof,) = found.proofs
    assert (proof.one, proof.other, proof.work.verdict) == ("hf/generate tp 1", "hf/generate tp 2", "same")
    assert proof.work.tokens_alike == 1
    bare = analyse([write(tmp_path / "bare", results, samples=False)])
    assert bare.proofs[0].work.verdict == "not proven"


def test_findings_as_tables(tmp_path: Path) -> None:
    found = analyse([write(tmp_path / "tables", sweep(GRID, slow_world()), samples=False)])
    tables = {table.title: table for table in tables_of(found)}
    assert [row[0].split(". ")[0] for row in tables["Findings"].rows] == list(CLAIMS)
    assert {row[2] for row in tables["Servers that decide"].rows} <= {"holds", "refuted"}
    assert tables["Not tested"].rows
    assert any("datasheet" in row[0] for row in tables["To know"].rows)


def test_measured_ceilings_are_used_before_the_datasheet(tmp_path: Path) -> None:
    folder = write(tmp_path / "probed", sweep(GRID, slow_world()), samples=False)
    assert analyse([folder]).ceilings[H200].source == "datasheet"
    probed = Ceilings(device=H200, source="measured", bandwidth=4.3e12, matrix={"bfloat16": 780e12})
    (folder / CEILINGS_FILE).write_bytes(orjson.dumps([to_dict(probed)]))
    found = analyse([folder])
    assert found.ceilings[H200].bandwidth == 4.3e12
    assert not any("datasheet" in note for note in found.notes)
    (folder / CEILINGS_FILE).write_text("[{}]")
    with pytest.raises(StoreError, match="ceilings"):
        analyse([folder])


def test_a_machine_without_ceilings_is_said_to_be_unchecked(tmp_path: Path) -> None:
    machine = "NVIDIA GeForce 256"
    points = [dataclasses.replace(point, machine=machine) for point in GRID]
    folder = write(
        tmp_path / "old", sweep(points, slow_world()), environments=[environment(machine)], samples=False
    )
    found = analyse([folder])
    assert not found.physics
    assert any("no ceilings are known" in note for note in found.notes)


def test_cells_of_one_start_have_no_interval_and_say_so(tmp_path: Path) -> None:
    folder = write(tmp_path / "once", sweep(GRID, slow_world(), repeats=2, starts=1), samples=False)
    found = analyse([folder])
    for cell in found.study.cells.values():
        estimate = found.study.estimate(cell, "e2e_s")
        assert estimate is not None
        assert (estimate.low, estimate.starts, estimate.repeats) == (None, 1, 2)
        assert "how starts differ is not known" in estimate.how
    assert any(f"{len(GRID)} of {len(GRID)} cells ran on one server start" in note for note in found.notes)
    single = analyse([write(tmp_path / "single", sweep(GRID, slow_world(), repeats=1), samples=False)])
    assert single.noise is None
    assert any("not measured (no repeats)" in note for note in single.notes)


def test_drift_is_seen_and_noise_is_measured(tmp_path: Path) -> None:
    drifting = dataclasses.replace(slow_world(noise=0.005), drift_per_hour=0.05)
    found = analyse([write(tmp_path / "drift", sweep(GRID, drifting, minutes=3), samples=False)])
    assert found.drift is not None
    assert found.drift.distinguishable
    assert found.drift.per_hour == pytest.approx(0.05, rel=0.25)
    results = sweep(GRID, slow_world(noise=0.02), repeats=4, starts=1)
    still = analyse([write(tmp_path / "still", results, samples=False)])
    assert still.drift is not None
    assert not still.drift.distinguishable
    assert still.noise is not None
    assert still.noise.low <= 0.02 <= still.noise.high * 1.1


def test_two_folders_of_one_machine_pool_and_of_two_machines_do_not(tmp_path: Path) -> None:
    one = write(tmp_path / "a" / "exp", sweep(GRID, slow_world(), repeats=2), samples=False)
    two = write(tmp_path / "b" / "exp", sweep(GRID, slow_world(), repeats=2, seed=2), samples=False)
    pooled = analyse([one, two])
    assert all(len(cell.rows) == 4 for cell in pooled.study.cells.values())
    assert len({row.source for row in pooled.rows}) == 2
    other = [dataclasses.replace(point, machine=A100) for point in GRID]
    apart = analyse([one, write(tmp_path / "c", sweep(other, slow_world()), samples=False)])
    assert len(apart.study.cells) == 2 * len(GRID)


def test_what_may_not_speak_says_why(tmp_path: Path) -> None:
    good = sweep(GRID, slow_world())
    slow_client = dataclasses.replace(result(Point(batch=3), slow_world()), caveats=(limited(),))
    folder = write(tmp_path / "mixed", [*good, slow_client, failed(Point(batch=1024))], samples=False)
    found = analyse([folder])
    assert set(found.excluded.values()) == {
        "the load generator was the limit",
        "failed in measured: ServerOutOfMemory",
    }


def declaring(tmp_path: Path, text: str) -> Analysis:
    world = World(prefill=lambda p: 10e-3 / p.tp, step=lambda p: 10e-3 / p.tp, noise=0.01)
    results = sweep(grid(tp=(1, 2), batch=(1, 8)), world)
    return analyse([write(tmp_path / "declared", results, samples=False, profile=text)])


FINDING = """
[[finding]]
id = "mine"
claim = "tp 2 is nearly twice as fast"
metric = "e2e_s"
over = { tp = 1 }
under = { tp = 2 }
expect = "%s"
"""


@pytest.mark.parametrize(
    ("expect", "verdict"),
    [(">= 1.8", "holds"), (">= 2.5", "refuted"), ("<= 2.0", "not tested"), ("< 3", "holds")],
)
def test_declared_findings_are_decided(tmp_path: Path, expect: str, verdict: str) -> None:
    mine = declaring(tmp_path, FINDING % expect).findings[-1]
    assert mine.id == "mine"
    assert mine.verdict == verdict, mine.sentence
    assert "2 pairs" in mine.numbers[0].text


def test_a_declared_value_without_a_match_is_not_tested(tmp_path: Path) -> None:
    text = FINDING.replace("under = { tp = 2 }", "").replace("tp = 1", "tp = 8") % "< 1"
    assert declaring(tmp_path, text).findings[-1].verdict == "not tested"
    value = FINDING.replace("under = { tp = 2 }", "") % "< 1"
    assert declaring(tmp_path, value).findings[-1].verdict == "holds"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"metric": "speed"}, "unknown metric"),
        ({"expect": "fast"}, "not a comparison"),
        ({"over": {"gpu": 1}}, "unknown field"),
        ({"over": 1}, "must be a table"),
        ({"claim": 3}, "must be text"),
        ({"colour": "red"}, "unknown key"),
    ],
)
def test_bad_declarations_are_refused_with_what_is_accepted(change: dict[str, object], words: str) -> None:
    entry = {"id": "x", "claim": "y", "metric": "e2e_s", "over": {"tp": 1}, "expect": "< 1"}
    with pytest.raises(ProfileError, match=words):
        parse([entry | change])
    with pytest.raises(ProfileError, match="array of tables"):
        parse({"id": "x"})
