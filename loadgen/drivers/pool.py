"""Connections to one address: opened ahead of time, kept, and replaced when they are lost."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import resource
import select
import socket
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from loadgen.drivers import kernel_stamps
from loadgen.drivers.exchange import Exchange
from loadgen.errors import ConnectFailed, DriverError, TimedOut

OPENING_AT_ONCE = 64  # below the listen backlog of common servers
SPARE_FILES, FEW_SPARE_FILES = 64, 16  # for files and libraries; the few where the hard limit allows no more
READABLE, WRITABLE = select.EPOLLIN, select.EPOLLOUT

CLOSED, CONNECTING, IDLE, BUSY = range(
    4
)  # phases of a connection; BUSY: its request is at least partly written


class Connection:
    """A socket and what it is doing."""

    __slots__ = ("exchange", "fd", "phase", "receive", "served", "since_ns", "sock", "unsent")

    def __init__(self, sock: socket.socket, now: int) -> None:
        self.sock = sock
        self.fd = sock.fileno()
        self.receive = sock.recvmsg_into
        self.phase = CONNECTING
        self.since_ns = now
        self.exchange: Exchange | None = None
        self.unsent: memoryview | None = None
        self.served = 0


@dataclass(slots=True, kw_only=True)
class Counters:
    """What happened to connections, for the record."""

    opened: int = 0
    late: int = 0  # requests that had to wait for a connection
    resent: int = 0  # requests sent again because the server had closed the connection while it was idle


class Pool:
    """Owns the sockets and the epoll object that watches them.

    ``connected`` is called for a connection that came up with an exchange waiting for it, ``failed`` when it did not.
    """

    def __init__(
        self,
        host: str,
        port: int,
        *,
        connected: Callable[[Connection, Exchange], None],
        failed: Callable[[Connection, DriverError], None],
    ) -> None:
        self.counters = Counters()
        self.epoll = select.epoll()
        self.connections: dict[int, Connection] = {}
        self._host, self._port = host, port
        self._connected, self._failed = connected, failed
        self._stamped = False
        self._family = socket.AF_INET
        self._address: Any = None
        self._idle: list[Connection] = []
        self._spare: deque[Connection] = deque()  # connecting, and not promised to an exchange
        self._opening: asyncio.Future[None] | None = None
        self._wanted = 0
        self._unused = 0  # connections in a row that were lost before they served anything

    async def open(self, connections: int, *, stamped: bool, limit_s: float) -> None:
        """Bring up ``connections``, a few at a time. Raises ConnectFailed or TimedOut."""
        self._stamped = stamped
        _allow_files(connections)
        await self._find_address(limit_s)
        self._wanted = connections
        while (missing := connections - len(self._idle)) > 0:
            self._opening = asyncio.get_running_loop().create_future()
            for _ in range(min(OPENING_AT_ONCE, missing) - len(self._spare)):
                self._spare.append(self.connect())
            try:
                await asyncio.wait_for(self._opening, limit_s)
            except TimeoutError:
                raise TimedOut(f"connect to {self.where} after {limit_s:g} s") from None
            except OSError as error:
                raise ConnectFailed(f"{self.where}: {error}") from None
            finally:
                self._opening = None

    @property
    def where(self) -> str:
        """``host:port`` for messages, as it was asked for and not as it was resolved."""
        return f"{self._host}:{self._port}"

    async def _find_address(self, limit_s: float) -> None:
        """Resolve the name and keep the first address that answers: ``localhost`` is often two."""
        loop = asyncio.get_running_loop()
        try:
            found = await loop.getaddrinfo(self._host, self._port, type=socket.SOCK_STREAM)
        except OSError as error:
            raise ConnectFailed(f"{self._host}: {error}") from None
        reason: object = "no address"
        for family, _, _, _, address in found:
            with socket.socket(family, socket.SOCK_STREAM) as probe:
                probe.setblocking(False)
                try:
                    await asyncio.wait_for(loop.sock_connect(probe, address), limit_s)
                except TimeoutError:
                    reason = f"no answer within {limit_s:g} s"
                except OSError as error:
                    reason = error.strerror or error
                else:
                    self._family, self._address = family, address
                    return
        raise ConnectFailed(f"{self.where}: {reason}")

    def take(self) -> Connection:
        """A connection for one exchange: idle if there is one, else one that is coming up. Raises OSError."""
        while self._idle:
            connection = self._idle.pop()
            if connection.phase == IDLE:
                return connection
        self.counters.late += 1
        while self._spare:
            connection = self._spare.popleft()
            if connection.phase == CONNECTING:
                return connection
        return self.connect()

    def give(self, connection: Connection) -> None:
        """Put a connection back for the next exchange."""
        connection.phase = IDLE
        self._idle.append(connection)
        if connection.served:
            self._unused = 0
        if self._opening is not None and not self._opening.done() and not self._spare:
            self._opening.set_result(None)

    def discard(self, connection: Connection, *, replace: bool = True) -> None:
        """Close a connection, and open another in its place if it is one of those wanted.

        Not for ever: a server that closes what it has just accepted is not asked again until a request needs it.
        """
        if connection.phase == CLOSED:
            return
        if not connection.served:
            self._unused += 1
            replace = replace and self._unused <= self._wanted
        connection.phase = CLOSED
        connection.exchange = connection.unsent = None
        del self.connections[connection.fd]
        connection.sock.close()  # which takes it out of the epoll object too
        if replace and len(self.connections) < self._wanted:
            try:
                self._spare.append(self.connect())
            except OSError:
                return  # the request that lacks it will try again and report what is wrong

    def close(self) -> None:
        """Close every connection and the epoll descriptor; none is opened again."""
        self._wanted = 0
        for connection in list(self.connections.values()):
            self.discard(connection, replace=False)
        self.epoll.close()

    def on_connecting(self, connection: Connection, mask: int) -> None:
        """A connection that was coming up has news."""
        code = connection.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if code:
            self._give_up(connection, OSError(code, os.strerror(code)))
            return
        if not mask & WRITABLE or not _has_peer(connection.sock):
            return  # news of an older socket of the same number
        self.epoll.modify(connection.fd, READABLE)
        self.counters.opened += 1
        exchange = connection.exchange
        if exchange is not None:
            self._connected(connection, exchange)
            return
        self._spare.remove(connection)
        self.give(connection)

    def expire(self, now: int, limit_ns: int) -> None:
        """Give up connections that have been coming up for too long and that no exchange waits for."""
        for connection in list(self._spare):
            if now - connection.since_ns > limit_ns:
                self._give_up(connection, OSError(errno.ETIMEDOUT, os.strerror(errno.ETIMEDOUT)))

    def _give_up(self, connection: Connection, error: OSError) -> None:
        if connection.exchange is not None:
            self._failed(connection, ConnectFailed(f"{self.where}: {error.strerror}"))
            return
        self._spare.remove(connection)
        self.discard(connection, replace=False)
        if self._opening is not None and not self._opening.done():
            self._opening.set_exception(error)

    def connect(self) -> Connection:
        """Start a new connection. Raises OSError."""
        sock = socket.socket(self._family, socket.SOCK_STREAM)
        try:
            sock.setblocking(False)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self._stamped:
                kernel_stamps.enable(sock)
            with contextlib.suppress(BlockingIOError):  # the usual case: it goes on in the background
                sock.connect(self._address)
            connection = Connection(sock, time.monotonic_ns())
            self.epoll.register(connection.fd, WRITABLE)
        except OSError:
            sock.close()
            raise
        self.connections[connection.fd] = connection
        return connection


def _has_peer(sock: socket.socket) -> bool:
    try:
        sock.getpeername()
    except OSError:
        return False
    return True


def _allow_files(connections: int) -> None:
    """Raise the soft limit on open files as far as the connections need. Raises ConnectFailed if it may not be."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    least = connections + FEW_SPARE_FILES + len(os.listdir("/proc/self/fd"))
    need = least - FEW_SPARE_FILES + SPARE_FILES
    if soft == resource.RLIM_INFINITY or need <= soft:
        return
    if hard != resource.RLIM_INFINITY and least > hard:
        raise ConnectFailed(
            f"{connections} connections: the limit on open files is {hard} (raise it with ulimit -Hn)"
        )
    resource.setrlimit(
        resource.RLIMIT_NOFILE, (need if hard == resource.RLIM_INFINITY else min(need, hard), hard)
    )
