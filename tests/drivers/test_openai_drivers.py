"""What both OpenAI drivers do alike, against scripted servers on real sockets."""

from __future__ import annotations

import asyncio
import socket
import time
from itertools import pairwise
from typing import Any

import pytest

from loadgen.drivers.openai import make_driver
from loadgen.errors import ConnectFailed
from loadgen.load_records import Timeouts
from loadgen.request_records import Reply, Request

QUICK = Timeouts(connect_s=5.0, first_byte_s=5.0, between_bytes_s=5.0, total_s=20.0)

both = pytest.mark.parametrize("transport", ["raw", "httpx"])

LIMITS = {"connect_s": 5.0, "first_byte_s": 5.0, "between_bytes_s": 5.0, "total_s": 5.0}

LARGE = tuple(tuple(range(row, row + 2048)) for row in range(512))  # about 6 MB of JSON


def request(seq: int = 0, tokens: int = 3, *, stream: bool = True, prompts: Any = ((5, 6, 7),)) -> Request:
    return Request(seq=seq, phase="measured", prompts=prompts, output_tokens=tokens, stream=stream)


def half(peer: Any, found: Any) -> None:
    peer.stream_head()
    peer.token(1)
    raise ConnectionError


def half_a_length(peer: Any, found: Any) -> None:
    peer.send(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncontent-length: 500\r\n\r\n")
    peer.send(b'data: {"choices":[{"index":0,"text":"x","token_ids":[1]}]}\n\n')
    raise ConnectionError


@both
@pytest.mark.parametrize("stale", [True, False])
def test_what_a_lost_connection_took_is_not_hidden(
    send: Any, serve: Any, monkeypatch: pytest.MonkeyPatch, transport: str, stale: bool
) -> None:
    """A kept connection that ends at once was stale, and its request is sent again, with the time that this took; one
    that ends after a while was ended by the server, for this request."""
    monkeypatch.setattr(f"loadgen.drivers.openai_{transport}.STALE_NS", 10**15 if stale else 0)
    came: list[int] = []

    def script(peer: Any) -> None:
        while True:
            _, body = peer.request()
            if body is None:
                peer.page("404 Not Found", {})
                continue
            came.append(time.monotonic_ns())
            if len(came) == 2:
                return
            peer.stream(1)

    _, reply = send(serve(script).url, [request(seq, 1) for seq in range(2)], transport=transport)
    if stale:
        assert reply.error is None
        assert len(came) == 3
        assert reply.sent_ns <= came[1]
    else:
        assert reply.error is not None
        assert reply.error.startswith("ConnectFailed: ")
        assert len(came) == 2


@both
@pytest.mark.parametrize("stream", [True, False])
def test_requests_share_a_connection_and_come_back_counted(
    send: Any, serve: Any, transport: str, stream: bool
) -> None:
    def answer(peer: Any, found: Any) -> None:
        server.notes.put(found)
        if found["stream"]:
            peer.stream(found["max_tokens"])
        else:
            choice = {"index": 0, "text": "x", "token_ids": [0, 1, 2], "finish_reason": "length"}
            peer.page("200 OK", {"choices": [choice], "usage": {"prompt_tokens": 3, "completion_tokens": 3}})

    server = serve(answer=answer)
    replies = send(server.url, [request(seq, stream=stream) for seq in range(4)], transport=transport)
    for seq, reply in enumerate(replies):
        assert reply.error is None
        assert reply.seq == seq
        assert reply.output_tokens == (3,)
        assert reply.counted_by == "ids"
        assert reply.first_tokens == (0, 1, 2)
        assert (reply.usage_prompt_tokens, reply.usage_output_tokens) == (3, 3)
        assert sum(reply.tokens_per_arrival) == (3 if stream else 0)
        assert list(reply.token_ns) == sorted(reply.token_ns)
        assert all(reply.sent_ns <= at <= reply.end_ns for at in reply.token_ns)
        assert reply.sent_ns < reply.end_ns
        assert reply.reads > 0
    assert [a.end_ns <= b.sent_ns for a, b in pairwise(replies)] == [True] * 3
    # One more may be the look whether anybody listens.
    assert server.connections <= (2 if transport == "raw" else 1)
    body = server.notes.get()
    assert body["prompt"] == [5, 6, 7]
    assert body["model"] == "tiny"
    assert (body["min_tokens"], body["ignore_eos"], body["return_token_ids"]) == (3, True, True)
    assert body["temperature"] == 0
    assert body.get("stream_options") == ({"include_usage": True} if stream else None)


@both
def test_a_batch_is_one_call(send: Any, serve: Any, transport: str) -> None:
    def answer(peer: Any, found: Any) -> None:
        peer.stream_head()
        for step in range(found["max_tokens"]):
            choices = [{"index": i, "text": "x", "token_ids": [step]} for i in range(len(found["prompt"]))]
            peer.event({"choices": choices})
        peer.stream_end(6)

    server = serve(answer=answer)
    (reply,) = send(server.url, [request(prompts=((1, 2), (3, 4)))], transport=transport)
    assert reply.error is None
    assert reply.output_tokens == (3, 3)
    assert sum(reply.tokens_per_arrival) == 6


@both
def test_more_requests_than_connections_are_all_sent(send: Any, serve: Any, transport: str) -> None:
    server = serve(answer=lambda peer, found: peer.stream(found["max_tokens"]))
    replies = send(
        server.url, [request(seq) for seq in range(20)], transport=transport, connections=2, together=True
    )
    assert [reply.error for reply in replies] == [None] * 20
    assert server.connections > 2


@both
@pytest.mark.parametrize(
    ("status", "found", "error"),
    [
        ("400 Bad Request", {"error": {"message": "too long"}}, "Refused: 400 Bad Request: too long"),
        ("422 Unprocessable Entity", {"detail": "no"}, "Refused: 422 Unprocessable Entity: no"),
        ("500 Internal Server Error", b"oops", "Refused: 500 Internal Server Error: oops"),
        ("503 Service Unavailable", b"", "Refused: 503 Service Unavailable: (nothing)"),
        ("307 Temporary Redirect", {"detail": "elsewhere"}, "Refused: 307 Temporary Redirect: elsewhere"),
        ("200 OK", {"error": {"message": "no model"}}, "Refused: no model"),
    ],
)
def test_a_refusal_is_the_servers_words_and_the_connection_goes_on(
    send: Any, serve: Any, transport: str, status: str, found: Any, error: str
) -> None:
    server = serve(answer=lambda peer, _: peer.page(status, found))
    replies = send(server.url, [request(0), request(1)], transport=transport)
    assert [reply.error for reply in replies] == [error] * 2
    assert replies[0].output_tokens is None
    assert replies[0].token_ns == ()
    assert server.connections <= 2


@both
def test_an_error_in_mid_stream_keeps_the_tokens_before_it(send: Any, serve: Any, transport: str) -> None:
    def answer(peer: Any, found: Any) -> None:
        peer.stream_head()
        peer.token(1)
        peer.token(2)
        peer.event({"error": {"message": "CUDA out of memory", "code": 500}})
        peer.event("[DONE]")
        peer.send(b"0\r\n\r\n")

    (reply,) = send(serve(answer=answer).url, [request()], transport=transport)
    assert reply.error == "Refused: CUDA out of memory"
    assert reply.output_tokens == (2,)


@both
@pytest.mark.parametrize("answer", [half, half_a_length])
def test_an_early_close_is_a_bad_reply(send: Any, serve: Any, transport: str, answer: Any) -> None:
    (reply,) = send(serve(answer=answer).url, [request()], transport=transport)
    assert reply.error is not None
    assert reply.error.startswith("BadReply: the connection was")
    assert reply.output_tokens == (1,)
    assert len(reply.token_ns) == 1


@both
def test_a_stream_may_last_until_the_connection_closes(send: Any, serve: Any, transport: str) -> None:
    def answer(peer: Any, found: Any) -> None:
        peer.send(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n")
        for number in range(2):
            peer.send(b'data: {"choices":[{"index":0,"text":"x","token_ids":[%d]}]}\n\n' % number)
        peer.send(b"data: [DONE]\n\n")
        raise ConnectionError

    replies = send(serve(answer=answer).url, [request(0), request(1)], transport=transport)
    assert [reply.error for reply in replies] == [None, None]
    assert [reply.output_tokens for reply in replies] == [(2,), (2,)]


@both
def test_a_connection_closed_behind_an_answer_is_replaced(send: Any, serve: Any, transport: str) -> None:
    def answer(peer: Any, found: Any) -> None:
        peer.stream_head(b"connection: close\r\n")
        peer.token(1, finish="length")
        peer.stream_end(1)
        raise ConnectionError

    replies = send(serve(answer=answer).url, [request(seq, 1) for seq in range(3)], transport=transport)
    assert [reply.error for reply in replies] == [None] * 3


@both
@pytest.mark.parametrize(
    ("limit", "sent", "error"),
    [
        ("first_byte_s", 0, "TimedOut: first byte after 0.05 s"),
        ("between_bytes_s", 1, "TimedOut: between bytes after 0.05 s"),
        ("total_s", 10**9, "TimedOut: total after 0.05 s"),
    ],
)
def test_limits(send: Any, serve: Any, transport: str, limit: str, sent: int, error: str) -> None:
    def answer(peer: Any, found: Any) -> None:
        if sent:
            peer.stream_head()
        for number in range(sent):
            peer.token(number)
        peer.wait_for_close()

    server = serve(answer=answer)
    (reply,) = send(
        server.url, [request()], transport=transport, timeouts=Timeouts(**(LIMITS | {limit: 0.05}))
    )
    assert reply.error == error
    assert bool(reply.token_ns) == bool(sent)


@both
def test_nobody_listens(send: Any, transport: str) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
        with pytest.raises(ConnectFailed):
            send(f"http://127.0.0.1:{port}", [], transport=transport)


@both
def test_a_large_body_arrives_whole(send: Any, serve: Any, transport: str) -> None:
    def answer(peer: Any, found: Any) -> None:
        server.notes.put(found["prompt"] == [list(prompt) for prompt in LARGE])
        peer.page("200 OK", {"choices": [{"index": i, "token_ids": [1]} for i in range(len(LARGE))]})

    server = serve(answer=answer)
    (reply,) = send(server.url, [request(prompts=LARGE, tokens=1, stream=False)], transport=transport)
    assert reply.error is None
    assert reply.output_tokens == (1,) * len(LARGE)
    assert server.notes.get() is True


@both
def test_closing_ends_what_is_under_way(serve: Any, transport: str) -> None:
    def answer(peer: Any, found: Any) -> None:
        server.notes.put("asked")
        peer.wait_for_close()

    server = serve(answer=answer)

    async def main() -> Reply:
        driver = make_driver(server.url, "tiny", QUICK, {"transport": transport})
        await driver.open(1)
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        driver.start(driver.prepare(request()), future.set_result)
        await asyncio.to_thread(server.notes.get)
        await driver.close()
        return driver.decode(await future)

    reply = asyncio.run(asyncio.wait_for(main(), 30))
    assert reply.error == "ConnectFailed: the driver was closed"


@both
def test_the_key_is_sent_and_not_kept(
    send: Any, serve: Any, transport: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOADGEN_API_KEY", "key-of-this-test")

    def script(peer: Any) -> None:
        while True:
            head, found = peer.request()
            assert b"authorization: bearer key-of-this-test" in head.lower()
            if found is None:
                peer.page("404 Not Found", {})
            else:
                peer.page("401 Unauthorized", {"error": {"message": "expired"}})

    (reply,) = send(serve(script).url, [request()], transport=transport)
    assert reply.error == "Refused: 401 Unauthorized: expired"
    assert "key-of-this-test" not in repr(reply)


@both
def test_requests_carry_their_number_on_demand(send: Any, serve: Any, transport: str) -> None:
    def script(peer: Any) -> None:
        while True:
            head, found = peer.request()
            if found is None:
                peer.page("404 Not Found", {})
            else:
                server.notes.put(head)
                peer.stream(1)

    server = serve(script)
    send(server.url, [request(41)], transport=transport, request_ids=True)
    assert b"x-request-id: measured-41" in server.notes.get()
    send(server.url, [request(41)], transport=transport)
    assert b"x-request-id" not in server.notes.get()
