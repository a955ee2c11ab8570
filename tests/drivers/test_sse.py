from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadgen.drivers.sse import MOST_EVENT, EventStream


class SlowEvents:
    """WHATWG HTML section 9.2.6, one byte at a time."""

    def __init__(self) -> None:
        self.line, self.after_cr = b"", False
        self.lines: list[bytes] = []
        self.kind = b""
        self.begun = False
        self.events: list[bytes] = []
        self.failed: bytes | None = None

    def feed(self, byte: bytes) -> None:
        if self.after_cr and byte == b"\n":
            self.after_cr = False
            return
        self.after_cr = byte == b"\r"
        if byte not in (b"\r", b"\n"):
            self.line += byte
            return
        line, self.line = self.line, b""
        if not self.begun:
            line, self.begun = line.removeprefix(b"\xef\xbb\xbf"), True
        self.end_line(line)

    def end_line(self, line: bytes) -> None:
        if not line:
            data = b"\n".join(self.lines)
            known = not self.kind or data.lstrip().startswith(b"{") or data.strip() == b"[DONE]"
            if self.kind == b"error" and self.failed is None:
                self.failed, known = data, True
            if data and known:  # ours: a ping has a type and no object of JSON
                self.events.append(data)
            self.lines, self.kind = [], b""
            return
        name, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if name == b"data":
            self.lines.append(value)
        elif name == b"event":
            self.kind = value


LINES = [
    b"data: one",
    b"data:two",
    b"data:  three",
    b"data",
    b"data:",
    b"data: [DONE]",
    b": comment",
    b":",
    b"event: error",
    b"event: message",
    b"id: 7",
    b"retry: 9",
    b"unknown: field",
    b"\xef\xbb\xbfdata: marked",
    b"data: \xc3\xa9",
    b"",
    b"",
]
streams = st.lists(
    st.tuples(st.sampled_from(LINES), st.sampled_from([b"\n", b"\r\n", b"\r"])), max_size=20
).map(lambda lines: b"".join(line + end for line, end in lines))
plain_streams = st.lists(
    st.sampled_from([b"data: x\n\n", b"data: {}\n\n", b": ping\n\n", b"\n", b"data: a\ndata: b\n\n"])
).map(b"".join)


def cut(data: bytes, places: list[int]) -> list[bytes]:
    edges = [0, *sorted(place % (len(data) + 1) for place in places), len(data)]
    return [data[a:b] for a, b in pairwise(edges)]


@given(st.one_of(streams, plain_streams), st.lists(st.integers(0, 10**6), max_size=12))
def test_any_cut_gives_the_events_of_a_byte_at_a_time_parser(stream: bytes, places: list[int]) -> None:
    slow = SlowEvents()
    fast = EventStream()
    for block in cut(stream, places):
        for i in range(len(block)):
            slow.feed(block[i : i + 1])
        before = len(slow.events)
        fast_events = fast.feed(block)
        assert fast_events == slow.events[before - len(fast_events) : before]
        assert fast.failed == slow.failed
    rebuilt = EventStream()
    assert [event for block in cut(stream, places) for event in rebuilt.feed(block)] == slow.events


def test_a_last_event_without_its_blank_line_counts_once_the_body_is_whole() -> None:
    events = EventStream()
    assert events.feed(b"data: a\n\ndata: b\n") == [b"a"]
    assert events.finish() == [b"b"]
    assert events.finish() == []


def test_an_error_event_is_told_apart() -> None:
    events = EventStream()
    assert events.feed(b'event: error\ndata: {"message": "no"}\n\n') == [b'{"message": "no"}']
    assert events.failed == b'{"message": "no"}'


def test_an_event_without_an_end_is_held_in_linear_time_and_not_for_ever() -> None:
    stream = EventStream()
    block = b"a" * (1 << 20)
    for _ in range(MOST_EVENT >> 20):
        assert stream.feed(block) == []
    assert len(stream.held) == MOST_EVENT
    assert stream.failed is None
    assert stream.feed(block) == []
    assert stream.failed == b"an event of more than 64 MiB"
    assert stream.held == b""


@pytest.mark.parametrize("cut", range(1, 12))
def test_an_end_between_two_blocks_is_seen(cut: int) -> None:
    stream, body = EventStream(), b"data: a\n\ndata: b\n\n"
    found = [*stream.feed(body[:3]), *stream.feed(b""), *stream.feed(body[3:cut] if cut > 3 else b"")]
    found += stream.feed(body[max(cut, 3) :])
    assert found == [b"a", b"b"]
