"""Figures of a trial by hand: memory of the fullest GPU, power of all, joules, clocks; and what is left unsaid."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest

from loadgen.models import weight_bytes
from loadgen.telemetry.doubts import before_start, of_devices, of_sources
from loadgen.telemetry.ledger import AT_LEAST, LESS_CACHE, engine_memory, expect, make_ledger
from loadgen.telemetry.nvml import Gpu
from loadgen.telemetry.series import Readings, readings_of
from loadgen.telemetry.spans import Spans
from loadgen.telemetry.spool import Scrape
from loadgen.telemetry.summary import energy, summarise
from loadgen.telemetry_records import MemoryLedger, PhaseFigures

S = 1_000_000_000
GIB = 1 << 30
GPUS = ("GPU-a", "GPU-b")
SPANS = Spans(
    idle=((0, 1 * S),),
    warmup=((1 * S, 2 * S),),
    load=((2 * S, 6 * S),),
    prefill=((2 * S, 3 * S), (4 * S, 5 * S)),
    decode=((3 * S, 4 * S), (5 * S, 6 * S)),
)
HALVES = [half * S // 2 for half in range(15)]


def scrapes(source: str = "one", **metrics: Any) -> list[Scrape]:
    """A scrape each half second; each metric is a function of (GPU number, second), or None to leave it out."""
    found = []
    for at_ns in HALVES:
        readings = [
            (metric, gpu, float(value))
            for metric, figure in metrics.items()
            for number, gpu in enumerate(GPUS)
            if (value := figure(number, at_ns / S)) is not None
        ]
        found.append(Scrape(source=source, at_ns=at_ns - 1000, took_ns=2000, readings=tuple(readings)))
    return found


def readings(**metrics: Any) -> Readings:
    return readings_of(scrapes(**metrics), ["one"])


def summed(build: Any, found: list[Scrape], *, before: dict[str, float] | None = None, **changes: Any) -> Any:
    summary = replace(build.summary(build.trial(), 1.0, {}), output_tokens=800, **changes)
    return summarise(
        found,
        readings_of(found, ["one"]),
        SPANS,
        gpus=GPUS,
        root="7",
        summary=summary,
        before=before or {},
        ledger=None,
        period_s=0.5,
    )


def test_power_is_that_of_all_gpus_and_joules_are_the_counters(build: Any) -> None:
    found = summed(
        build,
        scrapes(
            gpu_power_w=lambda gpu, s: 100 + 300 * gpu,
            gpu_energy_j=lambda gpu, s: 1000 + (50 if gpu else 150) * s,
        ),
    )
    assert found.power_w == pytest.approx(500)
    assert found.energy_from == "counter"
    assert found.joules_per_output_token == pytest.approx((50 + 150) * 4 / 800)
    assert found.phases["load"].energy_j == pytest.approx(800)
    assert found.phases["prefill"].energy_j is None, "two stretches of a second, read each half second"
    assert found.phases["load"].power_peak_w == pytest.approx(500)
    assert found.gpu_memory_bytes is None
    assert found.gpu_memory_reserved_bytes is None


def test_a_counter_that_was_reset_is_replaced_by_the_power_that_was_read(build: Any) -> None:
    reset = scrapes(gpu_power_w=lambda gpu, s: 100 * s, gpu_energy_j=lambda gpu, s: 500 + s if s < 3 else s)
    found = summed(build, reset)
    assert found.energy_from == "power"
    assert found.joules_per_output_token == pytest.approx(2 * 100 * (6**2 - 2**2) / 2 / 800)


def test_energy_of_a_stretch_that_was_not_covered_is_not_known() -> None:
    short = readings(gpu_energy_j=lambda gpu, s: s if s < 5 else None, gpu_power_w=lambda gpu, s: s or None)
    assert energy(short, ((2 * S, 4 * S),), GPUS) == (pytest.approx(4.0), "counter")
    assert energy(short, ((2 * S, 6 * S),), GPUS)[1] == "power"
    assert energy(short, ((0, 6 * S),), GPUS) == (None, None)
    assert energy(short, ((2 * S, 4 * S),), (*GPUS, "GPU-unread")) == (None, None)
    assert energy(short, (), GPUS) == (None, None)


def test_energy_of_a_stretch_that_lies_mostly_between_readings_is_not_known() -> None:
    """A burst of 0.2 s read each half second: its joules are spread over a second of which most was idle."""
    burst = readings(
        gpu_energy_j=lambda gpu, s: 100 * s + (300 if s >= 3 else 0), gpu_power_w=lambda gpu, s: 100
    )
    assert energy(burst, ((int(2.6 * S), int(2.8 * S)),), GPUS) == (None, None)
    assert energy(burst, ((1 * S, 5 * S),), GPUS) == (pytest.approx(2 * (400 + 300)), "counter")
    assert energy(burst, tuple((s * S, (s + 1) * S) for s in (1, 3, 5)), GPUS) == (None, None)


def test_a_counter_that_is_read_seldom_gives_no_joules() -> None:
    """dcgm-exporter as it comes reads its GPUs every 30 s: over 4 s its counter stood still, and no 0 J were drawn."""
    still = readings(gpu_energy_j=lambda gpu, s: 1000, gpu_power_w=lambda gpu, s: 300)
    assert energy(still, SPANS.load, GPUS) == (None, None)
    steps = readings(gpu_energy_j=lambda gpu, s: 1000 * (s // 2), gpu_power_w=lambda gpu, s: 300)
    assert energy(steps, SPANS.load, GPUS) == (None, None)
    told = {caveat.kind for caveat in of_devices(steps, SPANS, GPUS)}
    assert told == {"telemetry-stale"}
    fresh = readings(gpu_energy_j=lambda gpu, s: 300 * s)
    assert energy(fresh, SPANS.load, GPUS) == (pytest.approx(2 * 300 * 4), "counter")
    assert not list(of_devices(fresh, SPANS, GPUS))


def test_a_source_that_repeats_itself_loses_to_one_that_moves() -> None:
    every = scrapes("named", gpu_power_w=lambda gpu, s: 100 if s < 4 else 300)
    every += scrapes("own", gpu_power_w=lambda gpu, s: 100 + s)
    chosen = readings_of(every, ["named", "own"]).get("gpu_power_w", "GPU-a")
    assert chosen is not None
    assert chosen.values[1] == 100.5
    both_still = scrapes("named", gpu_power_w=lambda gpu, s: 1) + scrapes("own", gpu_power_w=lambda gpu, s: 2)
    named = readings_of(both_still, ["named", "own"]).get("gpu_power_w", "GPU-a")
    assert named is not None
    assert set(named.values) == {1.0}


def test_energy_of_failed_requests_makes_no_joules_per_token(build: Any) -> None:
    every = scrapes(gpu_energy_j=lambda gpu, s: s)
    assert summed(build, every).joules_per_output_token is not None
    assert summed(build, every, requests_failed=1).joules_per_output_token is None


def test_memory_is_the_fullest_gpus_in_its_phase(build: Any) -> None:
    found = summed(
        build,
        scrapes(
            gpu_memory_used_bytes=lambda gpu, s: 10 + gpu + (5 if 3 <= s < 4 else 0) + (90 if s > 6 else 0)
        ),
        before={"GPU-a": 4.0, "GPU-b": 2.0},
    )
    assert found.phases["load"].gpu_memory_peak_bytes == 16
    assert found.phases["idle"].gpu_memory_peak_bytes == 11
    assert found.phases["decode"].gpu_memory_mean_bytes == pytest.approx(
        (16 + 16 + 16 - 5 + 11 * 3) / 6, rel=0.1
    )
    assert found.gpu_memory_reserved_bytes == 14  # the second GPU's: 16 − 2
    by_process = summed(
        build,
        scrapes(gpu_memory_used_bytes=lambda gpu, s: 90, gpu_server_memory_bytes=lambda gpu, s: 40 + gpu),
    )
    assert by_process.gpu_memory_reserved_bytes == 41


def test_without_any_reading_nothing_is_claimed(build: Any) -> None:
    found = summed(build, [])
    empty = PhaseFigures(seconds=4.0, readings=0)
    assert found.phases["load"] == empty
    names = (
        "gpu_memory_bytes",
        "gpu_memory_reserved_bytes",
        "cpu_memory_bytes",
        "power_w",
        "joules_per_output_token",
    )
    assert [getattr(found, name) for name in names] == [None] * 5


def test_server_memory_is_pss_where_it_can_be_read(build: Any) -> None:
    def tree(**values: float) -> list[Scrape]:
        readings = tuple((f"server_{name}", "7", value) for name, value in values.items())
        return [Scrape(source="one", at_ns=at, took_ns=0, readings=readings) for at in HALVES]

    both = summed(build, tree(rss_bytes=900, pss_bytes=700))
    assert (both.cpu_memory_bytes, both.cpu_memory_from) == (700, "pss")
    end: dict[str, Any] = {
        "gpus": GPUS, "root": "7", "summary": None, "before": {}, "ledger": None, "period_s": 0.5,
        "pss_end_bytes": 600,
    }  # fmt: skip
    after = summarise([], readings_of(tree(rss_bytes=900), ["one"]), SPANS, **end)
    assert (after.cpu_memory_bytes, after.cpu_memory_from) == (600, "pss after the load")
    assert after.phases["load"].rss_peak_bytes == 900
    peak = summarise([], readings_of(tree(rss_bytes=900, pss_bytes=700), ["one"]), SPANS, **end)
    assert (peak.cpu_memory_bytes, peak.cpu_memory_from) == (700, "pss")
    rss = summed(build, tree(rss_bytes=900))
    assert (rss.cpu_memory_bytes, rss.cpu_memory_from) == (900, "rss")
    other = [
        replace(scrape, readings=(("server_rss_bytes", "8", 5.0),)) for scrape in both and tree(rss_bytes=1)
    ]
    assert summed(build, other).cpu_memory_bytes is None  # another server's tree


def test_the_first_named_source_that_has_a_figure_throughout_gives_it() -> None:
    every = scrapes("late", gpu_power_w=lambda gpu, s: 1, gpu_utilization=lambda gpu, s: 0.5)
    every += scrapes("first", gpu_power_w=lambda gpu, s: 2 if gpu else None)
    found = readings_of(every, ["first", "late"])
    first, second = found.get("gpu_power_w", "GPU-a"), found.get("gpu_power_w", "GPU-b")
    assert first is not None
    assert second is not None
    assert (set(first.values), set(second.values)) == ({1.0}, {2.0})
    assert found.get("gpu_utilization", "GPU-b") is not None
    assert readings_of(every, ["first"]).get("gpu_utilization", "GPU-b") is None
    silent = [scrape for scrape in every if scrape.source == "late" or scrape.at_ns < 3 * S]
    instead = readings_of(silent, ["first", "late"]).get("gpu_power_w", "GPU-b")
    assert instead is not None
    assert set(instead.values) == {1.0}


def ranks(**pools: tuple[float, float, float]) -> dict[str, Any]:
    names = ("allocated_bytes", "peak_allocated_bytes", "reserved_bytes")
    cuda = {rank.removeprefix("r"): dict(zip(names, pool, strict=True)) for rank, pool in pools.items()}
    return {"engine": "hf/generate", "memory": {"resident_bytes": 5, "cuda": cuda}}


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
    assert ledger.needed_bytes == pytest.approx(
        ledger.predicted_weight_bytes + 0.6 * 1000 * 2 * 40 * 40 * 128 * 2
    )


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


def kinds(**metrics: Any) -> dict[str, str]:
    return {caveat.kind: caveat.message for caveat in of_devices(readings(**metrics), SPANS, GPUS)}


def test_throttling_is_told_with_its_reason_and_share() -> None:
    found = kinds(gpu_throttle_reasons=lambda gpu, s: 0x4 | 0x1 if gpu and 2 <= s < 4 else 0x1)
    assert "power cap in 44" in found["throttled"]
    assert "GPU-b" in found["throttled"]
    assert kinds(gpu_throttle_reasons=lambda gpu, s: 0x103) == {}
    assert kinds(gpu_throttle_reasons=lambda gpu, s: 0 if 2 <= s <= 6 else 0x40) == {}  # not during the load


def test_a_clock_that_dropped_is_told() -> None:
    assert "1200 and 1980" in kinds(gpu_sm_clock_hz=lambda gpu, s: 1.2e9 if s > 4 else 1.98e9)["clock-drop"]
    assert kinds(gpu_sm_clock_hz=lambda gpu, s: 1.98e9 - s * 1e6) == {}


def test_company_on_the_gpu_is_told() -> None:
    found = kinds(
        gpu_foreign_processes=lambda gpu, s: 2 if gpu and 3 < s < 4 else None,
        gpu_foreign_memory_bytes=lambda gpu, s: GIB if gpu and 3 < s < 4 else None,
    )
    assert "GPU-b: 2 processes" in found["foreign-processes"]
    assert "1.00 GiB" in found["foreign-processes"]


def test_a_gpu_that_was_not_idle_before() -> None:
    def gpu(**state: Any) -> Gpu:
        return Gpu(index=1, uuid="GPU-b", name="H200", memory_total_bytes=140 * GIB, **state)

    assert [c.kind for c in before_start([gpu(memory_used_bytes=30 * GIB, utilization=0.0)], (0, 1))] == [
        "gpu-not-idle"
    ]
    assert [c.kind for c in before_start([gpu(memory_used_bytes=0, utilization=0.5)], (0, 1))] == [
        "gpu-not-idle"
    ]
    assert not list(before_start([gpu(memory_used_bytes=600 << 20, utilization=0.0)], (0, 1)))
    assert not list(before_start([gpu(memory_used_bytes=30 * GIB)], (0,)))
    assert not list(before_start([gpu()], (1,)))


def test_sources_that_failed_lied_or_were_blind() -> None:
    good = Scrape(source="a", at_ns=1, took_ns=1, readings=(("gpu_power_w", "x", 1.0),))
    assert not list(of_sources([good], ["a"]))
    every = [
        good,
        replace(good, error="ConnectError: refused", readings=()),
        replace(good, refused=("x = NaN",)),
    ]
    found = {
        caveat.kind: caveat.message for caveat in of_sources([*every, replace(good, blind=("GPU-a",))], ["a"])
    }
    assert set(found) == {"telemetry-gap", "telemetry-refused", "telemetry-blind"}
    assert "1 of 4 scrapes of a failed (ConnectError: refused)" in found["telemetry-gap"]
    (silent,) = of_sources([], ["b"])
    assert "b gave no scrape" in silent.message


def test_times_since_boot_keep_their_nanoseconds() -> None:
    boot = 400 * 86400 * S
    found = [
        Scrape(source="one", at_ns=boot + at, took_ns=0, readings=(("gpu_energy_j", "a", at / S),))
        for at in HALVES
    ]
    counter = readings_of(found, ["one"]).get("gpu_energy_j", "a")
    assert counter is not None
    assert math.isclose(counter.grown([(boot + S + 1, boot + 2 * S)]) or 0, 1 - 1e-9, rel_tol=1e-12)
