"""The hot path: OpenAI completions over plain HTTP/1.1 on sockets of our own.

One epoll object holds every connection and is itself one file in asyncio's loop, so that a read costs a system
call and a few list operations: no task, future, transport or parser per event. The kernel stamps arrivals
(``SO_TIMESTAMPNS``), which takes the lag of this loop out of the times. ``decode`` makes sense of it all later.
"""

from __future__ import annotations

import asyncio
import errno
import socket
import time
from collections.abc import Callable

from loadgen.drivers import kernel_stamps as stamps
from loadgen.drivers import pool
from loadgen.drivers.exchange import Exchange, Prepared, QuittingExchange
from loadgen.drivers.http1 import STALE_NS
from loadgen.drivers.openai_endpoint import Endpoint
from loadgen.drivers.pool import BUSY, CONNECTING, IDLE, Connection, Pool
from loadgen.drivers.waker import Waker
from loadgen.errors import BadReply, Cancelled, ConnectFailed, DriverError, TimedOut
from loadgen.load_records import Timeouts
from loadgen.request_records import Reply, Request
from loadgen.units import nanoseconds, seconds
from loadgen.workload_records import Cancel

READ_SIZE = 256 * 1024
LEAST_S = 0.001  # a loop's own timers are no finer
EVENTS_PER_WAKE = (
    64  # then the loop gets its turn: a request that falls due must not wait for a thousand reads
)


