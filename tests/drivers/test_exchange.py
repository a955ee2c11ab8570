"""Whole answers, cut at any byte, against a byte-at-a-time reading of the same bytes."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from loadgen.drivers import exchange as subject
from loadgen.drivers.exchange import Exchange, Prepared
from loadgen.drivers.kernel_stamps import StampClock
from loadgen.errors import BadReply
from loadgen.request_records import Reply, Request

Cuts = list[int]
cuts = st.lists(st.integers(0, 10**6), max_size=15)


STREAM = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


def token(number: int = 1) -> bytes:
    return b'data: {"choices":[{"index":0,"text":"x","token_ids":[%d]}]}\n\n' % number


class SlowAnswer:
    """Reads an answer one byte at a time: head, framing, lines, events, tokens. Each byte knows when it arrived."""

    def __init__(self, sequences: int) -> None:
        self.counts = [0] * sequences
        self.arrivals: dict[int, int] = {}  # time → tokens
        self.buffer = b""
        self.stage = "head"
        self.chunked, self.left = False, -1
        self.line, self.after_cr, self.data = b"", False, list[bytes]()
        self.whole = False

    def byte(self, byte: bytes, at: int) -> None:
        if self.stage == "head":
            self.buffer += byte
            if self.buffer.endswith(b"\r\n\r\n"):
                head, self.buffer = self.buffer.lower(), b""
                if not head.startswith(b"http/1.1 1"):
                    self.chunked = b"chunked" in head
                    self.stage = "size" if self.chunked else "body"
                    if b"content-length:" in head:
                        self.left = int(head.split(b"content-length:")[1].split()[0])
        elif self.stage == "size":
            self.buffer += byte
            if self.buffer.endswith(b"\r\n"):
                self.left = int(self.buffer.partition(b";")[0], 16)
                self.stage, self.buffer = ("data" if self.left else "trailer"), b""
        elif self.stage == "trailer":
            self.buffer += byte
            if self.buffer == b"\r\n":
                self.whole = True
            elif self.buffer.endswith(b"\r\n"):
                self.buffer = b""
        elif self.stage == "crlf":
            if byte == b"\n":
                self.stage = "size"
        else:
            self.left -= 1
            self.body(byte, at)
            if self.left == 0 and self.chunked:
                self.stage = "crlf"
            elif self.left == 0:
                self.whole = True

    def body(self, byte: bytes, at: int) -> None:
        if self.after_cr and byte == b"\n":
            self.after_cr = False
            return
        self.after_cr = byte == b"\r"
        if byte not in (b"\r", b"\n"):
            self.line += byte
            return
        line, self.line = self.line, b""
        if line.startswith(b"data:"):
            self.data.append(line[5:].removeprefix(b" "))
        elif not line and self.data:
            data, self.data = b"\n".join(self.data), []
            if data != b"[DONE]":
                for choice in json.loads(data)["choices"]:
                    new = len(choice["token_ids"])
                    self.counts[choice["index"]] += new
                    if new:
                        self.arrivals[at] = self.arrivals.get(at, 0) + new


@st.composite
def answers(draw: st.DrawFn) -> tuple[int, bytes, bool]:
    """(sequences, the bytes of a whole streamed answer, whether only the connection's end ends it)"""
    sequences = draw(st.integers(1, 3))
    end = draw(st.sampled_from([b"\n", b"\r\n", b"\r"]))
    blocks: list[bytes] = []
    for _ in range(draw(st.integers(0, 6))):
        if draw(st.booleans()):
            blocks.append(draw(st.sampled_from([b": ping", b":", b"id: 3", b"event: message"])) + end + end)
        choices = [
            {
                "index": index,
                "text": draw(st.sampled_from(["x", "é", "\r\n0\r\n\r\n"])),
                "token_ids": [7] * tokens,
            }
            for index in range(sequences)
            if (tokens := draw(st.integers(0, 3))) or draw(st.booleans())
        ]
        text = json.dumps({"choices": choices}, indent=draw(st.sampled_from([None, None, 1])))
        blocks.append(b"".join(b"data: " + line.encode() + end for line in text.split("\n")) + end)
    ends = [
        {"index": index, "text": "", "token_ids": [], "finish_reason": "length"} for index in range(sequences)
    ]
    last = {"choices": ends, "usage": {"prompt_tokens": 4, "completion_tokens": 5}}
    blocks.append(b"data: " + json.dumps(last).encode() + end + end)
    blocks.append(b"data: [DONE]" + end + end)
    head = (
        draw(st.sampled_from([b"", b"HTTP/1.1 100 Continue\r\n\r\n"]))
        + b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream"
    )
    how = draw(st.sampled_from(["chunked", "length", "close"]))
    if how == "close":
        return sequences, head + b"\r\n\r\n" + b"".join(blocks), True
    if how == "length":
        body = b"".join(blocks)
        return sequences, head + b"\r\nContent-Length: %d\r\n\r\n" % len(body) + body, False
    body = b"".join(blocks)
    edges = [0, *sorted(place % len(body) for place in draw(cuts)), len(body)]
    parts = blocks if draw(st.booleans()) else [body[a:b] for a, b in pairwise(edges) if a < b]
    ext = draw(st.sampled_from([b"", b";x=1"]))
    wire = b"".join(b"%x%s\r\n%s\r\n" % (len(part), ext, part) for part in parts)
    tail = b"0\r\n" + draw(st.sampled_from([b"", b"x-sum: 1\r\n"])) + b"\r\n"
    return sequences, head + b"\r\nTransfer-Encoding: chunked\r\n\r\n" + wire + tail, False


def begin(sequences: int = 1, seq: int = 0, tokens: int = 5) -> Exchange:
    request = Request(seq=seq, phase="measured", prompts=((1,),) * sequences, output_tokens=tokens)
    return Exchange(Prepared(request, b""), lambda _: None, StampClock(), 1)


def cut(wire: bytes, places: Cuts) -> list[bytes]:
    edges = [0, *sorted(place % len(wire) for place in places), len(wire)]
    return [wire[a:b] for a, b in pairwise(edges) if a < b]


def check(sequences: int, reads: list[bytes], until_close: bool) -> Reply:
    """Feed the reads at 100, 200, …; the end must be seen with the last of them, and not before."""
    fast, slow = begin(sequences), SlowAnswer(sequences)
    for place, data in enumerate(reads):
        at = 100 * (place + 1)
        for i in range(len(data)):
            slow.byte(data[i : i + 1], at)
        assert fast.take(data, None, at) == slow.whole
    assert slow.whole != until_close
    assert fast.close() is until_close or slow.whole
    reply = fast.reply()
    assert reply.error is None
    assert reply.output_tokens == tuple(slow.counts)
    assert reply.token_ns == tuple(slow.arrivals)
    assert reply.tokens_per_arrival == tuple(slow.arrivals.values())
    assert reply.end_ns == 100 * len(reads)
    assert reply.reads == len(reads)
    assert (reply.usage_prompt_tokens, reply.usage_output_tokens) == (4, 5)
    return reply


def with_ids(case: tuple[int, bytes, bool]) -> bool:
    return b'"token_ids"' in case[1]


@given(answers().filter(with_ids), cuts)
def test_any_cut_gives_the_reply_of_a_byte_at_a_time_reading(
    case: tuple[int, bytes, bool], places: Cuts
) -> None:
    sequences, wire, until_close = case
    check(sequences, cut(wire, places), until_close)


ODD = [
    b": ping\n\n",
    b"data: [DONE]\n\n",
    b"data:\n\n",
    b"data: \n\n",
    b"\n\n",
    b"id: 4\ndata: {}",
    b"data: x",
    b"data: {}\r\n\n",
    b'data: {"choices":\r []}\n\n',
    b": " + chunk(token()) + b"\n\n",
]


@st.composite
def paced_answers(draw: st.DrawFn) -> list[bytes]:
    """The reads of a stream, mostly one chunk each with one event, as a paced server sends them."""
    texts = ["x", "é", "", "\r\n0\r\n\r\n", "y" * 200]
    reads = [STREAM]
    for _ in range(draw(st.integers(1, 12))):
        ids = [7] * draw(st.integers(0, 2))
        data = json.dumps({"choices": [{"index": 0, "text": draw(st.sampled_from(texts)), "token_ids": ids}]})
        event = (
            b"data: "
            + data.encode()
            + draw(st.sampled_from([b"\n\n"] * 8 + [b"\r\n\r\n", b"\n", b"\n\n\n", b"\r\r"]))
        )
        if draw(st.integers(0, 9)) == 0:
            event = draw(st.sampled_from([event + event, event[:9], *ODD]))
        wire = chunk(event)
        at = draw(st.one_of(st.just(0), st.just(0), st.integers(0, len(wire))))
        reads += [piece for piece in (wire[:at], wire[at:]) if piece]
    return reads


def fold_reply(reads: list[bytes], keep: int, *, short_cut: bool) -> Reply:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(subject, "FOLD_READS", keep)
        if not short_cut:
            patch.setattr(Exchange, "_fold_plain", lambda self, answer, reads, at: at)
        fast = begin()
        for place, data in enumerate([*reads, chunk(b"data: [DONE]\n\n"), b"0\r\n\r\n"]):
            whole = fast.take(data, None, 100 * (place + 1))
        assert whole
        return fast.reply()


@given(paced_answers(), st.sampled_from([1, 3, 1000]))
@example([STREAM, chunk(token()), chunk(token() + token()), chunk(token())], 1000)
def test_the_short_cut_for_paced_streams_changes_nothing(reads: list[bytes], keep: int) -> None:
    fold_reply(reads, keep, short_cut=False)  # sizes of chunks are learnt where they are met
    assert fold_reply(reads, keep, short_cut=True) == fold_reply(reads, keep, short_cut=False)


@pytest.mark.parametrize("event", ODD)
def test_the_short_cut_leaves_odd_events_alone(event: bytes) -> None:
    reads = [STREAM, chunk(token()), chunk(event), chunk(token())]
    fold_reply(reads, 1000, short_cut=False)
    assert fold_reply(reads, 1000, short_cut=True) == fold_reply(reads, 1000, short_cut=False)


def test_a_whole_chunk_within_a_chunk_is_data() -> None:
    """It brings its token, as a line of its own; but what comes behind it still belongs to the outer chunk."""
    inner = chunk(token(5))
    outer = chunk(b": c\n\n" + inner + b"\n\n" + token(6))
    start = outer.index(inner)
    fast = begin(tokens=3)
    for at, data in enumerate(
        [
            STREAM + inner,
            outer[:start],
            inner,
            outer[start + len(inner) :] + chunk(token(7)[:20]),
            chunk(token(7)[20:]),
            chunk(b"data: [DONE]\n\n") + b"0\r\n\r\n",
        ]
    ):
        whole = fast.take(data, None, at)
    assert whole
    reply = fast.reply()
    assert reply.error is None
    assert reply.first_tokens == (5, 5, 6, 7)


@given(answers().filter(with_ids), st.integers(1, 3), st.integers(1, 3))
def test_the_same_while_reads_are_folded_away_in_mid_stream(
    case: tuple[int, bytes, bool], keep: int, size: int
) -> None:
    sequences, wire, until_close = case
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(subject, "FOLD_READS", keep)
        check(sequences, [wire[i : i + size] for i in range(0, len(wire), size)], until_close)


@given(answers().filter(with_ids), cuts, st.integers(0, 10**6))
@example((1, b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n", True), [], 1)
def test_an_early_end_is_no_whole_answer(case: tuple[int, bytes, bool], places: Cuts, end: int) -> None:
    sequences, wire, until_close = case
    end %= len(wire)
    fast = begin(sequences)
    for place, data in enumerate(cut(wire[:end], places) if end else []):
        assert not fast.take(data, None, 100 * (place + 1))
    head_came = wire.find(b"\r\n\r\n", wire.find(b"HTTP/1.1 200")) + 4 <= end
    assert fast.close() is (until_close and head_came)
    if not fast.answered:
        return
    fast.fail(BadReply("cut short"), 5)
    reply = fast.reply()
    assert reply.error == "BadReply: cut short"
    assert sum(reply.tokens_per_arrival) == sum(reply.output_tokens or ())


def test_data_that_looks_like_the_end_is_data() -> None:
    fake = b"data: x\r\n0\r\n\r\n"
    fast = begin()
    wire = chunk(b": " + fake + token())
    first = wire.index(b"0\r\n\r\n") + 5
    assert fast.take(STREAM, None, 1) is False
    assert fast.take(wire[:first], None, 2) is False  # ends as a body ends
    assert fast.take(wire[first:], None, 3) is False
    assert fast.take(b"0\r\n\r\n", None, 4) is True


@pytest.mark.parametrize("surplus", [b"HTTP/1.1 408 Request Timeout\r\n\r\n", b"x"])
def test_bytes_behind_the_end_spoil_the_connection_and_not_the_answer(surplus: bytes) -> None:
    wire = STREAM + chunk(token()) + chunk(b"data: [DONE]\n\n") + b"0\r\n\r\n"
    fast = begin(tokens=1)
    if not fast.take(wire + surplus, None, 7):
        assert fast.walk()  # seen at the latest when a limit has passed, or at the connection's end
    assert not fast.keep
    assert fast.reply().output_tokens == (1,)
    assert fast.reply().error is None


def test_bytes_behind_a_known_length_are_cut_off() -> None:
    body = json.dumps({"choices": [{"index": 0, "token_ids": [1, 2]}]}).encode()
    head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(body)
    fast = begin(tokens=2)
    assert fast.take(head + body[:5], None, 1) is False
    assert fast.keep
    assert fast.take(body[5:] + b"more", None, 2) is True
    assert not fast.keep
    assert fast.reply().output_tokens == (2,)


def test_a_long_stream_keeps_little() -> None:
    fast = begin(tokens=2000)
    fast.take(STREAM, None, 1)
    kept = 0
    for number in range(2000):
        fast.take(chunk(token(number)), None, 2 + number)
        kept = max(kept, len(fast._reads) // 3)
    assert kept <= subject.FOLD_READS + 129
    assert fast.take(chunk(b"data: [DONE]\n\n") + b"0\r\n\r\n", None, 9000)
    reply = fast.reply()
    assert reply.output_tokens == (2000,)
    assert reply.token_ns == tuple(range(2, 2002))
    assert reply.reads == 2002
    assert fast.last_ns == 9000


def test_a_malformed_body_is_told_where_it_is_met() -> None:
    fast = begin()
    fast.take(STREAM, None, 1)
    fast.take(chunk(token()), None, 2)
    with pytest.raises(BadReply, match="chunk"):
        fast.take(b"nonsense\r\n\r\n", None, 3)
    fast.fail(BadReply("malformed"), 4)
    reply = fast.reply()
    assert reply.output_tokens == (1,)
    assert reply.error == "BadReply: malformed"


def test_what_only_understanding_finds_becomes_the_error() -> None:
    fast = begin()
    fast.take(STREAM + chunk(b": a"), None, 1)
    fast.take(b"3\r\n: bXX", None, 2)  # as long as a chunk seen before, and none
    assert fast.take(b"0\r\n\r\n", None, 3)
    assert fast.reply().error == "BadReply: a chunk does not end where its size says"


def test_kernel_stamps_become_arrival_times_and_lag() -> None:
    clocks: Any = _Clocks()
    request = Request(seq=0, phase="measured", prompts=((1,),), output_tokens=2)
    fast = Exchange(Prepared(request, b""), lambda _: None, StampClock(clocks.monotonic, clocks.realtime), 1)
    fast.take(STREAM, clocks.stamp(50), 60)
    fast.take(chunk(token()), clocks.stamp(100), 130)
    fast.take(chunk(token()), None, 200)  # one read that the kernel did not stamp
    fast.take(chunk(b"data: [DONE]\n\n") + b"0\r\n\r\n", clocks.stamp(300), 310)
    reply = fast.reply()
    assert reply.token_ns == (100, 200)
    assert reply.end_ns == 300
    assert reply.lag_ns == 30


class _Clocks:
    """Two clocks that stand still, a billion seconds apart."""

    def monotonic(self) -> int:
        return 1000

    def realtime(self) -> int:
        return 10**18 + 1000

    def stamp(self, monotonic_ns: int) -> bytes:
        import struct

        return struct.pack("qq", *divmod(10**18 + monotonic_ns, 10**9))
