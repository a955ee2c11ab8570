"""The records of telemetry: where it comes from, and what it says of a trial. ``None`` means *not measured*."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True, slots=True, kw_only=True)
class TelemetrySpec:
    """Where a sweep's telemetry comes from. Decides no result, so it is in no trial's id.

    ``sources`` are Prometheus text endpoints and are preferred to loadgen's own ``exporter``; ``prometheus`` is the
    URL of a Prometheus server, of which ``selector`` (label matchers) narrows what is read. ``exporter_port`` 0
    means any free one.
    """

    enabled: bool = True
    exporter: bool = True
    exporter_port: int = 0
    sources: tuple[str, ...] = ()
    prometheus: str | None = None
    selector: str = ""
    period_s: float = 0.2


@dataclass(frozen=True, slots=True, kw_only=True)
class PhaseFigures:
    """Telemetry of one phase of a trial. Memory is the fullest GPU's; power and energy are all the trial's GPUs'.

    ``seconds`` is how long the phase lasted in all, ``readings`` how many scrapes fell into it. Utilization 0–1 is
    the mean over the GPUs, clocks the slowest GPU's; ``cpu_cores`` is CPU seconds per second of the server's tree.
    """

    seconds: float
    readings: int
    gpu_memory_peak_bytes: float | None = None
    gpu_memory_mean_bytes: float | None = None
    gpu_utilization_mean: float | None = None
    gpu_utilization_peak: float | None = None
    power_mean_w: float | None = None
    power_peak_w: float | None = None
    energy_j: float | None = None
    sm_clock_mean_hz: float | None = None
    sm_clock_min_hz: float | None = None
    cpu_cores: float | None = None
    rss_peak_bytes: float | None = None
    pss_peak_bytes: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceFigures:
    """How one source of telemetry did during a trial: scrapes, failed ones, and how long a scrape took."""

    url: str
    scrapes: int
    failed: int
    scrape_p50_s: float | None = None
    scrape_max_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryLedger:
    """Bytes on the GPU that needed most, ``gpu`` (its place among the server's): predicted beside measured.

    ``weight_bytes`` is what the engine's allocator held once loaded, without a cache taken ahead. ``kv_bytes`` is the
    engine's own count of the cache in need: that of a call, or the blocks in use at their peak; ``kv_rounding_bytes``
    what whole blocks add to the prediction, and ``kv_reserved_bytes`` the cache that it took ahead or keeps.
    ``idle_bytes`` is what the allocator holds in use with no request in flight, ``needed_bytes`` its highest use in the
    trial by ``needed_from``, less what is kept for other calls (caches, graphs; ``telemetry/needed.py``);
    ``activation_bytes`` = needed − weights − KV, all measured (activations, logits, work space), ``rest_bytes`` =
    needed − predicted weights − predicted KV. A need that ends in "at least" or "at most" is a bound and no figure of
    the trial.
    ``reserved_bytes`` is what the allocator took from the device, ``process_bytes`` what the driver counts for the
    server's process, or what the GPU's use grew by (``process_from``): peaks, maybe of different moments.
    ``overhead_bytes`` (context, communication buffers, kernels) is therefore not their difference but that of one
    moment: the median of process − reserved over readings that belong together, or the last reading less the
    allocator's figure right after the trial (``telemetry/overhead.py``); ``None`` where neither can tell.
    ``weight_ratio`` and ``kv_ratio`` are measured over predicted, the latter's prediction in whole blocks.
    """

    predicted_weight_bytes: int | None
    predicted_kv_bytes: int | None
    idle_bytes: float | None = None
    needed_bytes: float | None = None
    needed_from: str | None = None
    rest_bytes: float | None = None
    reserved_bytes: float | None = None
    process_bytes: float | None = None
    overhead_bytes: float | None = None
    gpu: int | None = None
    predicted_activation_bytes: int | None = None
    weight_bytes: float | None = None
    weight_ratio: float | None = None
    kv_bytes: float | None = None
    kv_rounding_bytes: int | None = None
    kv_ratio: float | None = None
    kv_reserved_bytes: float | None = None
    activation_bytes: float | None = None
    process_from: Literal["process", "growth"] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class HostFigures:
    """What a trial's host did beside its server, on the ``cores`` that it may use. ``None`` is not measured.

    ``steal_share`` is the share of those cores' time that the hypervisor says it took during the load (many take it
    and do not say), ``waiting_share`` that of the load in which something runnable waited for a core (the kernel's
    PSI, whole host), ``frequency_hz`` the fastest core's clock, on average. ``others_cores`` are CPU seconds per second
    of processes that are not the sweep's, over the trial's ``seconds``. ``spin_before_s`` and ``spin_after_s`` time a
    fixed piece of Python while the server idles; ``…_cpu_s`` are their CPU time, ``spin_best_s`` the fastest of the
    sweep so far.
    """

    cores: int
    seconds: float
    load_seconds: float
    steal_share: float | None = None
    waiting_share: float | None = None
    frequency_hz: float | None = None
    others_cores: float | None = None
    spin_before_s: float | None = None
    spin_after_s: float | None = None
    spin_before_cpu_s: float | None = None
    spin_after_cpu_s: float | None = None
    spin_best_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerCores:
    """What CPU a server's processes may use, right after a trial's load: of those alone that do its work.

    ``cores`` of ``affinity`` (such as ``0-15,32``) are those that any of their ``threads`` may run on, ``limit_cores``
    the tightest quota of their cgroups, ``None`` without one. ``gpus`` is how many GPUs they drive, where known.
    """

    cores: int
    affinity: str
    processes: int
    threads: int
    limit_cores: float | None = None
    gpus: int | None = None


CpuMemoryFrom = Literal["pss", "pss after the load", "rss"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TelemetrySummary:
    """Memory, power and load of a trial's devices and server. Its scrapes lie in ``telemetry/TRIAL_ID.parquet``.

    ``gpu_memory_bytes`` is what the fullest GPU needed, apart from ``gpu_memory_reserved_bytes``, what the engine
    held. ``cpu_memory_bytes`` is the server's process tree's, by ``cpu_memory_from``: PSS (shared pages counted once)
    right after the load, since reading it stalls the server; its peak where a source read that; else the peak RSS.
    ``power_w`` is the mean over the measured load of all the trial's GPUs together, by the energy counter where there
    is one. ``joules_per_output_token`` is their energy from first send to last end over the output tokens; ``None``
    when a request failed or nobody counted its tokens. Without a counter a short load has neither: readings lag.
    ``cpu_cores`` is what telemetry itself took. Phases: load, warmup, prefill, decode, idle.
    """

    gpu_memory_bytes: float | None = None
    gpu_memory_reserved_bytes: float | None = None
    cpu_memory_bytes: float | None = None
    cpu_memory_from: CpuMemoryFrom | None = None
    power_w: float | None = None
    joules_per_output_token: float | None = None
    energy_from: Literal["counter", "power"] | None = None
    period_s: float | None = None
    cpu_cores: float | None = None
    gpus: tuple[str, ...] = ()
    phases: Mapping[str, PhaseFigures] = field(default_factory=dict)
    sources: tuple[SourceFigures, ...] = ()
    ledger: MemoryLedger | None = None
    host: HostFigures | None = None
