"""gRPC methods called many times over asyncio, with plain bytes in and out, and the limits of every request.

An arrival costs a stamp and an append; what it means is found out later.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any, Literal
from urllib.parse import urlsplit

import grpc
import grpc.aio

from loadgen.errors import BadInput, BadReply, ConnectFailed, DriverError, Refused, TimedOut
from loadgen.load_records import Timeouts
from loadgen.request_records import Request
from loadgen.units import nanoseconds, seconds

Kind = Literal["unary", "stream", "bidirectional"]  # one reply; many; many, to a stream of one request
MAX_CHANNELS = 8  # connections; each carries many calls at once
CHANNEL_OPTIONS = (
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
    ("grpc.use_local_subchannel_pool", 1),  # else all channels to one address share a connection
    ("grpc.enable_retries", 0),  # a silent second try would be a wrong latency
    ("grpc.enable_http_proxy", 0),
)
# How gRPC words the loss of a connection; UNAVAILABLE with other words is the server's own refusal.
LOST = ("connect", "socket closed", "connection reset", "broken pipe", "goaway", "eof", "transport")


def address_of(base_url: str) -> str:
    """``HOST:PORT`` of ``grpc://HOST:PORT``; raises BadInput."""
    url = urlsplit(base_url if "://" in base_url else f"grpc://{base_url}")
    try:
        port = url.port
    except ValueError as error:
        raise BadInput(f"URL {base_url!r}: {error} (accepted: grpc://HOST:PORT)") from None
    if url.scheme != "grpc" or not url.hostname or port is None:
        raise BadInput(f"URL {base_url!r}: not a gRPC endpoint (accepted: grpc://HOST:PORT)")
    return f"[{url.hostname}]:{port}" if ":" in url.hostname else f"{url.hostname}:{port}"


class Prepared:
    """A request serialised ahead of its due time; ``method`` is the one it is sent by."""

    __slots__ = ("method", "request", "wire")

    def __init__(self, request: Request, method: str, wire: bytes) -> None:
        self.request, self.method, self.wire = request, method, wire


class Call:
    """A request under way, then the raw record of it: arrivals as (ns, message, or what a driver made of it)."""

    __slots__ = ("arrivals", "done", "end_ns", "error", "late", "prepared", "sent_ns", "timer", "wire")

    def __init__(self, prepared: Prepared, done: Callable[[Any], None]) -> None:
        self.prepared, self.done = prepared, done
        self.sent_ns = self.end_ns = time.monotonic_ns()
        self.arrivals: list[tuple[int, Any]] = []
        self.error: str | None = None
        self.late: str | None = None  # which time-out cancelled it
        self.timer: asyncio.TimerHandle | None = None
        self.wire: Any = None


