"""F10 and F11: one framework against another, one machine against another."""

from __future__ import annotations

from dataclasses import replace

import pytest
from cases import EXP3, case, finding, rows
from synthetic import (
    A100,
    World,
    grid,
    roofline_world,
    sweep,
)

from loadgen.analysis.analyse import inside_noise
from loadgen.records import TrialResult


def versus(hf: float, ds_one: float, ds_more: float) -> list[TrialResult]:
    points = grid(tp=(1, 2, 4), batch=(1, 8), output_tokens=(100,))
    ours = World(prefill=lambda _p: hf, step=lambda _p: hf, noise=0.01)
    theirs = World(
        prefill=lambda p: ds_one if p.tp == 1 else ds_more,
        step=lambda p: ds_one if p.tp == 1 else ds_more,
        noise=0.01,
    )
    other = [replace(point, framework="ds", engine="mii-fastgen") for point in points]
    return [*sweep(points, ours), *sweep(other, theirs, seed=2)]


@pytest.mark.parametrize(
    ("hf", "one", "more", "verdict"),
    [(12e-3, 10e-3, 5e-3, "holds"), (40e-3, 10e-3, 5e-3, "refuted"), (12e-3, 10e-3, 11e-3, "refuted")],
)
def test_f10_pairs_frameworks(hf: float, one: float, more: float, verdict: str) -> None:
    f10 = finding(case(rows(versus(hf, one, more))), "F10")
    assert f10.verdict == verdict, f10.sentence


def test_f10_needs_both_frameworks_and_says_what_is_inside_the_noise() -> None:
    found = case(rows(sweep(EXP3, roofline_world())))
    assert finding(found, "F10").verdict == "not tested"
    alike = case(rows(versus(10e-3, 10e-3, 5e-3)))
    assert any("tp 1" in line for line in inside_noise(alike.study))
    assert not any("tp 2" in line for line in inside_noise(alike.study))


def test_f11_needs_two_machines() -> None:
    points = grid(tp=(4,), batch=(1, 4, 16, 64), output_tokens=(100,))
    world = World(prefill=lambda _p: 5e-3, step=lambda _p: 5e-3, noise=0.005)
    here = sweep(points, world)
    assert finding(case(rows(here)), "F11").verdict == "not tested"
    there = sweep([replace(point, machine=A100) for point in points], world, seed=3)
    f11 = finding(case(rows([*here, *there])), "F11")
    assert f11.verdict == "holds"
    assert "3 of 3 cells" in f11.sentence  # batch 64 is not below 32
    slow = World(prefill=lambda _p: 9e-3, step=lambda _p: 9e-3, noise=0.005)
    there = sweep([replace(point, machine=A100) for point in points], slow, seed=3)
    assert finding(case(rows([*here, *there])), "F11").verdict == "refuted"
