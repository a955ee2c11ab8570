"""Sets of CPU cores as compact text (``0-15,32``), and this process and its children confined to one."""

from __future__ import annotations

import os
from collections.abc import Iterable

from loadgen.errors import BadInput


def usable() -> tuple[int, ...]:
    """The cores that this process may run on, in order."""
    return tuple(sorted(os.sched_getaffinity(0)))


def compact(cores: Iterable[int]) -> str:
    """Runs of neighbours as ``first-last``, joined by commas."""
    runs: list[list[int]] = []
    for core in sorted(set(cores)):
        if runs and core == runs[-1][1] + 1:
            runs[-1][1] = core
        else:
            runs.append([core, core])
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in runs)


def parse(text: str) -> tuple[int, ...]:
    """The inverse of ``compact``. Raises BadInput for text that names no set of cores."""
    cores: set[int] = set()
    for part in text.split(","):
        first, dash, last = (word.strip() for word in part.partition("-"))
        ends = (first, last) if dash else (first, first)
        if not all(end.isdecimal() and len(end) < 6 for end in ends) or int(ends[0]) > int(ends[1]):
            raise BadInput(f"--cpus {text}: {part.strip()!r} is no core (accepted: such as 0-15,32)")
        cores.update(range(int(ends[0]), int(ends[1]) + 1))
    return tuple(sorted(cores))


def confine(text: str) -> None:
    """Run from now on only on these cores; every child inherits it. Raises BadInput for cores not to be had."""
    wanted, have = parse(text), usable()
    if missing := set(wanted) - set(have):
        raise BadInput(
            f"--cpus {text}: cores {compact(missing)} are not this process's to use (accepted: {compact(have)})"
        )
    for thread in os.listdir("/proc/self/task"):  # a library may have started some already
        os.sched_setaffinity(int(thread), wanted)
