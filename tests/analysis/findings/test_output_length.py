"""F5: latency per output token over the output length, by two one-sided tests."""

from __future__ import annotations

from dataclasses import replace

from cases import case, findings, one, rows
from synthetic import Point, World, grid, sweep

EXP2 = grid(batch=(1, 16), input_tokens=(20, 128), output_tokens=(20, 100, 500))
FLAT = World(prefill=lambda _p: 5e-3, step=lambda _p: 5e-3, noise=0.005)
HEAVY = World(prefill=lambda _p: 0.5, step=lambda _p: 5e-3, noise=0.005)


def test_f5_reads_latency_per_output_token_at_the_report_s_lengths() -> None:
    f5 = one(case(rows(sweep(EXP2, FLAT))), "F5")
    assert f5.verdict == "holds"
    assert f5.at == "20/20 → 100"
    assert "latency per output token ×1" in f5.sentence
    assert "end to end takes ×5" in f5.sentence
    assert one(case(rows(sweep(EXP2, HEAVY))), "F5").verdict == "refuted"


def test_f5_of_fastertransformer_is_that_it_falls() -> None:
    points = [replace(point, framework="ft", engine="ft") for point in EXP2]
    assert one(case(rows(sweep(points, HEAVY))), "F5").verdict == "holds"
    assert one(case(rows(sweep(points, FLAT))), "F5").verdict != "holds"


def test_f5_is_refuted_by_a_batch_that_is_shown_beyond_the_margin() -> None:
    """On the mean within 10 %, but batch 64 is 20 % off."""

    def prefill(point: Point) -> float:
        return 1e-9 if point.batch < 64 else 0.027

    points = grid(batch=(1, 2, 4, 8, 16, 64), output_tokens=(20, 100))
    world = World(prefill=prefill, step=lambda _p: 5e-3, noise=0.002)
    f5 = one(case(rows(sweep(points, world))), "F5")
    assert f5.verdict == "refuted"
    assert "batch 64 ×0.8" in f5.sentence


def test_f5_under_noise_is_open_and_asks_for_starts() -> None:
    f5 = one(case(rows(sweep(EXP2, replace(FLAT, noise=0.2), repeats=3))), "F5")
    assert f5.verdict == "not tested"
    assert "inside the noise" in f5.sentence


def test_f5_is_told_on_each_server() -> None:
    points = [replace(point, tp=tp) for tp in (1, 2) for point in EXP2]
    assert len(findings(case(rows(sweep(points, FLAT))), "F5")) == 2
