"""A Prometheus exporter for hosts without dcgm-exporter: GPUs by NVML, servers' process trees and the host by /proc.

GPU families have dcgm-exporter's names, labels and units (percent, MiB, mJ, MHz), so that either can feed the same
dashboards. What this machine does not have, or withholds, is absent: without a GPU there is no GPU series at all.

| family | unit | labels |
|---|---|---|
| DCGM_FI_DEV_GPU_UTIL | percent of the driver's last sampling window in which a kernel ran | gpu, UUID, modelName |
| DCGM_FI_DEV_FB_USED, _FREE, _TOTAL | MiB, not rounded; used without what the driver reserves | as above |
| DCGM_FI_DEV_POWER_USAGE, _POWER_MGMT_LIMIT | W | as above |
| DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION | mJ since the driver was loaded | as above |
| DCGM_FI_DEV_SM_CLOCK, _MEM_CLOCK | MHz | as above |
| DCGM_FI_DEV_GPU_TEMP | °C | as above |
| DCGM_FI_DEV_CLOCK_THROTTLE_REASONS | NVML's bit mask | as above |
| loadgen_gpu_nvlink_bytes_total | bytes over all links, both ways | as above |
| loadgen_gpu_pcie_sent_bytes_per_second, …_received_… | bytes/s over 20 ms (``--links``) | as above |
| loadgen_gpu_process_memory_bytes | bytes | and pid, owner: server, foreign, or unseen (another PID namespace) |
| loadgen_process_tree_cpu_seconds_total | s | root: the tree's process id |
| loadgen_process_tree_resident_memory_bytes | bytes: RSS summed | root |
| loadgen_process_tree_proportional_memory_bytes | bytes: PSS, at most every second (``--pss``) | root |
| loadgen_process_tree_threads, _processes | count | root |
| loadgen_host_cpu_busy_seconds_total | CPU s that processes used of the cores this process may use | – |
| loadgen_host_cpu_steal_seconds_total | CPU s that the hypervisor took of them, where it tells | – |
| loadgen_host_usable_cpus | count of these cores | – |
| loadgen_host_cpu_frequency_hertz | Hz of the fastest of them, read every second; not on virtual machines | – |
| loadgen_host_pressure_cpu_waiting_seconds_total | s in which something runnable waited for a core (PSI, "some") | – |
| loadgen_host_memory_{used,total}_bytes | bytes; used = total − available | – |
| loadgen_exporter_cpu_seconds_total | s: what this exporter itself costs | – |
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import psutil
from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric

from loadgen.errors import BadInput
from loadgen.telemetry.host import HostCpu, HostReader
from loadgen.telemetry.nvml import Gpu, Nvml
from loadgen.telemetry.processes import PSS_PERIOD_S, Tree, TreeReader
from loadgen.telemetry.prometheus_text import MIB

PORT = 9835
GPU_GAUGES = (
    ("DCGM_FI_DEV_GPU_UTIL", "GPU utilization (in %)", "utilization", 100.0),
    ("DCGM_FI_DEV_FB_USED", "Framebuffer memory used (in MiB)", "memory_used_bytes", 1 / MIB),
    ("DCGM_FI_DEV_FB_FREE", "Framebuffer memory free (in MiB)", "memory_free_bytes", 1 / MIB),
    ("DCGM_FI_DEV_FB_TOTAL", "Framebuffer memory (in MiB)", "memory_total_bytes", 1 / MIB),
    ("DCGM_FI_DEV_POWER_USAGE", "Power draw (in W)", "power_w", 1.0),
    ("DCGM_FI_DEV_POWER_MGMT_LIMIT", "Power cap (in W)", "power_cap_w", 1.0),
    ("DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION", "Energy since the driver's start (in mJ)", "energy_j", 1e3),
    ("DCGM_FI_DEV_SM_CLOCK", "SM clock (in MHz)", "sm_clock_mhz", 1.0),
    ("DCGM_FI_DEV_MEM_CLOCK", "Memory clock (in MHz)", "memory_clock_mhz", 1.0),
    ("DCGM_FI_DEV_GPU_TEMP", "Temperature (in °C)", "temperature_c", 1.0),
    ("DCGM_FI_DEV_CLOCK_THROTTLE_REASONS", "Why clocks are held down (bit mask)", "throttle_reasons", 1.0),
    ("loadgen_gpu_pcie_sent_bytes_per_second", "PCIe traffic sent", "pcie_sent_bytes_per_s", 1.0),
    ("loadgen_gpu_pcie_received_bytes_per_second", "PCIe traffic received", "pcie_received_bytes_per_s", 1.0),
)


class Collector:
    """Reads everything anew at each scrape. ``roots`` are process ids of servers, whose PSS is read with ``pss``."""

    def __init__(self, roots: Sequence[int] = (), *, links: bool = False, pss: bool = False) -> None:
        self._nvml, self._links = Nvml(), links
        self._trees = [TreeReader(root, pss_period_s=PSS_PERIOD_S if pss else None) for root in roots]
        self._self, self._host = psutil.Process(), HostReader()

    def collect(self) -> Iterator[Metric]:
        """Read every source once and yield its families; prometheus_client calls this at each scrape."""
        gpus = self._nvml.read(links=self._links)
        trees = {reader.root: tree for reader in self._trees if (tree := reader.read()) is not None}
        yield from gpu_families(gpus, frozenset().union(*(tree.pids for tree in trees.values())))
        yield from tree_families(trees)
        yield from host_families(self._host.read())
        memory = psutil.virtual_memory()
        total = GaugeMetricFamily("loadgen_host_memory_total_bytes", "Memory of the host", value=memory.total)
        used = GaugeMetricFamily(
            "loadgen_host_memory_used_bytes", "Total less available", value=memory.total - memory.available
        )
        times = self._self.cpu_times()
        own = CounterMetricFamily(
            "loadgen_exporter_cpu_seconds", "CPU time of this exporter", value=times.user + times.system
        )
        yield from (total, used, own)


def gpu_families(gpus: Sequence[Gpu], ours: frozenset[int]) -> Iterator[Metric]:
    """Families of the GPUs; none that no GPU has a figure for."""
    labels = ["gpu", "UUID", "device", "modelName"]

    def of(gpu: Gpu) -> list[str]:
        return [str(gpu.index), gpu.uuid, f"nvidia{gpu.index}", gpu.name]

    for name, words, attribute, factor in GPU_GAUGES:
        family = GaugeMetricFamily(name, words, labels=labels)
        for gpu in gpus:
            value = getattr(gpu, attribute)
            if value is not None:
                family.add_metric(of(gpu), value * factor)
        if family.samples:
            yield family
    link = CounterMetricFamily("loadgen_gpu_nvlink_bytes", "Data over all NVLinks", labels=labels)
    held = GaugeMetricFamily(
        "loadgen_gpu_process_memory_bytes", "GPU memory of a process", labels=[*labels, "pid", "owner"]
    )
    for gpu in gpus:
        if gpu.nvlink_bytes is not None:
            link.add_metric(of(gpu), gpu.nvlink_bytes)
        for pid, used in gpu.processes.items():
            if used is not None:
                held.add_metric([*of(gpu), str(pid), owner(pid, ours)], used)
    yield from (family for family in (link, held) if family.samples)


def owner(pid: int, ours: frozenset[int]) -> str:
    """Whose process it is. In a container NVML may tell the host's numbers, which mean nothing in here."""
    if pid in ours:
        return "server"
    return "foreign" if ours and psutil.pid_exists(pid) else "unseen"


