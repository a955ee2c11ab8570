"""Two folders against each other: equal work proven first, differences by server starts, gates that respect noise."""

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

from loadgen.analysis.compare import Comparison, compare
from loadgen.errors import BadInput, StoreError
from loadgen.records import TrialResult
from loadgen.report.comparison import gate_lines, headline, tables_of
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
    assert found.exit_code == code, gate_lines(found)


def test_a_gate_on_what_was_not_measured_does_not_pass(tmp_path: Path) -> None:
    found = compare(*folders(tmp_path, 1.0), gates=["power_w <= +1%"])
    assert found.exit_code == 1
    assert all("power_w <= +1%: fails" in line and "not measured" in line for line in gate_lines(found))


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


def twins() -> tuple[list[TrialResult], list[TrialResult]]:
    """The same trials twice, on starts of their own."""
    return sweep(GRID, world(), seed=1), sweep(GRID, world(), seed=2)


def test_other_prompts_are_other_work(tmp_path: Path) -> None:
    results, others = twins()

    def reseed(each: TrialResult) -> TrialResult:
        load = dataclasses.replace(each.trial.load, seed=12345)
        return dataclasses.replace(each, trial=dataclasses.replace(each.trial, load=load))

    one = write(tmp_path / "a", results)
    assert verdicts(compare(one, rewritten(tmp_path, "b", reseed, others))) == {"different"}


def test_other_counts_are_other_work(tmp_path: Path) -> None:
    results, others = twins()

    def shorter(each: TrialResult) -> TrialResult:
        assert each.summary is not None
        summary = dataclasses.replace(each.summary, output_tokens=each.summary.output_tokens - 8)
        return dataclasses.replace(each, summary=summary)

    found = compare(write(tmp_path / "a", results), rewritten(tmp_path, "b", shorter, others))
    assert verdicts(found) == {"different"}
    assert "tokens per request differ" in found.pairs[0].work.why


def test_other_first_tokens_are_not_proven_and_near_ties_are_forgiven(tmp_path: Path) -> None:
    results, others = twins()
    one = write(tmp_path / "a", results)
    other = compare(one, rewritten(tmp_path, "b", None, others, token=7))
    assert verdicts(other) == {"not proven"}
    assert other.pairs[0].work.tokens_alike == 0
    bare = compare(one, write(tmp_path / "c", others, samples=False))
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
    assert found.unpaired == ("A: hf/generate tp 4 static batch 1 20/20: no partner",)


def test_what_changed_around_it_is_listed(tmp_path: Path) -> None:
    results, others = twins()
    newer = environment(H200, packages={"torch": "2.12"}, commit="def", driver="590")
    one = write(tmp_path / "a", results, samples=False)
    found = compare(one, write(tmp_path / "b", others, environments=[newer], samples=False))
    assert found.changed == {
        "version of torch": ("2.11", "2.12"), "commit": ("abc", "def"), "driver": ("580", "590"),
    }  # fmt: skip


def test_what_decides_an_engine_s_figures_is_listed_where_it_differs(tmp_path: Path) -> None:
    def told(name: str, results: list[TrialResult], launcher: str, library: str, cores: int) -> Path:
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

    one, other = twins()
    found = compare(told("a", one, "none", "11ff", 32), told("b", other, "mpirun -n 1", "22ff", 1))
    assert found.changed == {
        "hf's launcher": ("none", "mpirun -n 1"),
        "hf's backend.so, SHA-256": ("11ff", "22ff"),
        "hf's cores": ("0-31, at most 4 at a time", "0, at most 4 at a time"),
    }


