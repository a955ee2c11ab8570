"""Two folders against each other: equal work proven first, differences with intervals, gates that respect noise."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from synthetic import (
    H200,
    Point,
    World,
    environment,
    failed,
    grid,
    result,
    roofline_world,
    samples_of,
    sweep,
    write,
)

from loadgen.analysis.compare import Comparison, compare, parse_gate
from loadgen.errors import BadInput, StoreError
from loadgen.records import TrialResult
from loadgen.report.comparison import headline, tables_of
from loadgen.results.store import Store
from loadgen.system.cpus import compact
from loadgen.telemetry_records import ServerCores

GRID = grid(batch=(1, 4, 16), input_tokens=(20, 128))


def world(factor: float = 1.0, noise: float = 0.01) -> World:
    base = roofline_world(plateau_s=30e-3, noise=noise)
    return World(
        prefill=lambda point: base.prefill(point) * factor,
        step=lambda point: base.step(point) * factor,
        noise=noise,
    )


def folders(tmp_path: Path, factor: float, *, noise: float = 0.01, repeats: int = 4) -> tuple[Path, Path]:
    return (
        write(tmp_path / "a", sweep(GRID, world(noise=noise), repeats=repeats, seed=1)),
        write(tmp_path / "b", sweep(GRID, world(factor, noise=noise), repeats=repeats, seed=2)),
    )


def test_a_known_slowdown_is_found_within_its_interval(tmp_path: Path) -> None:
    found = compare(*folders(tmp_path, 1.05))
    assert len(found.pairs) == len(GRID)
    mean = found.overall["e2e_s"]
    assert mean.low is not None
    assert mean.high is not None
    assert mean.low <= 1.05 <= mean.high
    assert mean.above(1)
    assert all(pair.work.verdict == "same" for pair in found.pairs)
    assert "latency of b is +4." in headline(found) or "latency of b is +5." in headline(found)
    assert not found.changed
    assert found.exit_code == 0


@pytest.mark.parametrize(
    ("factor", "gate", "code"),
    [
        (1.10, "e2e_p50<=+3%", 1),
        (1.10, "e2e_p50 <= +15 %", 0),
        (1.00, "e2e_p50<=+3%", 0),
        (1.10, "output_tokens_per_s >= -3%", 1),
        (0.90, "output_tokens_per_s >= -3%", 0),
        (1.02, "e2e <= +1%", 0),  # beyond the gate, but within the noise
    ],
)
def test_gates_fail_beyond_the_noise_only(tmp_path: Path, factor: float, gate: str, code: int) -> None:
    noise = 0.05 if factor == 1.02 else 0.01
    found = compare(*folders(tmp_path, factor, noise=noise), gates=[gate])
    assert found.exit_code == code, [pair.gates for pair in found.pairs]


def test_a_gate_on_what_was_not_measured_does_not_pass(tmp_path: Path) -> None:
    found = compare(*folders(tmp_path, 1.0), gates=["power_w <= +1%"])
    assert found.exit_code == 1
    assert all(set(pair.gates.values()) == {"not measured"} for pair in found.pairs)


@pytest.mark.parametrize("text", ["e2e_p50 +3%", "speed <= 3%", "e2e_p50 <= 3", "", "e2e_p50 <= x%"])
def test_gates_that_cannot_be_read_are_refused(text: str) -> None:
    with pytest.raises(BadInput, match="accepted"):
        parse_gate(text)


def test_gate_levels() -> None:
    gate = parse_gate("e2e_p50<=+3%")
    assert (gate.metric, gate.level, gate.at_most) == ("e2e_s", pytest.approx(1.03), True)
    assert parse_gate("output_tokens_per_s>=-5%").level == pytest.approx(0.95)


def rewritten(
    tmp_path: Path, name: str, change: object, results: list[TrialResult], *, token: int | None = None
) -> Path:
    """A folder whose trials, or their samples' first tokens, are changed."""
    folder = tmp_path / name
    with Store.create(folder, {"name": name, "trials": []}) as store:
        store.add_environment(environment(H200))
        for each in results:
            changed = change(each) if callable(change) else each
            store.append(changed)
            writer = store.sample_writer(changed.trial.id)
            for sample in samples_of(changed):
                if token is not None:
                    count = sample.batch_size
                    reply = dataclasses.replace(sample.reply, first_tokens=(token,) * count)
                    sample = dataclasses.replace(sample, reply=reply)
                writer.add(sample)
            writer.close()
    return folder


def verdicts(found: Comparison) -> set[str]:
    return {pair.work.verdict for pair in found.pairs}


def test_other_prompts_are_other_work(tmp_path: Path) -> None:
    results = sweep(GRID, world())

    def reseed(each: TrialResult) -> TrialResult:
        load = dataclasses.replace(each.trial.load, seed=12345)
        return dataclasses.replace(each, trial=dataclasses.replace(each.trial, load=load))

    one = write(tmp_path / "a", results)
    assert verdicts(compare(one, rewritten(tmp_path, "b", reseed, results))) == {"different"}


