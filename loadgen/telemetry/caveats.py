"""What telemetry makes one doubt of a trial: throttled or dropping clocks, company on the GPU, gaps. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from loadgen.records import Caveat
from loadgen.telemetry.nvml import Gpu
from loadgen.telemetry.scrapes import Scrape
from loadgen.telemetry.series import Readings, peak
from loadgen.telemetry.spans import Spans
from loadgen.telemetry_records import HostFigures, ServerCores
from loadgen.units import show_bytes, show_number, show_s, show_share

# NVML's nvmlClocksEventReasons. Idle (0x1), clocks set by the user (0x2) and the display's (0x100) are no throttling.
REASONS = {
    0x4: "power cap",
    0x8: "hardware slowdown",
    0x10: "sync boost",
    0x20: "thermal (software)",
    0x40: "thermal (hardware)",
    0x80: "power brake",
}
CLOCK_DROP = 0.9  # of the highest SM clock seen under load
NOT_IDLE_BYTES = 2 << 30  # a driver alone holds some hundred MiB
NOT_IDLE_SHARE = 0.05
STALE_S = 1.0
STEAL = 0.01  # of the usable cores' time
LEAST_STEAL_S = 0.05  # the counter moves in ticks of 10 ms
# A share, not one core: of 128 cores one is no loss to the server, of 2 it is half. Below it the scheduler finds room.
OTHERS = 0.1
LEAST_WATCHED_S = 1.0
# Of the best. On a shared host the speed of a core has two levels, 1.7 times apart; within one it moves by 15 %.
SLOW = 1.25
QUIET = (
    "run on a dedicated machine, or one whose virtual CPUs are pinned to cores of their own; else repeat the trial, "
    'and let rivals take turns (order = "interleaved")'
)


def holds(gpu: Gpu) -> bool:
    """Whether more of its memory is in use than a driver takes alone."""
    return gpu.memory_used_bytes is not None and gpu.memory_used_bytes > NOT_IDLE_BYTES


def works(gpu: Gpu) -> bool:
    """Whether it was busy over its driver's last sample period, and is not empty.

    Work holds memory: what shows on an empty GPU is the work of a server that has just ended.
    """
    return gpu.utilization is not None and gpu.utilization > NOT_IDLE_SHARE and gpu.memory_used_bytes != 0


def before_start(gpus: Sequence[Gpu], indices: Sequence[int]) -> Iterator[Caveat]:
    """GPUs that were not idle before the server came."""
    for gpu in gpus:
        if gpu.index not in indices or not gpu.memory_total_bytes:
            continue
        if holds(gpu) or works(gpu):
            yield Caveat(
                kind="gpu-not-idle",
                message=f"GPU {gpu.index} was not idle before the server started: {show_bytes(gpu.memory_used_bytes)} "
                f"in use, utilization {show_share(gpu.utilization)}",
                remedy="end other work on the GPU and run the trial again",
            )


def of_devices(readings: Readings, spans: Spans, gpus: Sequence[str]) -> Iterator[Caveat]:
    """Throttling, clocks that dropped, and foreign processes during the load."""
    for uuid in gpus:
        reasons = readings.get("gpu_throttle_reasons", uuid)
        masks = [] if reasons is None else [int(value) for value in reasons.within(spans.load)]
        told = [
            f"{name} in {show_share(share)} of the readings"
            for bit, name in REASONS.items()
            if (share := sum(bool(mask & bit) for mask in masks) / max(1, len(masks)))
        ]
        if told:
            yield Caveat(
                kind="throttled",
                message=f"{uuid} was held down during the load: {', '.join(told)}",
                remedy="compare only with trials under the same cap; see to power limit and cooling",
            )
        clock = readings.get("gpu_sm_clock_hz", uuid)
        values = np.array([]) if clock is None else clock.within(spans.load)
        if len(values) >= 3 and np.percentile(values, 10) < CLOCK_DROP * values.max():
            yield Caveat(
                kind="clock-drop",
                message=f"{uuid}: the SM clock moved between {values.min() / 1e6:.0f} and {values.max() / 1e6:.0f} MHz",
                remedy="lock the clocks (nvidia-smi -lgc), or warm up longer",
            )
        counter = readings.get("gpu_energy_j", uuid)
        repeats_s = 0.0 if counter is None else counter.repeats_s(spans.load)
        if repeats_s > STALE_S:
            yield Caveat(
                kind="telemetry-stale",
                message=f"{uuid}: its source gave the same energy reading for {show_s(repeats_s)}: it reads the GPU "
                "less often than it is scraped, and peaks may have been missed",
                remedy="shorten the source's own interval (dcgm-exporter: -c 100), or use loadgen's exporter",
            )
        count = peak(readings.all_of("gpu_foreign_processes", [uuid]), (*spans.warmup, *spans.load))
        if count:
            held = peak(readings.all_of("gpu_foreign_memory_bytes", [uuid]), (*spans.warmup, *spans.load))
            yield Caveat(
                kind="foreign-processes",
                message=f"{uuid}: {count:.0f} processes that are not the server's held {show_bytes(held)}",
                remedy="end other work on the GPU and run the trial again",
            )


def of_host(host: HostFigures) -> Iterator[Caveat]:
    """A host whose CPU was not the server's own, or not always as fast."""
    stolen_s = (host.steal_share or 0.0) * host.load_seconds * host.cores
    if host.steal_share is not None and host.steal_share > STEAL and stolen_s >= LEAST_STEAL_S:
        yield Caveat(
            kind="host-steal",
            message=f"the hypervisor took {show_share(host.steal_share)} of the {host.cores} cores' time during the "
            f"load ({show_s(stolen_s)})",
            remedy=QUIET,
        )
    if (
        host.others_cores is not None
        and host.others_cores > OTHERS * host.cores
        and host.seconds >= LEAST_WATCHED_S
    ):
        yield Caveat(
            kind="host-busy",
            message=f"other processes used {show_number(host.others_cores)} of the {host.cores} cores that the server "
            "may use, on average over the trial",
            remedy="end other work on the host, or keep it off these cores (sweep --cpus, taskset)",
        )
    ends = [
        (end, wall_s, cpu_s)
        for end, wall_s, cpu_s in (
            ("before", host.spin_before_s, host.spin_before_cpu_s),
            ("after", host.spin_after_s, host.spin_after_cpu_s),
        )
        if wall_s is not None and cpu_s is not None
    ]
    if host.spin_best_s is None or not ends:
        return
    worst, wall_s, cpu_s = max(ends, key=lambda one: one[1])
    if wall_s > SLOW * host.spin_best_s:
        waited = cpu_s < wall_s - (wall_s - host.spin_best_s) / 2
        yield Caveat(
            kind="host-slow",
            message=f"right {worst} the trial one core took {show_s(wall_s)} for what took it "
            f"{show_s(host.spin_best_s)} at best: {show_number(wall_s / host.spin_best_s)} times as long, "
            + (
                "most of which it waited"
                if waited
                else "and it did run (its clock, or a neighbour on the core)"
            ),
            remedy=QUIET,
        )


