"""NVML as two H200s answer it; what is withheld is None."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any

import pynvml
import pytest

from loadgen.telemetry.nvml import Nvml

MEMORY = SimpleNamespace(total=150 << 30, used=30 << 30, free=119 << 30)


class FakeNvml:
    """Answers of one GPU; names in ``refuse`` are not supported by it."""

    def __init__(self, *refuse: str) -> None:
        self.refuse, self.open, self.asked = refuse, 0, []  # type: ignore[var-annotated]

    def __getattr__(self, name: str) -> Any:
        if not name.startswith("nvml") or name == "nvmlMemory_v2":
            return getattr(pynvml, name)

        def call(*args: Any) -> Any:
            self.asked.append(name)
            if name in self.refuse:
                raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)
            return self.answers[name](*args)

        return call

    @property
    def answers(self) -> dict[str, Any]:
        link = SimpleNamespace(nvmlReturn=pynvml.NVML_SUCCESS, value=SimpleNamespace(ullVal=3))
        return {
            "nvmlInit": lambda: setattr(self, "open", self.open + 1),
            "nvmlShutdown": lambda: setattr(self, "open", self.open - 1),
            "nvmlDeviceGetCount": lambda: 1,
            "nvmlDeviceGetHandleByIndex": lambda index: index,
            "nvmlDeviceGetUUID": lambda _h: "GPU-a",
            "nvmlDeviceGetName": lambda _h: "NVIDIA H200",
            "nvmlDeviceGetMemoryInfo": lambda _h, _version=None: MEMORY,
            "nvmlDeviceGetUtilizationRates": lambda _h: SimpleNamespace(gpu=97, memory=40),
            "nvmlDeviceGetPowerUsage": lambda _h: 412_500,
            "nvmlDeviceGetEnforcedPowerLimit": lambda _h: 700_000,
            "nvmlDeviceGetTotalEnergyConsumption": lambda _h: 13_428_913_042,
            "nvmlDeviceGetClockInfo": lambda _h, kind: 1980 if kind == pynvml.NVML_CLOCK_SM else 3201,
            "nvmlDeviceGetTemperature": lambda _h, _sensor: 41,
            "nvmlDeviceGetCurrentClocksThrottleReasons": lambda _h: 4,
            "nvmlDeviceGetPcieThroughput": lambda _h, way: 2 if way == pynvml.NVML_PCIE_UTIL_TX_BYTES else 5,
            "nvmlDeviceGetFieldValues": lambda _h, fields: [link for _ in fields],
            "nvmlDeviceGetComputeRunningProcesses": lambda _h: [SimpleNamespace(pid=7, usedGpuMemory=None)],
        }


def use(monkeypatch: pytest.MonkeyPatch, *refuse: str) -> FakeNvml:
    fake = FakeNvml(*refuse)
    monkeypatch.setitem(sys.modules, "pynvml", fake)  # type: ignore[arg-type]
    return fake


def test_a_gpu_in_our_units(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = use(monkeypatch)
    nvml = Nvml()
    (gpu,) = nvml.read()
    assert (gpu.memory_total_bytes, gpu.memory_used_bytes, gpu.memory_free_bytes) == (
        150 << 30,
        30 << 30,
        119 << 30,
    )
    assert (gpu.utilization, gpu.power_w, gpu.power_cap_w) == (0.97, 412.5, 700.0)
    assert gpu.energy_j == pytest.approx(13428913.042)
    assert (gpu.sm_clock_mhz, gpu.memory_clock_mhz, gpu.temperature_c, gpu.throttle_reasons) == (
        1980,
        3201,
        41,
        4,
    )
    assert (gpu.pcie_sent_bytes_per_s, gpu.pcie_received_bytes_per_s, gpu.nvlink_bytes) == (2048, 5120, 6144)
    assert gpu.processes == {7: None}
    nvml.close()
    nvml.close()
    assert fake.open == 0


def test_what_is_withheld_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    refused = [name for name in FakeNvml().answers if name.startswith("nvmlDevice") and name[10:] not in (
        "GetCount", "GetHandleByIndex", "GetUUID", "GetName",
    )]  # fmt: skip
    use(monkeypatch, *refused)
    (gpu,) = Nvml().read()
    figures = {
        name: getattr(gpu, name)
        for name in gpu.__slots__
        if name not in ("index", "uuid", "name", "processes")
    }
    assert set(figures.values()) == {None}
    assert gpu.processes == {}


def test_pcie_is_asked_for_only_on_demand(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = use(monkeypatch)
    (gpu,) = Nvml().read(links=False)
    assert gpu.pcie_sent_bytes_per_s is None
    assert "nvmlDeviceGetPcieThroughput" not in fake.asked


def test_without_a_driver_there_is_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, "nvmlInit")
    nvml = Nvml()
    assert nvml.read() == []
    nvml.close()
