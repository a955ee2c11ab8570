"""F6 and F7 are decided by needed memory, and by nothing else."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

from cases import EXP3, case, finding, rows
from synthetic import (
    BATCHES,
    roofline_world,
    sweep,
)

from loadgen.analysis.table import Key, Row


def with_memory(found: Sequence[Row], memory: Callable[[Key], float]) -> list[Row]:
    return [
        dataclasses.replace(row, values={**row.values, "gpu_memory_bytes": memory(row.key)}) for row in found
    ]


def test_f6_and_f7_need_measured_memory() -> None:
    found = case(rows(sweep(EXP3, roofline_world())))
    for id in ("F6", "F7"):
        result = finding(found, id)
        assert result.verdict == "not tested"
        assert "not measured" in result.sentence
        assert not result.numbers


def test_f6_is_decided_with_memory() -> None:
    def memory(key: Key) -> float:
        """Weights, and a cache that outgrows what is set aside for it: the more GPUs, the later."""
        return 26e9 / key.tp + 1e9 + max(0, key.batch - 8 * key.tp) * 120 * 0.82e6 / key.tp * 4

    f6 = finding(case(with_memory(rows(sweep(EXP3, roofline_world())), memory)), "F6")
    assert f6.verdict == "holds", f6.sentence
    always = case(with_memory(rows(sweep(EXP3, roofline_world())), lambda key: 1e9 * key.batch))
    assert finding(always, "F6").verdict == "refuted"


def test_f7_is_decided_with_memory() -> None:
    def memory(key: Key) -> float:
        return 26e9 / key.tp + 1e9 + key.batch * 120 * 0.82e6 / key.tp

    f7 = finding(case(with_memory(rows(sweep(EXP3, roofline_world())), memory)), "F7")
    assert f7.verdict == "holds", f7.sentence
    assert all(number.value is not None and 0.5 < number.value <= 0.6 for number in f7.numbers)
    assert len(f7.numbers) == 2 * len(BATCHES)
    exact = case(with_memory(rows(sweep(EXP3, roofline_world())), lambda key: 26e9 / key.tp))
    assert finding(exact, "F7").verdict == "refuted"  # exactly half is not more than half
