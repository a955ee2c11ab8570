"""F5: latency per output token over the output length."""

from __future__ import annotations

from dataclasses import replace

from cases import case, finding, rows
from synthetic import (
    World,
    grid,
    sweep,
)

EXP2 = grid(batch=(1, 16), input_tokens=(128,), output_tokens=(20, 100, 500))


def test_f5_reads_latency_per_output_token() -> None:
    flat = World(prefill=lambda _p: 5e-3, step=lambda _p: 5e-3, noise=0.005)
    f5 = finding(case(rows(sweep(EXP2, flat))), "F5")
    assert f5.verdict == "holds"
    assert "latency per output token" in f5.sentence
    assert "End-to-end latency itself grows 2" in f5.sentence  # 500 over 20 tokens: 25 times
    heavy = World(prefill=lambda _p: 0.5, step=lambda _p: 5e-3, noise=0.005)
    assert finding(case(rows(sweep(EXP2, heavy))), "F5").verdict == "refuted"
    points = [replace(point, framework="ft", engine="ft") for point in EXP2]
    assert finding(case(rows(sweep(points, heavy))), "F5").verdict == "holds"  # the FT claim: it falls
    assert finding(case(rows(sweep(points, flat))), "F5").verdict != "holds"
