"""The host beside the server: this machine's real counters, and files as other kernels write them."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from loadgen.system import cpus
from loadgen.telemetry import exporter, host
from loadgen.telemetry.caveats import of_host
from loadgen.telemetry.host import Gauge, HostCpu, HostReader, HostWatch, Spin
from loadgen.telemetry.prometheus_text import read_page
from loadgen.telemetry.scrapes import Scrape
from loadgen.telemetry.series import Readings, readings_of
from loadgen.telemetry.spans import Spans
from loadgen.telemetry_records import HostFigures

S = 1_000_000_000
TICK_S = 1 / os.sysconf("SC_CLK_TCK")
STAT = """cpu  600 60 30 9000 500 7 8 90 40 0
cpu0 100 10 5 1000 50 1 2 30 0 0
cpu1 200 20 10 3000 150 2 2 10 40 0
cpu3 300 30 15 5000 300 4 4 50 0 0
intr 12345 0 0
"""
PRESSURE = """some avg10=2.32 avg60=0.63 avg300=0.96 total=2022071545
full avg10=0.00 avg60=0.00 avg300=0.00 total=7
"""
EMPTY = Readings({})
LOAD = Spans(load=((2 * S, 6 * S),))


def machine(tmp_path: Path, stat: str = STAT, pressure: str | None = PRESSURE, **khz: str) -> HostReader:
    proc = tmp_path / "proc"
    (proc / "pressure").mkdir(parents=True)
    (proc / "stat").write_text(stat)
    if pressure is not None:
        (proc / "pressure/cpu").write_text(pressure)
    for name, value in khz.items():
        folder = tmp_path / "sys/devices/system/cpu" / name / "cpufreq"
        folder.mkdir(parents=True)
        (folder / "scaling_cur_freq").write_text(value + "\n")
    return HostReader(cores=(0, 3), proc=proc, sys=tmp_path / "sys")


def test_this_machine_tells_of_the_cores_that_may_be_used() -> None:
    reader = HostReader()
    first = reader.read()
    for _ in range(40):
        host.spin(rounds=1)
    last = reader.read()
    assert first.cores == last.cores == len(cpus.usable())
    assert first.busy_s is not None
    assert last.busy_s is not None
    assert last.busy_s > first.busy_s > 0
    assert first.steal_s is None or first.steal_s >= 0
    assert (first.waiting_s is None) == (not os.path.exists("/proc/pressure/cpu"))


def test_only_usable_cores_count_by_their_own_numbers(tmp_path: Path) -> None:
    """Core 2 is offline, core 1 is not ours: user with its guests, nice, system; then what was stolen."""
    assert machine(tmp_path, cpu0="1500000", cpu1="3900000", cpu3="2400000").read() == HostCpu(
        cores=2,
        busy_s=pytest.approx((115 + 345) * TICK_S),
        steal_s=pytest.approx(80 * TICK_S),
        waiting_s=pytest.approx(2022.071545),
        frequency_hz=2.4e9,
    )


@pytest.mark.parametrize(
    ("stat", "busy", "steal"),
    [
        ("", False, False),
        ("cpu0 0 0 0 0 0 0 0 0 0 0\ncpu3 0 0 0 0 0 0 0 0 0 0\n", False, False),  # a sandbox's
        ("cpu0 1 2 3 4 5 6 7 8 0 0\n", False, False),  # a container's own numbering: not all of ours
        ("cpu0 1 2 3 4\ncpu3 1 2 3 4\n", True, False),
    ],
)
def test_what_a_machine_does_not_tell_is_absent(tmp_path: Path, stat: str, busy: bool, steal: bool) -> None:
    found = machine(tmp_path, stat=stat, pressure=None, cpu0="0").read()
    assert (found.busy_s is not None, found.steal_s is not None) == (busy, steal)
    assert (found.waiting_s, found.frequency_hz) == (None, None)


def page(found: HostCpu) -> tuple[str, dict[str, float]]:
    class Fixed:
        def collect(self) -> Any:
            return exporter.host_families(found)

    registry = CollectorRegistry()
    registry.register(Fixed())  # type: ignore[arg-type]
    text = generate_latest(registry).decode()
    return text, {metric: value for metric, _, value in read_page(text).readings}


def test_the_exporter_tells_them_and_leaves_out_what_there_is_not() -> None:
    full = HostCpu(cores=2, busy_s=4.6, steal_s=0.0, waiting_s=7.5, frequency_hz=2.4e9)
    text, found = page(full)
    assert "loadgen_host_usable_cpus 2.0" in text
    assert found == {
        "host_cpu_busy_s": 4.6,
        "host_cpu_steal_s": 0.0,  # a measured zero stays one
        "host_cpu_waiting_s": 7.5,
        "host_cpu_frequency_hz": 2.4e9,
    }
    assert page(replace(full, busy_s=None, steal_s=None, waiting_s=None, frequency_hz=None))[1] == {}


def test_the_spin_is_the_same_work_each_time_and_its_best_is_kept() -> None:
    assert host.spin(rounds=3, steps=1000).wall_s > 0
    gauge = Gauge()
    taken = [gauge.take() for _ in range(3)]
    assert gauge.best_s == min(one.wall_s for one in taken)
    gauge.learn(None)
    gauge.learn(1e-9)
    assert gauge.best_s == 1e-9


def test_a_host_is_watched_around_a_trial(monkeypatch: pytest.MonkeyPatch) -> None:
    """What this process and its children use is not others'."""
    watch = HostWatch(Gauge(), whole=True)
    watch.begin()
    child = [sys.executable, "-c", "import time\nwhile time.process_time() < 0.5: pass"]
    subprocess.run(child, check=True)
    found = watch.finish(EMPTY, Spans(), idle=True)
    assert found.cores == len(cpus.usable())
    assert found.others_cores is not None
    assert found.others_cores <= found.cores - 0.4 / found.seconds
    assert found.spin_before_s is not None
    assert found.spin_after_s is not None
    assert found.spin_best_s == min(found.spin_before_s, found.spin_after_s)
    assert (found.steal_share, found.waiting_share, found.frequency_hz) == (None, None, None)


