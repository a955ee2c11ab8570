"""Where a sweep runs: GPUs, driver, versions, commit, CPU and memory, so that results can be told apart.

What cannot be read is ``None`` or left out; nothing is guessed. Takes some tens of milliseconds and never imports a
framework: versions come from installed metadata.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import re
import socket
import subprocess
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from loadgen import __version__
from loadgen.records import Environment
from loadgen.system import cpus

# Distributions whose version can move a number: the engines, what they compute with, and our own client's parts.
PACKAGES = (
    "torch", "transformers", "accelerate", "safetensors", "tokenizers", "triton", "flash-attn",
    "deepspeed", "deepspeed-mii", "deepspeed-kernels", "tritonclient", "tritonserver", "nvidia-pytriton", "vllm",
    "nvidia-nccl-cu12", "nvidia-nccl-cu13", "starlette", "uvicorn", "uvloop", "httpx", "httpcore", "asyncio-throttle",
    "grpcio", "protobuf", "numpy", "pyarrow", "orjson", "nvidia-ml-py",
)  # fmt: skip


def capture(argv: Sequence[str]) -> Environment:
    """The environment of this process. ``id`` hashes everything but ``argv`` and ``started``."""
    import psutil

    gpus, driver, cuda = read_gpus()
    facts: dict[str, Any] = {
        "host": socket.gethostname(),
        "os": operating_system(),
        "cpu": cpu_model(),
        "cpus": len(cpus.usable()),  # what this process may use, not what the board holds
        "affinity": cpus.compact(cpus.usable()),
        "memory_bytes": psutil.virtual_memory().total,
        "gpus": gpus,
        "driver": driver,
        "cuda": cuda,
        "packages": {"loadgen": __version__, **package_versions()},
        "commit": source_commit(),
    }
    canonical = json.dumps(facts, sort_keys=True, separators=(",", ":"))
    return Environment(
        id=hashlib.sha256(canonical.encode()).hexdigest()[:16],
        argv=tuple(argv),
        started=datetime.now(UTC).isoformat(timespec="seconds"),
        **facts,
    )


def operating_system() -> str:
    """Distribution and kernel."""
    try:
        name = platform.freedesktop_os_release().get("PRETTY_NAME", platform.system())
    except OSError:
        name = platform.system()
    return f"{name}, {platform.system()} {platform.release()}"


def cpu_model(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """The CPU's own name, or the architecture where it has none (many ARM machines)."""
    try:
        lines = cpuinfo.read_text().splitlines()
    except OSError:
        lines = []
    for line in lines:
        key, _, value = line.partition(":")
        if key.strip() == "model name" and value.strip():
            return value.strip()
    return platform.machine()


def package_versions(wanted: Sequence[str] = PACKAGES) -> dict[str, str]:
    """Versions of the installed ones of ``wanted``, and Python's; an absent package is left out."""
    versions = {"python": platform.python_version()}
    for name in wanted:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions


def source_commit(root: Path | None = None) -> str | None:
    """The commit of the checkout that loadgen runs from, with ``+changes`` when tracked files differ from it.

    ``None`` when loadgen is installed elsewhere: a virtual environment inside somebody's repository must not borrow
    that repository's commit.
    """
    root = root or Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return None
    head = _git(root, "rev-parse", "HEAD")
    if head is None:
        return None
    changes = _git(root, "status", "--porcelain", "--untracked-files=no")
    return head if changes == "" else f"{head}+changes"


