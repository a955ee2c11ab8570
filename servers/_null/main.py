"""The child of framework ``null``: a server that sends made-up tokens at set times and logs when it did.

One thread, one epoll object, answers rendered ahead: it must never be slower than the client it measures. Each token
is due at ``received + ttft + k × itl``, so that a late one delays no other. With a queue tokens are due at the ends of
its steps.
"""

from __future__ import annotations

import argparse
import gc
import heapq
import select
import signal
import socket
import sys
import time
from array import array
from collections.abc import Mapping
from typing import IO

from loadgen.launch import null_log
from loadgen.servers._null import wire
from loadgen.servers._null.queue import Queue
from loadgen.servers.null import ENGINE
from loadgen.system.source import running_code

READ_SIZE = 1 << 20
SENDS_PER_TURN = 128  # then requests are looked at again
LOG_BUFFER = 1 << 22


class Peer:
    """A connection: what it asked, and how far its answer is."""

    __slots__ = ("answered", "asked", "inbox", "name", "received_ns", "sock", "unsent", "wanted", "writes")

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.inbox = bytearray()
        self.wanted = 0  # inbox size at which the request is complete; 0 while its head is not
        self.unsent = b""
        self.asked: wire.Asked | None = None
        self.name = b""
        self.received_ns = self.answered = 0
        self.writes = array("q")


