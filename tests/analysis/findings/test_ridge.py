"""F8: the ridge, predicted and measured, and what sets the plateau below it."""

from __future__ import annotations

import dataclasses
from dataclasses import replace

import pytest
from cases import case, findings, one, rows
from synthetic import (
    Point,
    World,
    grid,
    sweep,
)

from loadgen.analysis.findings import ridge

PREFILLS = grid(batch=(1, 2, 4, 8, 16, 32, 64), input_tokens=(20, 128, 512), output_tokens=(20,))


def bound_by(ridge: float, plateau_s: float) -> World:
    return World(
        prefill=lambda point: plateau_s * max(1.0, point.tokens / ridge), step=lambda _p: 8e-3, noise=0.01
    )


def test_f8_holds_where_bandwidth_and_compute_set_the_ridge() -> None:
    f8 = one(case(rows(sweep(PREFILLS, bound_by(206.0, 7e-3)))), "F8")
    assert f8.verdict == "holds", f8.sentence
    measured = next(number for number in f8.numbers if number.name.startswith("measured"))
    assert measured.low is not None
    assert measured.high is not None
    assert measured.low <= 206 <= measured.high


def test_f8_is_refuted_by_a_plateau_that_the_host_sets() -> None:
    f8 = one(case(rows(sweep(PREFILLS, bound_by(2000.0, 60e-3)))), "F8")
    assert f8.verdict == "refuted"
    assert "reading at the ceiling explains at most" in f8.sentence


def test_f8_tells_a_host_bound_plateau_where_the_ridge_itself_is_not_resolved() -> None:
    """One size beyond the ridge does not place it, but a plateau of 48 ms is no reading of weights."""
    points = grid(input_tokens=(20, 64, 256, 1024), output_tokens=(20, 100))
    f8 = one(case(rows(sweep(points, bound_by(600.0, 48e-3)))), "F8")
    assert f8.verdict == "refuted"
    assert "time rises at the largest sizes" in f8.sentence
    assert "reading at the ceiling explains at most" in f8.sentence
    assert {want.key.input_tokens for want in f8.wanted} == {2028}  # what the context holds beside 20 tokens


def test_f8_refuses_without_the_compute_side_or_ceilings() -> None:
    small = grid(batch=(1, 2, 4), input_tokens=(8, 16, 20), output_tokens=(20,))
    found = case(rows(sweep(small, bound_by(2000.0, 60e-3))))
    f8 = one(found, "F8")
    assert f8.verdict == "not tested"
    assert "not resolvable" in f8.sentence
    assert f8.wanted
    blind = dataclasses.replace(found, ceilings={})
    assert "loadgen probe" in one(blind, "F8").sentence
    mute = [replace(point, stream=False) for point in PREFILLS]
    assert one(case(rows(sweep(mute, bound_by(206.0, 7e-3)))), "F8").verdict == "not tested"


def test_f8_takes_unstreamed_trials_of_one_output_token() -> None:
    points = [replace(point, stream=False, output_tokens=1) for point in PREFILLS]
    assert one(case(rows(sweep(points, bound_by(206.0, 7e-3)))), "F8").verdict == "holds"


def test_f8_is_decided_for_each_split_apart() -> None:
    """One GPU meets the prediction; on four the host's share is so large that it does not."""

    def prefill(point: Point) -> float:
        return 7e-3 * max(1.0, point.tokens / 206) if point.tp == 1 else 40e-3 * max(1.0, point.tokens / 3000)

    points = [replace(point, tp=tp) for tp in (1, 4) for point in PREFILLS]
    world = World(prefill=prefill, step=lambda _p: 8e-3, noise=0.01)
    found = findings(case(rows(sweep(points, world))), "F8")
    assert [(each.subject.split(" · ")[-1], each.verdict) for each in found] == [
        ("tp 1", "holds"),
        ("tp 4", "refuted"),
    ]


def test_f8_finds_the_turn_behind_a_host_that_the_device_waits_for() -> None:
    """3 ms of host in series with a turn at 206 tokens: a law without them finds it at 294."""
    world = World(
        prefill=lambda point: 3e-3 + 5.6e-3 * max(1.0, point.tokens / 206), step=lambda _p: 8e-3, noise=0.01
    )
    f8 = one(case(rows(sweep(PREFILLS, world))), "F8")
    assert f8.verdict == "holds", f8.sentence
    measured = next(number for number in f8.numbers if number.name == "measured ridge")
    assert measured.low is not None
    assert measured.high is not None
    assert measured.low <= 206 <= measured.high < 280


def test_f8_of_one_start_on_a_machine_without_a_datasheet_bounds_no_share(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As `make demo` runs on a CPU: neither noise nor floor is known, so the plateau may be as low as nothing."""
    monkeypatch.setattr(ridge, "datasheet", lambda _machine: None)
    f8 = one(case(rows(sweep(PREFILLS, bound_by(206.0, 7e-3), repeats=1))), "F8")
    assert f8.verdict == "not tested"
    assert "not resolvable" in f8.sentence
    assert not [number for number in f8.numbers if "at most" in number.name]
