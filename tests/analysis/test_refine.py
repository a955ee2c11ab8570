"""The cells that would settle what is open, as trials that can be run."""

from __future__ import annotations

from cases import case, rows, truth_b_star
from synthetic import (
    Point,
    World,
    failed,
    grid,
    roofline_world,
    sweep,
)

from loadgen.analysis.analyse import findings_of
from loadgen.analysis.findings.latency import input_thresholds
from loadgen.analysis.refine import refine, trials
from loadgen.plan.plan import trial_of
from loadgen.profile.profile import Cell


def test_refine_names_trials_that_can_be_run() -> None:
    world = roofline_world()
    coarse = grid(batch=(1, 8, 64), input_tokens=(20, 512))
    found = rows(sweep(coarse, world))
    cells = refine(findings_of(case(found)), found)
    assert cells
    b_star = [cell for cell in cells if "B*" in cell.why]
    assert {cell.load.batch_size for cell in b_star} >= {16, 32} or {
        cell.load.batch_size for cell in b_star
    } >= {2, 4}
    done = {(row.key.batch, row.key.input_tokens) for row in found}
    for cell in cells:
        assert (cell.load.batch_size, cell.load.input_tokens) not in done
        assert cell.repeats == 3
        assert cell.load.seed == 0
        assert cell.server is not None
    # running them closes the question
    more = sweep(
        [Point(batch=cell.load.batch_size, input_tokens=cell.load.input_tokens) for cell in cells],
        world,
        seed=8,
    )
    again = case(rows([*sweep(coarse, world), *more]))
    (study,) = again.subjects().values()
    ((found_again,),) = input_thresholds(study, 0.1).values()
    threshold = found_again.threshold
    assert threshold.resolved
    assert threshold.low <= truth_b_star(world, 1, 20, 512) <= threshold.high


def test_refined_trials_are_those_that_a_profile_would_have_made() -> None:
    found = rows(sweep(grid(batch=(1, 8, 64), input_tokens=(20, 512)), roofline_world()))
    cells = refine(findings_of(case(found)), found)
    made = trials(cells)
    assert len({trial.id for trial in made}) == len(made) == 3 * len(cells)
    first = cells[0]
    again = trial_of(Cell(load=first.load, server=first.server, repeat=1))
    assert made[1] == again
    assert made[0].load.seed != made[1].load.seed  # every repeat has prompts of its own


def test_refine_never_asks_for_what_ran_out_of_memory() -> None:
    world = World(prefill=lambda _point: 5e-3, step=lambda _point: 5e-3, noise=0.01)
    points = grid(batch=(1, 2, 4, 8), input_tokens=(20, 512))
    found = rows([*sweep(points, world), failed(Point(batch=16, input_tokens=512))])
    batches = {
        (cell.load.batch_size, cell.load.input_tokens) for cell in refine(findings_of(case(found)), found)
    }
    assert (32, 512) not in batches
    assert (16, 512) not in batches
