from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadgen.drivers.http1 import HEAD_LIMIT, LINE_LIMIT, Chunked, parse_head, take_head
from loadgen.errors import BadReply

# Data that looks like framing, of every size class that the fast path knows.
TRICKY = [
    b"\r\n",
    b"\r\n\r\n",
    b"0\r\n\r\n",
    b"\r\n0\r\n\r\n",
    b"a\r\n",
    b"data: x\n\n",
    b"ff\r\n",
    b"x" * 300,
    b"y" * 5000,
]
pieces = st.one_of(
    st.binary(min_size=1, max_size=40), st.lists(st.sampled_from(TRICKY), min_size=1).map(b"".join)
)


class SlowChunked:
    """The chunked coding as RFC 9112 section 7.1 writes it, one byte at a time."""

    def __init__(self) -> None:
        self.state, self.line, self.left, self.body, self.after = "size", b"", 0, b"", 0

    def feed(self, byte: bytes) -> None:
        if self.state == "end":
            self.after += 1
        elif self.state == "data":
            self.body += byte
            self.left -= 1
            if not self.left:
                self.state = "data end"
        else:
            self.line += byte
            if self.state == "data end" and not b"\r\n".startswith(self.line):
                raise BadReply("no line end behind the data")
            if self.line.endswith(b"\r\n"):
                line, self.line = self.line[:-2], b""
                self.end_line(line)

    def end_line(self, line: bytes) -> None:
        if self.state == "data end":
            self.state = "size"
        elif self.state == "trailer":
            self.state = "end" if not line else "trailer"
        else:
            size = line.partition(b";")[0].rstrip(b" \t")
            if (
                not size
                or len(size) > 15
                or set(size) - set(b"0123456789abcdefABCDEF")
                or b"\r" in line
                or b"\n" in line
            ):
                raise BadReply("no size")
            self.left = int(size, 16)
            self.state = "data" if self.left else "trailer"


@st.composite
def chunked_bodies(draw: st.DrawFn) -> tuple[bytes, bytes]:
    """(the body, its chunked form)"""
    parts = draw(st.lists(pieces, max_size=8))
    wire = b""
    for part in parts:
        size = draw(st.sampled_from([b"%x", b"%X", b"%04x", b"%x ", b"%x;a=b", b'%x ; q="z"'])) % len(part)
        wire += size + b"\r\n" + part + b"\r\n"
    wire += draw(st.sampled_from([b"0", b"000", b"0;last"])) + b"\r\n"
    wire += draw(st.sampled_from([b"", b"x-sum: 1\r\n", b"a: b\r\nc: d\r\n"])) + b"\r\n"
    return b"".join(parts), wire


def cut(data: bytes, places: list[int]) -> list[bytes]:
    edges = [0, *sorted(place % (len(data) + 1) for place in places), len(data)]
    return [data[a:b] for a, b in pairwise(edges)]


@given(chunked_bodies(), st.lists(st.integers(0, 10**6), max_size=12), st.binary(max_size=5))
def test_any_cut_gives_the_body_and_its_end(
    case: tuple[bytes, bytes], places: list[int], surplus: bytes
) -> None:
    body, wire = case
    reader, walker = Chunked(), Chunked()
    out: list[bytes] = []
    for piece in cut(wire + surplus, places):
        reader.feed(piece, out)
        walker.feed(piece)
    assert b"".join(out) == body
    assert reader.done
    assert walker.done
    assert reader.surplus == walker.surplus == len(surplus)


@given(chunked_bodies())
def test_the_end_is_seen_at_its_very_byte(case: tuple[bytes, bytes]) -> None:
    _, wire = case
    walker = Chunked()
    ends = [walker.feed(wire[i : i + 1]) for i in range(len(wire))]
    assert ends == [False] * (len(wire) - 1) + [True]


