"""The ledger of every trial, so that "within 5 %" can be read off."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from loadgen.report.ledger_table import HEAD, ledger_table
from loadgen.results.rows import Rows
from loadgen.telemetry.scrapes import Scrape, write_parquet
from loadgen.telemetry_records import MemoryLedger, SourceFigures, TelemetrySummary

MIB = 1 << 20
SOURCES = (SourceFigures(url="one", scrapes=10, failed=0, scrape_p50_s=None, scrape_max_s=None),)
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
    table = ledger_table([(with_ledger(build, 1, LEDGER), None), (with_ledger(build, 8, none), None)])
    assert table is not None
    first, second = (dict(zip(enumerate(HEAD), row, strict=True)) for row in table.rows)
    assert first[0, "trial"] == "batch 1"
    assert (first[4, "of predicted"], first[7, "of predicted"]) == ("103.0 %", "100.0 %")
    assert (first[5, "KV, predicted"], first[6, "measured"]) == ("12.0 MiB", "12.0 MiB")
    assert set(second.values()) == {"batch 8", "100.0 MiB", "–"}


def test_a_lower_bound_is_called_one(build: Any) -> None:
    bound = replace(LEDGER, needed_from="allocator, sampled: at least")
    table = ledger_table([(with_ledger(build, 1, LEDGER), None), (with_ledger(build, 8, bound), None)])
    assert table is not None
    exact, least = (row[HEAD.index("needed")] for row in table.rows)
    assert least == f"at least {exact}"


def test_a_stored_overhead_of_two_moments_is_read_again(build: Any, tmp_path: Path) -> None:
    ledger = replace(LEDGER, gpu=0, process_bytes=1.0, process_from="process", overhead_bytes=-3.0 * MIB)
    result = with_ledger(build, 1, ledger)
    result = replace(result, telemetry=replace(result.telemetry, gpus=("GPU-a",), sources=SOURCES))
    path = tmp_path / "trial.parquet"
    scrapes = [
        Scrape(source="one", at_ns=at + late, took_ns=0, readings=((metric, subject, value * MIB),))
        for at in range(0, 10_000, 1000)
        for late, metric, subject, value in (
            (0, "engine_reserved_bytes", "0", 90.0),
            (100, "gpu_server_memory_bytes", "GPU-a", 97.0),
        )
    ]
    write_parquet(path, scrapes)
    table = ledger_table([(result, Rows(path))])
    assert table is not None
    assert table.rows[0][-1] == "7.0 MiB"
    table = ledger_table([(result, None)])
    assert table is not None
    assert table.rows[0][-1] == "–"  # nothing to read it again from: it is not shown


def test_an_upper_bound_is_called_one_and_its_share_no_miss(build: Any) -> None:
    result = with_ledger(build, 64, replace(LEDGER, kv_ratio=0.495))
    load = replace(result.trial.load, input_tokens=512, output_tokens=20)
    page = {"scheduling": "iteration level", "max_ragged_batch_size": 768}
    result = replace(result, trial=replace(result.trial, load=load), engine=page)
    table = ledger_table([(result, None)])
    assert table is not None
    assert table.rows[0][5:8] == ("at most 12.0 MiB", "12.0 MiB", "49.5 % of the most")


def test_without_a_ledger_there_is_no_table(build: Any) -> None:
    assert ledger_table([]) is None
    assert (
        ledger_table([(build.result(build.trial(), 1.0), None), (with_ledger(build, 1, None), None)]) is None
    )
