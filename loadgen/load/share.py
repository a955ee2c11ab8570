"""One host's share of a load that several send, each started by hand (ssh): the same schedule, begun at one wall time.

Nothing is said between the hosts. A host that is not ready by then does not send at all: late, it would make another
load of it, of which nobody would know.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from loadgen.errors import LoadgenError
from loadgen.load.client import STOP_PERIOD_S, LoadOutcome, OnStart, Stop
from loadgen.load.dispatch import OnSample
from loadgen.load.quality import FirstSend
from loadgen.load.workers import START_IN_S, Stopped, Team, run_workers
from loadgen.protocols import DriverFactory
from loadgen.records import ClientNode, Trial
from loadgen.request_records import Sample
from loadgen.units import nanoseconds, seconds, show_s
from loadgen.workload_records import Share

LOOK_S = 1.0  # before the start the clocks are compared: later than that no slewing moves them apart by 1 ms
LOOKS = 5


def run_share(
    trial: Trial,
    base_url: str,
    make_driver: DriverFactory,
    driver_options: Mapping[str, Any],
    on_sample: OnSample,
    *,
    share: Share,
    workers: int,
    on_start: OnStart = lambda start_ns: None,
    stop: Stop = lambda: False,
) -> LoadOutcome | None:
    """Send a share of a trial's load from ``workers`` processes, as ``run_workers`` does, from its wall time on.

    Raises LoadgenError where that has passed before the warm-up is drained.
    """
    _left_ns(share)
    first = FirstSend(0)

    def started(start_ns: int) -> None:
        nonlocal first
        first = FirstSend(start_ns)
        on_start(start_ns)

    def heard(sample: Sample, in_flight: int) -> None:
        first.note(sample)
        on_sample(sample, in_flight)

    outcome = run_workers(
        trial,
        base_url,
        make_driver,
        driver_options,
        heard,
        workers=workers,
        host=(share.number, share.of),
        agree=lambda team, stop: _met(share, team, stop),
        on_start=started,
        stop=stop,
    )
    if outcome is None:
        return None
    host = ClientNode(
        address=socket.gethostname(),
        workers=workers,
        bound_s=None,
        drift_ppm=None,
        began_s=first.late_s,
        start_ns=outcome.start_ns,
    )
    return replace(outcome, quality=replace(outcome.quality, nodes=(host,)))


def _met(share: Share, team: Team, stop: Stop) -> int:
    """The start on this host's monotonic clock, shortly before it comes; the workers wait meanwhile."""
    while (left_s := seconds(_left_ns(share)) - LOOK_S) > 0:
        if stop():
            raise Stopped
        team.rest(min(STOP_PERIOD_S, left_s))
    return on_monotonic(share.start_at_ns)


def _left_ns(share: Share) -> int:
    """Until the start. Raises LoadgenError where it comes too soon."""
    left_ns = share.start_at_ns - time.time_ns()
    if left_ns < nanoseconds(START_IN_S):
        raise LoadgenError(
            f"{share.words} was ready {show_s(START_IN_S - seconds(left_ns))} too late for --start-at, and has sent "
            "nothing but its warm-up (accepted: a start that leaves more time, on every host)"
        )
    return left_ns


def on_monotonic(at_ns: int) -> int:
    """An instant of the wall clock (Unix time in ns) on this host's monotonic clock, as the two stand now."""
    best: tuple[int, int] | None = None
    for _ in range(LOOKS):
        before, wall, after = time.monotonic_ns(), time.time_ns(), time.monotonic_ns()
        look = (after - before, (before + after) // 2 - wall)
        best = look if best is None else min(best, look)
    assert best is not None
    return at_ns + best[1]