def test_code_that_changed_is_told_and_so_is_code_that_changed_within_a_folder(tmp_path: Path) -> None:
    def coded(results: list[TrialResult], *codes: str) -> list[TrialResult]:
        return [
            dataclasses.replace(each, engine={**each.engine, "code": codes[each.trial.repeat % len(codes)]})
            for each in results
        ]

    results, others = twins()
    one = write(tmp_path / "a", coded(results, "aaa"), samples=False)
    other = write(tmp_path / "b", coded(others, "bbb"), samples=False)
    assert compare(one, other).changed == {"hf/generate tp 1's code": ("aaa", "bbb")}
    mixed = write(tmp_path / "c", coded(others, "aaa", "bbb"), samples=False)
    inside = "hf/generate tp 1: code, between starts"
    words = "aaa (2 starts), bbb (1 start)"
    assert compare(one, mixed).changed == {
        "hf/generate tp 1's code": ("aaa", "aaa / bbb"),
        inside: ("alike", words),
    }
    again = write(tmp_path / "d", coded(results, "aaa", "bbb"), samples=False)
    assert compare(again, mixed).changed == {inside: (words, words)}


def test_impossible_and_failed_trials_are_left_out_and_said_to_be(tmp_path: Path) -> None:
    results, others = twins()
    wrong = result(Point(batch=2), World(prefill=lambda _p: 1e-4, step=lambda _p: 1e-4))
    one = write(tmp_path / "a", [*results, wrong, failed(Point(batch=512))])
    found = compare(one, write(tmp_path / "b", others))
    assert len(found.pairs) == len(GRID)
    assert len(found.excluded) == 2
    titles = [table.title for table in tables_of(found)]
    assert titles == ["Same work?", "b / a", "What changed around it", "Not compared"]


def test_one_start_a_side_is_shown_and_not_told(tmp_path: Path) -> None:
    """However many repeats and requests: the difference between starts is unknown, and no difference is called."""
    one = write(tmp_path / "a", sweep(GRID, world(), repeats=4, starts=1), samples=False)
    other = write(tmp_path / "b", sweep(GRID, world(1.2), repeats=4, starts=1, seed=2), samples=False)
    found = compare(one, other, ["e2e<=+3%"])
    assert not found.overall["e2e_s"].told
    assert all(not pair.ratios["e2e_s"].differs for pair in found.pairs)
    table = next(table for table in tables_of(found) if table.title == "b / a")
    assert all(row[1].startswith("?") for row in table.rows)
    assert "one start each: not told" in headline(found)
    assert gate_lines(found) == ["e2e<=+3%: not shown: mean ×1.2 (one start each: not told)"]
    assert found.exit_code == 0
    assert compare(one, other, ["e2e<=+3%"], strict=True).exit_code == 1


def test_one_start_a_side_borrows_within_its_class_and_says_so(tmp_path: Path) -> None:
    lent = [
        each
        for tp in (2, 4)
        for each in sweep([dataclasses.replace(point, tp=tp) for point in GRID], world(), repeats=3, seed=tp)
    ]
    one = write(tmp_path / "a", [*sweep(GRID, world(), repeats=1), *lent], samples=False)
    other = write(tmp_path / "b", sweep(GRID, world(1.2), repeats=1, seed=9), samples=False)
    mean = compare(one, other).overall["e2e_s"]
    assert mean.source == "spread between starts borrowed from 2 servers (4 df counted as 2)"
    assert mean.low is not None
    assert mean.low < 1.2 < mean.high  # type: ignore[operator]
    cells = compare(one, other).pairs
    assert not any(pair.ratios["e2e_s"].told for pair in cells), "of cells nothing is borrowed"


def test_the_same_starts_are_not_compared(tmp_path: Path) -> None:
    results = sweep(GRID, world())
    one = write(tmp_path / "a", results, samples=False)
    with pytest.raises(BadInput, match="same server starts"):
        compare(one, one)
    with pytest.raises(BadInput, match="same server starts"):
        compare(one, write(tmp_path / "copy", results, samples=False))
    old = [dataclasses.replace(each, start=None) for each in results]  # as earlier versions stored them
    with pytest.raises(BadInput, match="same server starts"):
        compare(
            write(tmp_path / "old", old, samples=False), write(tmp_path / "x" / "old", old, samples=False)
        )
    others = [dataclasses.replace(each, start=None) for each in sweep(GRID, world(), seed=2)]
    assert compare(tmp_path / "old", write(tmp_path / "y" / "old", others, samples=False)).pairs