class NullServer:
    """``ttft_ns`` and ``itl_ns`` set the schedule; with ``coalesce`` all that is due goes into one write.

    ``slots`` and ``costs`` (Queue's other arguments) make a queue in their place. A request whose client has gone keeps
    its place in it.
    """

    def __init__(
        self,
        listener: socket.socket,
        *,
        model: str,
        ttft_ns: int,
        itl_ns: int,
        coalesce: bool,
        log: IO[bytes] | None,
        slots: int = 0,
        costs: Mapping[str, int] | None = None,
    ) -> None:
        self._listener, self._log = listener, log
        self._ttft_ns, self._itl_ns, self._coalesce = ttft_ns, itl_ns, coalesce
        self._epoll = select.epoll()
        self._epoll.register(listener.fileno(), select.EPOLLIN)
        self._peers: dict[int, Peer] = {}
        # (due, tokens sent, fd, peer): streams that are due at once take turns, token by token
        self._due: list[tuple[int, int, int, Peer]] = []
        self._slots = slots
        self._queue: Queue[Peer] | None = Queue(slots=slots, **(costs or {})) if slots else None
        self._placed: dict[Peer, wire.Asked] = {}
        served = {"object": "list", "data": [{"id": model, "object": "model", "owned_by": "null"}]}
        info = {
            "engine": ENGINE,
            "framework": "null",
            "model": model,
            "kv_ahead": False,
            "weights": {"maker": "nobody", "distribution": "none"},
            "ttft_ms": ttft_ns / 1e6,
            "itl_ms": itl_ns / 1e6,
            "code": running_code(),
            **({"slots": slots, **(costs or {})} if slots else {}),
        }
        self._pages = {
            b"/health": wire.page(200, {"status": "ok"}),
            b"/v1/models": wire.page(200, served),
            b"/info": wire.page(200, info | {"coalesce": coalesce, "python": sys.version.split()[0]}),
        }

    def serve(self) -> None:
        """Serve until a signal handler raises."""
        listening = self._listener.fileno()
        while True:
            self._send_due()
            self._end_step()
            self._sleep()
            for fd, mask in self._epoll.poll(0):
                if fd == listening:
                    self._accept()
                    continue
                peer = self._peers.get(fd)
                if peer is None:
                    continue
                if mask & select.EPOLLOUT:
                    self._flush(peer)
                if mask & ~select.EPOLLOUT:
                    self._receive(peer)

    def _sleep(self) -> None:
        """Until something is due or comes in. select keeps microseconds where epoll's wait rounds to milliseconds."""
        step_ns = self._queue.ends_ns if self._queue is not None else None
        if not self._due and step_ns is None:
            wait_s = None
        else:
            due_ns = self._due[0][0] if self._due else None
            wait_s = (min(at for at in (due_ns, step_ns) if at is not None) - time.monotonic_ns()) / 1e9
            if wait_s <= 0:
                return
        select.select([self._epoll.fileno()], [], [], wait_s)

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:  # nobody there, or no file left to open: those that have one go on
                return
            sock.setblocking(False)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._peers[sock.fileno()] = Peer(sock)
            self._epoll.register(sock.fileno(), select.EPOLLIN)

    def _receive(self, peer: Peer) -> None:
        try:
            data = peer.sock.recv(READ_SIZE)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._drop(peer)
            return
        peer.inbox += data
        while len(peer.inbox) >= (peer.wanted or 1) and peer.asked is None:
            if not peer.wanted:
                end = peer.inbox.find(b"\r\n\r\n")
                if end < 0:
                    return
                peer.wanted = end + 4 + wire.content_length(peer.inbox[: end + 2])
                continue
            request = bytes(peer.inbox[: peer.wanted])
            del peer.inbox[: peer.wanted]
            peer.wanted = 0
            self._answer(peer, request, time.monotonic_ns())

    def _answer(self, peer: Peer, request: bytes, now: int) -> None:
        head, _, body = request.partition(b"\r\n\r\n")
        method, _, target = head.partition(b"\r\n")[0].partition(b" ")
        path = target.partition(b" ")[0].partition(b"?")[0]
        if method == b"GET" and path in self._pages:
            self._write(peer, self._pages[path])
            return
        if method != b"POST" or path != b"/v1/completions":
            self._write(peer, wire.page(404, {"error": {"message": f"no {path.decode('latin-1')} here"}}))
            return
        try:
            peer.asked = wire.read_body(body)
        except wire.Rejected as error:
            self._write(peer, wire.page(400, {"error": {"message": str(error)}}))
            return
        peer.name = wire.request_id(head)
        peer.received_ns = now
        peer.answered = 0
        peer.writes = array("q")
        if self._queue is not None:
            self._wait(self._queue, peer, peer.asked, now)
            return
        first = now + self._ttft_ns
        if not peer.asked.stream:  # all at once, when the last token would have come
            first += self._itl_ns * (peer.asked.tokens - 1)
        heapq.heappush(self._due, (first, 0, peer.sock.fileno(), peer))

    def _wait(self, queue: Queue[Peer], peer: Peer, asked: wire.Asked, now: int) -> None:
        if asked.sequences > self._slots:
            why = f"{asked.sequences} sequences, {self._slots} slots"
            self._write(peer, wire.page(400, {"error": {"message": why}}))
            peer.asked = None
            return
        queue.add(
            peer, now, tokens=asked.tokens, prompt_tokens=asked.prompt_tokens, sequences=asked.sequences
        )

    def _end_step(self) -> None:
        """A token for every sequence at work, when the running step's end has come."""
        queue = self._queue
        if queue is None or queue.ends_ns is None or queue.ends_ns > time.monotonic_ns():
            return
        started, ended = queue.end_step()
        for peer in started:
            if peer.asked is not None:
                self._placed[peer] = peer.asked
        last = set(ended)
        for peer, asked in self._placed.items():
            if peer.asked is not asked:
                continue  # its client has gone
            self._send_token(peer, asked, last=peer in last)
        for peer in ended:
            gone = self._placed.pop(peer, None)
            if gone is not None and peer.asked is gone:
                self._finish(peer, gone)

    def _send_token(self, peer: Peer, asked: wire.Asked, *, last: bool) -> None:
        first, peer.answered = not peer.answered, peer.answered + 1
        if not asked.stream and not last:
            return
        count = asked.sequences if asked.stream else asked.sequences * asked.tokens
        peer.writes.extend((time.monotonic_ns(), count))
        if not asked.stream:
            self._write(peer, wire.whole(asked))
            return
        data = wire.chunk(asked.sequences, last=last)
        self._write(peer, (wire.STREAM_HEAD if first else b"") + data + (wire.ending(asked) if last else b""))

    def _send_due(self) -> None:
        due = self._due
        for _ in range(SENDS_PER_TURN):
            if not due:
                return
            now = time.monotonic_ns()
            if due[0][0] > now:
                return
            at, _, fd, peer = due[0]
            asked = peer.asked
            if asked is None or self._peers.get(fd) is not peer:
                heapq.heappop(due)  # its client has gone
                continue
            if not asked.stream:
                heapq.heappop(due)
                peer.writes.extend((now, asked.tokens * asked.sequences))
                self._write(peer, wire.whole(asked))
                self._finish(peer, asked)
                continue
            count = self._count_due(asked.tokens - peer.answered, at, now)
            data = wire.STREAM_HEAD if not peer.answered else b""
            peer.answered += count
            if peer.answered < asked.tokens:
                data += wire.chunk(asked.sequences, last=False) * count
                following = (
                    at + count * self._itl_ns if self._itl_ns else now
                )  # without a pace they take turns
                heapq.heapreplace(due, (following, peer.answered, fd, peer))
            else:
                data += wire.chunk(asked.sequences, last=False) * (count - 1)
                data += wire.chunk(asked.sequences, last=True) + wire.ending(asked)
                heapq.heappop(due)
            peer.writes.extend((time.monotonic_ns(), count * asked.sequences))
            self._write(peer, data)
            if peer.answered == asked.tokens:
                self._finish(peer, asked)

    def _count_due(self, left: int, at: int, now: int) -> int:
        if not self._coalesce:
            return 1
        return left if not self._itl_ns else min(left, 1 + (now - at) // self._itl_ns)

    def _finish(self, peer: Peer, asked: wire.Asked) -> None:
        peer.asked = None
        if self._log is not None:
            self._log.write(null_log.record(peer.name, asked.sequences, peer.received_ns, peer.writes))

    def _write(self, peer: Peer, data: bytes) -> None:
        if peer.unsent:
            peer.unsent += data
            return
        try:
            sent = peer.sock.send(data)
        except BlockingIOError:
            sent = 0
        except OSError:
            self._drop(peer)
            return
        if sent < len(data):
            peer.unsent = data[sent:]
            self._epoll.modify(peer.sock.fileno(), select.EPOLLIN | select.EPOLLOUT)

    def _flush(self, peer: Peer) -> None:
        data, peer.unsent = peer.unsent, b""
        if data:
            self._write(peer, data)
        if not peer.unsent and peer.sock.fileno() >= 0:
            self._epoll.modify(peer.sock.fileno(), select.EPOLLIN)

    def _drop(self, peer: Peer) -> None:
        self._peers.pop(peer.sock.fileno(), None)
        peer.asked = None
        peer.sock.close()


def main() -> None:
    """Serve on ``--host`` and ``--port`` until SIGTERM or SIGINT; the log of sent times is closed as it ends."""
    parser = argparse.ArgumentParser(description="a server without a model, for calibrating clients")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--model", default="null")
    parser.add_argument("--ttft-ms", type=float, default=0.0)
    parser.add_argument("--itl-ms", type=float, default=0.0)
    parser.add_argument("--slots", type=int, default=0)
    parser.add_argument("--step-ms", type=float, default=10.0)
    parser.add_argument("--sequence-us", type=float, default=0.0)
    parser.add_argument("--prompt-us", type=float, default=0.0)
    parser.add_argument("--coalesce", action="store_true")
    parser.add_argument("--log", default="")
    arguments = parser.parse_args()

    def stop(_number: int, _frame: object) -> None:
        raise SystemExit(0)

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    listener = socket.socket(socket.AF_INET6 if ":" in arguments.host else socket.AF_INET)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind((arguments.host, arguments.port))
    listener.listen(4096)
    listener.setblocking(False)
    log = open(arguments.log, "wb", buffering=LOG_BUFFER) if arguments.log else None  # noqa: SIM115 closed below
    try:
        if log is not None:
            log.write(null_log.MAGIC)
        server = NullServer(
            listener,
            model=arguments.model,
            ttft_ns=round(arguments.ttft_ms * 1e6),
            itl_ns=round(arguments.itl_ms * 1e6),
            coalesce=arguments.coalesce,
            log=log,
            slots=arguments.slots,
            costs={
                "step_ns": round(arguments.step_ms * 1e6),
                "sequence_ns": round(arguments.sequence_us * 1e3),
                "prompt_ns": round(arguments.prompt_us * 1e3),
            },
        )
        gc.disable()  # nothing here is circular, and a collection would be a late token
        print(f"{ENGINE} on http://{arguments.host}:{listener.getsockname()[1]}", flush=True)
        server.serve()
    finally:
        if log is not None:
            log.close()
        listener.close()


if __name__ == "__main__":
    main()
