"""Gates: read, refused, and judged by the mean and by all cells together."""

from __future__ import annotations

import pytest
from reference import A, B, overall

from loadgen.analysis.cells import cell_ratios
from loadgen.analysis.gates import judge, parse_gate
from loadgen.analysis.ratios import Ratio, ratio_of
from loadgen.errors import BadInput


def ratio(log_ratio: float, se: float, df: float) -> Ratio:
    return ratio_of(log_ratio, (se**2, df))


@pytest.mark.parametrize(
    ("text", "metric", "level", "absolute"),
    [
        ("e2e_p50<=+3%", "e2e_s", 1.03, False),
        ("ttft_p99 <= 300ms", "ttft_s@p99", 0.3, True),
        ("tpot_mean<=25 ms", "tpot_s@mean", 0.025, True),
        ("itl_p95 <= -5 %", "itl_s@p95", 0.95, False),
        ("throughput >= -5%", "output_tokens_per_s", 0.95, False),
        ("throughput_mean>=1000tok/s", "output_tokens_per_s", 1000, True),
        ("e2e_s<=2s", "e2e_s", 2, True),
        ("gpu_memory_bytes <= 80GB", "gpu_memory_bytes", 80e9, True),
    ],
)
def test_gates_are_read(text: str, metric: str, level: float, absolute: bool) -> None:
    gate = parse_gate(text)
    assert (gate.metric, gate.absolute) == (metric, absolute)
    assert gate.level == pytest.approx(level)
    assert gate.at_most == ("<=" in text)


@pytest.mark.parametrize(
    "text",
    [
        "e2e_p50 +3%", "speed <= 3%", "e2e_p50 <= 3", "", "e2e_p50 <= x%", "e2e_p42 <= 3%", "throughput_p99 >= 1%",
        "e2e <= 3 parsecs", "e2e <= -100%", "ttft <= 0ms", "throughput >= 3ms", "e2e <= 1.2.3%", "e2e <= nan%",
    ],
)  # fmt: skip
def test_gates_that_cannot_be_read_are_refused(text: str) -> None:
    with pytest.raises(BadInput, match="accepted"):
        parse_gate(text)


@pytest.mark.parametrize(
    ("mean", "cells", "verdict", "p_values"),
    [
        ((0.05, 0.006, 4), [(0.05, 0.01, 9), (0.06, 0.01, 9)], "fails", (0.01355, 0.01392)),
        ((0.0, 0.006, 4), [(0.0, 0.01, 9), (0.005, 0.01, 9)], "passes", None),
        ((0.02, 0.02, 4), [(0.02, 0.03, 9), (0.03, 0.03, 9)], "not shown", None),
    ],
)
def test_a_gate_by_the_mean_and_by_the_cells(
    mean: tuple[float, float, float],
    cells: list[tuple[float, float, float]],
    verdict: str,
    p_values: tuple[float, float] | None,
) -> None:
    found = judge(parse_gate("e2e<=+3%"), ratio(*mean), [ratio(*each) for each in cells])
    assert found.verdict == verdict
    if p_values:
        assert (found.p_mean, found.p_cells) == pytest.approx(p_values, abs=6e-6)


@pytest.mark.parametrize(
    ("level", "verdict", "p_values"),
    [(3, "not shown", (0.1559, 0.4300)), (8, "passes", None), (1, "not shown", (0.0391, 0.0727))],
)
def test_a_gate_on_two_starts_a_side(level: int, verdict: str, p_values: tuple[float, float] | None) -> None:
    found = judge(parse_gate(f"e2e<=+{level}%"), overall(A, B), cell_ratios(A, B))
    assert found.verdict == verdict
    if p_values:
        assert (found.p_mean, found.p_cells) == pytest.approx(p_values, abs=6e-5)


def test_a_gate_turned_round_judges_the_same() -> None:
    down, up = overall(B, A), overall(A, B)
    kept = judge(parse_gate("throughput >= -7.4%"), down, cell_ratios(B, A))
    same = judge(parse_gate("e2e <= +8%"), up, cell_ratios(A, B))
    assert kept.verdict == same.verdict == "passes"
    assert kept.p_mean == pytest.approx(same.p_mean, rel=0.02)


def test_one_bad_cell_fails_and_every_cell_can_be_asked_for() -> None:
    fine = [ratio(0.0, 0.01, 9)] * 3
    gate = parse_gate("e2e<=+3%")
    assert judge(gate, ratio(0.01, 0.006, 4), [*fine, ratio(0.1, 0.01, 9)]).verdict == "fails"
    unsure = [*fine, ratio(0.02, 0.01, 9)]
    assert judge(gate, ratio(0.0, 0.006, 4), unsure).verdict == "passes"
    assert judge(gate, ratio(0.0, 0.006, 4), unsure, every_cell=True).verdict == "not shown"


def test_what_is_not_told_is_not_shown() -> None:
    bare = [Ratio(value=2.0)] * 3
    assert judge(parse_gate("e2e<=+3%"), Ratio(value=2.0), bare).verdict == "not shown"
    assert judge(parse_gate("e2e<=+3%"), None, []).verdict == "not shown"
    assert judge(parse_gate("e2e<=+3%"), ratio(0.0, 0.006, 4), bare, every_cell=True).verdict == "not shown"
