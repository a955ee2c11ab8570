"""F10 and F11: one framework against another, one machine against another."""

from __future__ import annotations

from dataclasses import replace

import pytest
from cases import EXP3, case, findings, one, rows
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
    ("hf", "one_gpu", "more", "verdicts"),
    [
        (12e-3, 10e-3, 5e-3, ("holds", "holds")),
        (40e-3, 10e-3, 5e-3, ("refuted", "holds")),
        (12e-3, 10e-3, 11e-3, ("holds", "refuted")),
    ],
)
def test_f10_s_halves_are_reported_apart(
    hf: float, one_gpu: float, more: float, verdicts: tuple[str, str]
) -> None:
    found = case(rows(versus(hf, one_gpu, more)))
    assert one(found, "F10a").verdict == verdicts[0]
    assert [each.verdict for each in findings(found, "F10b")] == [verdicts[1]] * 2


def test_f10_needs_both_frameworks_and_says_what_is_inside_the_noise() -> None:
    found = case(rows(sweep(EXP3, roofline_world())))
    assert one(found, "F10a").verdict == one(found, "F10b").verdict == "not tested"
    alike = case(rows(versus(10e-3, 10e-3, 5e-3)))
    assert one(alike, "F10a").verdict == "not tested"
    assert any("tp 1" in line for line in inside_noise(alike.study))
    assert not any("tp 2" in line for line in inside_noise(alike.study))


HERE = grid(tp=(4,), batch=(1, 4, 16, 64), output_tokens=(100,))


def level(seconds: float, noise: float = 0.005) -> World:
    return World(prefill=lambda _p: seconds, step=lambda _p: seconds, noise=noise)


def on_two(there: World, here: World | None = None) -> list[TrialResult]:
    others = [replace(point, machine=A100) for point in HERE]
    return [*sweep(HERE, here or level(5e-3)), *sweep(others, there, seed=3)]


def test_f11_needs_two_machines() -> None:
    assert one(case(rows(sweep(HERE, level(5e-3)))), "F11").verdict == "not tested"


def test_f11_holds_within_the_margin_and_is_refuted_beyond() -> None:
    f11 = one(case(rows(on_two(level(5e-3)))), "F11")
    assert f11.verdict == "holds"
    assert {key.batch for key in f11.cells} == {1, 4, 16}  # batch 64 is not below 32
    assert one(case(rows(on_two(level(9e-3)))), "F11").verdict == "refuted"


def test_f11_is_refuted_by_one_batch_that_is_shown_to_differ() -> None:
    uneven = World(prefill=lambda p: 5e-3, step=lambda p: 5e-3 * (1.2 if p.batch == 4 else 1.0), noise=0.005)
    f11 = one(case(rows(on_two(uneven))), "F11")
    assert f11.verdict == "refuted"
    assert "beyond 10 % at batch 4" in f11.sentence


def test_f11_under_noise_is_open() -> None:
    loud = level(5e-3, noise=0.2)
    assert one(case(rows(on_two(loud, loud))), "F11").verdict == "not tested"