def test_other_counts_are_other_work(tmp_path: Path) -> None:
    results = sweep(GRID, world())

    def shorter(each: TrialResult) -> TrialResult:
        assert each.summary is not None
        summary = dataclasses.replace(each.summary, output_tokens=each.summary.output_tokens - 8)
        return dataclasses.replace(each, summary=summary)

    found = compare(write(tmp_path / "a", results), rewritten(tmp_path, "b", shorter, results))
    assert verdicts(found) == {"different"}
    assert "tokens per request differ" in found.pairs[0].work.why


def test_other_first_tokens_are_not_proven_and_near_ties_are_forgiven(tmp_path: Path) -> None:
    results = sweep(GRID, world())
    one = write(tmp_path / "a", results)
    other = compare(one, rewritten(tmp_path, "b", None, results, token=7))
    assert verdicts(other) == {"not proven"}
    assert other.pairs[0].work.tokens_alike == 0
    bare = compare(one, write(tmp_path / "c", results, samples=False))
    assert verdicts(bare) == {"not proven"}
    assert bare.pairs[0].work.tokens_alike is None


def test_frameworks_pair_by_equal_load_on_as_many_gpus(tmp_path: Path) -> None:
    points = grid(tp=(1, 2), batch=(1, 8))
    other = [dataclasses.replace(point, framework="ds", engine="mii-fastgen") for point in points]
    one = write(tmp_path / "hf", [*sweep(points, world()), *sweep([Point(tp=4)], world())])
    found = compare(one, write(tmp_path / "ds", sweep(other, world(0.5), seed=3)))
    assert len(found.pairs) == 4
    assert all(pair.a.key.gpus == pair.b.key.gpus for pair in found.pairs)
    assert "→" in found.pairs[0].text
    assert found.overall["e2e_s"].value == pytest.approx(0.5, rel=0.02)
    assert found.unpaired == ("A: hf/generate tp 4 batch 1 20/20: no partner",)


def test_what_changed_around_it_is_listed(tmp_path: Path) -> None:
    results = sweep(GRID, world())
    newer = environment(H200, packages={"torch": "2.12"}, commit="def", driver="590")
    one = write(tmp_path / "a", results, samples=False)
    found = compare(one, write(tmp_path / "b", results, environments=[newer], samples=False))
    assert found.changed == {
        "version of torch": ("2.11", "2.12"), "commit": ("abc", "def"), "driver": ("580", "590"),
    }  # fmt: skip


def test_what_decides_an_engine_s_figures_is_listed_where_it_differs(tmp_path: Path) -> None:
    def told(name: str, launcher: str, library: str, cores: int) -> Path:
        page = {
            "launcher": launcher,
            "library": {"backend.so": library},
            "weights": "random",
            "stream_step": 1,
        }
        may = ServerCores(
            cores=cores, affinity=compact(range(cores)), processes=1, threads=9, limit_cores=4.0
        )
        changed = [dataclasses.replace(each, engine={**each.engine, **page}, cores=may) for each in results]
        return write(tmp_path / name, changed, samples=False)

    results = sweep(GRID, world())
    found = compare(told("a", "none", "11ff", 32), told("b", "mpirun -n 1", "22ff", 1))
    assert found.changed == {
        "hf's launcher": ("none", "mpirun -n 1"),
        "hf's backend.so, SHA-256": ("11ff", "22ff"),
        "hf's cores": ("0-31, at most 4 at a time", "0, at most 4 at a time"),
    }


def test_impossible_and_failed_trials_are_left_out_and_said_to_be(tmp_path: Path) -> None:
    results = sweep(GRID, world())
    wrong = result(Point(batch=2), World(prefill=lambda _p: 1e-4, step=lambda _p: 1e-4))
    one = write(tmp_path / "a", [*results, wrong, failed(Point(batch=512))])
    found = compare(one, write(tmp_path / "b", results))
    assert len(found.pairs) == len(GRID)
    assert len(found.excluded) == 2
    titles = [table.title for table in tables_of(found)]
    assert titles == ["Same work?", "b / a", "What changed around it", "Not compared"]


def test_without_repeats_a_difference_is_marked_as_unsure(tmp_path: Path) -> None:
    one = write(tmp_path / "a", sweep(GRID, world(), repeats=1), samples=False)
    other = write(tmp_path / "b", sweep(GRID, world(1.2), repeats=1), samples=False)
    found = compare(one, other)
    assert all(pair.ratios["e2e_s"].low is None for pair in found.pairs)
    table = next(table for table in tables_of(found) if table.title == "b / a")
    assert all(row[1].startswith("?") for row in table.rows)
    assert "no repeats" in headline(found)


def test_folders_with_nothing_in_common_and_no_folders_are_refused(tmp_path: Path) -> None:
    one = write(tmp_path / "a", sweep(GRID, world()), samples=False)
    other = write(tmp_path / "b", sweep(grid(batch=(3,)), world()), samples=False)
    with pytest.raises(BadInput, match="nothing can be compared"):
        compare(one, other)
    with pytest.raises(StoreError):
        compare(one, tmp_path / "none")
