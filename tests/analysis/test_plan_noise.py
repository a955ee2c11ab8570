"""The noise of earlier results, as a plan takes it: what was put in, by start, start × cell and trial."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from cases import rows
from synthetic import World, grid, sweep, write

from loadgen.analysis.plan_noise import measured, noise_of
from loadgen.analysis.study import Study
from loadgen.plan.detectable import EAGER
from loadgen.records import ServerSpec
from loadgen.theory.models import PRESETS

POINTS = grid(tp=(1, 2, 4), batch=(1, 2, 4, 8, 16, 32, 64, 128))
STILL = World(prefill=lambda _p: 5e-3, step=lambda _p: 5e-3, noise=0.0)


def test_three_parts_of_the_noise_are_told_apart() -> None:
    start_sd, cell_sd, trial_sd = 0.03, 0.02, 0.01
    rng = np.random.default_rng(3)
    drawn: dict[object, float] = {}

    def shared(sd: float, *of: object) -> float:
        return drawn.setdefault(of, rng.normal(0, sd))

    noisy = []
    for row in rows(sweep(POINTS, STILL, repeats=24, starts=8)):
        start = (row.key.tp, row.result.start)
        shift = shared(start_sd, *start) + shared(cell_sd, *start, row.key) + rng.normal(0, trial_sd)
        noisy.append(replace(row, values={"e2e_s": row.values["e2e_s"] * np.exp(shift)}))
    found = noise_of(Study(noisy).servers, "here")
    assert found is not None
    assert not found.assumed
    assert (found.start, found.cell, found.trial) == pytest.approx((start_sd, cell_sd, trial_sd), rel=0.4)
    assert found.source == "hf/generate in here"


def test_an_engine_that_was_not_measured_is_assumed(tmp_path: Path) -> None:
    one_start = write(tmp_path / "one", sweep(POINTS[:2], STILL, starts=1), samples=False)
    spec = ServerSpec(framework="hf", model=PRESETS["llama-7b"])
    assert measured([one_start])(spec) == EAGER
