"""When to look at the sockets: at once, or a moment later with more to read.

A turn of the event loop costs as much as two reads. Where the kernel stamps arrivals, it makes no difference to their
times when they are read, so those of a thousand streams may pile up for a fifth of a millisecond and be read in one
turn. That is done only while it can change nothing else: not the pace of a closed loop, and not one read per chunk.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from loadgen.system.timer import FdTimer

GATHER_NS = 200_000
WORTH_EVENTS_PER_S = 5_000  # fewer than one event in a gathering: nothing is gained
CLOSEST_EVENTS_PER_S = 1_000  # of one stream: its chunks stay five gatherings apart
IDLE_SHARE = 0.001  # of its places' time that a closed loop may lose by seeing completions later


class Waker:
    """Calls ``on_ready`` when ``fd`` is readable; it returns how many events it saw to, ``full`` if there may be more.

    ``consider`` is told now and then how many streams there are, and how many ended, and chooses.
    """

    def __init__(
        self, loop: asyncio.AbstractEventLoop, fd: int, on_ready: Callable[[], int], *, full: int
    ) -> None:
        self._loop, self._fd, self._on_ready, self._full = loop, fd, on_ready, full
        self._events = 0
        self._since_ns = time.monotonic_ns()
        self._timer: FdTimer | None = None
        loop.add_reader(fd, self._at_once)

    @property
    def gathering(self) -> bool:
        """Whether the loop is woken on a timer at present, and not for every event."""
        return self._timer is not None

    def consider(self, streams: int, ended: int, now: int) -> None:
        """Choose by what happened since the last call."""
        span_s = (now - self._since_ns) / 1e9
        events, self._events, self._since_ns = self._events, 0, now
        if worth_gathering(streams, ended, events, span_s):
            self._gather()
        else:
            self.at_once()

    def at_once(self) -> None:
        """Back to waking for every event."""
        if self._timer is not None:
            self._timer.close()
            self._timer = None
            self._loop.add_reader(self._fd, self._at_once)

    def close(self) -> None:
        """Stop watching the descriptor, which stays open."""
        self.at_once()
        self._loop.remove_reader(self._fd)

    def _at_once(self) -> None:
        self._events += self._on_ready()

    def _gather(self) -> None:
        if self._timer is None:
            try:
                self._timer = FdTimer(self._gathered)
            except (OSError, NotImplementedError):
                return  # without a fine timer there is nothing between at once and a millisecond
            self._loop.remove_reader(self._fd)
            self._timer.arm(time.monotonic_ns() + GATHER_NS)

    def _gathered(self) -> None:
        count = 0
        try:
            count = self._on_ready()
            self._events += count
        finally:  # whatever a callback raises, there is a next time
            if self._timer is not None:
                self._timer.arm(time.monotonic_ns() + (0 if count >= self._full else GATHER_NS))


def worth_gathering(streams: int, ended: int, events: int, span_s: float) -> bool:
    """Whether gathering gains something and changes nothing, by the counts of the last ``span_s`` seconds."""
    if span_s <= 0 or not streams:
        return False
    lost_s = ended * GATHER_NS / 2e9  # a completion is seen half a gathering late on average
    return (
        events >= WORTH_EVENTS_PER_S * span_s
        and events <= CLOSEST_EVENTS_PER_S * streams * span_s
        and lost_s <= IDLE_SHARE * streams * span_s
    )
