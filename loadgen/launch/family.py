"""The processes of a server, and whether they are still the ones that were there before."""

from __future__ import annotations

import psutil

Family = frozenset[tuple[int, float]]  # process id and start time: ids are used again


def family_of(pid: int | None) -> Family:
    """The living descendants of a process; none when it has ended."""
    found = set()
    for process in _descendants(pid):
        try:
            if process.status() != psutil.STATUS_ZOMBIE:
                found.add((process.pid, process.create_time()))
        except psutil.Error:
            continue  # it ended between the listing and the look
    return frozenset(found)


def stopped_in(pid: int | None) -> bool:
    """Whether a descendant of a process is stopped (SIGSTOP): it will answer nothing."""
    for process in _descendants(pid):
        try:
            if process.status() in (psutil.STATUS_STOPPED, psutil.STATUS_TRACING_STOP):
                return True
        except psutil.Error:
            continue
    return False


def end(family: Family) -> None:
    """SIGKILL those of a family that still live, wherever they hang now: a guard that is killed leaves them to init."""
    for pid, created in family:
        try:
            process = psutil.Process(pid)
            if process.create_time() == created:
                process.kill()
        except psutil.Error:
            continue  # gone, as it should be


def _descendants(pid: int | None) -> list[psutil.Process]:
    if pid is None:
        return []
    try:
        found: list[psutil.Process] = psutil.Process(pid).children(recursive=True)
        return found
    except psutil.Error:
        return []
