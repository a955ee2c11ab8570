"""Odd things that come over HTTP, and the edges of ours that read them: heads, chunks, events, replies."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from hypothesis import strategies as st

from loadgen.drivers.answer import Answer
from loadgen.drivers.chat_answer import ChatAnswer
from loadgen.drivers.http1 import Chunked, take_head
from loadgen.drivers.sse import EventStream
from loadgen.load.sound import sound
from loadgen.request_records import Reply, Request
from loadgen.results.record_json import to_json

Edges = dict[str, tuple[st.SearchStrategy[Any], Callable[[Any], None]]]
ODD = st.one_of(
    st.sampled_from(
        [
            None,
            True,
            0,
            -1,
            2**31,
            2**63,
            2**64,
            1.5,
            float("inf"),
            float("nan"),
            "",
            "x",
            "\ud800",
            "nan",
            "<!--",
            "\0",
            [],
            {},
            [None],
            {"a": 1},
            [[1]],
            10**400,
        ]
    ),
    st.integers(),
    st.text(max_size=6),
)
# One level deep: what is read deeper is written out below. Deeper random trees cost milliseconds each.
JSON = st.one_of(ODD, st.lists(ODD, max_size=2), st.dictionaries(st.text(max_size=4), ODD, max_size=2))


def some(*names: str, **fields: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    """An object with some of these fields: odd values under ``names``."""
    return st.fixed_dictionaries({}, optional={**dict.fromkeys(names, JSON), **fields})


def spliced(*pieces: bytes) -> st.SearchStrategy[bytes]:
    """Pieces of the real thing between pieces of nothing, in any order."""
    part = st.one_of(st.sampled_from(pieces), st.binary(max_size=6))
    return st.lists(part, max_size=10).map(b"".join)


def blocks(data: bytes, size: int) -> list[bytes]:
    return [data[at : at + size] for at in range(0, len(data), size)]


HEADS = spliced(
    b"HTTP/1.1 200 OK\r\n",
    b"HTTP/1.1 100 Continue\r\n\r\n",
    b"Content-Length: ",
    b"5",
    b"1" * 5000,
    b"\r\n",
    b"\r\n\r\n",
    b"Transfer-Encoding: chunked\r\n",
    b"Content-Type: text/event-stream\r\n",
    b"Connection: close\r\n",
    b"HTTP/1.0 ",
)
CHUNKS = spliced(
    b"5\r\nhello\r\n",
    b"0\r\n\r\n",
    b"0\r\n",
    b"a;x=y\r\n",
    b"fffffffffffffff\r\n",
    b"\r\n",
    b"5\r\n",
    b"hello",
    b"+5\r\n",
    b"0x5\r\n",
    b"X: y\r\n",
)
EVENTS = spliced(
    b"data: ",
    b"data: {}\n\n",
    b"\n\n",
    b"\r\n",
    b"\r",
    b"event: error\n",
    b": ping\n\n",
    b"data: [DONE]\n\n",
    b"\xef\xbb\xbf",
)
USAGE = JSON | some("prompt_tokens", "completion_tokens", "total_tokens")
CHOICES = JSON | some("index", "text", "token_ids", "finish_reason", token_ids=st.lists(ODD, max_size=3))
REPLIES = some(choices=st.lists(CHOICES, max_size=3) | JSON, usage=USAGE, error=ODD, object=ODD)
DELTAS = JSON | some(
    "content",
    "reasoning",
    "refusal",
    "tool_calls",
    "function_call",
    tool_calls=st.lists(JSON | some(function=JSON), max_size=2),
)
CHATS = some(
    choices=st.lists(
        JSON | some(index=ODD, delta=DELTAS, message=DELTAS, finish_reason=ODD, token_ids=JSON), max_size=2
    ),
    usage=USAGE,
    error=ODD,
    object=ODD,
)
MESSAGES = st.sampled_from(
    [
        "message_start",
        "content_block_start",
        "content_block_delta",
        "message_delta",
        "message",
        "message_stop",
        "ping",
        "error",
        "x",
        5,
    ]
).flatmap(
    lambda kind: some(
        message=JSON | some(usage=USAGE),
        content_block=JSON,
        delta=JSON | some(stop_reason=ODD),
        content=st.lists(JSON, max_size=2),
        usage=USAGE | some("input_tokens", "output_tokens"),
        error=ODD,
    ).map(lambda found: {"type": kind, **found})
)


def head(data: bytes) -> None:
    take_head(data)


def chunks(data: bytes) -> None:
    for size in (1, 3, 1000):
        chunked = Chunked()
        for block in blocks(data, size):
            chunked.feed(block, [])


def events(data: bytes) -> None:
    stream = EventStream()
    for block in blocks(data, 3):
        stream.feed(block)
    stream.finish()


def fits(reply: Reply) -> None:
    """What is made of a reply fits the columns that it will be stored in."""
    got = sound(reply)
    assert all(type(token) is int and 0 <= token < 2**31 for token in got.first_tokens)
    assert len(got.token_ns) == len(got.tokens_per_arrival)
    to_json(got)


def answered(kind: type[Answer]) -> Callable[[Any], None]:
    """An edge: the object whole, and as a stream's only event."""

    def take(found: Any) -> None:
        body = json.dumps(found).encode()
        for content, data in (("application/json", body), ("text/event-stream", b"data: " + body + b"\n\n")):
            request = Request(
                seq=1,
                phase="measured",
                prompts=((1, 2),),
                output_tokens=3,
                stream=content != "application/json",
            )
            answer = kind(request, 200, "OK", content)
            answer.feed(data, 5)
            fits(answer.reply(sent_ns=1, end_ns=9, reads=1, lag_ns=None, error=None))

    return take


EDGES: Edges = {
    "HTTP head": (HEADS, head),
    "chunks": (CHUNKS, chunks),
    "SSE": (EVENTS, events),
    "JSON reply": (REPLIES, answered(Answer)),
    "chat reply": (CHATS, answered(ChatAnswer)),
    "messages reply": (MESSAGES, answered(ChatAnswer)),
}
