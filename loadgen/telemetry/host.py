"""The host beside the server: what its cores did, for whom, and how fast one of them is, by the kernel and by a spin.

A hypervisor may hide what it takes: a guest's steal counter then stands still while its CPU runs at half its speed,
because a neighbour shares the core. Only work of a known size shows that. So a fixed piece of Python is timed right
before and right after each trial, where nothing is measured.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from loadgen.system import cpus
from loadgen.telemetry.processes import TreeReader
from loadgen.telemetry.prometheus_text import HOST
from loadgen.telemetry.series import Readings, mean
from loadgen.telemetry.spans import Spans
from loadgen.telemetry_records import HostFigures
from loadgen.units import seconds

FREQUENCY_PERIOD_S = 1.0  # a file per core
SPIN_STEPS = 100_000  # about 2 ms
SPIN_ROUNDS = 15
SPIN_MOST_S = 0.04  # a slow machine does fewer rounds


@dataclass(frozen=True, slots=True, kw_only=True)
class HostCpu:
    """Counters of ``cores`` since the boot, in CPU seconds. ``busy_s`` is what processes used: no interrupts, no steal.

    ``waiting_s`` is the time in which any runnable task of the host waited for a core (PSI), ``frequency_hz`` the
    fastest core's clock. ``None`` is what the machine does not tell: a virtual one has no clock of its own.
    """

    cores: int
    busy_s: float | None
    steal_s: float | None
    waiting_s: float | None
    frequency_hz: float | None


class HostReader:
    """Reads the host again and again, over the cores that this process may use."""

    def __init__(
        self,
        *,
        cores: Collection[int] | None = None,
        proc: Path = Path("/proc"),
        sys: Path = Path("/sys"),
    ) -> None:
        self._cores = frozenset(cpus.usable() if cores is None else cores)
        self._proc, self._cpus = proc, sys / "devices/system/cpu"
        self._ticks_per_s = os.sysconf("SC_CLK_TCK")
        self._frequency_hz: float | None = None
        self._frequency_at_s: float | None = None

    def read(self) -> HostCpu:
        """Busy, stolen and waiting seconds of the usable cores since boot, and their mean clock in Hz."""
        busy_s, steal_s = self._times()
        return HostCpu(
            cores=len(self._cores),
            busy_s=busy_s,
            steal_s=steal_s,
            waiting_s=self._waiting_s(),
            frequency_hz=self._frequency(),
        )

    def _times(self) -> tuple[float | None, float | None]:
        """Busy and stolen time; ``None`` where a core is missing or the counters are a sandbox's zeros."""
        every: dict[int, list[int]] = {}
        for line in _text(self._proc / "stat").splitlines():
            name, *ticks = line.split()
            if name.startswith("cpu") and name[3:].isdecimal():
                every[int(name[3:])] = [int(value) for value in ticks]
        ours = [every.get(core, []) for core in self._cores]
        if not all(len(ticks) >= 4 and any(ticks) for ticks in ours):
            return None, None
        # user (with guests), nice, system, idle, iowait, irq, softirq, steal, …
        busy = sum(sum(ticks[:3]) for ticks in ours)
        steal = sum(ticks[7] for ticks in ours) if all(len(ticks) > 7 for ticks in ours) else None
        return busy / self._ticks_per_s, None if steal is None else steal / self._ticks_per_s

    def _waiting_s(self) -> float | None:
        for line in _text(self._proc / "pressure/cpu").splitlines():
            kind, *fields = line.split()
            total = dict(field.split("=", 1) for field in fields).get("total")
            if kind == "some" and total is not None:
                return int(total) / 1e6
        return None

    def _frequency(self) -> float | None:
        now_s = time.monotonic()
        if self._frequency_at_s is None or now_s - self._frequency_at_s >= FREQUENCY_PERIOD_S:
            found = [
                _text(self._cpus / f"cpu{core}/cpufreq/scaling_cur_freq").strip() for core in self._cores
            ]
            self._frequency_hz = max(
                (float(khz) * 1e3 for khz in found if khz.isdecimal() and khz != "0"), default=None
            )
            self._frequency_at_s = now_s
        return self._frequency_hz


def _text(path: Path) -> str:
    """A file of the kernel's; empty where there is none, or where it is switched off."""
    try:
        return path.read_text()
    except OSError:
        return ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Spin:
    """Medians over the rounds of the same work: elapsed time, and the CPU time of it."""

    wall_s: float
    cpu_s: float


