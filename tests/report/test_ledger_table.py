"""The ledger of every trial, so that "within 5 %" can be read off."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from loadgen.records import MemoryLedger, TelemetrySummary
from loadgen.report.ledger_table import HEAD, ledger_table

MIB = 1 << 20
LEDGER = MemoryLedger(
    predicted_weight_bytes=100 * MIB,
    predicted_kv_bytes=10 * MIB,
    kv_rounding_bytes=2 * MIB,
    gpu=1,
    weight_bytes=103.0 * MIB,
    weight_ratio=1.03,
    kv_bytes=12.0 * MIB,
    kv_ratio=1.0,
    needed_bytes=130.0 * MIB,
)


def with_ledger(build: Any, batch: int, ledger: MemoryLedger | None) -> Any:
    return replace(build.result(build.trial(batch), 1.0), telemetry=TelemetrySummary(ledger=ledger))


def test_every_trial_has_its_ratios_and_a_dash_for_what_nobody_measured(build: Any) -> None:
    none = MemoryLedger(predicted_weight_bytes=100 * MIB, predicted_kv_bytes=None)
    table = ledger_table([with_ledger(build, 1, LEDGER), with_ledger(build, 8, none)])
    assert table is not None
    first, second = (dict(zip(enumerate(HEAD), row, strict=True)) for row in table.rows)
    assert first[0, "trial"] == "batch 1"
    assert (first[4, "of predicted"], first[7, "of predicted"]) == ("103.0 %", "100.0 %")
    assert (first[5, "KV, predicted"], first[6, "measured"]) == ("12.0 MiB", "12.0 MiB")
    assert set(second.values()) == {"batch 8", "100.0 MiB", "–"}


def test_without_a_ledger_there_is_no_table(build: Any) -> None:
    assert ledger_table([]) is None
    assert ledger_table([build.result(build.trial(), 1.0), with_ledger(build, 1, None)]) is None
