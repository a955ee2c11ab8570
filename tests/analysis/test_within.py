"""Effects within starts: exact where starts differ a lot, joined over starts that share cells, unknown elsewhere."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from cases import rows
from synthetic import BATCHES, Point, World, grid, result, sweep

from loadgen.analysis.starts import Pair
from loadgen.analysis.study import Study
from loadgen.records import TrialResult

GRID = grid(batch=BATCHES[:6], input_tokens=(20, 512))


def shifted(results: list[TrialResult], sd: float) -> list[TrialResult]:
    """The same results, each start as a whole faster or slower."""
    rng = np.random.default_rng(5)
    factors = {start: float(np.exp(rng.normal(0, sd))) for start in {each.start for each in results}}
    world = {start: flat(factor) for start, factor in factors.items()}
    return [
        replace(
            result(
                Point(batch=each.trial.load.batch_size, input_tokens=each.trial.load.input_tokens),
                world[each.start],
                start=each.start,
            ),
            trial=each.trial,
        )
        for each in results
    ]


def flat(factor: float = 1.0) -> World:
    return World(
        prefill=lambda p: factor * 1e-2 * (1 + p.tokens / 1000), step=lambda _p: factor * 1e-2, noise=0.0
    )


def pairs(study: Study) -> list[Pair]:
    cells = {(key.batch, key.input_tokens): cell for key, cell in study.cells.items()}
    return [(cells[batch, 512], cells[batch, 20]) for batch in sorted({batch for batch, _ in cells})]


def test_what_a_start_has_in_common_cancels() -> None:
    study = Study(rows(shifted(sweep(GRID, flat()), 0.5)))
    found = study.effects(pairs(study), "e2e_s")
    assert found is not None
    truth = [
        np.log(
            flat().e2e(Point(batch=batch, input_tokens=512)) / flat().e2e(Point(batch=batch, input_tokens=20))
        )
        for batch in BATCHES[:6]
    ]
    assert found.values == pytest.approx(truth)
    assert found.draws is not None
    assert float(found.draws.std(axis=0).max()) < 1e-6
    levels = study.levels([over for over, _ in pairs(study)], "e2e_s")
    assert levels is not None
    assert levels.draws is not None
    assert float(np.ptp(levels.draws - np.array(levels.values), axis=1).max()) < 1e-6


def test_variances_of_a_full_grid_are_those_between_starts() -> None:
    rng_world = replace(flat(), noise=0.01)
    study = Study(rows(sweep(GRID, rng_world)))
    found = study.effects(pairs(study), "e2e_s")
    assert found is not None
    (server,) = study.servers
    apart = np.stack(
        [over.logs("e2e_s") - under.logs("e2e_s") for over, under in pairs(study)],
        axis=1,
    )
    assert found.df == 2 * 6
    assert found.variances == pytest.approx(np.full(6, apart.var(axis=0, ddof=1).mean() / 3))
    base = next(iter(study.cells.values()))
    along = study.effects([(cell, base) for cell in study.cells.values()], "e2e_s")
    assert along is not None
    assert along.variances is not None
    rest = server.spread("e2e_s")
    assert along.df == rest.rest_df == 2 * 11
    assert along.variances[0] == pytest.approx(0, abs=1e-12)
    assert along.variances[1:] == pytest.approx(np.full(11, 2 * rest.of_rest / 3))
    levels = study.levels(list(study.cells.values()), "e2e_s")
    assert levels is not None
    assert levels.variances == pytest.approx(np.full(12, rest.of_rest / 3))
    assert levels.values == pytest.approx(
        [np.log(study.estimate(cell, "e2e_s").value) for cell in study.cells.values()]
    )


def test_cells_of_other_starts_are_joined_by_what_those_share_and_by_nothing_else() -> None:
    """Batch 4 alone was run by the third start only, which shares the rest of its cells with the others."""
    results = shifted(sweep(GRID, flat()), 0.5)
    last = results[-1].start
    only = [each for each in results if (each.trial.load.batch_size == 4) == (each.start == last)]
    study = Study(rows(only))
    assert study.effects(pairs(study), "e2e_s") is not None
    by_batch = {over.key.batch: over for over, _ in pairs(study)}
    apart = study.effects([(by_batch[4], by_batch[1])], "e2e_s")
    assert apart is not None
    assert apart.draws is None, (
        "no start ran both, or a third cell of both; and two starts tell too little of starts"
    )
    bridge = [each for each in results if each.start == last and each.trial.load.batch_size == 8]
    joined = Study(rows([*only, *bridge]))
    cells = {(key.batch, key.input_tokens): cell for key, cell in joined.cells.items()}
    found = joined.effects([(cells[4, 512], cells[1, 512])], "e2e_s")
    assert found is not None
    truth = flat().e2e(Point(batch=4, input_tokens=512)) / flat().e2e(Point(batch=1, input_tokens=512))
    assert np.exp(found.values[0]) == pytest.approx(truth)


def test_one_start_alone_has_no_draws() -> None:
    study = Study(rows(sweep(GRID, flat(), repeats=2, starts=1)))
    found = study.effects(pairs(study), "e2e_s")
    assert found is not None
    assert found.draws is None
    ratio = study.ratio(*pairs(study)[0], "e2e_s")
    assert ratio is not None
    assert not ratio.told
