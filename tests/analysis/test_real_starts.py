"""A real server against itself: six starts of one engine on one GPU, in two folders."""

from __future__ import annotations

from pathlib import Path

from loadgen.analysis.compare import compare

STARTS = Path(__file__).resolve().parents[2] / "docs/results/h200-starts"


def test_a_server_against_itself_differs_in_nothing() -> None:
    found = compare(STARTS / "aa-a", STARTS / "aa-b", ["e2e_p50<=+1%", "output_tokens_per_s>=-1%"])
    assert len(found.pairs) == 7
    for metric, ratio in found.overall.items():
        assert ratio.starts == (3, 3)
        assert (ratio.low or 2) <= 1 <= (ratio.high or 0), metric
    for pair in found.pairs:
        assert all(ratio.adjusted is None or ratio.adjusted > 0.05 for ratio in pair.ratios.values()), (
            pair.text
        )
    assert [gate.verdict for gate in found.gates] == ["passes", "passes"]
    assert not found.failed


def test_a_gain_that_is_not_there_fails_its_gate() -> None:
    found = compare(STARTS / "aa-a", STARTS / "aa-b", ["e2e_p50<=-1%"])
    assert [gate.verdict for gate in found.gates] == ["fails"]
    assert found.failed
