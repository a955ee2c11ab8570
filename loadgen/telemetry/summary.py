"""Scrapes and phases → a trial's TelemetrySummary. Pure. What was not measured is ``None``, never 0."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np

from loadgen.records import Summary
from loadgen.telemetry.needed import is_bound
from loadgen.telemetry.scrapes import Scrape
from loadgen.telemetry.series import Readings, Series, inside, mean, peak, peak_of_sum
from loadgen.telemetry.spans import Span, Spans
from loadgen.telemetry_records import (
    CpuMemoryFrom,
    HostFigures,
    MemoryLedger,
    PhaseFigures,
    SourceFigures,
    TelemetrySummary,
)
from loadgen.units import seconds

STALE_SHARE = 0.05  # of a phase's length
SHORTEST_GAPS = (
    4  # of readings: what a shorter stretch took lies mostly between a reading in it and one outside
)
# A GPU's power reading is a mean over about the last second, so that of a short load it still holds the idle before.
# Power × time over the counter's joules, medians of 529 loads on H200s and H100s: 0.58 below 0.5 s, 0.79 to 0.8 s, 0.92
# to 1.5 s, 0.99 to 2 s, 1.00 beyond.
SHORT_POWER_S = 2.0
PHASES = ("idle", "warmup", "load", "prefill", "decode")


def summarise(
    scrapes: Sequence[Scrape],
    readings: Readings,
    spans: Spans,
    *,
    gpus: Sequence[str],
    root: str,
    summary: Summary | None,
    before: Mapping[str, float],
    ledger: MemoryLedger | None,
    period_s: float,
    pss_end_bytes: float | None = None,
    host: HostFigures | None = None,
) -> TelemetrySummary:
    """The figures of one trial.

    ``gpus`` are the UUIDs of its GPUs, ``root`` the process id of its server's tree, ``before`` the bytes in use on
    each GPU before the server came, ``pss_end_bytes`` the tree's PSS once the load had ended.
    """
    phases = {
        name: phase_figures(readings, found, gpus, root, scrapes)
        for name in PHASES
        if (found := getattr(spans, name))
    }
    load = phases.get("load")
    busy = (*spans.warmup, *spans.load)
    cpu_bytes, cpu_from = cpu_memory(readings, busy, root, pss_end_bytes)
    joules, energy_from = energy(readings, spans.load, gpus)
    reserved = held_bytes(readings, busy, gpus, before)
    return TelemetrySummary(
        # A lower bound stays in the ledger, under its name: beside peaks it would look like one.
        gpu_memory_bytes=None if ledger is None or is_bound(ledger.needed_from) else ledger.needed_bytes,
        gpu_memory_reserved_bytes=reserved,
        cpu_memory_bytes=cpu_bytes,
        cpu_memory_from=cpu_from,
        power_w=mean_power_w(load, energy_from),
        joules_per_output_token=per_token(joules, summary),
        energy_from=energy_from,
        period_s=period_s,
        gpus=tuple(gpus),
        phases=phases,
        sources=source_figures(scrapes),
        ledger=ledger,
        host=host,
    )


def cpu_memory(
    readings: Readings, spans: Sequence[Span], root: str, pss_end_bytes: float | None
) -> tuple[float | None, CpuMemoryFrom | None]:
    """Host memory of a server's tree: its peak PSS where a source read it, else PSS after the load, else peak RSS."""
    pss = peak(readings.all_of("server_pss_bytes", [root]), spans)
    if pss is not None:
        return pss, "pss"
    if pss_end_bytes is not None:
        return pss_end_bytes, "pss after the load"
    rss = peak(readings.all_of("server_rss_bytes", [root]), spans)
    return rss, None if rss is None else "rss"


def held_bytes(
    readings: Readings, spans: Sequence[Span], gpus: Sequence[str], before: Mapping[str, float]
) -> float | None:
    """The most that the server held on any of its GPUs: by process, else by what the GPU's use grew.

    In a container NVML may name the host's process ids, of which none can be known for the server's.
    """
    by_process = peak(readings.all_of("gpu_server_memory_bytes", gpus), spans)
    if by_process is not None:
        return by_process
    grown = []
    for gpu in gpus:
        used = peak(readings.all_of("gpu_memory_used_bytes", [gpu]), spans)
        if used is None or gpu not in before:
            return None
        grown.append(used - before[gpu])
    return max(grown, default=None)


def per_token(joules: float | None, summary: Summary | None) -> float | None:
    """Joules per output token; ``None`` when a request failed or went uncounted: its energy bought no counted token."""
    if joules is None or summary is None or summary.requests_failed or not summary.output_tokens:
        return None
    return joules / summary.output_tokens


