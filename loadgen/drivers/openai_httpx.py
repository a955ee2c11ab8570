"""OpenAI completions through httpx: for TLS and proxies, where a socket of our own does not reach.

Arrivals are stamped in user space, when httpx hands a block over: they hold the lag of the event loop and of the
library, which ``stamps`` = ``user`` tells the reader. Blocks are kept, and understood in ``decode``.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, field

import httpx

from loadgen.drivers.http1 import STALE_NS
from loadgen.drivers.http_access import access
from loadgen.drivers.openai_endpoint import Endpoint
from loadgen.errors import BadReply, Cancelled, ConnectFailed, DriverError, TimedOut
from loadgen.load_records import Timeouts
from loadgen.request_records import Reply, Request
from loadgen.units import seconds

LEAST_S = 0.001  # a loop's own timers are no finer


@dataclass(slots=True, kw_only=True)
class Streamed:
    """A request, then the raw record of its answer: blocks of the body, each with the time it was handed over."""

    request: Request
    content: bytes
    sent_ns: int = 0
    end_ns: int = 0
    status: int | None = None
    reason: str = ""
    content_type: str = ""
    blocks: list[tuple[bytes, int]] = field(default_factory=list)
    fresh: bool = False
    resent: bool = False
    on_sent: Callable[[], None] = lambda: None
    error: str | None = None

    async def trace(self, event: str, _: Mapping[str, object]) -> None:
        """Called by httpx's transport at each of its steps: the write is stamped when it begins, not before."""
        if event.endswith("connect_tcp.started"):
            self.fresh = True
        elif event.endswith("send_request_headers.started"):
            if not self.resent:  # what a first try took is part of the latency
                self.sent_ns = time.monotonic_ns()
            self.on_sent()