class GrpcCalls:
    """Connections to one server, and the calls on them. ``methods`` maps a full method name to its kind.

    ``on_message`` is told of every streamed message once it has been stamped.
    """

    def __init__(
        self,
        address: str,
        timeouts: Timeouts,
        methods: dict[str, Kind],
        on_message: Callable[[Call], None] | None = None,
    ) -> None:
        self._address, self._timeouts, self._methods, self._on_message = (
            address,
            timeouts,
            methods,
            on_message,
        )
        self._first_ns = nanoseconds(timeouts.first_byte_s)
        self._between_ns = nanoseconds(timeouts.between_bytes_s)
        self._total_ns = nanoseconds(timeouts.total_s)
        self._channels: list[Any] = []
        self._stubs: list[dict[str, Any]] = []
        self._turn = 0
        self._under_way: dict[Call, asyncio.Task[None]] = {}

    async def open(self, connections: int) -> None:
        """Connect. Raises ConnectFailed."""
        for _ in range(max(1, min(connections, MAX_CHANNELS))):
            self._channels.append(grpc.aio.insecure_channel(self._address, options=CHANNEL_OPTIONS))
        try:
            async with asyncio.timeout(self._timeouts.connect_s):
                await asyncio.gather(*(channel.channel_ready() for channel in self._channels))
        except TimeoutError:
            await self.close()
            raise ConnectFailed(
                f"no connection to {self._address} within {self._timeouts.connect_s:g} s"
            ) from None
        self._stubs = [
            {name: _stub(channel, name, kind) for name, kind in self._methods.items()}
            for channel in self._channels
        ]

    @property
    def channel(self) -> Any:
        """A connection for calls that are not measured."""
        return self._channels[0]

    def start(self, prepared: Prepared, done: Callable[[Any], None]) -> None:
        """Hand a request to gRPC; it is stamped before, so that gRPC's own work is in the latency."""
        call = Call(prepared, done)
        self._turn += 1
        stub = self._stubs[self._turn % len(self._stubs)][prepared.method]
        kind = self._methods[prepared.method]
        run = self._whole(call, stub) if kind == "unary" else self._stream(call, stub, kind)
        self._under_way[call] = asyncio.get_running_loop().create_task(run)
        self._watch(call)

    async def close(self) -> None:
        """Cancel what is under way and close the connections."""
        calls, tasks = list(self._under_way), list(self._under_way.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for call in calls:
            if call.timer is not None:
                call.timer.cancel()
        self._under_way.clear()
        for channel in self._channels:
            await channel.close()
        self._channels.clear()
        self._stubs.clear()

    async def _stream(self, call: Call, stub: Any, kind: Kind) -> None:
        arrivals, now, on_message = call.arrivals, time.monotonic_ns, self._on_message
        try:
            if kind == "stream":
                wire = call.wire = stub(call.prepared.wire)
            else:
                wire = call.wire = stub()
                await wire.write(call.prepared.wire)
                await wire.done_writing()
            while (message := await wire.read()) is not grpc.aio.EOF:
                arrivals.append((now(), message))
                if on_message is not None:
                    on_message(call)
            code, details = await wire.code(), await wire.details()
        except asyncio.InvalidStateError:  # the server ended the call before the request was written
            code, details = await wire.code(), await wire.details()
        except grpc.aio.AioRpcError as error:
            code, details = error.code(), error.details()
        except asyncio.CancelledError:
            code, details = grpc.StatusCode.CANCELLED, "cancelled"
            if call.late is None:
                raise
        except Exception as error:  # noqa: BLE001 a call that ends nowhere would be waited for, for ever
            code, details = grpc.StatusCode.UNKNOWN, f"{type(error).__name__}: {error}"
        self._finish(call, code, details)

    async def _whole(self, call: Call, stub: Any) -> None:
        code, details = grpc.StatusCode.OK, ""
        try:
            call.wire = stub(call.prepared.wire)
            message = await call.wire
            call.arrivals.append((time.monotonic_ns(), message))
        except grpc.aio.AioRpcError as error:
            code, details = error.code(), error.details()
        except asyncio.CancelledError:
            code, details = grpc.StatusCode.CANCELLED, "cancelled"
            if call.late is None:
                raise
        except Exception as error:  # noqa: BLE001 as above
            code, details = grpc.StatusCode.UNKNOWN, f"{type(error).__name__}: {error}"
        self._finish(call, code, details)

    def _finish(self, call: Call, code: Any, details: str | None) -> None:
        if call.timer is not None:
            call.timer.cancel()
            call.timer = None
        call.end_ns = time.monotonic_ns()
        if call.late is not None:
            call.error = f"{TimedOut.__name__}: {call.late}"
        elif code is not grpc.StatusCode.OK:
            error = fault(code, details, answered=bool(call.arrivals))
            call.error = f"{type(error).__name__}: {error}"
        call.wire = None
        del self._under_way[call]
        call.done(call)

    def _watch(self, call: Call) -> None:
        """One timer per request, set again when it fires early: arrivals cost it nothing."""
        now = time.monotonic_ns()
        limits = self._timeouts
        if call.arrivals:
            due = call.arrivals[-1][0] + self._between_ns
            words = f"no message for {limits.between_bytes_s:g} s (between_bytes_s)"
        else:
            due = call.sent_ns + self._first_ns
            words = f"no message within {limits.first_byte_s:g} s (first_byte_s)"
        end = call.sent_ns + self._total_ns
        if end <= due:
            due, words = end, f"not done within {limits.total_s:g} s (total_s)"
        if now >= due and call.wire is not None:
            call.late = words
            call.wire.cancel()
            return
        # Until the first message nobody tells when the shorter limit between messages begins to count.
        wait = max(min(due - now, self._between_ns), 1_000_000)
        call.timer = asyncio.get_running_loop().call_later(seconds(wait), self._watch, call)


def _stub(channel: Any, name: str, kind: Kind) -> Any:
    make = {
        "unary": channel.unary_unary,
        "stream": channel.unary_stream,
        "bidirectional": channel.stream_stream,
    }
    return make[kind](name)


def fault(code: Any, details: str | None, *, answered: bool) -> DriverError:
    """A gRPC status as the error that it is: the connection's, the clock's, or the server's own words."""
    words = " ".join((details or "").split())
    if code is grpc.StatusCode.UNAVAILABLE and any(sign in words.lower() for sign in LOST):
        if answered:
            return BadReply(f"the connection was lost in the middle of the answer: {words}")
        return ConnectFailed(words)
    if code is grpc.StatusCode.DEADLINE_EXCEEDED:
        return TimedOut(words)
    return Refused(f"{code.name}: {words}" if words else str(code.name))
