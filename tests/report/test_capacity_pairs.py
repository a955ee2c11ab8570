"""Pairs of servers by their starts' capacities: a difference must stand among all that were looked at."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from loadgen.engine_facts import ITS_OWN
from loadgen.errors import BadInput
from loadgen.load_records import LoadSpec
from loadgen.records import Caveat, ServerSpec, Trial, TrialResult
from loadgen.report.capacity_found import Found, found_in
from loadgen.report.capacity_pairs import pairs_table, server_lines
from loadgen.search_records import Capacity, CapacitySearch
from loadgen.theory.models import PRESETS

FAST, SLOW = [10.4, 11.2, 10.8], [9.6, 10.0, 9.8]
LOAD = LoadSpec(kind="poisson", input_tokens=8, output_tokens=4)


def starts(name: str, found: Sequence[float]) -> list[Found]:
    point = Trial(id="", load=LOAD, url=f"http://{name}")
    return [
        Found(
            capacity=Capacity(
                search=CapacitySearch(point=point), environment="e", ended="found",
                capacity=each, low=each / 1.01, high=each * 1.01,
            ),
            trials=(), server=name, engine="one class", start=at,
        )
        for at, each in enumerate(found)
    ]  # fmt: skip


def test_a_difference_stands_among_all_pairs_or_is_not_told() -> None:
    """Of two servers alone these are told apart; of four, six pairs were looked at."""
    fast, slow = starts("fast", FAST), starts("slow", SLOW)
    alone = pairs_table([*fast, *slow])
    assert alone is not None
    assert "not told" not in alone.rows[0][-1]
    others = [*starts("third", [10.1, 10.5, 10.3]), *starts("fourth", [10.2, 10.6, 10.4])]
    every = pairs_table([*fast, *slow, *others])
    assert every is not None
    assert len(every.rows) == 6
    (row,) = (row for row in every.rows if "fast" in row[0] and "slow" in row[1])
    assert row[-1] == f"{alone.rows[0][-1]}: not told apart"
    assert not [name for name, _ in server_lines([*fast, *slow, *others]) if " against " in name]
    assert [name for name, _ in server_lines([*fast, *slow]) if " against " in name]


def served(
    framework: str, found: Sequence[float], marks: Sequence[str] = (), maker: str = "loadgen", **spec: Any
) -> list[Found]:
    """Starts of a server on an H200, each with a window whose caveats are ``marks``: kind, or kind and message."""
    told: dict[str, Any] = {"model": PRESETS["llama-13b"], "dtype": "bfloat16", "gpus": (0,)} | spec
    machine = told.pop("machine", "NVIDIA H200")
    point = Trial(id="t", load=LOAD, server=ServerSpec(framework=framework, **told))
    kinds = [mark.partition(": ") for mark in marks]
    window = TrialResult(
        trial=point, environment="e", engine={"weights": {"maker": maker, "distribution": ITS_OWN}}, started="",
        wall_s=1.0, caveats=tuple(Caveat(kind=kind, message=words, remedy="") for kind, _, words in kinds),
    )  # fmt: skip
    return [
        replace(
            each,
            capacity=replace(each.capacity, search=CapacitySearch(point=point)),
            trials=(("window", window),),
            machine=machine,
        )
        for each in starts(framework, found)
    ]


def test_the_doubts_of_both_capacities_stand_beside_their_ratio() -> None:
    kinds = (("slo-window", "few-slots"), ("slo-window", "not-monotone"))
    fast, slow = (
        [
            replace(each, capacity=replace(each.capacity, caveats=tuple(map(doubt, of_it))))
            for each in served(name, found, marks)
        ]
        for name, found, marks, of_it in zip(
            ("vllm", "ds"), (FAST, SLOW), (["output-at-most", "spread"], []), kinds, strict=True
        )
    )
    table = pairs_table([*slow, *fast])
    assert table is not None
    doubts = "of both: slo-window; of the first: few-slots output-at-most; of the other: not-monotone"
    (row,) = table.rows
    assert row[table.head.index("doubts")] == doubts
    first, other, pair = (words for _, words in server_lines([*fast, *slow]))
    assert first.endswith("; doubts: slo-window few-slots output-at-most")
    assert other.endswith("; doubts: slo-window not-monotone")
    assert pair == f"{row[-1]}; doubts {doubts}"


def doubt(kind: str) -> Caveat:
    return Caveat(kind=kind, message="", remedy="")


CAPPED = ("throttled: power cap in 99.0 % of the readings",)


@pytest.mark.parametrize(
    ("slow", "why"),
    [
        ({}, ""),
        ({"tp": 2, "gpus": (0, 1)}, ""),  # what the user compares
        ({"dtype": "float16"}, ""),
        ({"marks": CAPPED}, ""),
        ({"maker": "vLLM"}, ""),  # below the cap the clock is the GPU's
        ({"marks": CAPPED, "maker": "vLLM"}, "not the same data (both ran at the power cap, "),
        ({"machine": "NVIDIA H100"}, "not the same machine (NVIDIA H200, NVIDIA H100)"),
        ({"dtype": "float32"}, "not numbers of the same width (16-bit, 32-bit)"),
    ],
)
def test_capacities_of_other_work_tell_no_servers_apart(slow: dict[str, Any], why: str) -> None:
    every = [*served("vllm", FAST, CAPPED if "marks" in slow else ()), *served("ds", SLOW, **slow)]
    table = pairs_table(every)
    assert table is not None
    ((*_, ratio),) = table.rows
    assert ratio.startswith(f"×1.1, {why}" if why else "×1.1 [")
    assert ratio.endswith(": not told") == bool(why)
    assert any(" against " in name for name, _ in server_lines(every)) == (not why)


def test_capacities_of_two_models_are_no_pair() -> None:
    small = served("ds", SLOW, model=PRESETS["llama-7b"])
    assert pairs_table([*served("vllm", FAST), *small]) is None


def test_a_start_without_a_capacity_is_told_and_takes_the_interval() -> None:
    fast, slow = starts("fast", [10.4, 11.2, 10.8]), starts("slow", [5.6, 5.0, 5.8])
    lost = [
        replace(
            each, capacity=replace(each.capacity, ended=ended, why="x", capacity=None, low=None, high=None)
        )
        for each, ended in zip(fast, ("none", "failed", "client"), strict=True)
    ]
    table = pairs_table([lost[0], *fast[1:], *slow])
    assert table is not None
    assert (*table.rows[0][3:5], table.rows[0][-1]) == (
        "11 req/s over 2 starts (11.2, 10.8), and 1 without",
        "5.46 req/s over 3 starts (5.6, 5, 5.8)",
        "×2.02, a start has none: not told",
    )
    lines = dict(server_lines([lost[0], *fast[1:], *slow]))
    assert not [name for name in lines if " against " in name]
    for at, told in (
        (1, False),
        (2, True),
    ):  # it broke, or all that was tried passed; the client was the limit
        others = pairs_table([*(each for each in fast if each is not fast[at]), lost[at], *slow])
        assert others is not None
        assert "and 1 without" in others.rows[0][3]
        assert ("not told" not in others.rows[0][-1]) is told


def test_a_copied_search_is_no_search_of_its_own(tmp_path: Path) -> None:
    kept = Path(__file__).parents[2] / "docs/results/h200-capacity"
    copy = shutil.copytree(kept / "hf-continuous-tp1", tmp_path / "again")
    assert len(found_in([kept / "hf-continuous-tp1", kept / "vllm-tp2"])) == 2
    with pytest.raises(BadInput, match="again hold the same searches"):
        found_in([kept / "hf-continuous-tp1", kept / "vllm-tp2", copy])
