"""HTTP/1.1 as bytes: heads and message framing, without sockets and without clocks (RFC 9112)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

from loadgen.errors import BadReply
from loadgen.urls import without_secrets

HEAD_LIMIT = 64 * 1024
LINE_LIMIT = 8 * 1024
# A kept connection that is lost so soon behind a request was closed before the server saw it, and the request may be
# sent once more. What took longer was the server's own doing, and sending it again would hide it.
STALE_NS = 100_000_000
HEAD_END = b"\r\n\r\n"
MOST_DIGITS = 18  # of a Content-Length

_STATUS_LINE = re.compile(rb"HTTP/1\.([01]) ([1-9][0-9]{2})(?: ([^\r\n]*))?")
_CHUNK_SIZE = re.compile(rb"([0-9a-fA-F]{1,15})[ \t]*(?:;[^\r\n]*)?")


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """What a response head says about its body.

    ``length`` is ``None`` when no Content-Length was given; a body that is neither ``chunked`` nor of known length
    lasts until the connection closes. ``keep`` tells whether the connection may serve another request.
    """

    status: int
    reason: str
    content_type: str
    length: int | None
    chunked: bool
    keep: bool


def _told(line: bytes) -> str:
    """The beginning of a line, without a key that the server repeats: cut within one, nobody would know it."""
    return repr(without_secrets(line)[:80])


@lru_cache(maxsize=64)  # a server's heads repeat byte for byte within one second of their Date
def parse_head(head: bytes) -> Head:
    """Parse one response head, status line to blank line. Raises BadReply when it is not HTTP/1.x."""
    lines = head.removesuffix(HEAD_END).split(b"\r\n")
    status_line = _STATUS_LINE.fullmatch(lines[0])
    if status_line is None:
        raise BadReply(f"not an HTTP/1.x status line: {_told(lines[0])}")
    minor, status, reason = status_line.groups()
    code = int(status)
    length: int | None = None
    chunked = False
    keep = minor == b"1"
    content_type = ""
    for line in lines[1:]:
        name, colon, value = line.partition(b":")
        if not colon or name != name.strip():  # a length that is not seen would be waited for
            raise BadReply(f"malformed header line: {_told(line)}")
        name, value = name.lower(), value.strip()
        if name == b"content-length":
            # Python itself refuses to read thousands of digits, by an exception that is no BadReply.
            known = len(value) <= MOST_DIGITS and value.isdigit()
            if not known or (length is not None and length != int(value)):
                raise BadReply(f"bad Content-Length: {_told(value)}")
            length = int(value)
        elif name == b"transfer-encoding":
            if value.lower() != b"chunked":
                raise BadReply(f"Transfer-Encoding {_told(value)} is not supported (only chunked)")
            chunked = True
        elif name == b"content-encoding":
            if value.lower() != b"identity":
                raise BadReply(f"Content-Encoding {_told(value)} was not asked for")
        elif name == b"connection":
            options = {option.strip() for option in value.lower().split(b",")}
            keep = b"close" not in options and (keep or b"keep-alive" in options)
        elif name == b"content-type":
            content_type = value.decode("latin-1").partition(";")[0].strip().lower()
    if code in (204, 304):
        length, chunked = 0, False
    return Head(
        status=code,
        reason=(reason or b"").decode("latin-1").strip(),
        content_type=content_type,
        length=None if chunked else length,
        chunked=chunked,
        keep=keep and (chunked or length is not None),
    )


def take_head(data: bytes) -> tuple[Head, int] | None:
    """The final response head in ``data`` and where its body starts; interim 1xx heads before it are passed over.

    ``None`` while the head is incomplete. Raises BadReply when it is malformed or never ends.
    """
    start = 0
    while True:
        end = data.find(HEAD_END, start)
        if end < 0:
            if len(data) - start > HEAD_LIMIT:
                raise BadReply(f"response head longer than {HEAD_LIMIT} bytes")
            return None
        end += len(HEAD_END)
        head = parse_head(data[start:end])
        if head.status == 101:
            raise BadReply("the server switched protocols unasked (101)")
        if head.status >= 200:
            return head, end
        start = end


# The first four bytes of a chunk whose size line has up to three plain hex digits → (its size line, the whole chunk
# with its line end) in bytes. Filled as sizes are met; one slice and one look-up then step over a chunk.
STEPS: dict[bytes, tuple[int, int]] = {}
NO_STEP = (0, 0)
_LAST = b"0\r\n\r\n"


class Chunked:
    """Undoes the chunked transfer coding, for input cut at any byte.

    ``feed`` can be called without ``out``, to find the end of the body alone: then it costs one dictionary look-up
    per chunk. It never takes data for framing, since it steps from size line to size line. ``done`` is set at the blank
    line that ends the body; ``surplus`` then counts the bytes that came after it.
    """

    __slots__ = ("_held", "_left", "_trailer", "done", "surplus")

    def __init__(self) -> None:
        self._left = 0  # bytes of the current chunk not seen yet, its CRLF included
        self._held = b""  # an unfinished size or trailer line
        self._trailer = False
        self.done = False
        self.surplus = 0

    @property
    def between_chunks(self) -> bool:
        """Whether the next byte begins a size line."""
        return not (self._left or self._held or self._trailer or self.done)

    def feed(self, data: bytes, out: list[bytes] | None = None) -> bool:
        """Take the next bytes, append the body's pieces to ``out``; returns ``done``. Raises BadReply."""
        if self._held:
            data = self._held + data
            self._held = b""
        at = 0
        size = len(data)
        if self._left:
            at = self._finish_chunk(data, out)
        if self.done:
            self.surplus += size
            return True
        steps = STEPS
        while at < size:
            if not self._trailer:
                try:  # as long as chunks are plain and whole
                    if out is None:
                        while True:
                            at += steps[data[at : at + 4]][1]
                    while True:
                        line_size, step = steps[data[at : at + 4]]
                        end = at + step
                        if end > size:
                            break
                        if data[end - 2 : end] != b"\r\n":
                            raise BadReply("a chunk does not end where its size says")
                        if line_size == 5 and data[at + 4] != 10:  # the key held its CR, but not its LF
                            break
                        out.append(data[at + line_size : end - 2])
                        at = end
                except KeyError:
                    if at >= size:
                        break
                    if data.startswith(_LAST, at):
                        self.done = True
                        self.surplus = size - at - len(_LAST)
                        return True
            end = data.find(b"\r\n", at)
            if end < 0:
                if size - at > LINE_LIMIT:
                    raise BadReply(f"chunk size or trailer line longer than {LINE_LIMIT} bytes")
                self._held = data[at:]
                return False
            line = data[at:end]
            if not self._trailer:
                at = self._open_chunk(data, at, end, line, out)
                continue
            at = end + 2
            if not line:
                self.done = True
                self.surplus = size - at
                return True
        self._left = self._left or at - size
        return False

    def _open_chunk(self, data: bytes, at: int, end: int, line: bytes, out: list[bytes] | None) -> int:
        """Read one size line and what there is of its chunk; returns where the next line starts."""
        match = _CHUNK_SIZE.fullmatch(line)
        if match is None:
            raise BadReply(f"malformed chunk size: {_told(line)}")
        length = int(match[1], 16)
        if length == 0:
            self._trailer = True
            return end + 2
        if len(line) <= 3 and len(line) == len(match[1]) and at + 4 <= len(data):
            STEPS[data[at : at + 4]] = (len(line) + 2, len(line) + 2 + length + 2)
        self._left = length + 2
        return end + 2 + self._finish_chunk(data[end + 2 : end + 2 + self._left], out)

    def _finish_chunk(self, data: bytes, out: list[bytes] | None) -> int:
        """Take the rest of the open chunk, or as much of it as there is; returns how much was taken."""
        taken = min(self._left, len(data))
        body = min(max(self._left - 2, 0), taken)
        if body and out is not None:
            out.append(data[:body])
        if taken > body:
            expected = b"\r\n" if self._left >= 2 else b"\n"
            if not expected.startswith(data[body:taken]):
                raise BadReply("a chunk does not end where its size says")
        self._left -= taken
        return taken