def tree_families(trees: dict[int, Tree]) -> Iterator[Metric]:
    """Families of the servers' process trees."""
    cpu = CounterMetricFamily("loadgen_process_tree_cpu_seconds", "CPU time of a tree", labels=["root"])
    named: list[tuple[str, str, Any]] = [
        ("resident_memory_bytes", "RSS, pages shared in the tree counted for each", lambda t: t.rss_bytes),
        ("proportional_memory_bytes", "PSS, a page shared by n counted as 1/n", lambda t: t.pss_bytes),
        ("threads", "Threads of a tree", lambda t: t.threads),
        ("processes", "Processes of a tree", lambda t: len(t.pids)),
    ]
    for root, tree in trees.items():
        cpu.add_metric([str(root)], tree.cpu_s)
    families: list[Metric] = [cpu]
    for name, words, figure in named:
        family = GaugeMetricFamily(f"loadgen_process_tree_{name}", words, labels=["root"])
        for root, tree in trees.items():
            value = figure(tree)
            if value is not None:
                family.add_metric([str(root)], value)
        families.append(family)
    yield from (family for family in families if family.samples)


def host_families(host: HostCpu) -> Iterator[Metric]:
    """Families of the host's cores. What others used is busy less what one's own trees used."""
    yield GaugeMetricFamily("loadgen_host_usable_cpus", "Cores that this process may use", value=host.cores)
    for name, words, value in (
        ("loadgen_host_cpu_busy_seconds", "CPU time of all processes on these cores", host.busy_s),
        ("loadgen_host_cpu_steal_seconds", "Time of these cores that the hypervisor took", host.steal_s),
        ("loadgen_host_pressure_cpu_waiting_seconds", "Time in which a task waited", host.waiting_s),
    ):
        if value is not None:
            yield CounterMetricFamily(name, words, value=value)
    if host.frequency_hz is not None:
        yield GaugeMetricFamily(
            "loadgen_host_cpu_frequency_hertz", "The fastest of these cores", value=host.frequency_hz
        )


def start(
    host: str, port: int, roots: Sequence[int], *, links: bool = False, pss: bool = False
) -> tuple[Any, str]:
    """Serve from a thread; returns the server (``shutdown`` ends it) and its URL. Raises BadInput for a taken port."""
    registry = CollectorRegistry()
    registry.register(Collector(roots, links=links, pss=pss))
    try:
        server, _thread = start_http_server(port, host, registry)
    except OSError as error:
        raise BadInput(
            f"--port {port}: cannot listen on {host}: {error.strerror or error} (accepted: a free port, or 0)"
        ) from None
    shown = f"[{host}]" if ":" in host else host
    return server, f"http://{shown}:{server.server_port}/metrics"


def main() -> None:
    """As a sweep's child: say the URL, serve until standard input ends (its parent did)."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--pid", type=int, action="append", default=[])
    given = parser.parse_args()
    try:
        _server, url = start("127.0.0.1", given.port, given.pid)
    except BadInput as error:
        sys.exit(str(error))
    print(url, flush=True)
    sys.stdin.buffer.read()
    os._exit(0)  # no clean-up is owed to anybody, and a scrape under way must not hold the sweep up


if __name__ == "__main__":
    main()
