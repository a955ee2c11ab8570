"""Which CPU cores a server may use: its processes' affinity and cgroup limits, as Linux's /proc tells them.

What binds a server is seldom what one looks at: a launcher (mpirun binds a process to one core), a container's quota,
a service manager. Its tokens then come late, and nothing in them says why.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Collection
from pathlib import Path
from urllib.parse import urlsplit

import psutil

from loadgen.system import cpus
from loadgen.telemetry.nvml import Nvml
from loadgen.telemetry_records import ServerCores

WORKS = 0.1  # of the CPU time of the busiest: launchers and guards that wait beside the engine use far less
LISTEN = "0A"  # a socket's state in the kernel's table
FORWARDERS = frozenset(
    {"docker-proxy", "rootlessport", "kubectl", "ssh", "socat"}
)  # a port's owner, not its server


def read_cores(
    pids: Collection[int],
    *,
    gpus: int | None = None,
    proc: Path = Path("/proc"),
    cgroups: Path = Path("/sys/fs/cgroup"),
) -> ServerCores | None:
    """What the processes among ``pids`` that do the work may use together; ``None`` when none of them is left.

    ``gpus`` is how many GPUs they drive, where that is known.
    """
    used: dict[int, float] = {}
    for pid in pids:
        try:
            times = psutil.Process(pid).cpu_times()
        except psutil.Error:
            continue  # it ended between the listing and the look
        used[pid] = times.user + times.system
    working = [pid for pid, spent_s in used.items() if spent_s >= WORKS * max(used.values())]
    cores: set[int] = set()
    threads = seen = 0
    limits = []
    for pid in working:
        own = [found for thread in _threads(pid, proc) if (found := _affinity(thread))]
        if not own:
            continue
        seen += 1
        threads += len(own)
        cores = cores.union(*own)
        limits.append(cgroup_cores(pid, proc, cgroups))
    if not cores:
        return None
    return ServerCores(
        cores=len(cores),
        affinity=cpus.compact(cores),
        processes=seen,
        threads=threads,
        limit_cores=min((limit for limit in limits if limit is not None), default=None),
        gpus=gpus,
    )


def _threads(pid: int, proc: Path) -> list[int]:
    try:
        return [int(name) for name in os.listdir(proc / str(pid) / "task")]
    except OSError:
        return []


def _affinity(thread: int) -> set[int]:
    try:
        return os.sched_getaffinity(thread)
    except OSError:
        return set()


def cgroup_cores(pid: int, proc: Path, cgroups: Path) -> float | None:
    """The tightest CPU quota of a process's cgroup and those above it, in cores, of version 2 and 1; ``None``: none."""
    try:
        lines = (proc / str(pid) / "cgroup").read_text().splitlines()
    except OSError:
        return None
    found = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        top = cgroups / "cpu" if controllers else cgroups
        # A path with .. lies outside of this namespace: only what is mounted here can be read.
        parts = [] if ".." in path.split("/") else [part for part in path.split("/") if part]
        for depth in range(len(parts) + 1):
            found.append(_quota(top.joinpath(*parts[:depth]), unified=not controllers))
    return min((limit for limit in found if limit is not None), default=None)


def _quota(folder: Path, *, unified: bool) -> float | None:
    names = ("cpu.max",) if unified else ("cpu.cfs_quota_us", "cpu.cfs_period_us")
    try:
        words = [word for name in names for word in (folder / name).read_text().split()]
        quota, period = float(words[0]), float(words[1])
    except (OSError, ValueError, IndexError):
        return None  # "max", or no such file: no quota here
    return quota / period if quota > 0 and period > 0 else None


def listening(url: str) -> frozenset[int]:
    """The processes of this machine that serve ``url``: who listens on its port, and their descendants.

    Empty for another machine, and where the kernel does not show us whose the port is (another user's, a container's).
    """
    port = own_port(url)
    if port is None:
        return frozenset()
    try:
        owners = {
            one.pid
            for one in psutil.net_connections("tcp")
            if one.pid and one.status == psutil.CONN_LISTEN and one.laddr.port == port
        }
        family = {one for pid in owners for one in _family(psutil.Process(pid))}
    except (OSError, ValueError, psutil.Error):
        return frozenset()
    return frozenset(family)


def own_port(url: str) -> int | None:
    """The port of ``url`` where that is this machine's; ``None`` of another's, and of a Unix socket."""
    try:
        parts = urlsplit(url)
        if not parts.hostname or not parts.port:
            return None
        found = socket.getaddrinfo(parts.hostname, parts.port, type=socket.SOCK_STREAM)
    except (OSError, ValueError):
        return None
    ours = {str(one.address) for own in psutil.net_if_addrs().values() for one in own}
    return parts.port if {str(address[4][0]) for address in found} & (ours | {"127.0.0.1", "::1"}) else None


def listeners(url: str, proc: Path = Path("/proc")) -> frozenset[str]:
    """The sockets of this machine that listen on the port of ``url``, by inode, whoever owns them: a server that was
    started anew has another. Empty for another machine, and where the kernel has no such table."""
    port, found = own_port(url), set()
    for name in ("tcp", "tcp6"):
        try:
            lines = (proc / "net" / name).read_text().splitlines()[1:] if port is not None else []
        except OSError:
            continue
        for line in lines:
            _, local, _, state, *_, inode = line.split()[:10]
            if state == LISTEN and int(local.rpartition(":")[2], 16) == port:
                found.add(inode)
    return frozenset(found)


def _family(process: psutil.Process) -> list[int]:
    if process.name() in FORWARDERS:
        return []
    return [process.pid, *(child.pid for child in process.children(recursive=True))]


def gpus_of(pids: Collection[int]) -> int | None:
    """On how many GPUs any of these processes holds memory; ``None`` where the driver names none of them."""
    nvml = Nvml()
    try:
        held = sum(bool(gpu.processes.keys() & set(pids)) for gpu in nvml.read(links=False))
    finally:
        nvml.close()
    return held or None