def mean_power_w(load: PhaseFigures | None, energy_from: Literal["counter", "power"] | None) -> float | None:
    """Mean power over a load: the counter's joules over its time, else the readings', where they are of this load."""
    if load is None:
        return None
    if load.energy_j is not None and load.seconds > 0 and energy_from == "counter":
        return load.energy_j / load.seconds
    return load.power_mean_w if load.seconds >= SHORT_POWER_S else None


def energy(
    readings: Readings, spans: Sequence[Span], gpus: Sequence[str]
) -> tuple[float | None, Literal["counter", "power"] | None]:
    """Joules of all GPUs over the stretches: by the driver's counter, else by the sampled power.

    A GPU always draws power, so a counter that stands still is an old reading told again; where that blurs the
    stretches' ends by more than STALE_SHARE nothing is known, and the power beside it is as old. Nor is it of
    stretches that are, on average, shorter than SHORTEST_GAPS distances between readings: before and after a burst the
    GPU idles, and a line between two readings cannot tell where. Power tells none of stretches below SHORT_POWER_S.
    """
    counters = readings.all_of("gpu_energy_j", gpus)
    length_s = sum(seconds(end - start) for start, end in spans)
    gaps = [
        one.gap_s() for name in ("gpu_energy_j", "gpu_power_w") for one in readings.all_of(name, gpus) or ()
    ]
    if any(gap is None or length_s < SHORTEST_GAPS * gap * len(spans) for gap in gaps):
        return None, None
    if any(one.repeats_s(spans) > STALE_SHARE * length_s for one in counters or ()):
        return None, None
    grown = [one.grown(spans) for one in counters or ()]
    if grown and None not in grown:
        return sum(value or 0.0 for value in grown), "counter"
    if length_s < SHORT_POWER_S * len(spans):
        return None, None
    powers = readings.all_of("gpu_power_w", gpus)
    integrals = [one.integral(spans) for one in powers or ()]
    if integrals and None not in integrals:
        return sum(value or 0.0 for value in integrals), "power"
    return None, None


def phase_figures(
    readings: Readings, spans: Sequence[Span], gpus: Sequence[str], root: str, scrapes: Sequence[Scrape]
) -> PhaseFigures:
    """Figures over the stretches of one phase."""
    length_s = sum(seconds(end - start) for start, end in spans)
    good = [scrape.at_ns + scrape.took_ns // 2 for scrape in scrapes if scrape.error is None]
    memory = readings.all_of("gpu_memory_used_bytes", gpus)
    memory_means = [mean([one], spans) for one in memory or ()]
    used = readings.all_of("gpu_utilization", gpus)
    power = readings.all_of("gpu_power_w", gpus)
    power_mean = mean(power, spans)
    clocks = readings.all_of("gpu_sm_clock_hz", gpus)
    clock_means = [mean([one], spans) for one in clocks or ()]
    joules, _ = energy(readings, spans, gpus)
    cpu = readings.get("server_cpu_s", root)
    cpu_s = cpu.grown(spans) if cpu is not None else None
    return PhaseFigures(
        seconds=length_s,
        readings=int(inside(np.array(good, dtype=np.int64), spans).sum()),
        gpu_memory_peak_bytes=peak(memory, spans),
        gpu_memory_mean_bytes=max((value for value in memory_means if value is not None), default=None),
        gpu_utilization_mean=mean(used, spans),
        gpu_utilization_peak=peak(used, spans),
        power_mean_w=None if power_mean is None else power_mean * len(gpus),
        power_peak_w=peak_of_sum(power, spans),
        energy_j=joules,
        sm_clock_mean_hz=min((value for value in clock_means if value is not None), default=None),
        sm_clock_min_hz=lowest(clocks, spans),
        cpu_cores=None if cpu_s is None or not length_s else cpu_s / length_s,
        rss_peak_bytes=peak(readings.all_of("server_rss_bytes", [root]), spans),
        pss_peak_bytes=peak(readings.all_of("server_pss_bytes", [root]), spans),
    )


def lowest(every: Sequence[Series] | None, spans: Sequence[Span]) -> float | None:
    """The lowest value of any series in the stretches."""
    found = [float(values.min()) for one in every or () if len(values := one.within(spans))]
    return min(found, default=None)


def source_figures(scrapes: Sequence[Scrape]) -> tuple[SourceFigures, ...]:
    """How each source did."""
    by_url: dict[str, list[Scrape]] = {}
    for scrape in scrapes:
        by_url.setdefault(scrape.source, []).append(scrape)
    found = []
    for url, own in by_url.items():
        took = [seconds(scrape.took_ns) for scrape in own if scrape.error is None]
        found.append(
            SourceFigures(
                url=url,
                scrapes=len(own),
                failed=sum(scrape.error is not None for scrape in own),
                scrape_p50_s=float(np.median(took)) if took else None,
                scrape_max_s=max(took, default=None),
            )
        )
    return tuple(found)
