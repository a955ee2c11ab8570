"""Starts of one server that did not run the same code, or may not have."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from synthetic import Point, environment, result, roofline_world

from loadgen.analysis.versions import COMMIT, Served, differences

CLEAN = "0123456789abcdef"


def served(start: str, folder: str = "a", framework: str = "hf", **facts: Any) -> Served:
    """A trial of a start. ``commit``, ``driver``: of its environment; ``gpus``: of its server; others: its page."""
    around = {name: facts.pop(name) for name in ("commit", "driver") if name in facts}
    found = result(Point(framework=framework), roofline_world(), start=start)
    assert found.trial.server is not None
    server = replace(found.trial.server, gpus=facts.pop("gpus", (0,)))
    found = replace(found, trial=replace(found.trial, server=server), engine={"code": "c", **facts})
    return Served(start=start, folder=folder, result=found, environment=environment(**around))


def told(*trials: Served) -> dict[str, str]:
    return {each.what: each.words for each in differences(trials)}


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({}, {}),
        ({"commit": "x"}, {"commit": "y"}),  # its code is stored, and the same
        ({"versions": {"torch": "2.10"}}, {"versions": {}}),  # what a page does not tell is no other version
        ({"versions": {"python": "3.11.8"}}, {"versions": {"python": "3.11.9"}}),
        ({"pid": 1, "load_s": 2.0}, {"pid": 2, "load_s": 3.0}),
        ({"driver": "580", "gpus": ()}, {"driver": "590", "gpus": ()}),
    ],
)
def test_nothing_is_told_of_starts_alike(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert told(served("1", **one), served("2", "b", **other)) == {}


@pytest.mark.parametrize(
    ("name", "one", "other"),
    [
        ("torch", {"versions": {"torch": "a"}}, {"versions": {"torch": "b"}}),
        ("python", {"versions": {"python": "a.b.1"}}, {"versions": {"python": "b.b.1"}}),
        ("code", {"code": "a"}, {"code": "b"}),
        ("server", {"server": "a"}, {"server": "b"}),
        ("lib.so, SHA-256", {"library": {"lib.so": "a"}}, {"library": {"lib.so": "b"}}),
        ("driver", {"driver": "a"}, {"driver": "b"}),
    ],
)
def test_each_deciding_fact_is_told(name: str, one: dict[str, Any], other: dict[str, Any]) -> None:
    found = told(served("1", **one), served("2", "b", **one), served("3", "b", **other))
    values = ("a.b", "b.b") if name == "python" else ("a", "b")
    assert found == {name: f"{values[0]} (2 starts in 2 folders), {values[1]} (1 start)"}


def test_a_start_counts_once_whatever_its_trials() -> None:
    trials = [served("1"), served("1"), served("1"), served("2", code="d")]
    assert told(*trials) == {"code": "c (1 start), d (1 start)"}


@pytest.mark.parametrize(
    ("one", "other", "words"),
    [
        (CLEAN, CLEAN, None),
        (CLEAN, "fedcba", "0123456789ab (1 start), fedcba (1 start)"),
        (CLEAN, None, "0123456789ab (1 start), not known (1 start)"),
        (None, None, "not known (2 starts in 2 folders)"),
        (f"{CLEAN}+changes", f"{CLEAN}+changes", "0123456789ab+changes (2 starts in 2 folders)"),
    ],
)
def test_a_commit_stands_in_for_code_that_was_not_stored(
    one: str | None, other: str | None, words: str | None
) -> None:
    first, second = (served(name, name, commit=commit) for name, commit in (("1", one), ("2", other)))
    without = [replace(each, result=replace(each.result, engine={})) for each in (first, second)]
    wanted = {} if words is None else {COMMIT: words}
    assert told(*without) == wanted
    assert told(without[0], second) == wanted  # one that stored its code beside one that did not
    assert told(*(replace(each, folder="a") for each in without)) == ({} if one == other else wanted)


def test_a_server_of_others_is_known_by_its_versions_alone() -> None:
    one, other = (served(name, name, "vllm", version="0.25", commit=name) for name in ("1", "2"))
    bare = [replace(each, result=replace(each.result, engine={"version": "0.25"})) for each in (one, other)]
    assert told(*bare) == {}
    newer = replace(bare[1], result=replace(bare[1].result, engine={"version": "0.26"}))
    assert told(bare[0], newer) == {"version": "0.25 (1 start), 0.26 (1 start)"}