class HttpxDriver:
    """Speaks to one endpoint through httpx; see ``loadgen.protocols.Driver``."""

    name = "openai-httpx"
    stamps = "user"

    def __init__(self, endpoint: Endpoint, timeouts: Timeouts) -> None:
        self.batches, self.can = endpoint.batches, endpoint.can | {"cancel"}
        self._endpoint = endpoint
        self._timeouts = timeouts
        self._headers = endpoint.headers()
        self._client: httpx.AsyncClient | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._closed = False

    async def open(self, connections: int) -> None:
        """Bring up ``connections`` by as many small requests, held until the last is answered. Raises DriverError."""
        endpoint, limits = self._endpoint, self._timeouts
        client = self._client = httpx.AsyncClient(
            timeout=httpx.Timeout(None, connect=limits.connect_s),
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=None, keepalive_expiry=None),
            **access(endpoint.scheme, endpoint.host, endpoint.socket),
        )
        models = endpoint.page("models")
        try:
            async with asyncio.timeout(max(limits.connect_s, limits.first_byte_s)), AsyncExitStack() as held:
                answers = [
                    await held.enter_async_context(client.stream("GET", models, headers=self._headers))
                    for _ in range(connections)
                ]
                for answer in answers:  # whole, or its connection would not be kept
                    await answer.aread()
        except (httpx.HTTPError, TimeoutError) as error:
            await client.aclose()
            raise _fault(error, limits, None, time.monotonic_ns()) from None

    def prepare(self, request: Request) -> Streamed:
        """Serialise a request, ahead of its due time."""
        return Streamed(request=request, content=self._endpoint.body(request))

    def start(self, prepared: Streamed, done: Callable[[Streamed], None]) -> None:
        """Send a request in a task of its own."""
        prepared.sent_ns = prepared.end_ns = time.monotonic_ns()
        loop = asyncio.get_running_loop()
        if self._closed:
            prepared.error = "ConnectFailed: the driver was closed"
            loop.call_soon(done, prepared)
            return
        task = loop.create_task(self._run(prepared, done))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        cancel = prepared.request.cancel
        if cancel is not None and cancel.after_s is not None:
            loop.call_later(cancel.after_s, self._give_up, prepared, task, cancel.after_s)

    def _give_up(self, raw: Streamed, task: asyncio.Task[None], after_s: float) -> None:
        left_s = seconds(raw.sent_ns - time.monotonic_ns()) + after_s
        if left_s > 0:  # the loop's clock runs behind, or the connection was slow to come up
            asyncio.get_running_loop().call_later(max(left_s, LEAST_S), self._give_up, raw, task, after_s)
        elif not task.done():
            raw.error = f"{Cancelled.__name__}: after {after_s:g} s"
            task.cancel()

    def decode(self, raw: Streamed) -> Reply:
        """Make sense of a finished request."""
        answer = self._endpoint.answer(raw.request, raw.status or 200, raw.reason, raw.content_type)
        for block, at_ns in raw.blocks:
            answer.feed(block, at_ns)
        error = raw.error
        return answer.reply(
            sent_ns=raw.sent_ns, end_ns=raw.end_ns, reads=len(raw.blocks), lag_ns=None, error=error
        )

    async def close(self) -> None:
        """End what is under way with an error and close the connections."""
        self._closed = True
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._client is not None:
            await self._client.aclose()

    async def _run(self, raw: Streamed, done: Callable[[Streamed], None]) -> None:
        began = time.monotonic_ns()
        try:
            try:
                await self._exchange(raw)
            except httpx.RemoteProtocolError:
                late = time.monotonic_ns() - raw.sent_ns >= STALE_NS
                if raw.fresh or late or raw.status is not None:
                    raise
                raw.resent = True
                # The server had closed an idle connection just as it was used again.
                await self._exchange(raw)
        except (httpx.HTTPError, TimeoutError) as error:
            fault = _fault(error, self._timeouts, raw, began)
            raw.error = f"{type(fault).__name__}: {fault}"
            raw.end_ns = time.monotonic_ns()
        except Cancelled as error:
            raw.error = f"{Cancelled.__name__}: {error}"
            raw.end_ns = time.monotonic_ns()
        except asyncio.CancelledError:
            raw.error = raw.error or "ConnectFailed: the driver was closed"
            raw.end_ns = time.monotonic_ns()
        done(raw)

    async def _exchange(self, raw: Streamed) -> None:
        limits, loop, client = self._timeouts, asyncio.get_running_loop(), self._client
        assert client is not None, "open comes first"
        headers = dict(self._headers)
        if self._endpoint.request_ids:
            headers["x-request-id"] = f"{raw.request.phase}-{raw.request.seq}"
        last = loop.time() + limits.total_s
        async with asyncio.timeout_at(
            min(last, loop.time() + limits.connect_s + limits.first_byte_s)
        ) as limit:
            raw.on_sent = lambda: limit.reschedule(min(last, loop.time() + limits.first_byte_s))
            stream = client.stream(
                "POST",
                self._endpoint.url.geturl() + self._endpoint.target,
                content=raw.content,
                headers=headers,
                extensions={"trace": raw.trace},
            )
            async with stream as response:
                raw.status, raw.reason = response.status_code, response.reason_phrase
                raw.content_type = response.headers.get("content-type", "").partition(";")[0].strip().lower()
                limit.reschedule(min(last, loop.time() + limits.between_bytes_s))
                cancel = raw.request.cancel
                most = cancel.after_tokens if cancel is not None else None
                seen = self._endpoint.answer(raw.request, raw.status, raw.reason, raw.content_type)
                async for block in response.aiter_raw():
                    raw.blocks.append((block, time.monotonic_ns()))
                    if most is not None:
                        seen.feed(*raw.blocks[-1])
                        if seen.tokens >= most:
                            raise Cancelled(f"after {seen.tokens} tokens")
                    limit.reschedule(min(last, loop.time() + limits.between_bytes_s))
        raw.end_ns = raw.blocks[-1][1] if raw.blocks else time.monotonic_ns()


def _fault(error: Exception, limits: Timeouts, raw: Streamed | None, began: int) -> DriverError:
    """What httpx raised, in the words of the raw driver."""
    answered = raw is not None and raw.status is not None
    if isinstance(error, httpx.ConnectTimeout):
        return TimedOut(f"connect after {limits.connect_s:g} s")
    if isinstance(error, TimeoutError):
        if time.monotonic_ns() - began >= limits.total_s * 1e9:
            return TimedOut(f"total after {limits.total_s:g} s")
        if answered:
            return TimedOut(f"between bytes after {limits.between_bytes_s:g} s")
        return TimedOut(f"first byte after {limits.first_byte_s:g} s")
    words = str(error) or type(error).__name__
    if isinstance(error, (httpx.ConnectError, httpx.ProxyError)) or not answered:
        return ConnectFailed(words)
    return BadReply(f"the connection was lost before the end of the answer ({words})")
