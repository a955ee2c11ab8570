"""One request on a raw connection: the bytes that were sent, and every read of the answer as it came.

While an answer streams nothing is done with it: ``reads`` grows by three plain objects a read (data, kernel stamp,
time of the read), flat, so that the garbage collector has nothing to follow. ``reply`` makes sense of them later.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from loadgen.drivers.answer import Answer
from loadgen.drivers.http1 import Chunked, Head, take_head
from loadgen.drivers.stamps import StampClock
from loadgen.errors import BadReply, DriverError
from loadgen.records import Reply, Request


class Prepared:
    """A request serialised ahead of its due time. ``wire`` may hold a credential: it is never shown or stored."""

    __slots__ = ("request", "wire")

    def __init__(self, request: Request, wire: bytes) -> None:
        self.request, self.wire = request, wire


class Exchange:
    """A request under way, then the raw record of it. Times in ns on the monotonic clock.

    ``started_ns`` is when it was handed over, ``sent_ns`` when the write began that was answered (``resent``: on a
    second connection, because the server had closed the first one unused).
    """

    __slots__ = (
        "_answer",
        "_chunked",
        "_head",
        "_lag_ns",
        "_left",
        "_pending",
        "_reads_folded",
        "done",
        "end_ns",
        "error",
        "prepared",
        "reads",
        "resent",
        "sent_ns",
        "started_ns",
    )

    def __init__(self, prepared: Prepared, done: Callable[[Any], None], started_ns: int) -> None:
        self.prepared: Prepared = prepared
        self.done = done
        self.started_ns = self.sent_ns = started_ns
        self.end_ns = started_ns
        self.reads: list[Any] = []
        self.resent = False
        self.error: str | None = None
        self._head: Head | None = None
        self._answer: Answer | None = None
        self._chunked: Chunked | None = None
        self._left: int | None = None  # bytes of the body to come, when its length is known
        self._pending = b""
        self._reads_folded = 0
        self._lag_ns: int | None = None

    def fail(self, error: DriverError, at_ns: int) -> None:
        """Note why the exchange ended early."""
        self.error = f"{type(error).__name__}: {error}"
        self.end_ns = at_ns

    def fold(self, clock: StampClock) -> None:
        """Make sense of the reads so far and let go of their bytes: long streams then take little memory."""
        clock.sample()
        reads, self.reads = self.reads, []
        try:
            for at in range(0, len(reads), 3):
                self._fold(clock, reads[at], reads[at + 1], reads[at + 2])
        except BadReply as error:
            if self.error is None:
                self.error = f"{type(error).__name__}: {error}"

    def reply(self, clock: StampClock) -> Reply:
        """The Reply of a finished exchange."""
        self.fold(clock)
        if self._answer is None:
            return Reply(
                seq=self.prepared.request.seq,
                sent_ns=self.sent_ns,
                end_ns=self.end_ns,
                reads=self._reads_folded,
                lag_ns=self._lag_ns,
                error=self.error or "BadReply: the answer has no head",
            )
        return self._answer.reply(
            sent_ns=self.sent_ns,
            end_ns=self.end_ns,
            reads=self._reads_folded,
            lag_ns=self._lag_ns,
            error=self.error,
        )

    def _fold(self, clock: StampClock, data: bytes, stamp: bytes | None, read_ns: int) -> None:
        self._reads_folded += 1
        at_ns = clock.place(stamp, read_ns)
        if at_ns is None:
            at_ns = read_ns
        elif self._lag_ns is None or read_ns - at_ns > self._lag_ns:
            self._lag_ns = read_ns - at_ns
        if self.error is None:
            self.end_ns = at_ns
        if self._answer is None:
            self._pending += data
            found = take_head(self._pending)
            if found is None:
                return
            head, body_at = found
            data, self._pending = self._pending[body_at:], b""
            self._answer = Answer(self.prepared.request, head.status, head.reason, head.content_type)
            self._chunked = Chunked() if head.chunked else None
            self._left = head.length
        if self._chunked is not None:
            pieces: list[bytes] = []
            self._chunked.feed(data, pieces)
            data = b"".join(pieces)
        elif self._left is not None:
            data = data[: self._left]
            self._left -= len(data)
        if data:
            self._answer.feed(data, at_ns)
