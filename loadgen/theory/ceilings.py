"""What a machine can do at best: memory bandwidth, matrix rates, all-reduce. Measured by the probe, or the datasheet.

Pure data and arithmetic. ``source`` always says which of the two a figure is; a figure nobody has is ``None``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from typing import Any, Literal

from loadgen.theory.models import dtype_name

Source = Literal["measured", "datasheet"]
CEILINGS_FILE = "ceilings.json"  # in a results folder: a list of `to_dict`s, one per device


@dataclass(frozen=True, slots=True, kw_only=True)
class AllReduce:
    """time = ``alpha_s`` + 2(p−1)/p · bytes / ``beta_bytes_per_s`` over p = ``ranks`` devices (β is the bus rate).

    ``points`` are the measured (bytes, seconds); ``how`` is ``eager``, ``graph`` (CUDA graph) or ``gloo``.
    """

    ranks: int
    how: str
    alpha_s: float
    beta_bytes_per_s: float
    points: tuple[tuple[int, float], ...] = ()

    def seconds(self, size_bytes: float) -> float:
        """Between measured sizes by interpolation (algorithms change on the way), beyond them by the line."""
        if self.points and self.points[0][0] <= size_bytes <= self.points[-1][0]:
            return interpolate(self.points, size_bytes)
        return self.alpha_s + bus_share(self.ranks) * size_bytes / self.beta_bytes_per_s


@dataclass(frozen=True, slots=True, kw_only=True)
class Ceilings:
    """The ceilings of one device; rates are per device, bytes and FLOPs per second.

    ``ladder`` holds (working set in bytes, bytes/s): a small working set stays in a cache, so its ceiling is higher.
    ``shared`` marks a device that all ranks share (one CPU): tensor parallelism then adds nothing to the ceilings.
    ``launch_s`` is the host's cost of starting one small operation.
    """

    device: str
    source: Source
    bandwidth: float
    matrix: Mapping[str, float]
    ladder: tuple[tuple[int, float], ...] = ()
    all_reduce: tuple[AllReduce, ...] = ()
    launch_s: float | None = None
    shared: bool = False
    facts: Mapping[str, Any] = field(default_factory=dict)

    def bandwidth_for(self, working_set_bytes: float) -> float:
        """The highest rate that a working set of this size could be read at.

        Rates fall as the set grows, so the ladder's last step *below* the size bounds it from above.
        """
        below = [size for size, _ in self.ladder if size <= working_set_bytes]
        start = max(below, default=0)
        rates = [rate for size, rate in self.ladder if size >= start]
        return max([self.bandwidth, *rates])

    def matrix_rate(self, dtype: str) -> float | None:
        """FLOP/s of a matrix product in this dtype, ``None`` where the device has no such rate."""
        return self.matrix.get(dtype_name(dtype))

    def devices(self, ranks: int) -> int:
        """How many devices' worth of ceilings ``ranks`` ranks have."""
        return 1 if self.shared else ranks

    def all_reduce_s(self, ranks: int, size_bytes: float) -> float | None:
        """The fastest measured way to all-reduce so many bytes; 0 for one rank, ``None`` when it was not measured."""
        if ranks == 1:
            return 0.0
        known = [line.seconds(size_bytes) for line in self.all_reduce if line.ranks == ranks]
        return min(known, default=None)


def bus_share(ranks: int) -> float:
    """2(p−1)/p: the share of a message that a ring all-reduce sends and receives per device."""
    return 2 * (ranks - 1) / ranks


def interpolate(points: Sequence[tuple[float, float]], at: float) -> float:
    """Straight lines between (x, y) points sorted by x; ``at`` lies between the first and the last."""
    for (left, low), (right, high) in pairwise(points):
        if at <= right:
            return low + (high - low) * (at - left) / (right - left)
    return points[-1][1]


def fit_all_reduce(ranks: int, how: str, points: Sequence[tuple[int, float]]) -> AllReduce:
    """α and β from (bytes, seconds) by least squares on relative errors, so that small messages count too.

    Raises ValueError for fewer than two sizes.
    """
    import numpy as np

    sizes = np.array([size for size, _ in points], dtype=float)
    times = np.array([seconds for _, seconds in points], dtype=float)
    if len(set(sizes.tolist())) < 2:
        raise ValueError("an all-reduce line needs at least two message sizes")
    design = np.stack([1 / times, bus_share(ranks) * sizes / times], axis=1)
    (alpha, per_byte), *_ = np.linalg.lstsq(design, np.ones_like(times), rcond=None)
    if per_byte <= 0:  # every size costs the same: β is at least the best rate seen
        alpha, per_byte = np.median(times), 1 / (bus_share(ranks) * (sizes / times).max())
    return AllReduce(
        ranks=ranks,
        how=how,
        alpha_s=max(float(alpha), 0.0),
        beta_bytes_per_s=float(1 / per_byte),
        points=tuple(sorted((int(size), float(seconds)) for size, seconds in points)),
    )