def test_a_mean_beyond_the_gate_fails_though_no_cell_does(tmp_path: Path) -> None:
    points = grid(batch=(1, 2, 4, 8, 16, 32), input_tokens=(20, 128, 512), output_tokens=(20, 100))
    one = write(tmp_path / "a", sweep(points, world(noise=0.05), repeats=4, seed=1), samples=False)
    other = write(tmp_path / "b", sweep(points, world(1.06, noise=0.05), repeats=4, seed=2), samples=False)
    found = compare(one, other, ["e2e<=+3%"])
    assert found.gates[0].beyond == []
    assert gate_lines(found)[0].startswith("e2e<=+3%: fails: mean ×1.0")
    assert found.exit_code == 1


def test_one_cell_beyond_the_gate_fails_and_is_named(tmp_path: Path) -> None:
    base = world(noise=0.005)
    slow = World(
        prefill=base.prefill, step=lambda p: base.step(p) * (1.5 if p.batch == 16 else 1.0), noise=0.005
    )
    one = write(tmp_path / "a", sweep(GRID, base, seed=1), samples=False)
    found = compare(one, write(tmp_path / "b", sweep(GRID, slow, seed=2), samples=False), ["e2e_p50<=+30%"])
    assert found.exit_code == 1
    assert "2 of 6 cells beyond it: hf/generate tp 1, static batch 16" in gate_lines(found)[0]


def test_gates_of_other_statistics_and_of_b_alone(tmp_path: Path) -> None:
    gates = [
        "ttft_mean<=+30%",
        "tpot_mean<=+30%",
        "throughput>=-30%",
        "ttft<=10s",
        "itl_mean<=1ms",
        "e2e_p99<=9s",
    ]
    found = compare(*folders(tmp_path, 1.10), gates)
    assert [each.verdict for each in found.gates] == ["passes"] * 4 + ["fails"] * 2
    assert "6 of 6 cells beyond it" in gate_lines(found)[4]
    assert "too few requests for it" in gate_lines(found)[5]
    assert found.exit_code == 1


def test_what_failed_or_is_missing_in_b_fails_its_gates(tmp_path: Path) -> None:
    one = write(tmp_path / "a", sweep(GRID, world(), seed=1), samples=False)
    kept = [each for each in sweep(GRID, world(), seed=2) if each.trial.load.batch_size < 16]
    dead = [failed(point, "ServerDied") for point in GRID if point.batch == 16]
    lost = compare(one, write(tmp_path / "dead", [*kept, *dead], samples=False), ["e2e<=+30%"])
    assert lost.exit_code == 1
    assert "batch 16 20/20: failed in measured: ServerDied in B" in gate_lines(lost)[0]
    gone = compare(one, write(tmp_path / "gone", kept, samples=False), ["e2e<=+30%"])
    assert gone.exit_code == 1
    assert "missing in B" in gate_lines(gone)[0]
    assert compare(one, tmp_path / "gone").exit_code == 0, "without a gate another grid is no failure"
    assert compare(one, tmp_path / "dead").exit_code == 1


def test_a_cell_of_b_alone_that_failed_fails_the_gates_of_b_alone(tmp_path: Path) -> None:
    one = write(tmp_path / "a", sweep(GRID, world(), seed=1), samples=False)
    both = [*sweep(GRID, world(), seed=2), failed(Point(batch=512), "ServerDied")]
    found = compare(one, write(tmp_path / "b", both, samples=False), ["e2e<=900s", "e2e<=+30%"])
    assert [each.verdict for each in found.gates] == ["fails", "passes"]
    assert "batch 512 20/20: failed in measured: ServerDied in B" in gate_lines(found)[0]
    assert compare(tmp_path / "b", one, ["e2e<=900s"]).gates[0].verdict == "passes"


