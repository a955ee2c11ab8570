"""A server's process tree: CPU time, resident and proportional memory, threads (Linux's /proc)."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import psutil

# The kernel walks every page for PSS, holding the lock that the process's own mmap and munmap wait for: 14 ms per GiB,
# all of it in one piece. So it is read where nothing is measured, or because the user asked for it.
PSS_PERIOD_S = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Tree:
    """Sums over a process and its descendants. ``pss_bytes`` counts a page shared by n of the host as 1/n."""

    pids: frozenset[int]
    cpu_s: float
    rss_bytes: int
    pss_bytes: int | None
    threads: int


class TreeReader:
    """Reads one tree again and again; PSS at most every ``pss_period_s``, or never with ``None``."""

    def __init__(self, root: int, *, pss_period_s: float | None = None, proc: Path = Path("/proc")) -> None:
        self.root, self._proc, self._pss_period_s = root, proc, pss_period_s
        self._pss: int | None = None
        self._pss_at_s: float | None = None
        try:
            self._started: float | None = psutil.Process(root).create_time()
        except psutil.NoSuchProcess:
            self._started = None

    def read(self) -> Tree | None:
        """The tree now, ``None`` when its root is gone (also when its number was given to another process)."""
        try:
            root = psutil.Process(self.root)
            if root.create_time() != self._started or root.status() == psutil.STATUS_ZOMBIE:
                return None
            family = [root, *root.children(recursive=True)]
        except psutil.NoSuchProcess:
            return None
        pids, cpu_s, rss, threads = set(), 0.0, 0, 0
        for process in family:
            try:
                with process.oneshot():
                    times = process.cpu_times()
                    rss += process.memory_info().rss
                    threads += process.num_threads()
            except (psutil.NoSuchProcess, psutil.AccessDenied):
                continue  # ended between the listing and the look
            # With the time of children that were waited for, so that an ended child takes none away.
            cpu_s += times.user + times.system + times.children_user + times.children_system
            pids.add(process.pid)
        return Tree(
            pids=frozenset(pids), cpu_s=cpu_s, rss_bytes=rss, pss_bytes=self._pss_of(pids), threads=threads
        )

    def _pss_of(self, pids: set[int]) -> int | None:
        if self._pss_period_s is None:
            return None
        now_s = time.monotonic()
        if self._pss_at_s is None or now_s - self._pss_at_s >= self._pss_period_s:
            parts = [pss_bytes(pid, self._proc) for pid in pids]
            # A part missing for want of permission would make a sum that is too small and looks right.
            self._pss = None if any(part is None for part in parts) else sum(part or 0 for part in parts)
            self._pss_at_s = now_s
        return self._pss


def pss_bytes(pid: int, proc: Path = Path("/proc")) -> int | None:
    """Proportional set size of one process; 0 for one that has just ended, ``None`` when it may not be read."""
    try:
        text = (proc / str(pid) / "smaps_rollup").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return 0 if not psutil.pid_exists(pid) else None
    except OSError:
        return None
    for line in text.splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024
    return None