class RawDriver:
    """Speaks to one ``http://`` endpoint; see ``loadgen.protocols.Driver``.

    ``stamps`` is ``kernel`` once ``open`` found that this machine stamps arrivals, else ``user``.
    """

    name = "openai-raw"

    def __init__(self, endpoint: Endpoint, timeouts: Timeouts, *, kernel_stamps: bool = True) -> None:
        self.stamps = "user"
        self.batches, self.can = endpoint.batches, endpoint.can | {"cancel"}
        self._endpoint = endpoint
        self._timeouts = timeouts
        self._connect_ns = nanoseconds(timeouts.connect_s)
        self._first_byte_ns = nanoseconds(timeouts.first_byte_s)
        self._between_ns = nanoseconds(timeouts.between_bytes_s)
        self._total_ns = nanoseconds(timeouts.total_s)
        shortest = min(timeouts.connect_s, timeouts.first_byte_s, timeouts.between_bytes_s, timeouts.total_s)
        self._tick_s = min(0.25, max(0.005, shortest / 8))
        self._kernel_stamps = kernel_stamps
        self._clock = stamps.StampClock()
        headers = {"host": endpoint.url.netloc} | endpoint.headers()
        lines = [
            f"POST {endpoint.target} HTTP/1.1",
            *(f"{name}: {value}" for name, value in headers.items()),
            "",
        ]
        self._head = "\r\n".join(lines).encode("ascii")
        self._pool = Pool(endpoint.host, endpoint.port, connected=self._send, failed=self._fail)
        self._loop: asyncio.AbstractEventLoop
        self._waker: Waker
        self._ended = 0  # since the last tick
        self._stamping: socket.socket | None = None
        self._opened = self._closed = False
        self._ticking = False
        self._buffer = memoryview(bytearray(READ_SIZE))
        self._into = [self._buffer]

    @property
    def counters(self) -> pool.Counters:
        """Connections opened, requests that had to wait for one, and requests sent again, so far."""
        return self._pool.counters

    async def open(self, connections: int) -> None:
        """Bring up ``connections`` before the schedule starts. Raises ConnectFailed or TimedOut, and is closed then."""
        if not self._opened:
            self._opened = True
            self._loop = asyncio.get_running_loop()
            self._waker = Waker(self._loop, self._pool.epoll.fileno(), self._on_ready, full=EVENTS_PER_WAKE)
            self._stamping = stamps.start_stamping() if self._kernel_stamps else None
            self.stamps = "user" if self._stamping is None else "kernel"
        try:
            await self._pool.open(
                connections, stamped=self.stamps == "kernel", limit_s=self._timeouts.connect_s
            )
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        """Close every connection. An exchange still under way ends with an error, as does one that is begun now."""
        if self._closed:
            return
        self._closed = True
        for connection in list(self._pool.connections.values()):
            if connection.exchange is not None:
                self._fail(connection, ConnectFailed("the driver was closed"), replace=False)
        if self._opened:
            self._waker.close()
        self._pool.close()
        if self._stamping is not None:
            self._stamping.close()

    def prepare(self, request: Request) -> Prepared:
        """Serialise a request, ahead of its due time."""
        body = self._endpoint.body(request)
        extra = f"x-request-id: {request.phase}-{request.seq}\r\n" if self._endpoint.request_ids else ""
        return Prepared(
            request,
            b"%s%scontent-length: %d\r\n\r\n%s" % (self._head, extra.encode(), len(body), body),
            self._endpoint.answer,
        )

    def start(self, prepared: Prepared, done: Callable[[Exchange], None]) -> None:
        """Write a request now, or as soon as a connection is up if none is idle."""
        if prepared.request.cancel is None:
            exchange = Exchange(prepared, done, self._clock, time.monotonic_ns())
        else:
            exchange = self._quitting(prepared, done, prepared.request.cancel)
        self._begin(exchange, self._pool.take)
        if not self._ticking:
            self._ticking = True
            self._loop.call_later(self._tick_s, self._tick)

    def _quitting(self, prepared: Prepared, done: Callable[[Exchange], None], cancel: Cancel) -> Exchange:
        now = time.monotonic_ns()
        if cancel.after_tokens is not None:
            return QuittingExchange(prepared, done, self._clock, now, cancel.after_tokens)
        assert cancel.after_s is not None
        exchange = Exchange(prepared, done, self._clock, now)
        self._loop.call_later(cancel.after_s, self._give_up, exchange, cancel.after_s)
        return exchange

    def _give_up(self, exchange: Exchange, after_s: float) -> None:
        left_s = seconds(exchange.sent_ns - time.monotonic_ns()) + after_s
        if left_s > 0:  # the loop's clock runs behind, or the connection was slow to come up
            self._loop.call_later(max(left_s, LEAST_S), self._give_up, exchange, after_s)
            return
        for connection in self._pool.connections.values():
            if connection.exchange is exchange:
                self._fail(connection, Cancelled(f"after {after_s:g} s"))
                return

    def decode(self, raw: Exchange) -> Reply:
        """Make sense of a finished exchange."""
        return raw.reply()

    def _begin(self, exchange: Exchange, take: Callable[[], Connection]) -> None:
        try:
            if self._closed:
                raise OSError(errno.ESHUTDOWN, "the driver was closed")
            connection = take()
        except OSError as error:
            exchange.fail(ConnectFailed(f"{self._pool.where}: {error.strerror}"), time.monotonic_ns())
            # Not now: ``done`` starts the next request, and would do so from within ever deeper calls.
            self._loop.call_soon(exchange.done, exchange)
            return
        connection.exchange = exchange
        if connection.phase == IDLE:
            self._send(connection, exchange)

    def _send(self, connection: Connection, exchange: Exchange) -> None:
        connection.phase = BUSY
        wire = exchange.prepared.wire
        if not exchange.resent:  # what a first try took is part of the latency
            exchange.sent_ns = time.monotonic_ns()
        try:
            sent = connection.sock.send(wire)
        except BlockingIOError:
            sent = 0
        except OSError as error:
            self._loop.call_soon(self._lost, connection, exchange, error)
            return
        if sent < len(wire):
            connection.unsent = memoryview(wire)[sent:]
            self._pool.epoll.modify(connection.fd, pool.READABLE | pool.WRITABLE)

    def _on_ready(self) -> int:
        """Receive and stamp; returns the number of events. This is the loop that must stay cheap."""
        connections, readable = self._pool.connections, pool.READABLE
        into, buffer, clock = self._into, self._buffer, time.monotonic_ns
        events = self._pool.epoll.poll(0, EVENTS_PER_WAKE)
        for fd, mask in events:
            connection = connections.get(fd)
            if connection is None:
                continue  # closed by an earlier event of this wake
            if mask != readable and not self._is_readable(connection, mask):
                continue
            exchange = connection.exchange
            try:
                size, extra, _, _ = connection.receive(into, stamps.STAMP_SPACE)
            except BlockingIOError:
                continue
            except OSError as error:
                self._lost(connection, exchange, error)
                continue
            now = clock()
            if not size or exchange is None:  # the end, or words that nobody asked for
                self._lost(connection, exchange, None)
                continue
            try:
                whole = exchange.take(buffer[:size].tobytes(), extra[0][2] if extra else None, now)
            except (BadReply, Cancelled) as error:
                self._fail(connection, error)
                continue
            if whole:
                self._finish(connection, exchange)
        return len(events)

    def _is_readable(self, connection: Connection, mask: int) -> bool:
        """See to everything but reading."""
        if connection.phase == CONNECTING:
            self._pool.on_connecting(connection, mask)
            return False
        if mask & pool.WRITABLE and connection.unsent is not None:
            try:
                connection.unsent = connection.unsent[connection.sock.send(connection.unsent) :]
            except BlockingIOError:
                pass
            except OSError as error:
                self._lost(connection, connection.exchange, error)
                return False
            if not connection.unsent:
                connection.unsent = None
                self._pool.epoll.modify(connection.fd, pool.READABLE)
        return bool(mask & ~pool.WRITABLE)

    def _finish(self, connection: Connection, exchange: Exchange) -> None:
        """The answer is whole. The connection goes back first, so that the next request can take it."""
        connection.exchange = None
        connection.served += 1
        self._ended += 1
        if exchange.keep and connection.unsent is None:
            self._pool.give(connection)
        else:
            self._pool.discard(connection)
        exchange.done(exchange)

    def _fail(self, connection: Connection, error: DriverError, *, replace: bool = True) -> None:
        exchange = connection.exchange
        self._pool.discard(connection, replace=replace and connection.phase != CONNECTING)
        if exchange is not None:
            exchange.fail(error, time.monotonic_ns())
            exchange.done(exchange)

    def _lost(self, connection: Connection, exchange: Exchange | None, error: OSError | None) -> None:
        """The connection is no more: closed by the server (``error`` is None) or broken."""
        if connection.exchange is not exchange:
            return  # that exchange has ended otherwise meanwhile
        if exchange is None:
            self._pool.discard(connection)
            return
        how = "closed" if error is None else f"lost ({error.strerror})"
        try:
            whole = error is None and exchange.close()
        except BadReply as fault:
            self._fail(connection, fault)
            return
        if whole:
            self._finish(connection, exchange)
        elif exchange.answered:
            self._fail(connection, BadReply(f"the connection was {how} before the end of the answer"))
        elif connection.served and time.monotonic_ns() - exchange.sent_ns < STALE_NS:
            # The server closed an idle connection just as it was used again: it never saw this request. The new
            # connection has served nothing, so this happens once.
            exchange.resent = True
            self.counters.resent += 1
            self._pool.discard(connection, replace=False)
            self._begin(exchange, self._pool.connect)
        else:
            self._fail(
                connection, ConnectFailed(f"the connection was {how} before the first byte of the answer")
            )

    def _tick(self) -> None:
        """The one timer: limits are checked a few times a second, and cost nothing while they hold."""
        now = time.monotonic_ns()
        self._clock.sample()
        self._pool.expire(now, self._connect_ns)
        late = []
        busy = 0
        for connection in self._pool.connections.values():
            exchange = connection.exchange
            if exchange is not None:
                busy += 1
                why = self._overrun(connection, exchange, now)
                if why is not None:
                    late.append((connection, exchange, why))
        if self.stamps == "kernel":
            self._waker.consider(busy, self._ended, now)
        self._ended = 0
        self._ticking = busy > 0
        if busy:
            self._loop.call_later(self._tick_s, self._tick)
        for connection, exchange, why in late:
            if connection.exchange is exchange:
                self._end_late(connection, exchange, why)

    def _end_late(self, connection: Connection, exchange: Exchange, why: str) -> None:
        try:
            whole = (
                exchange.walk()
            )  # a chunked body with bytes behind its end is whole, though no read looked so
        except BadReply as error:
            self._fail(connection, error)
            return
        if whole:
            self._finish(connection, exchange)
        else:
            self._fail(connection, TimedOut(why))

    def _overrun(self, connection: Connection, exchange: Exchange, now: int) -> str | None:
        """Which limit the exchange has passed."""
        limits = self._timeouts
        if now - exchange.started_ns > self._total_ns:
            return f"total after {limits.total_s:g} s"
        if connection.phase == CONNECTING:
            return (
                f"connect after {limits.connect_s:g} s"
                if now - connection.since_ns > self._connect_ns
                else None
            )
        if exchange.answered:
            late = now - exchange.last_ns > self._between_ns
            return f"between bytes after {limits.between_bytes_s:g} s" if late else None
        late = now - exchange.sent_ns > self._first_byte_ns
        return f"first byte after {limits.first_byte_s:g} s" if late else None
