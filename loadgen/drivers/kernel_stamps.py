"""Kernel receive stamps: CLOCK_REALTIME as the network stack wrote it, brought onto the monotonic clock.

The two clocks differ by a constant until somebody sets the time of day; a stamp near such a step cannot be placed and
is then replaced by the time of the read, which is later but never wrong by a clock's jump.
"""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import Callable

# Linux numbers; the socket module names them only from Python 3.12 on, and only on some builds.
SO_TIMESTAMPNS = 35
STAMP_SPACE = socket.CMSG_SPACE(16)
STEP_NS = 20_000  # well above the error of a sample (two vDSO reads), well below what anyone sets a clock by
_UNPACK = struct.Struct("qq").unpack


def monotonic_minus_realtime(
    monotonic: Callable[[], int] = time.monotonic_ns, realtime: Callable[[], int] = time.time_ns
) -> int:
    """CLOCK_MONOTONIC − CLOCK_REALTIME in ns, from the tightest of a few samples."""
    best_width = best = 0
    for attempt in range(5):
        before = monotonic()
        real = realtime()
        after = monotonic()
        width = after - before
        if attempt == 0 or width < best_width:
            best_width, best = width, (before + after) // 2 - real
        if width < 1_000:
            break
    return best


class StampClock:
    """Places kernel stamps on the monotonic clock, and knows when it cannot.

    ``sample`` is called every now and then, and before stamps are converted. Between two samples that disagree by
    more than ``STEP_NS`` the time of day was set: stamps read in between fall back to the time of their read.
    """

    def __init__(
        self,
        monotonic: Callable[[], int] = time.monotonic_ns,
        realtime: Callable[[], int] = time.time_ns,
    ) -> None:
        self._monotonic, self._realtime = monotonic, realtime
        self._offset = monotonic_minus_realtime(monotonic, realtime)
        self.sampled_ns = monotonic()
        # (valid from, offset), newest last; offset None: unknown, a step lies somewhere in this span
        self._spans: list[tuple[int, int | None]] = [(-(2**63), self._offset)]
        self.steps = 0

    def sample(self) -> None:
        """Compare the clocks; notes a step when their difference has changed."""
        offset = monotonic_minus_realtime(self._monotonic, self._realtime)
        now = self._monotonic()
        if abs(offset - self._offset) > STEP_NS:
            self.steps += 1
            self._spans += [(self.sampled_ns, None), (now, offset)]
            self._offset = offset
        self.sampled_ns = now

    def place(self, stamp: bytes | None, read_ns: int) -> int | None:
        """The monotonic time of a kernel stamp (a ``struct timespec``) that came with a read at ``read_ns``.

        ``None`` when there is no stamp, or when a clock step makes it doubtful. Call ``sample`` after the read and
        before this.
        """
        if stamp is None:
            return None
        spans = self._spans
        at = len(spans) - 1
        while spans[at][0] > read_ns:
            at -= 1
        begin, offset = spans[at]
        if offset is None:
            return None
        seconds, nanoseconds = _UNPACK(stamp)
        placed: int = seconds * 1_000_000_000 + nanoseconds + offset
        # Outside of its span: written before the step and read after it.
        if placed < begin or placed > read_ns + STEP_NS:
            return None
        return min(placed, read_ns)


def enable(sock: socket.socket) -> bool:
    """Ask the kernel to stamp what ``sock`` receives; whether it agreed."""
    try:
        sock.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
    except OSError:
        return False
    return True


def stamp_of(extra: list[tuple[int, int, bytes]]) -> bytes | None:
    """The ``struct timespec`` in the ancillary data of one read."""
    for level, kind, data in extra:
        if level == socket.SOL_SOCKET and kind == SO_TIMESTAMPNS:
            return data
    return None


def start_stamping(tries: int = 100) -> socket.socket | None:
    """Make the kernel stamp what comes in, and see that it does: ``None`` where it does not.

    Stamping goes on while any socket asks for it and starts a moment after the first one does, so the socket that
    is returned must be kept open. Some sandboxes accept the option and never stamp; that is tried out over loopback.
    """
    try:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            near = socket.create_connection(listener.getsockname(), 1.0)
            try:
                with listener.accept()[0] as far:
                    for _ in range(tries if enable(near) else 0):
                        far.send(b"?")
                        if stamp_of(near.recvmsg(1, STAMP_SPACE)[1]) is not None:
                            return near
                        time.sleep(0.001)
            except OSError:
                near.close()
                raise
            near.close()
    except OSError:
        return None  # no loopback here: what cannot be tried is not relied on
    return None