@given(
    chunked_bodies(),
    st.integers(0, 10**6),
    st.binary(min_size=0, max_size=2),
    st.lists(st.integers(0, 10**6), max_size=5),
)
def test_damaged_bodies_are_judged_like_byte_by_byte(
    case: tuple[bytes, bytes], place: int, new: bytes, places: list[int]
) -> None:
    _, wire = case
    place %= len(wire)
    wire = wire[:place] + new + wire[place + 1 :]
    slow, slow_failed = SlowChunked(), False
    try:
        for i in range(len(wire)):
            slow.feed(wire[i : i + 1])
    except BadReply:
        slow_failed = True
    fast, fast_failed, out = Chunked(), False, list[bytes]()
    try:
        for piece in cut(wire, places):
            fast.feed(piece, out)
    except BadReply:
        fast_failed = True
    assert fast_failed == slow_failed
    if not slow_failed:
        assert b"".join(out) == slow.body
        assert fast.done == (slow.state == "end")
        assert fast.surplus == slow.after


def test_a_size_line_without_end_is_refused() -> None:
    with pytest.raises(BadReply, match="longer than"):
        Chunked().feed(b"1" * (LINE_LIMIT + 1))


@pytest.mark.parametrize("size", [b"", b"x", b"-1", b"+1", b"1_0", b"0x1", b" 1", b"1" * 16])
def test_a_size_that_is_no_hex_number_is_refused(size: bytes) -> None:
    with pytest.raises(BadReply, match="malformed chunk size"):
        Chunked().feed(size + b"\r\nabc\r\n")


def test_a_size_line_needs_all_of_its_end() -> None:
    out: list[bytes] = []
    Chunked().feed(b"100\r\n" + b"x" * 256 + b"\r\n", out)
    with pytest.raises(BadReply, match="malformed chunk size"):
        Chunked().feed(b"100\rX" + b"x" * 256 + b"\r\n", out)


def test_heads() -> None:
    head = parse_head(
        b"HTTP/1.1 200 OK\r\nContent-Type: Text/Event-Stream; charset=utf-8\r\nTransfer-Encoding: Chunked\r\n\r\n"
    )
    assert (head.status, head.content_type, head.chunked, head.length, head.keep) == (
        200,
        "text/event-stream",
        True,
        None,
        True,
    )


@pytest.mark.parametrize(
    ("head", "keep"),
    [
        (b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\n", True),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\nconnection: keep-alive, Close\r\n\r\n", False),
        (b"HTTP/1.0 200 OK\r\ncontent-length: 3\r\n\r\n", False),
        (b"HTTP/1.0 200 OK\r\ncontent-length: 3\r\nConnection: Keep-Alive\r\n\r\n", True),
        (b"HTTP/1.1 200 OK\r\n\r\n", False),  # lasts until the connection closes
        (b"HTTP/1.1 204 No Content\r\n\r\n", True),
    ],
)
def test_whether_the_connection_can_be_kept(head: bytes, keep: bool) -> None:
    assert parse_head(head).keep is keep


def test_chunked_wins_over_a_length() -> None:
    head = parse_head(b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\ntransfer-encoding: chunked\r\n\r\n")
    assert head.chunked
    assert head.length is None


@pytest.mark.parametrize(
    "head",
    [
        b"",
        b"HTTP/2 200\r\n\r\n",
        b"SSH-2.0-OpenSSH\r\n\r\n",
        b"HTTP/1.1 20 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nnonsense\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: -1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: gzip, chunked\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\n\r\n",
    ],
)
def test_heads_that_cannot_be_read_are_refused(head: bytes) -> None:
    with pytest.raises(BadReply):
        take_head(head or b"\r\n\r\n")


def test_interim_heads_are_passed_over() -> None:
    interim = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n"
    final = b"HTTP/1.1 200\r\ncontent-length: 2\r\n\r\n"
    found = take_head(interim + final + b"ok")
    assert found is not None
    assert found[0].status == 200
    assert found[1] == len(interim + final)
    assert take_head(interim) is None


def test_a_head_without_end_is_refused() -> None:
    with pytest.raises(BadReply, match="longer than"):
        take_head(b"HTTP/1.1 200 OK\r\nx: " + b"y" * HEAD_LIMIT)


def test_a_blank_in_a_name_hides_no_length() -> None:
    with pytest.raises(BadReply, match="malformed header line"):
        take_head(b"HTTP/1.1 200 OK\r\nContent-Length : 5\r\n\r\nhello")


def test_a_length_of_thousands_of_digits_is_a_bad_reply() -> None:
    head = b"HTTP/1.1 200 OK\r\ncontent-length: " + b"9" * 5000 + b"\r\n\r\n"
    with pytest.raises(BadReply, match="bad Content-Length"):
        take_head(head)
