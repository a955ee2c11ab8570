"""What this machine can run, what is missing, and the command that mends it. Looks only; the console prints it.

Heavy libraries are judged by their installed metadata: nothing of them is imported.
"""

from __future__ import annotations

import os
import re
import resource
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from loadgen import __version__
from loadgen.drivers.find import driver_factory
from loadgen.errors import LoadgenError, MissingDependency
from loadgen.launch import container, frameworks
from loadgen.launch.process import free_ports
from loadgen.plan.detectable import BATCHING, EAGER, QUIET, USUAL_CELLS, USUAL_STARTS, told
from loadgen.protocols import Need
from loadgen.system import plugins
from loadgen.system.environment import gpu_memory_used, package_versions, read_gpus, source_commit
from loadgen.telemetry.known_series import known_series
from loadgen.units import show_bytes

GIB = 1 << 30
SHM_BYTES = (
    GIB  # NCCL and Triton's Python backend share buffers there; a container's default of 64 MiB is too little
)
DISK_BYTES = 2 * GIB
OPEN_FILES = 4096  # a connection per stream, and 1,024 streams are a usual load
PORTS = 16
MIN_PYTHON = (3, 11)
DISTRIBUTION = "llm-loadgen"  # as pip knows it


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """One topic's needs."""

    title: str
    needs: tuple[Need, ...]

    @property
    def ok(self) -> bool:
        """Whether nothing of it is missing."""
        return all(need.ok for need in self.needs)


def examine(results: Path = Path("results")) -> list[Section]:
    """Look at everything; ``results`` is where sweeps will write."""
    return [
        Section(title="Python and libraries", needs=(python(), *libraries())),
        Section(title="GPUs", needs=tuple(gpus())),
        *(framework(name) for name in frameworks.names()),
        *plugged_in(),
        comparisons(),
        Section(
            title="Machine",
            needs=(ports(), shared_memory(), open_files(), disk(results), git(), container.need()),
        ),
    ]


def python() -> Need:
    """This interpreter against the oldest one that is supported."""
    found = ".".join(map(str, sys.version_info[:3]))
    wanted = ".".join(map(str, MIN_PYTHON))
    return Need(
        name="Python",
        ok=sys.version_info >= MIN_PYTHON,
        found=f"{found} at {sys.executable}",
        remedy=f"make env PYTHON=python{wanted}",
    )


def libraries(distribution: str = DISTRIBUTION) -> list[Need]:
    """loadgen's own requirements, then each extra's, as one need per group."""
    groups: dict[str, list[str]] = {}
    try:
        requirements = metadata.requires(distribution) or []
    except metadata.PackageNotFoundError:
        remedy = f"{sys.executable} -m pip install {f'-e {root}' if (root := checkout()) else distribution}"
        return [Need(name=distribution, ok=False, found="runs from its source, not installed", remedy=remedy)]
    for requirement in requirements:
        name = re.match(r"[A-Za-z0-9._-]+", requirement)
        extra = re.search(r"extra\s*==\s*['\"]([^'\"]+)['\"]", requirement)
        if name and not (extra and extra[1] == "dev"):
            groups.setdefault(extra[1] if extra else "", []).append(name[0])
    return [_group(distribution, extra, names) for extra, names in groups.items()]


