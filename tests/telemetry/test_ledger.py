"""The memory ledger by hand: what a trial needed, by what it is known, and what is not claimed."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from scraped import GIB, GPUS, HALVES, SPANS, S, ranks, readings

from loadgen.telemetry.ledger import engine_memory, expect, make_ledger
from loadgen.telemetry.needed import AT_LEAST, LESS_CACHE
from loadgen.telemetry.scrapes import Scrape
from loadgen.telemetry.series import readings_of
from loadgen.telemetry.summary import summarise
from loadgen.telemetry_records import MemoryLedger
from loadgen.theory.models import weight_bytes


def test_ledger_by_the_allocators_own_peak(build: Any) -> None:
    trial = build.trial(batch=4, input_tokens=100, output_tokens=28, tp=2)
    predicted = make_ledger(trial, readings(), SPANS, gpus=GPUS, before={}, after={})
    assert predicted is not None
    assert predicted.predicted_kv_bytes == 4 * 128 * 2 * 40 * 40 * 128 * 2 // 2
    assert (predicted.needed_bytes, predicted.rest_bytes, predicted.needed_from) == (None, None, None)
    ledger = make_ledger(
        trial,
        readings(gpu_server_memory_bytes=lambda gpu, s: 20 * GIB + gpu),
        SPANS,
        gpus=GPUS,
        before=ranks(r0=(13 * GIB, 14 * GIB, 15 * GIB), r1=(13 * GIB, 14 * GIB, 15 * GIB)),
        after=ranks(r0=(13 * GIB, 15 * GIB, 18 * GIB), r1=(13 * GIB, 16 * GIB, 17 * GIB)),
    )
    assert ledger is not None
    assert (ledger.needed_bytes, ledger.needed_from) == (16 * GIB, "allocator's peak")
    assert ledger.rest_bytes == 16 * GIB - predicted.predicted_weight_bytes - predicted.predicted_kv_bytes
    # All of one GPU, the one that needed most.
    assert (ledger.gpu, ledger.process_bytes, ledger.reserved_bytes) == (1, 20 * GIB + 1, 17 * GIB)
    assert (ledger.overhead_bytes, ledger.process_from) == (3 * GIB + 1, "process")


def overhead(build: Any, reserved: Any, process: Any, page: Any = None) -> float | None:
    """The overhead of one GPU whose allocator and process are functions of time, read a little apart."""
    found = []
    for at_ns in HALVES:
        found.append(
            Scrape(
                source="engine",
                at_ns=at_ns,
                took_ns=0,
                readings=(("engine_reserved_bytes", "0", reserved(at_ns / S)),),
            )
        )
        late = at_ns + S // 10
        memory = ("gpu_server_memory_bytes", "GPU-a", process(late / S))
        found.append(Scrape(source="gpu", at_ns=late, took_ns=0, readings=(memory,)))
    page = page or ranks(r0=(5.0 * GIB, 6.0 * GIB, 7.0 * GIB))
    ledger = make_ledger(
        build.trial(), readings_of(found, ["engine", "gpu"]), SPANS, gpus=GPUS[:1], before=page, after=page
    )
    assert ledger is not None
    return ledger.overhead_bytes


@pytest.mark.parametrize("drop", [2.55, 2.65])
def test_overhead_is_of_one_moment_where_an_allocator_gives_its_memory_back(build: Any, drop: float) -> None:
    """The peaks are of different moments (133 and 139 GiB): their difference would be negative, or 30 GiB."""

    def reserved(second: float) -> float:
        return (139.0 if 2.4 <= second < drop else 133.0 if second < drop else 31.0) * GIB

    def process(second: float) -> float:
        return (133.7 if second < drop else 31.7) * GIB

    assert overhead(build, reserved, process) == pytest.approx(0.7 * GIB)
    assert overhead(build, process, reserved) is None  # less than the allocator holds: it is no overhead


def test_overhead_does_not_trust_a_ranks_old_figure(build: Any) -> None:
    """A rank tells of its allocator at a call's end only: until then the process alone is seen to grow."""

    def process(second: float) -> float:
        return (16.6 if second < 1 else 18.0) * GIB

    assert overhead(build, lambda s: (15.0 if s < 5 else 16.3) * GIB, process) == pytest.approx(1.7 * GIB)
    assert overhead(build, lambda _s: 15.0 * GIB, process) is None


