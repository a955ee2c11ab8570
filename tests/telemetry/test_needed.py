"""How much of an allocator's peak a trial needed: by which peak, and without what is others'."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from scraped import GPUS, HALVES, SPANS, S, ranks, readings

from loadgen.analysis.telemetry import telemetry_of
from loadgen.telemetry.ledger import make_ledger, mended_need
from loadgen.telemetry.needed import LESS_CACHE, is_bound
from loadgen.telemetry.scrapes import Scrape
from loadgen.telemetry.series import readings_of
from loadgen.telemetry_records import MemoryLedger, TelemetrySummary


def test_a_peak_of_an_earlier_trial_is_not_this_ones(build: Any) -> None:
    """The counter did not move: only what was sampled is this trial's, and it is said to be a lower bound."""
    page = ranks(r0=(5.0, 40.0, 50.0))
    sampled = [
        Scrape(source="one", at_ns=at, took_ns=0, readings=(("engine_allocated_bytes", "0", at / S),))
        for at in HALVES
    ]
    ledger = make_ledger(
        build.trial(), readings_of(sampled, ["one"]), SPANS, gpus=GPUS[:1], before=page, after=page
    )
    assert ledger is not None
    assert (ledger.needed_bytes, ledger.needed_from) == (6.0, "allocator, sampled: at least")
    assert ledger.idle_bytes == 1.0
    unsampled = make_ledger(build.trial(), readings(), SPANS, gpus=GPUS[:1], before=page, after=page)
    assert unsampled is not None
    assert unsampled.needed_bytes is None


def test_an_engine_that_counts_each_calls_peak_tells_a_smaller_trials_need(build: Any) -> None:
    page = ranks(r0=(5.0, 40.0, 50.0), r1=(5.0, 41.0, 50.0))
    for rank, peak in (("0", 11.0), ("1", 12.0)):
        page["memory"]["cuda"][rank]["call_peak_allocated_bytes"] = peak
    ledger = make_ledger(build.trial(), readings(), SPANS, gpus=GPUS[:1], before=page, after=page)
    assert ledger is not None
    assert (ledger.needed_bytes, ledger.needed_from) == (12.0, "allocator's peak in the last call")


def test_a_peak_that_may_hold_dropped_caches_is_not_this_trials_need(build: Any) -> None:
    """The engine ran out, gave up the caches of earlier calls and went on: the peak was theirs and this call's."""
    before, after = ranks(r0=(140.0, 141.0, 149.0)), ranks(r0=(136.0, 147.0, 149.0))
    after["memory"]["cuda"]["0"] |= {"call_peak_allocated_bytes": 137.0, "loaded_bytes": 130.0}
    trial = build.trial()
    ledger = make_ledger(trial, readings(), SPANS, gpus=GPUS[:1], before=before, after=after)
    assert ledger is not None
    assert (ledger.needed_bytes, ledger.needed_from) == (137.0, "allocator's peak in the last call")
    kept = {"memory": {"cuda": {"0": after["memory"]["cuda"]["0"] | {"allocated_bytes": 140.0}}}}
    ledger = make_ledger(trial, readings(), SPANS, gpus=GPUS[:1], before=before, after=kept)
    assert ledger is not None
    assert (ledger.needed_bytes, ledger.needed_from) == (147.0, "allocator's peak"), "nothing was dropped"


def test_a_ledger_stored_with_such_a_peak_is_mended(build: Any) -> None:
    page = ranks(r0=(136.0, 147.0, 149.0))
    page["memory"]["cuda"]["0"]["call_peak_allocated_bytes"] = 137.0
    stored = MemoryLedger(
        predicted_weight_bytes=100, predicted_kv_bytes=30, gpu=0, idle_bytes=140.0, needed_bytes=147.0,
        needed_from="allocator's peak", rest_bytes=17.0,
    )  # fmt: skip
    result = replace(
        build.result(build.trial(), 1.0),
        engine=page,
        telemetry=TelemetrySummary(gpu_memory_bytes=147.0, ledger=stored),
    )
    mended = mended_need(result)
    assert mended is not None
    assert (mended.needed_bytes, mended.needed_from) == (137.0, "allocator's peak in the last call")
    assert mended.rest_bytes == 7.0
    assert telemetry_of(result)["gpu_memory_bytes"] == 137.0
    honest = replace(result, telemetry=TelemetrySummary(ledger=replace(stored, idle_bytes=136.5)))
    assert mended_need(honest) == honest.telemetry.ledger
    assert mended_need(replace(result, telemetry=None)) is None