def test_a_server_that_may_still_work_is_not_timed_and_one_out_of_sight_has_no_others() -> None:
    watch = HostWatch(Gauge(), whole=False)
    watch.begin()
    found = watch.finish(EMPTY, Spans(), idle=False)
    assert found.others_cores is None
    assert found.spin_before_s is not None
    assert (found.spin_after_s, found.spin_after_cpu_s) == (None, None)


def test_what_others_used() -> None:
    assert host.others(5.0, 3.0, 4.0) == 0.5
    assert host.others(2.99, 3.0, 4.0) == 0.0
    assert host.others(None, 3.0, 4.0) is None
    assert host.others(5.0, None, 4.0) is None
    assert host.grown(3.0, 2.0) is None
    assert host.grown(None, 2.0) is None


def test_shares_are_of_the_load_and_its_cores() -> None:
    def scrape(s: int) -> Scrape:
        # Nothing is stolen before the load or after it; a quarter of a core in it.
        stolen = 100 + 0.25 * min(max(s - 2, 0), 4)
        readings = (
            ("host_cpu_steal_s", "host", stolen),
            ("host_cpu_waiting_s", "host", 0.5 * s),
            ("host_cpu_frequency_hz", "host", 3e9 if s < 4 else 2e9),
        )
        return Scrape(source="one", at_ns=s * S, took_ns=0, readings=readings)

    readings = readings_of([scrape(s) for s in range(9)], ["one"])
    common: dict[str, Any] = {"cores": 2, "others_cores": None, "seconds_watched": 8.0, "best_s": 1.0}
    spins = {"before": Spin(wall_s=2.0, cpu_s=1.9)}
    found = host.figures(readings, LOAD, spins=spins, **common)
    assert found.steal_share == pytest.approx(0.125)
    assert found.waiting_share == pytest.approx(0.5)
    assert found.frequency_hz == pytest.approx((2 * 3e9 + 3 * 2e9) / 5)
    assert (found.spin_before_s, found.spin_before_cpu_s, found.spin_after_s) == (2.0, 1.9, None)
    assert host.figures(readings, Spans(), spins={}, **common).steal_share is None


def told(**changes: Any) -> dict[str, str]:
    quiet = HostFigures(
        cores=8, seconds=20.0, load_seconds=10.0, steal_share=0.009, others_cores=0.7, spin_before_s=0.0024,
        spin_after_s=0.002, spin_before_cpu_s=0.0024, spin_after_cpu_s=0.002, spin_best_s=0.002,
    )  # fmt: skip
    found = list(of_host(replace(quiet, **changes)))
    assert all(caveat.remedy and not caveat.client for caveat in found)
    return {caveat.kind: caveat.message for caveat in found}


def test_a_quiet_host_raises_no_doubt_nor_does_one_that_says_nothing() -> None:
    assert told() == {}
    assert list(of_host(HostFigures(cores=8, seconds=20.0, load_seconds=10.0))) == []


def test_a_host_that_takes_the_cpu_is_told() -> None:
    assert "took 3.0 % of the 8 cores' time during the load (2.40 s)" in told(steal_share=0.03)["host-steal"]
    assert told(steal_share=0.03, load_seconds=0.1) == {}  # two ticks of a counter


def test_company_on_the_cores_is_told() -> None:
    assert "used 1.5 of the 8 cores" in told(others_cores=1.5)["host-busy"]
    assert told(others_cores=1.5, cores=128) == {}
    assert told(others_cores=1.5, seconds=0.5) == {}


def test_a_slower_core_is_told_with_what_it_did() -> None:
    slow = told(spin_after_s=0.004, spin_after_cpu_s=0.0039)["host-slow"]
    assert "right after the trial one core took 4.00 ms" in slow
    assert "2.00 ms at best: 2 times as long, and it did run" in slow
    waited = told(spin_before_s=0.004, spin_before_cpu_s=0.002)["host-slow"]
    assert "right before" in waited
    assert "most of which it waited" in waited
