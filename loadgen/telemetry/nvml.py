"""What NVML says of each GPU now. A figure that a GPU or its permissions withhold is ``None``; no GPU gives nothing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Gpu:
    """One GPU's state: bytes, 0–1, W, J, MHz, °C. ``processes`` maps process id to bytes (``None``: withheld)."""

    index: int
    uuid: str
    name: str
    memory_total_bytes: int | None = None
    memory_used_bytes: int | None = None
    memory_free_bytes: int | None = None
    utilization: float | None = None
    power_w: float | None = None
    power_cap_w: float | None = None
    energy_j: float | None = None
    sm_clock_mhz: int | None = None
    memory_clock_mhz: int | None = None
    temperature_c: int | None = None
    throttle_reasons: int | None = None
    pcie_sent_bytes_per_s: float | None = None
    pcie_received_bytes_per_s: float | None = None
    nvlink_bytes: float | None = None
    processes: dict[int, int | None] = field(default_factory=dict)


class Nvml:
    """An open NVML; without a driver ``read`` gives an empty list. ``close`` it when done."""

    def __init__(self) -> None:
        import pynvml

        self._nvml: Any = pynvml
        try:
            pynvml.nvmlInit()
            self.open = True
        except (pynvml.NVMLError, OSError):  # no driver, or a library that cannot be loaded
            self.open = False

    def read(self, *, links: bool = True) -> list[Gpu]:
        """Every GPU. ``links`` asks for PCIe rates too, which take NVML 20 ms each."""
        if not self.open:
            return []
        nvml = self._nvml
        count = self._ask(nvml.nvmlDeviceGetCount) or 0
        handles = [(index, self._ask(nvml.nvmlDeviceGetHandleByIndex, index)) for index in range(count)]
        return [self._gpu(index, handle, links) for index, handle in handles if handle is not None]

    def close(self) -> None:
        """Shut NVML down; a second time does nothing."""
        if self.open:
            self._nvml.nvmlShutdown()
            self.open = False

    def _ask(self, question: Callable[..., Any], *args: Any) -> Any:
        try:
            return question(*args)
        except (self._nvml.NVMLError, ValueError):  # a name that is no UTF-8 is not known
            return None

    def _gpu(self, index: int, handle: Any, links: bool) -> Gpu:
        nvml = self._nvml

        def ask(question: Callable[..., Any], *args: Any) -> Any:
            return self._ask(question, handle, *args)

        def scaled(value: Any, factor: float) -> float | None:
            return None if value is None else value * factor

        # Version 2 keeps what the driver reserved apart from what is used, as dcgm-exporter does.
        memory = ask(nvml.nvmlDeviceGetMemoryInfo, nvml.nvmlMemory_v2) or ask(nvml.nvmlDeviceGetMemoryInfo)
        rates = ask(nvml.nvmlDeviceGetUtilizationRates)
        pcie = (nvml.NVML_PCIE_UTIL_TX_BYTES, nvml.NVML_PCIE_UTIL_RX_BYTES)
        sent, received = (ask(nvml.nvmlDeviceGetPcieThroughput, way) if links else None for way in pcie)
        return Gpu(
            index=index,
            uuid=str(ask(nvml.nvmlDeviceGetUUID) or ""),
            name=str(ask(nvml.nvmlDeviceGetName) or ""),
            memory_total_bytes=None if memory is None else memory.total,
            memory_used_bytes=None if memory is None else memory.used,
            memory_free_bytes=None if memory is None else memory.free,
            utilization=None if rates is None else rates.gpu / 100,
            power_w=scaled(ask(nvml.nvmlDeviceGetPowerUsage), 1e-3),
            power_cap_w=scaled(ask(nvml.nvmlDeviceGetEnforcedPowerLimit), 1e-3),
            energy_j=scaled(ask(nvml.nvmlDeviceGetTotalEnergyConsumption), 1e-3),
            sm_clock_mhz=ask(nvml.nvmlDeviceGetClockInfo, nvml.NVML_CLOCK_SM),
            memory_clock_mhz=ask(nvml.nvmlDeviceGetClockInfo, nvml.NVML_CLOCK_MEM),
            temperature_c=ask(nvml.nvmlDeviceGetTemperature, nvml.NVML_TEMPERATURE_GPU),
            throttle_reasons=ask(nvml.nvmlDeviceGetCurrentClocksThrottleReasons),
            pcie_sent_bytes_per_s=scaled(sent, 1024),
            pcie_received_bytes_per_s=scaled(received, 1024),
            nvlink_bytes=self._nvlink_bytes(handle),
            processes={
                one.pid: one.usedGpuMemory for one in ask(nvml.nvmlDeviceGetComputeRunningProcesses) or ()
            },
        )

    def _nvlink_bytes(self, handle: Any) -> float | None:
        """Data sent and received over all NVLinks since the driver was loaded, in bytes."""
        nvml = self._nvml
        ids = (nvml.NVML_FI_DEV_NVLINK_THROUGHPUT_DATA_TX, nvml.NVML_FI_DEV_NVLINK_THROUGHPUT_DATA_RX)
        fields = self._ask(nvml.nvmlDeviceGetFieldValues, handle, [(number, 2**32 - 1) for number in ids])
        values = [one.value.ullVal for one in fields or () if one.nvmlReturn == nvml.NVML_SUCCESS]
        return 1024.0 * sum(values) if len(values) == len(ids) else None
