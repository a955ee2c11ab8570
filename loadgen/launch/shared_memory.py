"""Shared memory that a server's processes hold, by name: SIGKILL leaves it behind, and its names are random.

No pattern tells it from that of others (Python's multiprocessing names all alike), the processes' own maps do.
"""

from __future__ import annotations

import os

from loadgen.launch.family import Family

PLACE = "/dev/shm/"  # noqa: S108 - where POSIX shared memory appears on Linux


def present() -> frozenset[str]:
    """The paths of all shared memory of this machine."""
    try:
        return frozenset(PLACE + name for name in os.listdir(PLACE))
    except OSError:
        return frozenset()


def held(family: Family) -> frozenset[str]:
    """The paths of the shared memory that processes have mapped and that still has a name."""
    found = set()
    for pid, _ in family:
        try:
            with open(f"/proc/{pid}/maps") as maps:
                paths = [line.rstrip("\n").partition(PLACE)[2] for line in maps if PLACE in line]
        except OSError:
            continue  # it ended between the listing and the look
        found |= {PLACE + path for path in paths if path and not path.endswith(" (deleted)")}
    return frozenset(found)
