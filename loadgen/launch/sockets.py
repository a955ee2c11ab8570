"""A short name for a run folder that is too deep for unix sockets: their paths have 107 bytes at most."""

from __future__ import annotations

import os
from dataclasses import dataclass

MOST_BYTES = 107


@dataclass(frozen=True, slots=True, kw_only=True)
class Sockets:
    """The folder to name; where it is a link, what makes it before the start, and removes it after the stop."""

    folder: str
    setup: tuple[tuple[str, ...], ...] = ()
    cleanup: tuple[str, ...] = ()


def sockets_in(run_dir: str, framework: str, port: int, name_bytes: int) -> Sockets:
    """Where a server with this port puts its sockets, whose names have ``name_bytes`` with their slash."""
    if len(os.fsencode(run_dir)) + name_bytes <= MOST_BYTES:
        return Sockets(folder=run_dir)
    short = f"/tmp/loadgen-{framework}-{port}"  # noqa: S108 - a name for the run folder, removed at the stop
    return Sockets(folder=short, setup=(("ln", "-sfn", run_dir, short),), cleanup=(short,))