def of_cores(cores: ServerCores | None, page: Mapping[str, object]) -> Iterator[Caveat]:
    """A server that may use fewer cores than it has GPUs, or, on the CPU, than it has threads that compute.

    A GPU wants a thread that launches its kernels; ``page``, the server's own, tells of the CPU's (``cpu_threads``).
    """
    if cores is None:
        return
    computing = page.get("cpu_threads")
    on_cpu = cores.gpus is None and str(page.get("device", "")).startswith("cpu")
    need, whom = cores.gpus or 0, "GPUs, each with a thread that launches its work"
    if on_cpu and isinstance(computing, int):
        need, whom = computing, "threads that compute"
    may = cores.cores if cores.limit_cores is None else min(cores.cores, cores.limit_cores)
    if may < need:
        quota = (
            "" if cores.limit_cores is None else f", its cgroup {show_number(cores.limit_cores)} at a time"
        )
        yield Caveat(
            kind="few-cores",
            message=f"the server may run on {cores.cores} {'core' if cores.cores == 1 else 'cores'} "
            f"({cores.affinity}){quota}, and has {need} {whom}: they wait for each other",
            remedy="give it a core for each and some to spare: start it without a binding (mpirun --bind-to none, "
            "taskset, --cpus) and with a larger CPU quota of its container",
        )


def of_sources(scrapes: Sequence[Scrape], urls: Sequence[str]) -> Iterator[Caveat]:
    """Scrapes that failed, values that cannot be, cards that a source cannot read, sources never heard."""
    by_url: Mapping[str, list[Scrape]] = {url: [s for s in scrapes if s.source == url] for url in urls}
    for url, own in by_url.items():
        errors = Counter(scrape.error for scrape in own if scrape.error is not None)
        if not own:
            yield _gap(f"{url} gave no scrape during the trial")
        elif errors:
            words, _ = errors.most_common(1)[0]
            yield _gap(f"{sum(errors.values())} of {len(own)} scrapes of {url} failed ({words})")
        refused = Counter(value for scrape in own for value in scrape.refused)
        if refused:
            value, _ = refused.most_common(1)[0]
            yield Caveat(
                kind="telemetry-refused",
                message=f"{url} gave {sum(refused.values())} values that cannot be, such as {value}; they are left out",
                remedy="mend the exporter, or leave it out of [telemetry] sources",
            )
        blind = _blind(own)
        if blind:
            yield Caveat(
                kind="telemetry-blind",
                message=f"{url} reports 0 bytes of total memory for {', '.join(blind)}: it cannot read the card, and "
                "none of its figures of it is used",
                remedy="use dcgm-exporter or loadgen's own exporter for GPU figures",
            )


def _blind(scrapes: Sequence[Scrape]) -> list[str]:
    """GPUs that a source never read, or no longer: the first pages of a server that has just started may be zeros."""
    seen: set[str] = set()
    first: set[str] = set()
    lost: set[str] = set()
    for scrape in sorted(scrapes, key=lambda scrape: scrape.at_ns):
        seen.update(subject for _, subject, _ in scrape.readings)
        lost.update(seen & set(scrape.blind))
        first.update(scrape.blind)
    return sorted(lost | (first - seen))


def _gap(message: str) -> Caveat:
    return Caveat(
        kind="telemetry-gap",
        message=message,
        remedy="peaks may have been missed; see that the endpoint answers well within the period",
    )
