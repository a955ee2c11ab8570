"""F6 and F7 are decided by needed memory, and by nothing else."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

from cases import EXP3, case, findings, one, rows
from synthetic import BATCHES, grid, roofline_world, sweep

from loadgen.analysis.table import Key, Row


def with_memory(found: Sequence[Row], memory: Callable[[Key], float]) -> list[Row]:
    return [
        dataclasses.replace(row, values={**row.values, "gpu_memory_bytes": memory(row.key)}) for row in found
    ]


def test_f6_and_f7_need_measured_memory() -> None:
    found = case(rows(sweep(EXP3, roofline_world())))
    for id in ("F6a", "F6b", "F7"):
        result = one(found, id)
        assert result.verdict == "not tested"
        assert "not measured" in result.sentence
        assert not result.numbers


def test_f6_is_decided_with_memory() -> None:
    def memory(key: Key) -> float:
        """Weights, and a cache that outgrows what is set aside for it: the more GPUs, the later."""
        return 26e9 / key.tp + 1e9 + max(0, key.batch - 8 * key.tp) * 120 * 0.82e6 / key.tp * 4

    found = case(with_memory(rows(sweep(EXP3, roofline_world())), memory))
    assert [each.verdict for each in findings(found, "F6a")] == ["holds"] * 3
    assert one(found, "F6b").verdict == "holds", one(found, "F6b").sentence
    always = case(with_memory(rows(sweep(EXP3, roofline_world())), lambda key: 1e9 * key.batch))
    assert [each.verdict for each in findings(always, "F6a")] == ["refuted"] * 3


def test_a_knee_of_memory_that_scatters_is_as_open_as_the_scatter_leaves_it() -> None:
    """True at batch 16 are 9 %, and three starts happen to show 11: taken as exact, the knee would lie before it."""
    shown = {1: (0.02, 0.0, -0.02), 8: (-0.02, 0.01, 0.01), 16: (0.03, 0.01, 0.015)}

    def scattered(row: Row) -> float:
        batch = row.key.batch
        off = shown.get(batch, (0.015, -0.015, 0.0))[row.trial.repeat]
        return 26e9 * (1 + off) * (1 if batch < 16 else 1.09 if batch == 16 else 1.3)

    found = [
        dataclasses.replace(row, values={**row.values, "gpu_memory_bytes": scattered(row)})
        for row in rows(sweep(grid(batch=(1, 8, 16, 32, 64), output_tokens=(100,)), roofline_world()))
    ]
    effect = one(case(found), "F6a").effect
    assert effect is not None
    assert effect.low is not None
    assert effect.high is not None
    assert effect.low < 16 < effect.high


def test_a_knee_that_does_not_grow_with_the_gpus_refutes() -> None:
    alike = case(
        with_memory(rows(sweep(EXP3, roofline_world())), lambda key: (26e9 + 0.1e9 * key.batch) / key.tp)
    )
    assert one(alike, "F6b").verdict == "refuted"


def test_f7_is_decided_with_memory() -> None:
    def memory(key: Key) -> float:
        return 26e9 / key.tp + 1e9 + key.batch * 120 * 0.82e6 / key.tp

    f7 = one(case(with_memory(rows(sweep(EXP3, roofline_world())), memory)), "F7")
    assert f7.verdict == "holds", f7.sentence
    assert [number.name for number in f7.numbers] == [f"memory per GPU at 20/100 ({2 * len(BATCHES)} pairs)"]
    exact = case(with_memory(rows(sweep(EXP3, roofline_world())), lambda key: 26e9 / key.tp))
    assert one(exact, "F7").verdict == "refuted"  # exactly half is not more than half