def _group(distribution: str, extra: str, names: Sequence[str]) -> Need:
    lacking, present = [], []
    for name in names:
        try:
            present.append(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            lacking.append(name)
    wanted = f"[{extra}]" if extra else ""
    target = f"-e '.{wanted}'" if checkout() else f"'{distribution}{wanted}'"
    return Need(
        name=f"libraries of {distribution}{wanted}",
        ok=not lacking,
        found=f"missing: {', '.join(lacking)}" if lacking else ", ".join(present),
        remedy=f"{sys.executable} -m pip install {target}",
    )


def gpus() -> list[Need]:
    """Each GPU, and whether something else already uses it: a second tenant spoils every figure."""
    found, driver, cuda = read_gpus()
    if not found:
        words = "no NVIDIA driver answers" if driver is None else f"driver {driver}, but no GPU"
        remedy = "install the NVIDIA driver (Debian: apt-get install nvidia-driver); in a container, pass the GPUs in: "
        return [
            Need(
                name="NVIDIA GPU",
                ok=False,
                found=f"{words}; models run on the CPU",
                remedy=remedy + "docker run --gpus all",
            )
        ]
    needs = [Need(name="driver", ok=driver is not None, found=f"{driver}, CUDA up to {cuda}")]
    for gpu, used in zip(found, gpu_memory_used(), strict=True):
        total, cap = gpu.get("memory_bytes"), gpu.get("power_cap_w")
        size = show_bytes(total) if isinstance(total, int) else "memory unknown"
        watts = f", {cap:.0f} W cap" if isinstance(cap, float) else ""
        busy = used is not None and used > 2 * GIB  # a driver alone holds some hundred MiB
        words = f"{gpu.get('name')}, {size}{watts}" + (f", {show_bytes(used)} already in use" if busy else "")
        needs.append(
            Need(
                name=f"GPU {gpu['index']}",
                ok=not busy,
                found=words,
                remedy="end what uses it: nvidia-smi lists it",
            )
        )
    torch = package_versions(["torch"]).get("torch", "")
    if "+cpu" in torch:
        needs.append(
            Need(
                name="torch for CUDA",
                ok=False,
                found=f"torch {torch} cannot use these GPUs",
                remedy=f"{sys.executable} -m pip install --force-reinstall 'torch=={torch.partition('+')[0]}'",
            )
        )
    return needs


def framework(name: str) -> Section:
    """What one framework needs, in its own words."""
    title = f"Framework {name}"
    try:
        return Section(title=title, needs=tuple(frameworks.find(name).needs()))
    except (LoadgenError, ImportError) as error:
        what, remedy = (
            (error.what, error.remedy) if isinstance(error, MissingDependency) else (str(error), "mend it")
        )
        broken = Need(name=name, ok=False, found=what, remedy=remedy)
        return Section(title=title, needs=(broken,))


def plugged_in() -> list[Section]:
    """The drivers and names of telemetry that other packages bring; none where there are none."""
    needs = []
    _, faults = known_series()
    for name, entry in plugins.offered(plugins.TELEMETRY).items():
        fault = next((each for each in faults if f"plug-in {name!r} " in each), None)
        needs.append(_plugin(f"telemetry {name}", plugins.package_of(entry), fault))
    for name, entry in plugins.offered(plugins.DRIVERS).items():
        try:
            driver_factory(name)
        except MissingDependency as error:
            needs.append(_plugin(f"driver {name}", plugins.package_of(entry), error.what))
        else:
            needs.append(_plugin(f"driver {name}", plugins.package_of(entry), None))
    return [Section(title="Plug-ins", needs=tuple(needs))] if needs else []


def _plugin(name: str, package: str, fault: str | None) -> Need:
    remedy = "" if fault is None else f"mend it, or pip uninstall {package.partition(' ')[0]}"
    return Need(name=name, ok=fault is None, found=fault or package, remedy=remedy)


def comparisons() -> Section:
    """What three starts a side, and one, can tell between two servers, by the kind of engine: assumed, not measured."""
    one = Need(name="1 start a side", ok=True, found="nothing: what two starts differ by is not seen")
    needs = [
        Need(name=noise.source, ok=True, found=told(noise, USUAL_STARTS, 1, USUAL_CELLS))
        for noise in (QUIET, BATCHING, EAGER)
    ]
    return Section(title="What a comparison can tell", needs=(*needs, one))


def ports(count: int = PORTS) -> Need:
    """Whether loopback ports can be bound, as many as servers and ranks may need."""
    try:
        found = free_ports(count)
    except OSError as error:
        return Need(
            name="free ports",
            ok=False,
            found=f"cannot bind 127.0.0.1: {error.strerror}",
            remedy="bring the loopback device up: ip link set lo up",
        )
    return Need(name="free ports", ok=True, found=f"{len(found)} on 127.0.0.1, such as {found[0]}")


def shared_memory(path: str = "/dev/shm", least: int = SHM_BYTES) -> Need:  # noqa: S108  # not a temporary file
    """Whether ``path`` has ``least`` bytes free: engines that share tensors between ranks need them."""
    remedy = f"mount -o remount,size=8G {path} (as root), or docker run --shm-size=8g"
    if not os.path.isdir(path):
        return Need(name=path, ok=False, found="not there", remedy=f"mount -t tmpfs -o size=8G tmpfs {path}")
    free = shutil.disk_usage(path).free
    return Need(name=path, ok=free >= least, found=f"{show_bytes(free)} free", remedy=remedy)


def open_files(least: int = OPEN_FILES) -> Need:
    """Whether the soft limit of open files is at least ``least``: each connection takes one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    unlimited = soft == resource.RLIM_INFINITY
    words = "unlimited" if unlimited else f"{soft} (at most {'unlimited' if hard < 0 else hard})"
    return Need(
        name="open files", ok=unlimited or soft >= least, found=words, remedy=f"ulimit -n {least * 16}"
    )


def disk(results: Path, least: int = DISK_BYTES) -> Need:
    """Whether the results folder, or the nearest folder above it that exists, takes files."""
    where = results.absolute()
    while not where.exists():
        where = where.parent
    name = f"results folder {results}"
    if not (where.is_dir() and os.access(where, os.W_OK | os.X_OK)):
        remedy = "give another folder: loadgen sweep PROFILE --out DIR"
        return Need(name=name, ok=False, found=f"{where} cannot be written to", remedy=remedy)
    free = shutil.disk_usage(where).free
    remedy = f"make room on the disk of {where}, or write elsewhere: loadgen sweep PROFILE --out DIR"
    return Need(name=name, ok=free >= least, found=f"{show_bytes(free)} free", remedy=remedy)


def checkout() -> Path | None:
    """The checkout that loadgen runs from, if it is one."""
    root = Path(__file__).resolve().parents[2]
    return root if (root / ".git").exists() else None


def git() -> Need:
    """Results name the commit they were measured with; an installed release needs no git."""
    commit, root = source_commit(), checkout()
    if commit is not None:
        return Need(name="git", ok=True, found=f"commit {commit}")
    if root is None:
        return Need(name="git", ok=True, found=f"not a checkout: version {__version__} is recorded")
    if shutil.which("git") is None:
        return Need(name="git", ok=False, found="no git program", remedy="apt-get install git")
    remedy = f"git config --global --add safe.directory {root}"
    return Need(name="git", ok=False, found="git does not read this checkout", remedy=remedy)
