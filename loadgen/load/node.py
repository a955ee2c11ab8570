"""A node's part of a load that several share: what runs there, called by the driver (nodes.py)."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from loadgen.cluster.agreement import NodeFacts, facts
from loadgen.cluster.clock import Echo
from loadgen.errors import BadInput, LoadgenError, WarmupRefused
from loadgen.load.client import STOP_PERIOD_S
from loadgen.load.quality import peak_rss_bytes
from loadgen.load.workers import Stopped, Team

KINDS = (BadInput, WarmupRefused, LoadgenError)


class LoadNode:
    """Workers of one host, the same as those of a load from one host alone; nothing is said per request.

    Its calls run in threads of their own: ``alive`` and ``stop`` are answered while ``work`` works.
    """

    def __init__(self) -> None:
        self._echo: Echo | None = None
        self._begin()

    def _begin(self) -> None:
        self._ready, self._told, self._stop = threading.Event(), threading.Event(), threading.Event()
        self._start_ns = 0

    def facts(self) -> NodeFacts:
        """What decides whether this node can take part."""
        return facts()

    def clock(self, host: str) -> int:
        """The port at which this node's clock is told, at its address ``host``."""
        if self._echo is None:
            self._echo = Echo(host)
        return self._echo.port

    def alive(self) -> bool:
        """A sign of life."""
        return True

    def usage(self) -> dict[str, Any]:
        """What this process, beside its workers, has used: CPU seconds, and its peak memory (``None``: not told)."""
        return {"cpu_s": time.process_time(), "rss_bytes": peak_rss_bytes()}

    def prepare(self) -> None:
        """Forget the load before."""
        self._begin()

    def ready(self) -> None:
        """Returns once every worker's warm-up is drained, or the work has ended."""
        self._ready.wait()

    def start(self, start_ns: int) -> None:
        """Begin at an instant of this host's monotonic clock."""
        self._start_ns = start_ns
        self._told.set()

    def stop(self) -> None:
        """End the work; what has come is kept."""
        self._stop.set()

    def work(self, job: Mapping[str, Any], first: int, count: int) -> dict[str, Any]:
        """Send the shares ``first`` to ``first + count`` of a load: outcomes (None: stopped) and files of samples, as
        bytes; or an error's words and its kind."""
        try:
            with Team(job, range(first, first + count)) as team:
                try:
                    team.wait_until_ready(self._stop.is_set)
                    self._ready.set()
                    while not self._told.wait(STOP_PERIOD_S):
                        if self._stop.is_set():
                            raise Stopped
                    team.start(self._start_ns)
                    outcomes = team.outcomes(self._stop.is_set)
                except Stopped:
                    return {"outcomes": None, "parts": [_bytes(part) for part in team.stop()]}
                return {"outcomes": outcomes, "parts": [_bytes(part) for part in team.parts]}
        except LoadgenError as error:
            kind = next(kind for kind in KINDS if isinstance(error, kind))
            return {"error": str(error), "kind": kind.__name__}
        finally:
            self._ready.set()


def _bytes(part: Any) -> NDArray[np.uint8]:
    return np.fromfile(part, np.uint8)  # an array crosses without a copy: bytes take thirty times as long
