"""Alarms at an absolute time on the monotonic clock.

An event loop's own timers round up to whole milliseconds and count from *now*; a schedule sent by them lags and
drifts. Linux's timerfd wakes the loop through the same poll as its sockets, within tens of microseconds.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import time
from collections.abc import Callable
from typing import Protocol

from loadgen.units import NS_PER_S, seconds

_TFD_TIMER_ABSTIME = 1
_LINUX_NONBLOCK_CLOEXEC = os.O_NONBLOCK | os.O_CLOEXEC


class Timer(Protocol):
    """Calls back once at or after the instant it is armed for; arming again replaces the instant."""

    name: str

    def arm(self, due_ns: int) -> None:
        """Call back at ``due_ns`` of CLOCK_MONOTONIC, in place of what it was armed for; at once if that is over."""

    def close(self) -> None:
        """Never call back again."""


TimerFactory = Callable[[Callable[[], None]], Timer]


class _Interval(ctypes.Structure):
    """``struct itimerspec``: repeat interval, then first expiry; each seconds and nanoseconds."""

    _fields_ = (
        ("repeat_s", ctypes.c_long),
        ("repeat_ns", ctypes.c_long),
        ("first_s", ctypes.c_long),
        ("first_ns", ctypes.c_long),
    )


class FdTimer:
    """A timerfd of CLOCK_MONOTONIC, read through the loop. Raises OSError where the system has none.

    Called through ctypes: the interpreter offers timerfd from 3.13 on only.
    """

    name = "timerfd"

    def __init__(self, callback: Callable[[], None]) -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        try:
            create, self._settime = libc.timerfd_create, libc.timerfd_settime
        except AttributeError:
            raise OSError("this C library has no timerfd") from None
        self._fd = create(time.CLOCK_MONOTONIC, _LINUX_NONBLOCK_CLOEXEC)
        if self._fd < 0:
            raise OSError(ctypes.get_errno(), "timerfd_create")
        self._callback = callback
        self._armed = False
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._fd, self._fire)

    def arm(self, due_ns: int) -> None:
        """See Timer; the kernel keeps the instant. Raises OSError where it refuses."""
        self._armed = True
        self._set(max(due_ns, 1))  # 0 would disarm

    def _set(self, due_ns: int) -> None:
        spec = _Interval(0, 0, due_ns // NS_PER_S, due_ns % NS_PER_S)
        if self._settime(self._fd, _TFD_TIMER_ABSTIME, ctypes.byref(spec), None) < 0:
            raise OSError(ctypes.get_errno(), "timerfd_settime")

    def _fire(self) -> None:
        # Setting the timer also clears its expiry, so it need not be read.
        self._armed = False
        self._callback()
        if not self._armed and self._fd >= 0:
            self._set(0)

    def close(self) -> None:
        """Close the descriptor; a second time does nothing."""
        if self._fd >= 0:
            self._loop.remove_reader(self._fd)
            os.close(self._fd)
            self._fd = -1


class LoopTimer:
    """The event loop's own timer, where there is no timerfd: about a millisecond late."""

    name = "loop timer"

    def __init__(self, callback: Callable[[], None]) -> None:
        self._callback = callback
        self._handle: asyncio.TimerHandle | None = None
        self._loop = asyncio.get_running_loop()

    def arm(self, due_ns: int) -> None:
        """See Timer; the instant is handed to the loop as a delay."""
        self.close()
        # Relative, since a loop's clock need not be time.monotonic (uvloop's is not).
        self._handle = self._loop.call_later(seconds(max(due_ns - time.monotonic_ns(), 0)), self._callback)

    def close(self) -> None:
        """Cancel what is armed."""
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None


def make_timer(callback: Callable[[], None]) -> Timer:
    """The most exact timer that this system has, on the running loop."""
    with contextlib.suppress(OSError, NotImplementedError):  # no timerfd, or a loop without add_reader
        return FdTimer(callback)
    return LoopTimer(callback)