def to_dict(ceilings: Ceilings) -> dict[str, Any]:
    """Plain data for JSON; ``from_dict`` reads it back."""
    return asdict(ceilings)


def from_dict(data: Mapping[str, Any]) -> Ceilings:
    """Raises ValueError for data that ``to_dict`` did not write."""
    try:
        lines = tuple(
            AllReduce(
                ranks=_count(line["ranks"]),
                how=str(line["how"]),
                alpha_s=_rate(line["alpha_s"]),
                beta_bytes_per_s=_rate(line["beta_bytes_per_s"]),
                points=tuple((_count(size), _rate(s)) for size, s in line["points"]),
            )
            for line in data["all_reduce"]
        )
        launch_s, source = data.get("launch_s"), data["source"]
        if source not in ("measured", "datasheet"):
            raise ValueError(f"source {source!r}")
        return Ceilings(
            device=str(data["device"]),
            source=source,
            bandwidth=_rate(data["bandwidth"]),
            matrix={str(name): _rate(rate) for name, rate in data["matrix"].items()},
            ladder=tuple((_count(size), _rate(rate)) for size, rate in data["ladder"]),
            all_reduce=lines,
            launch_s=None if launch_s is None else _rate(launch_s),
            shared=bool(data.get("shared", False)),
            facts=dict(data.get("facts", {})),
        )
    except (LookupError, TypeError, AttributeError) as error:
        raise ValueError(f"{type(error).__name__}: {error}") from None


def _rate(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf:
        raise ValueError(f"{value!r} is no figure")
    return float(value)


def _count(value: Any) -> int:
    if type(value) is not int or value < 0:
        raise ValueError(f"{value!r} is no count")
    return value


def _sheet(
    device: str, bandwidth_gb: float, half_tflops: float, single_tflops: float, bf16: bool = True
) -> Ceilings:
    matrix = {"float16": half_tflops * 1e12, "float32": single_tflops * 1e12}
    if bf16:
        matrix["bfloat16"] = half_tflops * 1e12
    return Ceilings(device=device, source="datasheet", bandwidth=bandwidth_gb * 1e9, matrix=matrix)


# Vendors' datasheets: GB/s, dense tensor-core TFLOP/s with fp16 accumulated in fp32, plain fp32 TFLOP/s. Turing and
# Volta have no bf16 matrix units. Cards sold in two forms (SXM, PCIe) are listed twice, the more special name first.
DATASHEET: tuple[tuple[str, Ceilings], ...] = (
    ("T4", _sheet("T4", 320, 65, 8.1, bf16=False)),
    ("V100", _sheet("V100", 900, 125, 15.7, bf16=False)),
    ("A100-SXM4-40", _sheet("A100-40", 1555, 312, 19.5)),
    ("A100-PCIE-40", _sheet("A100-40", 1555, 312, 19.5)),
    ("A100 80GB PCIe", _sheet("A100-80 PCIe", 1935, 312, 19.5)),
    ("A100-40", _sheet("A100-40", 1555, 312, 19.5)),
    ("A100", _sheet("A100-80", 2039, 312, 19.5)),
    ("A10G", _sheet("A10G", 600, 70, 35)),
    ("A10", _sheet("A10", 600, 125, 31.2)),
    ("L40S", _sheet("L40S", 864, 362, 91.6)),
    ("L4", _sheet("L4", 300, 121, 30.3)),
    ("H100 NVL", _sheet("H100 NVL", 3938, 835, 60)),
    ("H100 PCIe", _sheet("H100 PCIe", 2039, 756, 51)),
    ("H100", _sheet("H100", 3350, 989, 67)),
    ("H200", _sheet("H200", 4800, 989, 67)),
    ("B200", _sheet("B200", 8000, 2250, 80)),
)


def datasheet(device: str) -> Ceilings | None:
    """The datasheet of a device as its driver names it (``NVIDIA H200``), ``None`` for one not in the table."""
    words = _words(device)
    for name, ceilings in DATASHEET:
        wanted = _words(name)
        if any(words[at : at + len(wanted)] == wanted for at in range(len(words))):
            return ceilings
    return None


def _words(text: str) -> list[str]:
    """``NVIDIA A100-SXM4-40GB`` → nvidia, a100, sxm4, 40; names match word by word: an L4 is no L40S."""
    parts = text.lower().replace("-", " ").split()
    return [part.removesuffix("gb") for part in parts]
