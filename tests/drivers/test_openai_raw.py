"""Both OpenAI drivers against scripted servers on real sockets."""

from __future__ import annotations

import asyncio
import json
import socket
import subprocess
import threading
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from loadgen.drivers.openai import make_driver
from loadgen.errors import ConnectFailed, TimedOut
from loadgen.records import Reply, Request, Timeouts

both = pytest.mark.parametrize("transport", ["raw", "httpx"])
QUICK = Timeouts(connect_s=5.0, first_byte_s=5.0, between_bytes_s=5.0, total_s=20.0)


def request(seq: int = 0, tokens: int = 3, *, stream: bool = True, prompts: Any = ((5, 6, 7),)) -> Request:
    return Request(seq=seq, phase="measured", prompts=prompts, output_tokens=tokens, stream=stream)


def send(
    url: str,
    requests: Sequence[Request],
    *,
    transport: str = "raw",
    connections: int = 1,
    together: bool = False,
    timeouts: Timeouts = QUICK,
    counters: dict[str, int] | None = None,
    **options: Any,
) -> list[Reply]:
    """Send the requests one after the other, or all at once."""

    async def main() -> list[Reply]:
        driver = make_driver(url, "tiny", timeouts, {"transport": transport, **options})
        await driver.open(connections)
        futures = []
        for one in requests:
            future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
            driver.start(driver.prepare(one), future.set_result)
            futures.append(future)
            if not together:
                await future
        raws = await asyncio.gather(*futures)
        if counters is not None:
            found = driver.counters  # type: ignore[attr-defined]
            counters.update(opened=found.opened, late=found.late, resent=found.resent)
        await driver.close()
        return [driver.decode(raw) for raw in raws]

    return asyncio.run(asyncio.wait_for(main(), 60))


def is_probe(found: Any) -> bool:
    """The httpx driver opens its connections with requests that have no body."""
    return found is None


def answering(answer: Callable[[Any, Any], None]) -> Callable[[Any], None]:
    """A script that answers request after request on each connection."""

    def script(peer: Any) -> None:
        while True:
            _, found = peer.request()
            if is_probe(found):
                peer.page("404 Not Found", {})
            else:
                answer(peer, found)

    return script


@both
@pytest.mark.parametrize("stream", [True, False])
def test_requests_share_a_connection_and_come_back_counted(serve: Any, transport: str, stream: bool) -> None:
    def answer(peer: Any, found: Any) -> None:
        server.notes.put(found)
        if found["stream"]:
            peer.stream(found["max_tokens"])
        else:
            choice = {"index": 0, "text": "x", "token_ids": [0, 1, 2], "finish_reason": "length"}
            peer.page("200 OK", {"choices": [choice], "usage": {"prompt_tokens": 3, "completion_tokens": 3}})

    server = serve(answering(answer))
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


def test_stamps_of_the_kernel_and_of_the_user(serve: Any) -> None:
    server = serve(answering(lambda peer, found: peer.stream(found["max_tokens"])))
    for stamps in ("kernel", "user"):

        async def main(source: str = stamps) -> tuple[str, Reply]:
            driver = make_driver(server.url, "tiny", QUICK, {"stamps": source})
            await driver.open(1)
            future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
            driver.start(driver.prepare(request()), future.set_result)
            reply = driver.decode(await future)
            await driver.close()
            return driver.stamps, reply

        source, reply = asyncio.run(main())
        assert reply.error is None
        assert (reply.lag_ns is not None) == (source == "kernel")
        assert stamps == "kernel" or source == "user"


@both
def test_a_batch_is_one_call(serve: Any, transport: str) -> None:
    def answer(peer: Any, found: Any) -> None:
        peer.stream_head()
        for step in range(found["max_tokens"]):
            choices = [{"index": i, "text": "x", "token_ids": [step]} for i in range(len(found["prompt"]))]
            peer.event({"choices": choices})
        peer.stream_end(6)

    server = serve(answering(answer))
    (reply,) = send(server.url, [request(prompts=((1, 2), (3, 4)))], transport=transport)
    assert reply.error is None
    assert reply.output_tokens == (3, 3)
    assert sum(reply.tokens_per_arrival) == 6