def spin(rounds: int = SPIN_ROUNDS, steps: int = SPIN_STEPS) -> Spin:
    """Time a fixed piece of Python on whatever core the scheduler gives, as it does to a server's decode loop."""
    walls: list[float] = []
    used: list[float] = []
    began_s = time.perf_counter()
    for _ in range(rounds):
        cpu_s, wall_s = time.thread_time(), time.perf_counter()
        total = 0
        for step in range(steps):
            total += step & 7
        used.append(time.thread_time() - cpu_s)
        walls.append(time.perf_counter() - wall_s)
        if time.perf_counter() - began_s > SPIN_MOST_S:
            break
    return Spin(wall_s=statistics.median(walls), cpu_s=statistics.median(used))


class Gauge:
    """The speed of one core through a sweep, against the best that was seen on this machine."""

    def __init__(self) -> None:
        self.best_s: float | None = None

    def take(self) -> Spin:
        """Time the fixed piece of Python once more, and remember the best."""
        taken = spin()
        self.learn(taken.wall_s)
        return taken

    def learn(self, best_s: float | None) -> None:
        """A figure of an earlier run on the same machine."""
        if best_s is not None:
            self.best_s = best_s if self.best_s is None else min(self.best_s, best_s)


class HostWatch:
    """The host around one trial. ``whole``: all that the sweep started is a descendant of this process.

    Whatever is then busy beyond this process's own tree (client, telemetry, all its servers) is somebody else's.
    """

    def __init__(self, gauge: Gauge, *, whole: bool) -> None:
        self._gauge, self._host = gauge, HostReader()
        self._tree = TreeReader(os.getpid()) if whole else None
        self._spins: dict[str, Spin] = {}
        self._at_ns = 0
        self._busy_s: float | None = None
        self._ours_s: float | None = None

    def begin(self) -> None:
        """While the server idles, before anything of the trial."""
        self._spins = {"before": self._gauge.take()}
        self._busy_s, self._ours_s, self._at_ns = *self._now(), time.monotonic_ns()

    def _now(self) -> tuple[float | None, float | None]:
        tree = None if self._tree is None else self._tree.read()
        return self._host.read().busy_s, None if tree is None else tree.cpu_s

    def finish(self, readings: Readings, spans: Spans, *, idle: bool) -> HostFigures:
        """After all of the trial. ``idle``: the server has nothing left to do, so a core may be timed."""
        busy_s, ours_s = self._now()
        took_s = seconds(time.monotonic_ns() - self._at_ns)
        if idle:
            self._spins["after"] = self._gauge.take()
        return figures(
            readings,
            spans,
            cores=self._host.read().cores,
            others_cores=others(grown(self._busy_s, busy_s), grown(self._ours_s, ours_s), took_s),
            seconds_watched=took_s,
            spins=self._spins,
            best_s=self._gauge.best_s,
        )


def grown(before: float | None, after: float | None) -> float | None:
    """What a counter gained; ``None`` when it was not read, or lost something."""
    return None if before is None or after is None or after < before else after - before


def others(busy_s: float | None, ours_s: float | None, took_s: float) -> float | None:
    """Cores that others used. The kernel counts the sum in ticks and ours exactly: a little below 0 is none."""
    return None if busy_s is None or ours_s is None or not took_s else max(0.0, busy_s - ours_s) / took_s


def figures(
    readings: Readings,
    spans: Spans,
    *,
    cores: int,
    others_cores: float | None,
    seconds_watched: float,
    spins: Mapping[str, Spin],
    best_s: float | None,
) -> HostFigures:
    """A trial's figures of its host; counters over its load, as the exporter told them."""
    load_s = sum(seconds(end - start) for start, end in spans.load)

    def share(metric: str, of_s: float) -> float | None:
        counter = readings.get(metric, HOST)
        gained = None if counter is None else counter.grown(spans.load)
        return None if gained is None or not of_s else gained / of_s

    walls, used = ({end: getattr(one, name) for end, one in spins.items()} for name in ("wall_s", "cpu_s"))
    return HostFigures(
        cores=cores,
        seconds=seconds_watched,
        load_seconds=load_s,
        steal_share=share("host_cpu_steal_s", load_s * cores),
        waiting_share=share("host_cpu_waiting_s", load_s),
        frequency_hz=mean(readings.all_of("host_cpu_frequency_hz", [HOST]), spans.load),
        others_cores=others_cores,
        spin_before_s=walls.get("before"),
        spin_after_s=walls.get("after"),
        spin_before_cpu_s=used.get("before"),
        spin_after_cpu_s=used.get("after"),
        spin_best_s=best_s,
    )