def _git(root: Path, *args: str) -> str | None:
    argv = ["git", "-C", str(root), *args]
    try:
        done = subprocess.run(argv, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None  # no git, or a checkout of another owner
    return done.stdout.strip()


def read_gpus() -> tuple[tuple[Mapping[str, object], ...], str | None, str | None]:
    """Every GPU that NVML shows, the driver's version and the newest CUDA it serves.

    Without an NVIDIA driver: ``((), None, None)``. A figure that the GPU or its permissions withhold is ``None``.
    Only settings are read (limits, applied and maximum clocks), not what moves by the second: they are part of the
    environment's identity.
    """
    import pynvml as nvml

    try:
        nvml.nvmlInit()
    except (nvml.NVMLError, OSError):  # no driver, or a library that cannot be loaded
        return (), None, None
    try:
        handles = [nvml.nvmlDeviceGetHandleByIndex(index) for index in range(nvml.nvmlDeviceGetCount())]
        gpus = tuple(_gpu(nvml, index, handles) for index in range(len(handles)))
        cuda = _ask(nvml, nvml.nvmlSystemGetCudaDriverVersion_v2)
        driver = _ask(nvml, nvml.nvmlSystemGetDriverVersion)
        return gpus, driver, None if cuda is None else f"{cuda // 1000}.{cuda % 1000 // 10}"
    finally:
        nvml.nvmlShutdown()


def _ask(nvml: Any, question: Callable[..., Any], *args: Any) -> Any:
    try:
        return question(*args)
    except (nvml.NVMLError, ValueError):  # a name that is no UTF-8 is not known
        return None


def _gpu(nvml: Any, index: int, handles: Sequence[Any]) -> dict[str, object]:
    handle = handles[index]

    def ask(question: Callable[..., Any], *args: Any) -> Any:
        return _ask(nvml, question, handle, *args)

    memory = ask(nvml.nvmlDeviceGetMemoryInfo)
    cap_mw = ask(nvml.nvmlDeviceGetEnforcedPowerLimit)
    default_mw = ask(nvml.nvmlDeviceGetPowerManagementDefaultLimit)
    capability = ask(nvml.nvmlDeviceGetCudaComputeCapability)
    mig = ask(nvml.nvmlDeviceGetMigMode)
    return {
        "index": index,
        "name": ask(nvml.nvmlDeviceGetName),
        "uuid": ask(nvml.nvmlDeviceGetUUID),
        "memory_bytes": None if memory is None else memory.total,
        "compute_capability": None if capability is None else f"{capability[0]}.{capability[1]}",
        "power_cap_w": None if cap_mw is None else cap_mw / 1000,
        "power_default_w": None if default_mw is None else default_mw / 1000,
        "sm_clock_max_mhz": ask(nvml.nvmlDeviceGetMaxClockInfo, nvml.NVML_CLOCK_SM),
        "sm_clock_applied_mhz": ask(nvml.nvmlDeviceGetApplicationsClock, nvml.NVML_CLOCK_SM),
        "memory_clock_max_mhz": ask(nvml.nvmlDeviceGetMaxClockInfo, nvml.NVML_CLOCK_MEM),
        "pcie_generation": ask(nvml.nvmlDeviceGetMaxPcieLinkGeneration),
        "pcie_width": ask(nvml.nvmlDeviceGetMaxPcieLinkWidth),
        "mig": None if mig is None else bool(mig[0]),
        "links": {str(other): _link(nvml, handle, handles[other]) for other in range(len(handles)) if other != index},
    }  # fmt: skip


def _link(nvml: Any, one: Any, other: Any) -> str | None:
    """How two GPUs reach each other, in ``nvidia-smi topo``'s words."""
    status = _ask(nvml, nvml.nvmlDeviceGetP2PStatus, one, other, nvml.NVML_P2P_CAPS_INDEX_NVLINK)
    if status == nvml.NVML_P2P_STATUS_OK:
        return "NVLink"
    level = _ask(nvml, nvml.nvmlDeviceGetTopologyCommonAncestor, one, other)
    words = {
        nvml.NVML_TOPOLOGY_INTERNAL: "board",
        nvml.NVML_TOPOLOGY_SINGLE: "PIX",
        nvml.NVML_TOPOLOGY_MULTIPLE: "PXB",
        nvml.NVML_TOPOLOGY_HOSTBRIDGE: "PHB",
        nvml.NVML_TOPOLOGY_NODE: "NODE",
        nvml.NVML_TOPOLOGY_SYSTEM: "SYS",
    }
    return words.get(level)


def gpu_memory_used() -> list[int | None]:
    """Bytes in use on each GPU now, by whomever; empty without an NVIDIA driver."""
    import pynvml as nvml

    try:
        nvml.nvmlInit()
    except (nvml.NVMLError, OSError):
        return []
    try:
        handles = [nvml.nvmlDeviceGetHandleByIndex(index) for index in range(nvml.nvmlDeviceGetCount())]
        memory = [_ask(nvml, nvml.nvmlDeviceGetMemoryInfo, handle) for handle in handles]
        return [None if figures is None else figures.used for figures in memory]
    finally:
        nvml.nvmlShutdown()


def visible_gpus() -> tuple[int, ...]:
    """Indices of the GPUs that a child process may be given: all of NVML's, or those of CUDA_VISIBLE_DEVICES."""
    gpus, _, _ = read_gpus()
    allowed = os.environ.get("CUDA_VISIBLE_DEVICES")
    if allowed is None:
        return tuple(range(len(gpus)))
    by_uuid = {str(gpu.get("uuid")): index for index, gpu in enumerate(gpus)}
    named = (part.strip() for part in allowed.split(","))
    indices = (by_uuid.get(part, int(part) if re.fullmatch("[0-9]{1,9}", part) else -1) for part in named)
    return tuple(index for index in indices if 0 <= index < len(gpus))