@both
def test_more_requests_than_connections_are_all_sent(serve: Any, transport: str) -> None:
    server = serve(answering(lambda peer, found: peer.stream(found["max_tokens"])))
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
    serve: Any, transport: str, status: str, found: Any, error: str
) -> None:
    server = serve(answering(lambda peer, _: peer.page(status, found)))
    replies = send(server.url, [request(0), request(1)], transport=transport)
    assert [reply.error for reply in replies] == [error] * 2
    assert replies[0].output_tokens is None
    assert replies[0].token_ns == ()
    assert server.connections <= 2


@both
def test_an_error_in_mid_stream_keeps_the_tokens_before_it(serve: Any, transport: str) -> None:
    def answer(peer: Any, found: Any) -> None:
        peer.stream_head()
        peer.token(1)
        peer.token(2)
        peer.event({"error": {"message": "CUDA out of memory", "code": 500}})
        peer.event("[DONE]")
        peer.send(b"0\r\n\r\n")

    (reply,) = send(serve(answering(answer)).url, [request()], transport=transport)
    assert reply.error == "Refused: CUDA out of memory"
    assert reply.output_tokens == (2,)


def half(peer: Any, found: Any) -> None:
    peer.stream_head()
    peer.token(1)
    raise ConnectionError


def half_a_length(peer: Any, found: Any) -> None:
    peer.send(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncontent-length: 500\r\n\r\n")
    peer.send(b'data: {"choices":[{"index":0,"text":"x","token_ids":[1]}]}\n\n')
    raise ConnectionError


@both
@pytest.mark.parametrize("answer", [half, half_a_length])
def test_an_early_close_is_a_bad_reply(serve: Any, transport: str, answer: Any) -> None:
    (reply,) = send(serve(answering(answer)).url, [request()], transport=transport)
    assert reply.error is not None
    assert reply.error.startswith("BadReply: the connection was")
    assert reply.output_tokens == (1,)
    assert len(reply.token_ns) == 1


def test_a_reset_in_mid_stream_is_a_bad_reply(serve: Any) -> None:
    def answer(peer: Any, found: Any) -> None:
        peer.stream_head()
        peer.token(1)
        server.notes.get()  # the client has read it
        peer.reset()

    server = serve(answering(answer))

    async def main() -> Reply:
        driver = make_driver(server.url, "tiny", QUICK, {})
        await driver.open(1)
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        driver.start(driver.prepare(request()), future.set_result)
        (connection,) = driver._pool.connections.values()  # type: ignore[attr-defined]
        while not connection.exchange.answered:
            await asyncio.sleep(0)
        server.notes.put("go on")
        reply = driver.decode(await future)
        await driver.close()
        return reply

    reply = asyncio.run(asyncio.wait_for(main(), 30))
    assert (
        reply.error
        == "BadReply: the connection was lost (Connection reset by peer) before the end of the answer"
    )
    assert reply.output_tokens == (1,)


@both
def test_a_stream_may_last_until_the_connection_closes(serve: Any, transport: str) -> None:
    def answer(peer: Any, found: Any) -> None:
        peer.send(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n")
        for number in range(2):
            peer.send(b'data: {"choices":[{"index":0,"text":"x","token_ids":[%d]}]}\n\n' % number)
        peer.send(b"data: [DONE]\n\n")
        raise ConnectionError

    replies = send(serve(answering(answer)).url, [request(0), request(1)], transport=transport)
    assert [reply.error for reply in replies] == [None, None]
    assert [reply.output_tokens for reply in replies] == [(2,), (2,)]


@both
def test_a_connection_that_the_server_closes_behind_an_answer_is_replaced(serve: Any, transport: str) -> None:
    def answer(peer: Any, found: Any) -> None:
        peer.stream_head(b"connection: close\r\n")
        peer.token(1, finish="length")
        peer.stream_end(1)
        raise ConnectionError

    replies = send(serve(answering(answer)).url, [request(seq, 1) for seq in range(3)], transport=transport)
    assert [reply.error for reply in replies] == [None] * 3


def test_a_stale_connection_is_tried_again_once_on_a_new_one(serve: Any) -> None:
    served: dict[int, int] = {}

    def script(peer: Any) -> None:
        while True:
            peer.request()
            served[peer.number] = served.get(peer.number, 0) + 1
            if served[peer.number] == 2:
                return  # the keep-alive limit struck while the request was under way
            peer.stream(1)

    counters: dict[str, int] = {}
    replies = send(serve(script).url, [request(seq, 1) for seq in range(4)], counters=counters)
    assert [reply.error for reply in replies] == [None] * 4
    assert counters["resent"] == 3


def test_a_first_use_that_is_cut_off_is_not_tried_again(serve: Any) -> None:
    def script(peer: Any) -> None:
        peer.request()

    counters: dict[str, int] = {}
    (reply,) = send(serve(script).url, [request()], counters=counters)
    assert reply.error == "ConnectFailed: the connection was closed before the first byte of the answer"
    assert counters["resent"] == 0


def test_idle_connections_that_the_server_closes_are_opened_again(serve: Any) -> None:
    def script(peer: Any) -> None:
        if peer.number > 0:  # the first was only a look
            server.notes.put(peer.number)
        if peer.number in (1, 2):
            return
        answering(lambda peer, found: peer.stream(1))(peer)

    server = serve(script)

    async def main() -> list[Reply]:
        driver = make_driver(server.url, "tiny", QUICK, {})
        await driver.open(2)
        pool = driver._pool  # type: ignore[attr-defined]
        while pool.counters.opened < 4:  # two, and one more for each that was closed
            await asyncio.sleep(0)
        futures = []
        for seq in range(2):
            futures.append(asyncio.get_running_loop().create_future())
            driver.start(driver.prepare(request(seq, 1)), futures[-1].set_result)
        replies = [driver.decode(await future) for future in futures]
        assert pool.counters.late == 0
        await driver.close()
        return replies

    assert [reply.error for reply in asyncio.run(asyncio.wait_for(main(), 30))] == [None, None]


def test_a_server_that_closes_what_it_accepts_is_not_asked_for_ever(serve: Any) -> None:
    def script(peer: Any) -> None:
        """Close at once."""

    server = serve(script)

    async def main() -> None:
        driver = make_driver(server.url, "tiny", QUICK, {})
        await driver.open(3)
        pool = driver._pool  # type: ignore[attr-defined]
        while pool.connections:
            await asyncio.sleep(0)
        assert pool.counters.opened <= 2 * 3 + 1
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        driver.start(driver.prepare(request()), future.set_result)
        assert (driver.decode(await future).error or "").startswith("ConnectFailed: ")
        await driver.close()

    asyncio.run(asyncio.wait_for(main(), 30))


def test_a_request_that_is_begun_while_the_driver_closes_ends_with_an_error(serve: Any) -> None:
    def answer(peer: Any, found: Any) -> None:
        peer.wait_for_close()

    server = serve(answering(answer))

    async def main() -> list[str | None]:
        driver = make_driver(server.url, "tiny", QUICK, {})
        await driver.open(1)
        raws: list[Any] = []
        over = asyncio.Event()

        def done(raw: Any) -> None:
            raws.append(raw)
            if len(raws) < 3:
                driver.start(driver.prepare(request(len(raws))), done)
            else:
                over.set()

        driver.start(driver.prepare(request(0)), done)
        await driver.close()
        await over.wait()
        return [driver.decode(raw).error for raw in raws]

    errors = asyncio.run(asyncio.wait_for(main(), 30))
    assert [(error or "").split(":")[0] for error in errors] == ["ConnectFailed"] * 3


LIMITS = {"connect_s": 5.0, "first_byte_s": 5.0, "between_bytes_s": 5.0, "total_s": 5.0}


@both
@pytest.mark.parametrize(
    ("limit", "sent", "error"),
    [
        ("first_byte_s", 0, "TimedOut: first byte after 0.05 s"),
        ("between_bytes_s", 1, "TimedOut: between bytes after 0.05 s"),
        ("total_s", 10**9, "TimedOut: total after 0.05 s"),
    ],
)
def test_limits(serve: Any, transport: str, limit: str, sent: int, error: str) -> None:
    def answer(peer: Any, found: Any) -> None:
        if sent:
            peer.stream_head()
        for number in range(sent):
            peer.token(number)
        peer.wait_for_close()

    server = serve(answering(answer))
    (reply,) = send(
        server.url, [request()], transport=transport, timeouts=Timeouts(**(LIMITS | {limit: 0.05}))
    )
    assert reply.error == error
    assert bool(reply.token_ns) == bool(sent)


def test_a_server_that_does_not_accept_times_out() -> None:
    """The kernel accepts for a listener until its backlog is full; then a connect hangs."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        port = listener.getsockname()[1]
        full = []
        try:
            for _ in range(4):
                one = socket.socket()
                one.setblocking(False)
                one.connect_ex(("127.0.0.1", port))
                full.append(one)
            with pytest.raises((ConnectFailed, TimedOut), match=r"0\.1 s"):
                send(f"http://127.0.0.1:{port}", [], timeouts=Timeouts(connect_s=0.1))
        finally:
            for one in full:
                one.close()


@both
def test_nobody_listens(transport: str) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
        with pytest.raises(ConnectFailed):
            send(f"http://127.0.0.1:{port}", [], transport=transport)


def test_a_name_that_does_not_resolve() -> None:
    with pytest.raises(ConnectFailed, match=r"nowhere\.invalid"):
        send("http://nowhere.invalid:1", [])


def test_a_server_that_goes_away_fails_requests_and_nothing_else(serve: Any) -> None:
    def script(peer: Any) -> None:
        peer.request()
        server._listener.shutdown(socket.SHUT_RDWR)
        peer.stream_head()
        peer.token(1)

    server = serve(script)
    replies = send(server.url, [request(seq) for seq in range(3)])
    assert [reply.error and reply.error.split(":")[0] for reply in replies] == [
        "BadReply",
        "ConnectFailed",
        "ConnectFailed",
    ]


LARGE = tuple(tuple(range(row, row + 2048)) for row in range(512))  # about 6 MB of JSON


def large_body_server(serve: Any) -> Any:
    def answer(peer: Any, found: Any) -> None:
        server.notes.put(found["prompt"] == [list(prompt) for prompt in LARGE])
        peer.page("200 OK", {"choices": [{"index": i, "token_ids": [1]} for i in range(len(LARGE))]})

    server = serve(answering(answer))
    return server


@both
def test_a_large_body_arrives_whole(serve: Any, transport: str) -> None:
    server = large_body_server(serve)
    (reply,) = send(server.url, [request(prompts=LARGE, tokens=1, stream=False)], transport=transport)
    assert reply.error is None
    assert reply.output_tokens == (1,) * len(LARGE)
    assert server.notes.get() is True


def test_a_body_that_the_socket_does_not_take_at_once_is_sent_in_pieces(serve: Any) -> None:
    go = threading.Event()

    def script(peer: Any) -> None:
        go.wait(30)
        answering(lambda peer, found: peer.page("200 OK", {"choices": [], "usage": {}}))(peer)

    server = serve(script)

    async def main() -> Reply:
        driver = make_driver(server.url, "tiny", QUICK, {})
        await driver.open(1)
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        driver.start(driver.prepare(request(prompts=LARGE, stream=False)), future.set_result)
        (connection,) = driver._pool.connections.values()  # type: ignore[attr-defined]
        assert connection.unsent is not None
        go.set()
        reply = driver.decode(await future)
        assert connection.unsent is None
        await driver.close()
        return reply

    assert asyncio.run(asyncio.wait_for(main(), 60)).error is None


def test_a_refusal_before_the_body_was_sent_is_told(serve: Any) -> None:
    def script(peer: Any) -> None:
        peer._until(b"\r\n\r\n")
        peer.page("413 Content Too Large", {"error": {"message": "3 MB"}}, b"connection: close\r\n")
        peer.sock.shutdown(socket.SHUT_WR)
        peer.wait_for_close()

    prompts = tuple(tuple(range(2048)) for _ in range(1024))
    (reply,) = send(serve(script).url, [request(prompts=prompts)])
    assert reply.error == "Refused: 413 Content Too Large: 3 MB"


def test_interim_answers_are_passed_over(serve: Any) -> None:
    def answer(peer: Any, found: Any) -> None:
        peer.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        peer.stream(2)

    (reply,) = send(serve(answering(answer)).url, [request()])
    assert reply.error is None
    assert reply.output_tokens == (2,)


def test_bytes_behind_the_end_cost_the_connection_only(serve: Any) -> None:
    def answer(peer: Any, found: Any) -> None:
        peer.stream_head()
        peer.token(1, finish="length")
        peer.send(b"0\r\n\r\nHTTP/1.1 408 Request Timeout\r\n\r\n")

    replies = send(serve(answering(answer)).url, [request(0), request(1)])
    assert [reply.error for reply in replies] == [None, None]
    assert [reply.output_tokens for reply in replies] == [(1,), (1,)]


def test_what_is_no_http_is_a_bad_reply(serve: Any) -> None:
    def answer(peer: Any, found: Any) -> None:
        peer.send(b"SSH-2.0-OpenSSH_9.2\r\n\r\n")
        peer.wait_for_close()

    (reply,) = send(serve(answering(answer)).url, [request()])
    assert reply.error is not None
    assert reply.error.startswith("BadReply: not an HTTP/1.x status line")


def test_a_body_that_breaks_its_framing_is_a_bad_reply(serve: Any) -> None:
    def answer(peer: Any, found: Any) -> None:
        peer.stream_head()
        peer.token(1)
        peer.send(b"zz\r\n\r\n")
        peer.wait_for_close()

    (reply,) = send(serve(answering(answer)).url, [request()])
    assert reply.error == "BadReply: malformed chunk size: b'zz'"
    assert reply.output_tokens == (1,)


@both
def test_closing_ends_what_is_under_way(serve: Any, transport: str) -> None:
    def answer(peer: Any, found: Any) -> None:
        server.notes.put("asked")
        peer.wait_for_close()

    server = serve(answering(answer))

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
def test_the_key_is_sent_and_not_kept(serve: Any, transport: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOADGEN_API_KEY", "key-of-this-test")

    def script(peer: Any) -> None:
        while True:
            head, found = peer.request()
            assert b"authorization: bearer key-of-this-test" in head.lower()
            if is_probe(found):
                peer.page("404 Not Found", {})
            else:
                peer.page("401 Unauthorized", {"error": {"message": "expired"}})

    (reply,) = send(serve(script).url, [request()], transport=transport)
    assert reply.error == "Refused: 401 Unauthorized: expired"
    assert "key-of-this-test" not in repr(reply)


@both
def test_requests_carry_their_number_on_demand(serve: Any, transport: str) -> None:
    def script(peer: Any) -> None:
        while True:
            head, found = peer.request()
            if is_probe(found):
                peer.page("404 Not Found", {})
            else:
                server.notes.put(head)
                peer.stream(1)

    server = serve(script)
    send(server.url, [request(41)], transport=transport, request_ids=True)
    assert b"x-request-id: measured-41" in server.notes.get()
    send(server.url, [request(41)], transport=transport)
    assert b"x-request-id" not in server.notes.get()


def test_extras_can_be_left_out(serve: Any) -> None:
    def answer(peer: Any, found: Any) -> None:
        server.notes.put(found)
        peer.stream(1)

    server = serve(answering(answer))
    send(server.url, [request()], extras=False)
    assert set(server.notes.get()) == {
        "model",
        "prompt",
        "max_tokens",
        "temperature",
        "stream",
        "stream_options",
    }


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("tls")
    key, cert = folder / "key.pem", folder / "cert.pem"
    argv = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "rsa:2048",
        "-nodes",
        "-days",
        "2",
        "-subj",
        "/CN=localhost",
    ]
    argv += ["-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1", "-keyout", str(key), "-out", str(cert)]
    try:
        subprocess.run(argv, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"no certificate without openssl: {error}")
    return cert, key


def test_tls_goes_through_httpx_and_says_so(
    serve: Any, certificate: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    import ssl

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)
    server = serve(
        answering(lambda peer, found: peer.stream(3)),
        wrap=lambda sock: context.wrap_socket(sock, server_side=True),
    )
    url = server.url.replace("http:", "https:")
    assert make_driver(url, "tiny", QUICK, {}).name == "openai-httpx"
    with pytest.raises(ConnectFailed, match="certificate"):
        send(url, [request()], transport="auto")
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate[0]))
    (reply,) = send(url, [request()], transport="auto")
    assert reply.error is None
    assert reply.output_tokens == (3,)


def test_json_of_a_prepared_request_is_what_goes_out() -> None:
    driver = make_driver("http://127.0.0.1:1", "tiny", QUICK, {})
    head, _, body = driver.prepare(request(prompts=((1, 2), (3, 4)))).wire.partition(b"\r\n\r\n")
    assert json.loads(body)["prompt"] == [[1, 2], [3, 4]]
    assert head.startswith(b"POST /v1/completions HTTP/1.1\r\nhost: 127.0.0.1:1\r\n")
    assert b"content-length: %d" % len(body) in head
