"""One request on a raw connection: the bytes that were sent, and every read of the answer as it came.

While an answer streams nothing is done with it but to look for its end: ``_reads`` grows by three plain objects a read
(data, kernel stamp, time of the read), flat, so that the garbage collector has nothing to follow. ``reply`` makes sense
of them later. There is no socket and no event loop here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from loadgen.drivers.answer import Answer
from loadgen.drivers.http1 import HEAD_END, NO_STEP, STEPS, Chunked, Head, take_head
from loadgen.drivers.kernel_stamps import StampClock
from loadgen.errors import BadReply, Cancelled, DriverError
from loadgen.request_records import Reply, Request

# Reads kept as they came; each exchange keeps up to 128 more, by its number, so that not all fold at once.
FOLD_READS = 192
SHORT = 2048  # bytes


class Prepared:
    """A request serialised ahead of its due time, and what reads its answer. ``wire`` may hold a credential: it is
    never shown or stored."""

    __slots__ = ("answer", "request", "wire")

    def __init__(self, request: Request, wire: bytes, answer: type[Answer] = Answer) -> None:
        self.request, self.wire, self.answer = request, wire, answer


class Exchange:
    """A request under way, then the raw record of it. Times in ns on the monotonic clock.

    ``started_ns`` is when it was handed over, ``sent_ns`` when its first write began (``resent``: it was written again,
    on a second connection, because the server had closed the first one unused). ``keep`` tells, once the answer is
    whole, whether its connection can serve another request.
    """

    __slots__ = (
        "_answer",
        "_body_at",
        "_body_left",
        "_chunked",
        "_clock",
        "_fold_at",
        "_head",
        "_lag_ns",
        "_last_ns",
        "_left",
        "_reads",
        "_reads_folded",
        "_streaming",
        "_unchunk",
        "_walked",
        "_whole",
        "done",
        "end_ns",
        "error",
        "keep",
        "prepared",
        "resent",
        "sent_ns",
        "started_ns",
    )

    def __init__(
        self, prepared: Prepared, done: Callable[[Any], None], clock: StampClock, started_ns: int
    ) -> None:
        self.prepared = prepared
        self.done = done
        self.started_ns = self.sent_ns = self.end_ns = self._last_ns = started_ns
        self.resent = self.keep = False
        self.error: str | None = None
        self._clock = clock
        # Receiving: what is needed to see the end of the answer, and no more.
        self._reads: list[Any] = []
        self._streaming = False  # in a chunked body
        self._head: Head | None = None
        self._chunked: Chunked | None = None
        self._walked = 0  # the entries of reads that ``_chunked`` has stepped over
        self._left: int | None = None  # bytes of the body to come, where its length is known
        self._fold_at = 3 * (FOLD_READS + prepared.request.seq * 37 % 128)
        # Understanding, later.
        self._body_at = 0  # where the body begins, counted from the first read that was not folded
        self._whole: bytes | None = None  # the body, if all of it came in one read
        self._unchunk: Chunked | None = None
        self._body_left: int | None = None
        self._answer: Answer | None = None
        self._reads_folded = 0
        self._lag_ns: int | None = None

    @property
    def answered(self) -> bool:
        """Whether any byte has come."""
        return self._reads_folded > 0 or bool(self._reads)

    @property
    def last_ns(self) -> int:
        """When the last read was made."""
        last: int = self._reads[-1] if self._reads else self._last_ns
        return last

    def take(self, data: bytes, stamp: bytes | None, now: int) -> bool:
        """Note one read; whether the answer is whole now. Raises BadReply."""
        reads = self._reads
        reads.append(data)
        reads.append(stamp)
        reads.append(now)
        if self._streaming:
            # Every chunked body ends in a blank line: before one, it cannot have ended. Behind one, the chunk
            # sizes tell whether it has, or whether these four bytes are data.
            if data.endswith(HEAD_END) or len(data) < 4:
                return self.walk()
            if len(reads) > self._fold_at:
                if self.walk():
                    return True
                self.fold()
            return False
        if self._head is None:
            return self._take_head()
        if self._left is not None:
            self._left -= len(data)
            self.keep = self.keep and self._left >= 0
            return self._left <= 0
        return False

    def walk(self) -> bool:
        """Step over the chunks that came since the last walk; whether they are the last. Raises BadReply."""
        if self._chunked is None:
            return False
        data = b"".join(self._reads[self._walked :: 3])
        self._walked = len(self._reads)
        ended = self._chunked.feed(data)
        self.keep = self.keep and not self._chunked.surplus
        return ended

    def close(self) -> bool:
        """Note that no more will come; whether the answer is whole. Raises BadReply."""
        self.keep = False
        return self._head is not None and (self.walk() if self._streaming else self._left is None)

    def fail(self, error: DriverError, at_ns: int) -> None:
        """Note why the exchange ended early."""
        self.error = f"{type(error).__name__}: {error}"
        self.end_ns = at_ns

    def _take_head(self) -> bool:
        reads = self._reads
        data: bytes = reads[0] if len(reads) == 3 else b"".join(reads[0::3])
        found = take_head(data)
        if found is None:
            return False
        head, self._body_at = self._head, _ = found
        self.keep = head.keep
        if not head.chunked:
            if head.length is None:
                return False
            self._left = head.length - (len(data) - self._body_at)
            self.keep = self.keep and self._left >= 0
            return self._left <= 0
        self._streaming = True
        self._walked = len(self._reads)
        self._chunked = Chunked()
        # An answer of a token or two often comes in one read: then this walk need not be made again later.
        pieces: list[bytes] | None = [] if len(data) < SHORT and self._walked == 3 else None
        ended = self._chunked.feed(data[self._body_at :], pieces)
        if ended:
            self.keep = self.keep and not self._chunked.surplus
            if pieces is not None:
                self._whole = b"".join(pieces)
        return ended

    def fold(self) -> None:
        """Make sense of the reads so far and let go of their bytes: long streams then take little memory."""
        reads, clock = self._reads, self._clock
        if not reads:
            return
        self._last_ns = reads[-1]
        if (
            self._last_ns >= clock.sampled_ns
        ):  # a stamp is placed by what the clocks were found to do after it
            clock.sample()
        self._reads, self._walked = [], 0
        try:
            at = 0
            while at < len(reads):
                answer, unchunk = self._answer, self._unchunk
                if answer and unchunk and unchunk.between_chunks and answer.between_events:
                    at = self._fold_plain(answer, reads, at)
                if at < len(reads):
                    self._fold(reads[at], self._placed(reads[at + 1], reads[at + 2]))
                    at += 3
        except BadReply as error:
            if self.error is None:
                self.error = f"{type(error).__name__}: {error}"

    def _placed(self, stamp: bytes | None, read_ns: int) -> int:
        """When a read arrived."""
        self._reads_folded += 1
        at_ns = self._clock.place(stamp, read_ns)
        if at_ns is None:
            at_ns = read_ns
        elif self._lag_ns is None or read_ns - at_ns > self._lag_ns:
            self._lag_ns = read_ns - at_ns
        if self.error is None:
            self.end_ns = at_ns
        return at_ns

    def _fold_plain(self, answer: Answer, reads: list[Any], at: int) -> int:
        """A short cut for reads of one chunk with one event of one line, as a paced stream has them.

        Returns where the first other read is. The chunk and event parsers stand between two of theirs, and still do so.
        """
        steps = STEPS
        for place in range(at, len(reads), 3):
            data = reads[place]
            line, step = steps.get(data[:4], NO_STEP)
            if (
                step != len(data)
                or data[line : line + 6] != b"data: "
                or data[-4:] != b"\n\n\r\n"
                or data.count(b"\n") != 4
                or data.count(b"\r") != 2
                or step < line + 11
            ):
                return place
            answer.take([data[line + 6 : -4]], self._placed(reads[place + 1], reads[place + 2]))
        return len(reads)

    def _fold(self, data: bytes, at_ns: int) -> None:
        """Take one read through the parsers of chunks and events."""
        answer = self._answer
        if answer is None:
            head = self._head
            if head is None:
                return
            if self._body_at > len(data):
                self._body_at -= len(data)
                return
            prepared = self.prepared
            answer = self._answer = prepared.answer(
                prepared.request, head.status, head.reason, head.content_type
            )
            if self._whole is not None:
                answer.feed(self._whole, at_ns)
                return
            data = data[self._body_at :]
            self._unchunk = Chunked() if head.chunked else None
            self._body_left = head.length
        if self._unchunk is not None:
            pieces: list[bytes] = []
            try:
                self._unchunk.feed(data, pieces)
            finally:  # what came before a fault counts
                answer.feed(b"".join(pieces), at_ns)
            return
        if self._body_left is not None:
            data = data[: self._body_left]
            self._body_left -= len(data)
        answer.feed(data, at_ns)

    def reply(self) -> Reply:
        """The Reply of a finished exchange."""
        self.fold()
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


class QuittingExchange(Exchange):
    """One that is given up once so many tokens have come: its reads are understood as they come."""

    __slots__ = ("_after_tokens",)

    def __init__(
        self,
        prepared: Prepared,
        done: Callable[[Any], None],
        clock: StampClock,
        started_ns: int,
        after_tokens: int,
    ) -> None:
        super().__init__(prepared, done, clock, started_ns)
        self._after_tokens = after_tokens

    def take(self, data: bytes, stamp: bytes | None, now: int) -> bool:
        """Note one read; whether the answer is whole now. Raises BadReply, and Cancelled once enough has come."""
        if super().take(data, stamp, now) or (self._streaming and self.walk()):
            return True
        if self._head is not None:
            self.fold()
            if self._answer is not None and self._answer.tokens >= self._after_tokens:
                raise Cancelled(f"after {self._answer.tokens} tokens")
        return False
