"""Whether an endpoint that somebody else runs ended, or was started anew, while a trial loaded it.

It is no process of ours, so that nobody tells: it is seen. A trial in which any of these is seen has failed, whatever
came before, since its figures are of two servers, or of one with a hole:

- none of the sockets that listened on its port of this machine is left, and others listen there;
- ``process_start_time_seconds`` of its ``/metrics`` has moved, to a time within the trial; or connections were lost,
  and a counter there went back or its ``/info`` names another process (else the page may be another replica's);
- a connection was refused (nobody listens there), or ``IN_A_ROW`` requests lost theirs one after the other, while other
  requests were served before or after, and no reply that was under way then came back right.

An answer is never a sign, whatever it says: 429, 503 and the like are refusals by a server that is there. Nor is a
single connection that was lost: servers and what stands before them drop one for many reasons.
"""

from __future__ import annotations

import re
import time
from dataclasses import dataclass

from loadgen.errors import BadReply, Cancelled, ConnectFailed, ServerRestarted, TimedOut
from loadgen.launch.endpoint import Endpoint, server_info
from loadgen.request_records import Reply
from loadgen.telemetry.cores import listeners
from loadgen.telemetry.prometheus_text import series_of

IN_A_ROW = 3
MOST = 10_000  # losses that are told apart; beyond, more of them say nothing new
STARTED = "process_start_time_seconds"
GROWING = ("_total", "_count", "_sum")  # ends of the names of what only grows
MOVED_S = 1.0  # of a start time: less is rounding; and of two clocks that agree
CONNECTION = re.compile(rf"{ConnectFailed.__name__}|{BadReply.__name__}: the connection was (?:closed|lost)")
NOBODY = re.compile(r"refused|no such file", re.I)  # of a Unix socket
BROKEN = re.compile(r"closed|reset|lost|broken pipe|disconnect|eof|attempts failed", re.I)
OURS = "the driver was closed"


class Losses:
    """Connections that a load lost while nothing else came back. ``heard`` is cheap: it is called for each request, in
    the order in which they ended."""

    def __init__(self) -> None:
        self.count = 0
        self._served = False
        self._run = 0  # how often something was answered behind a loss
        self._lost: list[tuple[int, int, bool]] = []  # when, in which run, and whether nobody listened

    def heard(self, reply: Reply) -> None:
        """Take note of how a request ended."""
        error = reply.error
        if error is not None and CONNECTION.match(error) and OURS not in error:
            nobody = NOBODY.search(error) is not None
            if nobody or BROKEN.search(error):
                self.count += 1
                if len(self._lost) < MOST:
                    self._lost.append((reply.end_ns, self._run, nobody))
                return
        if error is not None and error.startswith((TimedOut.__name__, Cancelled.__name__)):
            return
        self._served = self._served or error is None
        while self._lost and self._lost[-1][0] > reply.sent_ns:  # it was under way then: the server was there
            self._lost.pop()
        self._run += bool(self._lost) and self._lost[-1][1] == self._run

    @property
    def words(self) -> str:
        """What they say; empty where they say nothing."""
        if not self._served:
            return ""
        if any(nobody for _, _, nobody in self._lost):
            return "connections to it were refused, and nothing else was answered meanwhile"
        runs = [run for _, run, _ in self._lost]
        longest = max((runs.count(run) for run in set(runs)), default=0)
        if longest >= IN_A_ROW:
            return (
                f"{longest} requests in a row lost their connections, and nothing else was answered meanwhile"
            )
        return ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """What told of an endpoint's process at a time (``at_s``, of the day)."""

    at_s: float
    listeners: frozenset[str]
    pid: object
    metrics: str


def look(endpoint: Endpoint, metrics: str) -> Look:
    """Look at an endpoint, whose page of counters reads ``metrics``."""
    return Look(
        at_s=time.time(),
        listeners=listeners(endpoint.base_url),
        pid=server_info(endpoint.info_url).get("pid"),
        metrics=metrics,
    )


def restarted(before: Look, after: Look, losses: Losses) -> ServerRestarted | None:
    """The end that was seen of an endpoint between two looks; ``None`` where there is no sign of one."""
    why = _by_listeners(before, after) or _by_pages(before, after, lost=losses.count > 0) or losses.words
    if not why:
        return None
    return ServerRestarted(
        f"the endpoint ended, was started anew or dropped all while it was loaded: {why}\n"
        "  remedy: its own log; keep it up, and run again (a sweep: --resume --retry-failed)"
    )


def _by_listeners(before: Look, after: Look) -> str:
    replaced = before.listeners and after.listeners and not before.listeners & after.listeners
    return "another socket listens on its port than before" if replaced else ""


def _by_pages(before: Look, after: Look, *, lost: bool) -> str:
    first, last = _started_s(before.metrics), _started_s(after.metrics)
    if first is not None and last is not None and last > max(first, before.at_s) + MOVED_S:
        return f"{STARTED} of its page moved by {last - first:.0f} s, into the trial"
    if lost and None not in (before.pid, after.pid) and before.pid != after.pid:
        return f"its page names process {after.pid}, and before {before.pid}, and connections were lost"
    if lost and (name := _went_back(before.metrics, after.metrics)):
        return f"its counter {name} went back, and connections were lost"
    return ""


def _started_s(page: str) -> float | None:
    return max((value for _, _, value in series_of(page, {STARTED})), default=None)


def _went_back(before: str, after: str) -> str:
    """The first counter that did; empty without one."""
    first = {(name, *sorted(labels.items())): value for name, labels, value in series_of(before)}
    for name, labels, value in series_of(after):
        if name.endswith(GROWING) and value < first.get((name, *sorted(labels.items())), 0.0):
            return name
    return ""