def kept_page(**changes: float) -> dict[str, Any]:
    """After a call of a shape beside others: weights 100, caches 30 of which 5 are this call's, graphs and theirs 8."""
    figures = {
        "loaded_bytes": 100.0, "allocated_bytes": 138.0, "reserved_bytes": 150.0, "peak_allocated_bytes": 141.0,
        "call_peak_allocated_bytes": 140.0, "kv_needed_bytes": 5.0, "kv_reserved_bytes": 30.0,
    }  # fmt: skip
    return {"engine": "hf/compiled", "memory": {"cuda": {"0": figures | changes}}}


@pytest.mark.parametrize(("earlier", "top"), [(120.0, 141.0), (141.0, 140.0)])
def test_graphs_of_other_calls_are_not_this_ones_need(build: Any, earlier: float, top: float) -> None:
    before = kept_page(peak_allocated_bytes=earlier, allocated_bytes=120.0)
    ledger = make_ledger(build.trial(), readings(), SPANS, gpus=GPUS[:1], before=before, after=kept_page())
    assert ledger is not None
    assert ledger.needed_bytes == top - 38 + 5, (
        "weights, this call's cache, and what only lives while a call runs"
    )
    assert ledger.needed_from is not None
    assert ledger.needed_from.endswith("less all that is kept between calls but this one's cache")
    assert ledger.activation_bytes == top - 138


def test_a_replayed_graphs_peak_is_a_lower_bound(build: Any) -> None:
    """What it computes with was taken when it was captured: the allocator shows nothing of it in a later call."""
    before, trial = kept_page(allocated_bytes=120.0), build.trial()
    graphs = replace(trial, server=replace(trial.server, options={"engine": "compiled"}))
    ledger = make_ledger(graphs, readings(), SPANS, gpus=GPUS[:1], before=before, after=kept_page())
    assert ledger is not None
    assert ledger.needed_bytes == 140 - 38 + 5
    assert is_bound(ledger.needed_from)
    assert ledger.activation_bytes is None
    captured = kept_page(peak_allocated_bytes=120.0, allocated_bytes=120.0)
    ledger = make_ledger(graphs, readings(), SPANS, gpus=GPUS[:1], before=captured, after=kept_page())
    assert ledger is not None
    assert ledger.needed_bytes == 141 - 38 + 5
    assert not is_bound(ledger.needed_from), "the trial that captured it had it allocated"


def test_no_lower_bound_becomes_a_figure_of_the_trial(build: Any) -> None:
    """Nor of one stored before there were bounds: the ledger is read by the rules of now."""
    trial = build.trial()
    graphs = replace(trial, server=replace(trial.server, options={"engine": "compiled"}))
    stored = MemoryLedger(
        predicted_weight_bytes=100, predicted_kv_bytes=5, gpu=0, needed_bytes=140.0 - 30 + 5, kv_bytes=5.0,
        kv_reserved_bytes=30.0, needed_from="allocator's peak in the last call" + LESS_CACHE, idle_bytes=138.0,
    )  # fmt: skip
    telemetry = TelemetrySummary(gpu_memory_bytes=115.0, ledger=stored)
    result = replace(build.result(graphs, 1.0), engine=kept_page(), telemetry=telemetry)
    mended = mended_need(result)
    assert mended is not None
    assert is_bound(mended.needed_from)
    assert "gpu_memory_bytes" not in telemetry_of(result)
    eager = replace(result, trial=trial)
    assert telemetry_of(eager)["gpu_memory_bytes"] == 140 - 38 + 5


def test_a_stored_need_that_held_other_calls_graphs_is_mended(build: Any) -> None:
    stored = MemoryLedger(
        predicted_weight_bytes=100, predicted_kv_bytes=5, gpu=0, needed_bytes=141.0 - 30 + 5, kv_bytes=5.0,
        kv_reserved_bytes=30.0, needed_from="allocator's peak" + LESS_CACHE, idle_bytes=120.0,
    )  # fmt: skip
    result = replace(
        build.result(build.trial(), 1.0), engine=kept_page(), telemetry=TelemetrySummary(ledger=stored)
    )
    mended = mended_need(result)
    assert mended is not None
    assert (mended.needed_bytes, mended.rest_bytes) == (108.0, 3.0)
    again = replace(result, telemetry=TelemetrySummary(ledger=mended))
    assert mended_need(again) == mended, "what was mended, or stored by these rules, stays"
    fastgen = replace(result, engine=kept_page() | {"engine": "mii-fastgen"})
    assert mended_need(fastgen) == stored, "its blocks are counted one by one"