def test_overhead_without_engine_metrics_is_that_of_the_end(build: Any) -> None:
    found = readings(gpu_server_memory_bytes=lambda _gpu, s: (90 if 2 <= s < 3 else 8) * GIB)
    page = ranks(r0=(5.0 * GIB, 6.0 * GIB, 7.0 * GIB))
    ledger = make_ledger(build.trial(), found, SPANS, gpus=GPUS[:1], before=page, after=page)
    assert ledger is not None
    assert (ledger.process_bytes, ledger.overhead_bytes) == (90 * GIB, 1 * GIB)


@pytest.mark.parametrize(
    ("batch", "inputs", "at_most"), [(64, 512, True), (8, 2048, False), (64, 128, False), (1, 4000, False)]
)
def test_a_cache_that_never_holds_all_sequences_is_predicted_at_most(
    build: Any, batch: int, inputs: int, at_most: bool
) -> None:
    """768 tokens of prompts per forward: with 64 × 512 the first have their 20 tokens before the last begin."""
    trial = build.trial(batch=batch, input_tokens=inputs, output_tokens=20)
    page = {"scheduling": "iteration level", "max_ragged_batch_size": 768}
    assert expect(trial.server, trial.load, page, None).kv_at_most is at_most
    assert not expect(trial.server, trial.load, {"scheduling": "one call at a time"}, None).kv_at_most


def test_nothing_is_left_over_from_an_upper_bound(build: Any) -> None:
    trial = build.trial(batch=64, input_tokens=512, output_tokens=20)
    page = {
        **ranks(r0=(1.0, 2.0, 3.0)), "engine": "mii-fastgen", "scheduling": "iteration level",
        "max_ragged_batch_size": 768,
    }  # fmt: skip
    page["memory"]["cuda"]["0"] |= {
        "kv_reserved_bytes": 1.0,
        "kv_needed_bytes": 1.0,
        "call_peak_allocated_bytes": 2.0,
    }
    ledger = make_ledger(trial, readings(), SPANS, gpus=GPUS[:1], before=page, after=page)
    assert ledger is not None
    assert ledger.needed_bytes is not None
    assert ledger.rest_bytes is None


