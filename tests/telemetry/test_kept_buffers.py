"""What trials needed of an engine that keeps its buffers: the figures of the real library, llama-13b at tp 1."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from scraped import GPUS, SPANS, readings

from loadgen.analysis.table import rows_of
from loadgen.records import TrialResult
from loadgen.telemetry.kept_buffers import KEPT, NEW_MAXIMUM, mended
from loadgen.telemetry.ledger import make_ledger
from loadgen.telemetry.needed import bound_words
from loadgen.telemetry_records import MemoryLedger, PhaseFigures, TelemetrySummary

MIB = float(1 << 20)
PAGE = {"engine": "fastertransformer/a"}
# As recorded, in the order in which they ran: batch, input tokens, MiB of the process at its peak in the trial.
RECORDED = ((1, 20, 25764.0), (8, 20, 26020.0), (64, 128, 35268.0), (1, 128, 35268.0), (8, 2048, 50148.0))
LOADED = 25644.8  # of the GPU, before the first


def results(build: Any) -> list[TrialResult]:
    found = []
    for at, (batch, tokens, mib) in enumerate(RECORDED):
        idle = PhaseFigures(seconds=1.0, readings=3, gpu_memory_peak_bytes=(LOADED if at == 0 else 1.0) * MIB)
        ledger = MemoryLedger(
            predicted_weight_bytes=1, predicted_kv_bytes=1, process_bytes=mib * MIB, process_from="process"
        )
        telemetry = TelemetrySummary(ledger=ledger, phases={"idle": idle})
        trial = build.trial(batch=batch, input_tokens=tokens, framework="ft")
        found.append(replace(build.result(trial), engine=PAGE, telemetry=telemetry))
    return found


def test_stored_results_tell_their_needs_by_what_their_server_held_before(build: Any) -> None:
    stored = results(build)
    needs = [each.telemetry.ledger for each in mended(stored) if each.telemetry and each.telemetry.ledger]
    assert [each.needed_bytes for each in needs] == [mib * MIB for _, _, mib in RECORDED]
    assert [each.needed_from for each in needs] == [NEW_MAXIMUM, NEW_MAXIMUM, NEW_MAXIMUM, KEPT, NEW_MAXIMUM]
    assert [bound_words(each.needed_from) for each in needs] == ["", "", "", "at most", ""]
    values = [row.values.get("gpu_memory_bytes") for row in rows_of(stored, {})]
    assert values == [25764 * MIB, 26020 * MIB, 35268 * MIB, None, 50148 * MIB]


def test_another_start_and_another_engine_are_not_mixed_in(build: Any) -> None:
    stored = results(build)
    again = [replace(each, start="another") for each in stored]
    assert [each.telemetry for each in mended([*stored, *again])[len(stored) :]] == [
        each.telemetry for each in mended(stored)
    ]
    other = [replace(each, engine={"engine": "hf/generate"}) for each in stored]
    assert mended(other) == other


def test_the_ledger_of_a_trial_is_by_the_most_that_was_held_before(build: Any) -> None:
    trial = build.trial(tp=2, framework="ft")

    def ledger(before: float | None, page: Any = PAGE) -> MemoryLedger:
        held = readings(gpu_server_memory_bytes=lambda gpu, s: (100 if s < 1.5 else 110 + gpu) * MIB)
        found = make_ledger(trial, held, SPANS, gpus=GPUS, before={}, after=page, held_before=before)
        assert found is not None
        return found

    first = ledger(None)
    assert (first.needed_bytes, first.needed_from) == (111 * MIB, NEW_MAXIMUM)
    assert ledger(110 * MIB).needed_from == KEPT
    assert ledger(120 * MIB).needed_from == KEPT
    assert ledger(None, {"engine": "hf/generate"}).needed_bytes is None
    assert ledger(None, {"engine": "another", "keeps_buffers": True}).needed_from == NEW_MAXIMUM
