"""A server that says exactly what a test tells it to, byte for byte, on a real socket."""

from __future__ import annotations

import asyncio
import contextlib
import json
import queue
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
from hypothesis import settings

from loadgen.drivers.openai import make_driver
from loadgen.load_records import Timeouts
from loadgen.protocols import DriverFactory
from loadgen.request_records import Reply, Request

# How long an example takes says nothing on a busy machine.
settings.register_profile("no deadline", deadline=None)
settings.load_profile("no deadline")

QUICK = Timeouts(connect_s=5.0, first_byte_s=5.0, between_bytes_s=5.0, total_s=20.0)
Script = Callable[["Peer"], None]
Answer = Callable[["Peer", Any], None]


class Peer:
    """The server's end of one connection. ``number`` counts connections from 0."""

    def __init__(self, sock: socket.socket, number: int) -> None:
        self.sock, self.number = sock, number
        self._buffer = b""

    def request(self) -> tuple[bytes, Any]:
        """The next request: its head, and its body as JSON. Raises ConnectionError at the end of the connection."""
        head = self._until(b"\r\n\r\n")
        length = next(
            (
                int(line.split(b":")[1])
                for line in head.split(b"\r\n")
                if line.lower().startswith(b"content-length")
            ),
            0,
        )
        while len(self._buffer) < length:
            self._more()
        body, self._buffer = self._buffer[:length], self._buffer[length:]
        return head, json.loads(body) if body else None

    def _until(self, mark: bytes) -> bytes:
        while mark not in self._buffer:
            self._more()
        head, _, self._buffer = self._buffer.partition(mark)
        return head

    def _more(self) -> None:
        data = self.sock.recv(65536)
        if not data:
            raise ConnectionError("the client has gone")
        self._buffer += data

    def send(self, *pieces: bytes) -> None:
        for piece in pieces:
            self.sock.sendall(piece)

    def chunk(self, data: bytes) -> None:
        self.send(b"%x\r\n%s\r\n" % (len(data), data))

    def event(self, found: object) -> None:
        text = found if isinstance(found, str) else json.dumps(found)
        self.chunk(b"data: " + text.encode() + b"\n\n")

    def token(self, number: int, index: int = 0, finish: str | None = None) -> None:
        choice = {"index": index, "text": f" t{number}", "token_ids": [number], "finish_reason": finish}
        self.event({"choices": [choice]})

    def stream_head(self, extra: bytes = b"") -> None:
        self.send(
            b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\n"
            + extra
            + b"transfer-encoding: chunked\r\n\r\n"
        )

    def stream_end(self, output_tokens: int, prompt_tokens: int = 3) -> None:
        self.event(
            {"choices": [], "usage": {"prompt_tokens": prompt_tokens, "completion_tokens": output_tokens}}
        )
        self.event("[DONE]")
        self.send(b"0\r\n\r\n")

    def stream(self, tokens: int) -> None:
        """A whole answer, one token per event."""
        self.stream_head()
        for number in range(tokens):
            self.token(number, finish="length" if number == tokens - 1 else None)
        self.stream_end(tokens)

    def page(self, status: str, found: object, extra: bytes = b"") -> None:
        body = found if isinstance(found, bytes) else json.dumps(found).encode()
        head = f"HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n"
        self.send(head.encode() + extra + b"\r\n" + body)

    def answer_all(self, answer: Answer) -> None:
        """Answer request after request. The httpx driver opens its connections with some that have no body."""
        while True:
            _, found = self.request()
            if found is None:
                self.page("404 Not Found", {})
            else:
                answer(self, found)

    def wait_for_close(self) -> None:
        while self.sock.recv(65536):
            pass

    def reset(self) -> None:
        """Close with a reset instead of an end."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        self.sock.close()


class Server:
    """Runs ``script`` in a thread for each connection that sends anything; what a script raises fails the test."""

    def __init__(self, script: Script, wrap: Callable[[socket.socket], socket.socket] | None = None) -> None:
        self._script, self._wrap = script, wrap
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.port = self._listener.getsockname()[1]
        self.connections = 0
        self.notes: queue.Queue[Any] = queue.Queue()
        self.faults: list[BaseException] = []
        self._socks: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            thread = threading.Thread(target=self._serve, args=(sock, self.connections))
            self.connections += 1
            self._socks.append(sock)
            self._threads.append(thread)
            thread.start()

    def _serve(self, sock: socket.socket, number: int) -> None:
        try:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self._wrap is not None:
                sock = self._wrap(sock)
                self._socks.append(sock)
            self._script(Peer(sock, number))
        except (ConnectionError, OSError):
            pass  # the client went away, or the test has ended
        except BaseException as error:  # noqa: BLE001 reported in stop()
            self.faults.append(error)
        finally:
            sock.close()

    def stop(self) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._threads[0].join(10)
        for sock in list(self._socks):
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(10)
        for sock in self._socks:
            sock.close()
        assert not self.faults, self.faults


@pytest.fixture
def serve() -> Iterator[Callable[..., Server]]:
    """Start servers by their script, or by how they answer each request; they end with the test."""
    servers: list[Server] = []

    def start(script: Script | None = None, *, answer: Answer | None = None, **options: Any) -> Server:
        def answering(peer: Peer) -> None:
            assert answer is not None
            peer.answer_all(answer)

        servers.append(Server(script or answering, **options))
        return servers[-1]

    yield start
    for server in servers:
        server.stop()


@pytest.fixture
def send() -> Callable[..., list[Reply]]:
    """Send requests through a driver of their own, from its opening to its closing."""
    return send_all


def send_all(
    url: str,
    requests: Sequence[Request],
    *,
    transport: str = "raw",
    connections: int = 1,
    together: bool = False,
    timeouts: Timeouts = QUICK,
    counters: dict[str, int] | None = None,
    make: DriverFactory = make_driver,
    **options: Any,
) -> list[Reply]:
    """Send the requests one after the other, or all at once."""

    async def main() -> list[Reply]:
        driver = make(url, "tiny", timeouts, {"transport": transport, **options})
        await driver.open(connections)
        futures = []
        for one in requests:
            future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
            driver.start(driver.prepare(one), future.set_result)
            futures.append(future)
            if not together:
                await future
        raws = await asyncio.gather(*futures)
        if counters is not None:
            found = driver.counters  # type: ignore[attr-defined]
            counters.update(opened=found.opened, late=found.late, resent=found.resent)
        await driver.close()
        return [driver.decode(raw) for raw in raws]

    return asyncio.run(asyncio.wait_for(main(), 60))
