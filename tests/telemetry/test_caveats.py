"""Doubts about a trial that its telemetry raises: throttling, dropped clocks, company, blind sources."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar

import pytest
from scraped import GIB, GPUS, SPANS, readings

from loadgen.telemetry import recorder
from loadgen.telemetry.caveats import before_start, of_devices, of_sources
from loadgen.telemetry.nvml import Gpu
from loadgen.telemetry.scrapes import Scrape


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
    assert [c.kind for c in before_start([gpu(memory_used_bytes=1, utilization=0.5)], (0, 1))] == [
        "gpu-not-idle"
    ]
    # As it was seen after a server had ended: nothing held, and the share of its last second.
    assert not list(before_start([gpu(memory_used_bytes=0, utilization=0.85)], (0, 1)))
    assert [c.kind for c in before_start([gpu(utilization=0.5)], (0, 1))] == ["gpu-not-idle"]
    assert not list(before_start([gpu(memory_used_bytes=600 << 20, utilization=0.0)], (0, 1)))
    assert not list(before_start([gpu(memory_used_bytes=30 * GIB)], (0,)))
    assert not list(before_start([gpu()], (1,)))


def test_utilization_that_lingers_is_read_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """As NVML told it between two servers of one sweep."""

    class Lingering:
        shares: ClassVar[list[float]] = []

        def read(self, *, links: bool) -> list[Gpu]:
            return [
                Gpu(
                    index=1,
                    uuid="GPU-b",
                    name="H200",
                    memory_total_bytes=140 * GIB,
                    memory_used_bytes=500 << 20,
                    utilization=self.shares.pop(0),
                )
            ]

        def close(self) -> None: ...

    monkeypatch.setattr(recorder, "Nvml", Lingering)
    Lingering.shares = [0.85, 0.0]
    assert not list(before_start(recorder.look(0), (0, 1)))
    Lingering.shares = [0.85, 0.8]
    assert [caveat.kind for caveat in before_start(recorder.look(0), (0, 1))] == ["gpu-not-idle"]
    Lingering.shares = [0.0]
    assert not list(before_start(recorder.look(0), (0, 1)))


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
    early = [replace(good, at_ns=at, readings=(), blind=("x",)) for at in (-2, -1)]
    assert not list(of_sources([*early, good], ["a"]))  # the first pages of a server that has just started
    later = replace(good, at_ns=2, readings=(), blind=("x",))
    assert [caveat.kind for caveat in of_sources([good, later], ["a"])] == ["telemetry-blind"]
    (silent,) = of_sources([], ["b"])
    assert "b gave no scrape" in silent.message
