"""What a GPU can do at most, by its makers' datasheets: the labelled fallback where nothing was measured."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """Ceilings of one GPU: memory bandwidth, dense matrix rate by dtype (absent: no such unit), memory."""

    name: str
    bytes_per_s: float
    flops_per_s: Mapping[str, float]
    memory_bytes: int
    source: Literal["datasheet", "measured"] = "datasheet"


def _datasheet(
    name: str,
    bandwidth_gb: float,
    half_tflops: float,
    float32_tflops: float,
    memory_gb: float,
    bf16: bool = True,
) -> Device:
    rates = {"float16": half_tflops * 1e12, "float32": float32_tflops * 1e12}
    if bf16:
        rates["bfloat16"] = half_tflops * 1e12
    return Device(
        name=name, bytes_per_s=bandwidth_gb * 1e9, flops_per_s=rates, memory_bytes=round(memory_gb * 1e9)
    )


# Pattern over the driver's name of the device → datasheet. Dense rates, no sparsity; the first match counts.
DATASHEETS: tuple[tuple[str, Device], ...] = (
    (r"\bT4\b", _datasheet("T4", 320, 65, 8.1, 16, bf16=False)),
    (r"V100.*32", _datasheet("V100-32GB", 900, 125, 15.7, 32, bf16=False)),
    (r"V100", _datasheet("V100-16GB", 900, 125, 15.7, 16, bf16=False)),
    (r"A100.*PCIE?.*80", _datasheet("A100-80GB PCIe", 1935, 312, 19.5, 80)),
    (r"A100.*80", _datasheet("A100-80GB", 2039, 312, 19.5, 80)),
    (r"A100", _datasheet("A100-40GB", 1555, 312, 19.5, 40)),
    (r"\bA10\b", _datasheet("A10", 600, 125, 31.2, 24)),
    (r"\bL4\b", _datasheet("L4", 300, 121, 30.3, 24)),
    (r"\bL40S\b", _datasheet("L40S", 864, 362, 91.6, 48)),
    (r"H100.*PCIE?", _datasheet("H100 PCIe", 2000, 756, 51, 80)),
    (r"H100", _datasheet("H100", 3350, 989, 67, 80)),
    (r"H200", _datasheet("H200", 4800, 989, 67, 141)),
    (r"B200", _datasheet("B200", 8000, 2250, 80, 180)),
)


def device_named(name: str | None) -> Device | None:
    """The datasheet of a device by the name that its driver gives (``NVIDIA H200``), ``None`` when unknown."""
    if name is None:
        return None
    return next((sheet for pattern, sheet in DATASHEETS if re.search(pattern, name, re.IGNORECASE)), None)