def test_a_server_without_a_page_is_known_by_its_scrapes(build: Any) -> None:
    """Triton: the allocator's figures come with its metrics only."""
    every = [
        Scrape(source="one", at_ns=at, took_ns=0, readings=(("engine_peak_bytes", "0", 10.0 + at // S),))
        for at in HALVES
    ]
    found = readings_of(every, ["one"])
    ledger = make_ledger(
        build.trial(), found, SPANS, gpus=GPUS[:1], before={}, after={"engine": "triton-python"}
    )
    assert ledger is not None
    assert (ledger.needed_bytes, ledger.needed_from) == (17.0, "allocator's peak")


def test_a_lower_bound_is_not_given_as_the_need(build: Any) -> None:
    ledger = MemoryLedger(
        predicted_weight_bytes=1,
        predicted_kv_bytes=1,
        needed_bytes=9.0,
        needed_from=AT_LEAST,
        reserved_bytes=20.0,
    )
    common: dict[str, Any] = {
        "gpus": GPUS, "root": "7", "summary": None, "before": {}, "period_s": 0.5,
    }  # fmt: skip
    assert summarise([], readings(), SPANS, ledger=ledger, **common).gpu_memory_bytes is None
    exact = replace(ledger, needed_from="allocator's peak")
    assert summarise([], readings(), SPANS, ledger=exact, **common).gpu_memory_bytes == 9.0


def test_what_an_engine_reserved_is_not_what_it_needed(build: Any) -> None:
    before, after = ranks(r0=(9.0, 9.0, 120.0)), ranks(r0=(9.0, 99.0, 120.0))
    before["engine"] = after["engine"] = "mii-fastgen"
    ledger = make_ledger(build.trial(), readings(), SPANS, gpus=GPUS[:1], before=before, after=after)
    assert ledger is not None
    assert (ledger.needed_bytes, ledger.reserved_bytes) == (None, 120.0)


def fastgen(build: Any, **changes: Any) -> Any:
    """FastGen with blocks of 64 tokens, of which 8 × 3 were in use: 8 sequences of 100 + 28, and one block spare."""
    trial = build.trial(batch=8, input_tokens=100, output_tokens=28)
    block = 64 * 2 * 40 * 40 * 128 * 2
    weights = weight_bytes(trial.server.model, trial.server.dtype)
    figures = {
        "loaded_bytes": weights + 1000, "allocated_bytes": weights + 1000 + 500 * block,
        "reserved_bytes": weights + 5000 + 500 * block, "peak_allocated_bytes": weights + 9000 + 500 * block,
        "call_peak_allocated_bytes": weights + 3000 + 500 * block, "kv_needed_bytes": 24 * block,
        "kv_reserved_bytes": 500 * block,
    }  # fmt: skip
    page = {
        "engine": "mii-fastgen", "scheduling": "iteration level", "kv_block_tokens": 64,
        "max_ragged_batch_size": 768, "memory": {"cuda": {"0": figures}},
    }  # fmt: skip
    used = readings(gpu_memory_used_bytes=lambda gpu, s: figures["reserved_bytes"] + 700 + 50)
    ledger = make_ledger(
        trial, used, SPANS, gpus=GPUS[:1], before=page, after=page, used_before={"GPU-a": 50.0}, **changes
    )
    return ledger, weights, block


def test_a_cache_taken_ahead_is_counted_as_far_as_it_was_in_use(build: Any) -> None:
    ledger, weights, block = fastgen(build)
    assert ledger.needed_bytes == weights + 3000 + 24 * block
    assert ledger.needed_from == "allocator's peak since the trial began" + LESS_CACHE
    assert (ledger.weight_bytes, ledger.kv_bytes, ledger.kv_reserved_bytes) == (
        weights + 1000, 24 * block, 500 * block,
    )  # fmt: skip
    assert (ledger.predicted_kv_bytes, ledger.kv_rounding_bytes) == (16 * block, 0)
    assert ledger.kv_ratio == pytest.approx(24 / 16)
    assert ledger.weight_ratio == pytest.approx(1.0, abs=1e-6)
    assert ledger.activation_bytes == 2000
    assert (ledger.overhead_bytes, ledger.process_from) == (700, "growth")
    # 768 tokens through an MLP: residual, input, gate, up and their product, in bfloat16.
    assert ledger.predicted_activation_bytes == 768 * (2 * 5120 + 3 * 13824) * 2


def test_a_shape_of_whole_blocks_is_predicted_in_blocks(build: Any) -> None:
    trial = build.trial(batch=2, input_tokens=20, output_tokens=20)
    page = {**ranks(r0=(1.0, 2.0, 3.0)), "kv_block_tokens": 64, "scheduling": "one call at a time, first …"}
    block = 64 * 2 * 40 * 40 * 128 * 2
    page["memory"]["cuda"]["0"]["kv_needed_bytes"] = 2 * block
    ledger = make_ledger(trial, readings(), SPANS, gpus=GPUS[:1], before={}, after=page)
    assert ledger is not None
    assert ledger.kv_ratio == 1.0
    assert ledger.predicted_kv_bytes is not None
    assert ledger.kv_rounding_bytes is not None
    assert ledger.predicted_kv_bytes + ledger.kv_rounding_bytes == 2 * block


def test_an_engine_that_runs_one_call_at_a_time_holds_one_calls_sequences(build: Any) -> None:
    trial = build.trial()
    load = replace(
        trial.load, kind="closed", concurrency=16, batch_size=1, input_tokens=100, output_tokens=28
    )
    trial = replace(trial, load=load)
    mixed = expect(trial.server, load, {"scheduling": "iteration level"}, 0)
    alone = expect(trial.server, load, {"scheduling": "one call at a time, first in first out"}, 0)
    assert mixed.kv is not None
    assert alone.kv is not None
    assert mixed.kv == 16 * alone.kv
    opened = replace(load, kind="poisson", rate=3.0)
    assert expect(trial.server, opened, {}, 0).kv is None
    assert (
        expect(trial.server, replace(opened, kind="trace"), {"scheduling": "one call at a time"}, 0).kv
        is None
    )


def test_needed_by_the_engines_kv_counter(build: Any) -> None:
    every = [
        Scrape(
            source="one",
            at_ns=at,
            took_ns=0,
            readings=(("kv_usage", "engine", at / S / 10), ("kv_capacity_tokens", "engine", 1000.0)),
        )
        for at in HALVES
    ]
    ledger = make_ledger(
        build.trial(), readings_of(every, ["one"]), SPANS, gpus=GPUS[:1], before={}, after={"engine": "vllm"}
    )
    assert ledger is not None
    assert ledger.predicted_weight_bytes is not None
    cache = 1000 * 2 * 40 * 40 * 128 * 2
    assert ledger.needed_bytes == pytest.approx(ledger.predicted_weight_bytes + 0.6 * cache)
    assert ledger.kv_bytes == pytest.approx(0.6 * cache)
    assert ledger.kv_reserved_bytes == cache


def test_a_cache_that_only_the_page_tells_is_reserved_and_needed_by_nobody(build: Any) -> None:
    page = {"engine": "llama.cpp", "kv_ahead": True, "kv_tokens": 1000, "kv_dtype": "float16"}
    trial = build.trial()
    trial = replace(trial, server=replace(trial.server, dtype="float32"))
    ledger = make_ledger(trial, readings(), SPANS, gpus=GPUS[:1], before={}, after=page)
    assert ledger is not None
    assert (ledger.kv_reserved_bytes, ledger.kv_bytes) == (1000 * 2 * 40 * 40 * 128 * 2, None)
    plain = make_ledger(trial, readings(), SPANS, gpus=GPUS[:1], before={}, after={})
    assert plain is not None
    assert plain.predicted_kv_bytes == 2 * (ledger.predicted_kv_bytes or 0)


@pytest.mark.parametrize("fullest", [0, 1, 2])
def test_a_pipelines_fullest_gpu_is_held_against_its_own_stage(build: Any, fullest: int) -> None:
    """40 layers over 3 GPUs: 14, 13, 13; the embedding lies on the first, the norm and the head on the last."""
    trial = build.trial(batch=4, input_tokens=100, output_tokens=28)
    server = replace(trial.server, pp=3, gpus=(0, 1, 2))
    peaks = [9.0 if place == fullest else 5.0 for place in range(3)]
    after = ranks(r0=(1.0, peaks[0], 9.0), r1=(1.0, peaks[1], 9.0), r2=(1.0, peaks[2], 9.0))
    before = ranks(r0=(1.0, 1.0, 1.0), r1=(1.0, 1.0, 1.0), r2=(1.0, 1.0, 1.0))
    ledger = make_ledger(
        replace(trial, server=server), readings(), SPANS, gpus=(*GPUS, "GPU-c"), before=before, after=after
    )
    assert ledger is not None
    layers = (14, 13, 13)[fullest]
    layer = 4 * 5120 * 5120 + 3 * 5120 * 13824 + 2 * 5120
    ends = (32000 * 5120, 0, 32000 * 5120 + 5120)[fullest]
    assert (ledger.gpu, ledger.needed_bytes) == (fullest, 9.0)
    assert ledger.predicted_weight_bytes == 2 * (layers * layer + ends)
    assert ledger.predicted_kv_bytes == 4 * 128 * 2 * layers * 40 * 128 * 2


def test_on_a_cpu_there_is_no_ledger(build: Any) -> None:
    trial = build.trial()
    on_cpu = replace(trial, server=replace(trial.server, gpus=()))
    assert make_ledger(on_cpu, readings(), SPANS, gpus=(), before={}, after={}) is None


@pytest.mark.parametrize(
    "page", [{}, {"memory": None}, {"memory": 3}, {"memory": {"cuda": None}}, {"memory": {"x": 1}}]
)
def test_a_page_without_memory_tells_none(page: dict[str, object]) -> None:
    assert engine_memory(page) == {}