def test_another_server_is_no_partner_where_the_same_one_failed(tmp_path: Path) -> None:
    """Nor where two of A's could have it: the first would be compared by the accident of its place."""
    hf, ds = Point(batch=8), Point(batch=8, framework="ds", engine="mii-fastgen")
    alone = write(tmp_path / "hf", sweep([hf], world(), seed=1), samples=False)
    dead = failed(hf, "ServerStartFailed")
    dead = dataclasses.replace(dead, engine={})  # which never told its engine
    other = write(tmp_path / "other", [dead, *sweep([ds], world(), seed=2)], samples=False)
    found = compare(alone, other, ["e2e<=+30%"])
    assert (found.pairs, found.exit_code) == ((), 1)
    assert "failed in measured: ServerStartFailed in B" in gate_lines(found)[0]
    two = write(tmp_path / "two", sweep([hf, ds], world(), seed=3), samples=False)
    third = write(
        tmp_path / "third",
        sweep([dataclasses.replace(ds, framework="vllm", engine="v1")], world(), seed=4),
        samples=False,
    )
    with pytest.raises(BadInput, match="1 possible partners for 2 in B"):
        compare(two, third, ["e2e<=+30%"])


def test_more_failed_requests_in_b_fail_with_and_without_a_gate(tmp_path: Path) -> None:
    def halved(each: TrialResult) -> TrialResult:
        assert each.summary is not None
        return dataclasses.replace(
            each, summary=dataclasses.replace(each.summary, requests_ok=4, requests_failed=4)
        )

    one = write(tmp_path / "a", sweep(GRID, world(), seed=1), samples=False)
    found = compare(one, write(tmp_path / "b", [halved(each) for each in sweep(GRID, world(), seed=2)]))
    assert found.exit_code == 1
    assert compare(one, tmp_path / "b", ["e2e<=+30%"]).exit_code == 1
    asked = compare(one, tmp_path / "b", ["e2e<=+30%"], with_failures=True)
    assert asked.exit_code == 1
    assert "all cells: 72 of 144 requests failed in B, 0 of 144 in A" in gate_lines(asked)[0]
    back = compare(tmp_path / "b", one, ["e2e<=+30%"], with_failures=True)
    assert back.exit_code == 0, gate_lines(back)


def test_slow_trials_are_set_apart_and_counted(tmp_path: Path) -> None:
    results = sweep(GRID, world(), repeats=6, starts=3, seed=2)
    slow = World(prefill=lambda p: 2 * world().prefill(p), step=lambda p: 2 * world().step(p))
    results[7] = dataclasses.replace(
        result(GRID[1], slow, repeat=1, start=results[7].start), trial=results[7].trial
    )
    one = write(tmp_path / "a", sweep(GRID, world(), repeats=6, starts=3), samples=False)
    found = compare(one, write(tmp_path / "b", results, samples=False))
    assert "0 of 36 in A, 1 of 36 in B (no more than chance, p 1)" in found.slow
    assert found.overall["e2e_s"].value == pytest.approx(1, abs=0.02)


def test_folders_with_nothing_in_common_and_no_folders_are_refused(tmp_path: Path) -> None:
    one = write(tmp_path / "a", sweep(GRID, world()), samples=False)
    other = write(tmp_path / "b", sweep(grid(batch=(3,)), world(), seed=2), samples=False)
    with pytest.raises(BadInput, match="nothing can be compared"):
        compare(one, other)
    with pytest.raises(StoreError):
        compare(one, tmp_path / "none")


def test_a_side_that_may_not_speak_at_all_says_why(tmp_path: Path) -> None:
    one = write(tmp_path / "a", [failed(point, "ServerDied") for point in GRID], samples=False)
    with pytest.raises(BadInput, match="a has no trial that may speak: failed in measured: ServerDied"):
        compare(one, write(tmp_path / "b", sweep(GRID, world()), samples=False))
