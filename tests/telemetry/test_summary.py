"""Figures of a trial by hand: memory of the fullest GPU, power of all, joules; and what is left unsaid."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
from scraped import GPUS, HALVES, SPANS, S, readings, scrapes

from loadgen.telemetry.caveats import of_devices
from loadgen.telemetry.scrapes import Scrape
from loadgen.telemetry.series import readings_of
from loadgen.telemetry.summary import SHORT_POWER_S, energy, mean_power_w, summarise
from loadgen.telemetry_records import PhaseFigures


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
    assert found.power_w == pytest.approx(200)  # the counter's, whatever the readings say
    assert found.phases["load"].power_mean_w == pytest.approx(500)
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


def test_power_readings_lag_so_that_a_short_load_has_no_energy_by_them() -> None:
    """1.5 s of load, read each tenth of a second, without a counter; beside one that is long enough."""
    found = readings(gpu_power_w=lambda gpu, s: 300)
    assert energy(found, ((2 * S, 2 * S + round((SHORT_POWER_S - 0.1) * S)),), GPUS) == (None, None)
    assert energy(found, ((2 * S, 4 * S),), GPUS) == (pytest.approx(2 * 300 * 2), "power")
    load = PhaseFigures(seconds=1.5, readings=8, power_mean_w=630.0, energy_j=1030.0)
    assert mean_power_w(load, "counter") == pytest.approx(1030 / 1.5)
    assert mean_power_w(load, "power") is None
    assert mean_power_w(replace(load, seconds=2.0, energy_j=None), None) == 630.0
    assert mean_power_w(None, None) is None


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


def test_times_since_boot_keep_their_nanoseconds() -> None:
    boot = 400 * 86400 * S
    found = [
        Scrape(source="one", at_ns=boot + at, took_ns=0, readings=(("gpu_energy_j", "a", at / S),))
        for at in HALVES
    ]
    counter = readings_of(found, ["one"]).get("gpu_energy_j", "a")
    assert counter is not None
    assert math.isclose(counter.grown([(boot + S + 1, boot + 2 * S)]) or 0, 1 - 1e-9, rel_tol=1e-12)
