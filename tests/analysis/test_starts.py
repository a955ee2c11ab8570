"""Which trials one start served, by what is stored and by what earlier versions left; machines; slow trials."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from cases import ENVIRONMENTS, rows
from synthetic import H200, Point, World, environment, grid, result, sweep

from loadgen.analysis.starts import devices_of, figure, machines, start_of
from loadgen.analysis.study import Study
from loadgen.analysis.table import Row, rows_of
from loadgen.records import TrialResult

FLAT = World(prefill=lambda _p: 1e-2, step=lambda _p: 1e-2, noise=0.003)


def old(facts: dict[str, object], repeat: int = 0, source: str = "folder") -> Row:
    """A row of results that no start was stored of."""
    found = result(Point(), FLAT, repeat=repeat)
    (row,) = rows_of([replace(found, engine={**found.engine, **facts})], ENVIRONMENTS, source)
    return row


def test_a_stored_start_is_taken_as_it_is() -> None:
    (row,) = rows([result(Point(), FLAT, start="one")])
    assert start_of(row) == "one"


def test_earlier_results_are_told_apart_by_process_and_load_time() -> None:
    one = start_of(old({"pid": 7, "load_s": 11.831}))
    assert start_of(old({"pid": 7, "load_s": 11.831}, repeat=1, source="copy")) == one
    assert start_of(old({"pid": 8, "load_s": 11.831})) != one
    assert start_of(old({"pid": 7, "load_s": 11.832})) != one


def test_where_nothing_was_stored_a_folder_is_one_start() -> None:
    assert start_of(old({})) == start_of(old({}, repeat=1))
    assert start_of(old({})) != start_of(old({}, source="other"))


def test_environments_that_share_a_gpu_are_one_machine() -> None:
    def on(*uuids: str, host: str = "box") -> Row:
        where = environment(gpus=0, host=host)
        gpus = tuple({"index": at, "name": H200, "uuid": uuid} for at, uuid in enumerate(uuids))
        return replace(old({}), environment=replace(where, gpus=gpus))

    assert devices_of(on()) == {"box"}
    assert machines([on("a"), on("b")]) == 2
    assert machines([on("a"), on("b"), on("b", "a")]) == 1
    assert machines([on(), on(host="other")]) == 2


def test_figures_of_other_statistics() -> None:
    few = result(Point(), FLAT)
    assert few.summary is not None
    assert few.summary.ttft_s is not None
    many = replace(few, summary=replace(few.summary, ttft_s=replace(few.summary.ttft_s, n=100)))
    (row,) = rows([many])
    assert figure(row, "ttft_s@p99") == few.summary.ttft_s.p99
    assert figure(row, "ttft_s") == few.summary.ttft_s.p50
    assert figure(rows([few])[0], "ttft_s@p99") is None, "of 8 requests there is none"
    assert figure(row, "power_w") is None
    assert figure(row, "power_w@p99") is None


def doubled(each: TrialResult) -> TrialResult:
    slow = World(prefill=lambda _p: 2e-2, step=lambda _p: 2e-2)
    point = Point(batch=each.trial.load.batch_size)
    return replace(result(point, slow, start=each.start), trial=each.trial)


@pytest.mark.parametrize("metric", ["e2e_s", "output_tokens_per_s"])
def test_a_slow_trial_is_no_part_of_its_starts_figure(metric: str) -> None:
    results = sweep(grid(batch=(1, 2, 4, 8)), FLAT, repeats=6, starts=3)
    results[5] = doubled(results[5])
    (server,) = Study(rows(results)).servers
    assert server.trials(metric).shape == (3, 4, 2)
    assert server.slow_trials(metric) == (1, 24)
    assert float(np.nanstd(server.means(metric) - server.means(metric).mean(axis=0))) < 0.01
