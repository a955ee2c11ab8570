"""How far another host's monotonic clock is from ours: request and reply over a socket of our own.

Of many exchanges the one with the least round trip counts: θ = t_remote − (t₁ + t₂)/2, whose error is at most half of
that round trip (Cristian, 1989). Quartzes drift apart by 1 to 50 ppm, 12 ms in ten minutes at 20: so it is measured
before and after a load, and taken linearly between where the two can be told apart.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
import time
from dataclasses import dataclass

from loadgen.errors import LoadgenError

EXCHANGES = 500
SPAN_S = 1.0  # that a measurement takes at most, however far the host is
LIMIT_S = 5.0
LEAST = 5
STAMP = struct.Struct("<q")


@dataclass(frozen=True, slots=True, kw_only=True)
class Offset:
    """A remote clock less ours at ``at_ns`` of ours, by the exchange whose round trip was the shortest."""

    at_ns: int
    theta_ns: int
    rtt_ns: int

    @property
    def bound_ns(self) -> int:
        """What its error is at most."""
        return -(-self.rtt_ns // 2)


@dataclass(frozen=True, slots=True, kw_only=True)
class Clock:
    """A remote clock over a load, by two measurements."""

    before: Offset
    after: Offset

    @property
    def drifts(self) -> bool:
        """Whether the two differ by more than their errors explain; else nothing is corrected for."""
        return abs(self.after.theta_ns - self.before.theta_ns) > self.before.bound_ns + self.after.bound_ns

    @property
    def drift_ppm(self) -> float:
        """How much faster than ours it ran, by the two measurements, in millionths."""
        apart_ns = self.after.at_ns - self.before.at_ns
        return (self.after.theta_ns - self.before.theta_ns) / apart_ns * 1e6 if apart_ns > 0 else 0.0

    @property
    def bound_ns(self) -> int:
        """What the error of ``ours`` is at most, as long as the drift is even."""
        worst = max(self.before.bound_ns, self.after.bound_ns)
        return worst if self.drifts else worst + abs(self.after.theta_ns - self.before.theta_ns)

    def theta_at(self, remote_ns: int) -> int:
        """The offset at an instant of the remote clock."""
        if not self.drifts:
            return self.before.theta_ns
        gained_ns = self.after.theta_ns - self.before.theta_ns
        apart_ns = self.after.at_ns - self.before.at_ns + gained_ns  # on the remote clock, as what follows
        since_ns = remote_ns - self.before.theta_ns - self.before.at_ns
        return self.before.theta_ns + gained_ns * since_ns // apart_ns

    def ours(self, remote_ns: int) -> int:
        """An instant of the remote clock on ours."""
        return remote_ns - self.theta_at(remote_ns)


class Echo:
    """Answers whoever connects to ``port`` with this host's monotonic clock: 8 bytes for every 8 bytes."""

    def __init__(self, host: str) -> None:
        self._socket = socket.create_server((host, 0))
        self.port: int = self._socket.getsockname()[1]
        threading.Thread(target=self._serve, name="clock", daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                peer, _ = self._socket.accept()
            except OSError:
                return  # closed
            with contextlib.suppress(OSError), peer:  # one that breaks off harms no other
                peer.settimeout(LIMIT_S)
                peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                while _received(peer):
                    peer.sendall(STAMP.pack(time.monotonic_ns()))

    def close(self) -> None:
        """Answer no further ones."""
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()


def measure(host: str, port: int, exchanges: int = EXCHANGES) -> Offset:
    """The offset of the clock behind an ``Echo``. Raises LoadgenError where it does not answer."""
    best: Offset | None = None
    try:
        with socket.create_connection((host, port), timeout=LIMIT_S) as peer:
            peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            end_ns = time.monotonic_ns() + int(SPAN_S * 1e9)
            for done in range(exchanges):
                sent_ns = time.monotonic_ns()
                peer.sendall(STAMP.pack(sent_ns))
                told = _received(peer)
                came_ns = time.monotonic_ns()
                if told is None:
                    raise ConnectionError("it closed the connection")
                if best is None or came_ns - sent_ns < best.rtt_ns:
                    middle = (sent_ns + came_ns) // 2
                    best = Offset(at_ns=middle, theta_ns=told - middle, rtt_ns=came_ns - sent_ns)
                if done >= LEAST and came_ns > end_ns:
                    break
    except OSError as error:
        raise LoadgenError(
            f"the clock of {host} cannot be asked at port {port}: {error}; nodes need free ports between them"
        ) from None
    assert best is not None
    return best


def _received(peer: socket.socket) -> int | None:
    said = b""
    while len(said) < STAMP.size:
        got = peer.recv(STAMP.size - len(said))
        if not got:
            return None
        said += got
    return int(STAMP.unpack(said)[0])
