"""How many requests were in flight, by time: from the stamps of sends and ends."""

from __future__ import annotations

from array import array
from collections.abc import Sequence

import numpy as np

from loadgen.metrics.distribution import dist as dist  # a figure of its own, for callers of this module


def in_flight(sent_ns: Sequence[int], end_ns: Sequence[int]) -> tuple[float | None, int | None]:
    """Requests in flight, from the stamps of all measured requests: time-weighted mean, and maximum.

    The mean runs from the first send to the last: afterwards a load only drains. Where all were sent at once (fewer
    requests than places) it runs to the last end. A request counts from sent to end, so time that the client took
    between a completion and the next send shows as a mean below the target.
    """
    if len(sent_ns) == 0:
        return None, None
    origin = min(sent_ns)  # small numbers, so that sums stay exact
    sent, end = (np.sort(np.asarray(stamps, np.int64)) - origin for stamps in (sent_ns, end_ns))
    # At each send: those sent so far, less those ended before it.
    depth = np.arange(1, len(sent) + 1) - np.searchsorted(end, sent, side="right")
    until = int(sent[-1]) if end[0] < sent[-1] else int(end[-1])
    if until <= 0:
        return None, int(depth.max())
    inside = np.minimum(end, until).sum(dtype=np.float64) - sent.sum(dtype=np.float64)
    return float(inside) / until, int(depth.max())


class FlightTime:
    """``in_flight``'s mean, fed reply by reply in bounded memory.

    ``more`` says whether requests were still to be sent when the reply was taken: only later ones can have ended
    after the last send, and only of those the ends are kept.
    """

    __slots__ = ("_busy_ns", "_first_end", "_first_sent", "_last_end", "_last_sent", "_tail")

    def __init__(self) -> None:
        self._busy_ns = 0
        self._first_sent: int | None = None
        self._first_end: int | None = None
        self._last_sent = self._last_end = 0
        self._tail = array("q")

    def add(self, sent_ns: int, end_ns: int, *, more: bool) -> None:
        """Take in one call's time on the wire, in ns; ``more`` says that requests are still to be sent."""
        self._busy_ns += end_ns - sent_ns
        if self._first_sent is None or sent_ns < self._first_sent:
            self._first_sent = sent_ns
        if self._first_end is None or end_ns < self._first_end:
            self._first_end = end_ns
        if sent_ns > self._last_sent:
            self._last_sent = sent_ns
        if end_ns > self._last_end:
            self._last_end = end_ns
        if not more:
            self._tail.append(end_ns)

    def mean(self) -> float | None:
        """Requests in flight, first send → last send (→ last end where all were sent before any ended)."""
        if self._first_sent is None or self._first_end is None:
            return None
        drains = self._first_end < self._last_sent
        until_ns = self._last_sent if drains else self._last_end
        if until_ns <= self._first_sent:
            return None
        after_ns = sum(max(0, end_ns - until_ns) for end_ns in self._tail)
        return (self._busy_ns - after_ns) / (until_ns - self._first_sent)
