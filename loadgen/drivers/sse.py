"""Server-sent events out of a byte stream that may be cut anywhere (WHATWG HTML, section 9.2)."""

from __future__ import annotations

_BOM = b"\xef\xbb\xbf"
KEEP_ALIVE = frozenset({b"ping", b"heartbeat", b"keepalive", b"keep-alive", b"keep_alive"})  # types of events
MOST_EVENT = 64 << 20  # bytes: the ids of a whole batch may come as one


class EventStream:
    """Splits a stream into the data of its events.

    ``feed`` returns the data of every event that the block completes; an event is complete at the blank line behind
    it. Lines end in LF, CRLF or CR; comments, ``id`` and ``retry`` are dropped; several data lines are joined by LF.
    ``failed`` is the data of the first event whose type is ``error``; one that keeps the stream alive is dropped, and
    so is one of another type that holds no JSON object.
    """

    __slots__ = ("_after_cr", "_first", "_rest", "_size", "failed")

    def __init__(self) -> None:
        self._rest: list[
            bytes
        ] = []  # not joined before its end has come: that would take the square of its length
        self._size = 0
        self._after_cr = False
        self._first = True
        self.failed: bytes | None = None

    @property
    def between_events(self) -> bool:
        """Whether the next byte begins an event."""
        return not (self._rest or self._after_cr or self._first)

    @property
    def held(self) -> bytes:
        """What came of an event that is not complete yet."""
        return b"".join(self._rest)

    def feed(self, block: bytes) -> list[bytes]:
        """The data of the events that end in ``block``."""
        if self._after_cr or b"\r" in block:
            block = self._line_feeds(block)
        if not block:
            return []
        if self._rest:
            if b"\n\n" not in block and not (block[:1] == b"\n" and self._rest[-1][-1:] == b"\n"):
                self._hold(block)
                return []
            block = b"".join((*self._rest, block))
        pieces = block.split(b"\n\n")
        rest = pieces.pop()
        self._rest, self._size = [rest] if rest else [], len(rest)
        if block.count(b"\n") == 2 * len(pieces):  # one line each
            events = [piece[6:] for piece in pieces if piece[:6] == b"data: " and len(piece) > 6]
            if len(events) == len(pieces):
                self._first = self._first and not events
                return events
        return [data for piece in pieces if (data := self._parse(piece)) is not None]

    def finish(self) -> list[bytes]:
        """The data of a last event that lacks its blank line, once the whole body has come.

        The standard drops such an event. Its tokens were received all the same, and servers exist that forget the
        last blank line, so here it counts.
        """
        rest, self._rest = self.held, []
        data = self._parse(rest) if rest else None
        return [] if data is None else [data]

    def _hold(self, block: bytes) -> None:
        """Keep one more block of an event whose end has not come."""
        self._size += len(block)
        if self._size <= MOST_EVENT:
            self._rest.append(block)
        elif self.failed is None:
            self.failed, self._rest = b"an event of more than %d MiB" % (MOST_EVENT >> 20), []

    def _line_feeds(self, block: bytes) -> bytes:
        """Turn CRLF and CR into LF. A CR ends its line at once; an LF that follows in the next block is skipped."""
        if self._after_cr and block:
            block = block.removeprefix(b"\n")
            self._after_cr = False
        if block.endswith(b"\r"):
            self._after_cr = True
        return block.replace(b"\r\n", b"\n").replace(b"\r", b"\n")

    def _parse(self, piece: bytes) -> bytes | None:
        """The data of one event given as its lines; ``None`` when it has none."""
        if self._first:
            piece = piece.removeprefix(_BOM)
            self._first = False
        lines = []
        kind = b""
        for line in piece.split(b"\n"):
            name, _, value = line.partition(b":")
            if name == b"data":
                lines.append(value.removeprefix(b" "))
            elif name == b"event":
                kind = value.removeprefix(b" ")
        data = b"\n".join(lines) if lines else None
        if kind == b"error" and self.failed is None:
            self.failed = data or b""
        elif kind.strip().lower() in KEEP_ALIVE or (
            kind and data and data.lstrip()[:1] != b"{" and data.strip() != b"[DONE]"
        ):
            return None
        return data or None
