"""What only the driver on raw sockets does, against scripted servers on real sockets."""

from __future__ import annotations

import asyncio
import json
import socket
import subprocess
import threading
from pathlib import Path
from typing import Any

import pytest

from loadgen.drivers import pool
from loadgen.drivers.openai import make_driver
from loadgen.errors import ConnectFailed, TimedOut
from loadgen.load_records import Timeouts
from loadgen.request_records import Reply, Request

QUICK = Timeouts(connect_s=5.0, first_byte_s=5.0, between_bytes_s=5.0, total_s=20.0)

LARGE = tuple(tuple(range(row, row + 2048)) for row in range(512))  # about 6 MB of JSON


def request(seq: int = 0, tokens: int = 3, *, stream: bool = True, prompts: Any = ((5, 6, 7),)) -> Request:
    return Request(seq=seq, phase="measured", prompts=prompts, output_tokens=tokens, stream=stream)


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


def test_stamps_of_the_kernel_and_of_the_user(serve: Any) -> None:
    server = serve(answer=lambda peer, found: peer.stream(found["max_tokens"]))
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


def test_a_reset_in_mid_stream_is_a_bad_reply(serve: Any) -> None:
    def answer(peer: Any, found: Any) -> None:
        peer.stream_head()
        peer.token(1)
        server.notes.get()  # the client has read it
        peer.reset()

    server = serve(answer=answer)

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


def test_a_stale_connection_is_tried_again_once_on_a_new_one(send: Any, serve: Any) -> None:
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


def test_a_first_use_that_is_cut_off_is_not_tried_again(send: Any, serve: Any) -> None:
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
        peer.answer_all(lambda peer, found: peer.stream(1))

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

    server = serve(answer=answer)

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


def test_a_server_that_does_not_accept_times_out(send: Any) -> None:
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


def test_a_name_that_does_not_resolve(send: Any) -> None:
    with pytest.raises(ConnectFailed, match=r"nowhere\.invalid"):
        send("http://nowhere.invalid:1", [])


def test_a_server_that_goes_away_fails_requests_and_nothing_else(send: Any, serve: Any) -> None:
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


def test_a_body_that_the_socket_does_not_take_at_once_is_sent_in_pieces(serve: Any) -> None:
    go = threading.Event()

    def script(peer: Any) -> None:
        go.wait(30)
        texts = [{"index": row, "text": "x"} for row in range(len(LARGE))]
        peer.answer_all(lambda peer, found: peer.page("200 OK", {"choices": texts}))

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


@pytest.mark.parametrize(
    ("limits", "raised"),
    [
        ((32, 64), 64),
        ((32, 512), None),
        ((512, 512), 512),
        ((16, 20), 0),
    ],  # None: as far as is needed; 0: refused
)
def test_connections_take_what_the_limit_on_files_allows(
    monkeypatch: pytest.MonkeyPatch, limits: tuple[int, int], raised: int | None
) -> None:
    found = [limits]
    monkeypatch.setattr(pool.resource, "getrlimit", lambda _: limits)
    monkeypatch.setattr(pool.resource, "setrlimit", lambda _, new: found.append(new))
    monkeypatch.setattr(pool.os, "listdir", lambda _: ["0"] * 8)
    if raised == 0:
        with pytest.raises(ConnectFailed, match="2 connections: the limit on open files is 20"):
            pool._allow_files(2)
    else:
        pool._allow_files(2)
        assert found[-1] == (raised or 2 + 64 + 8, limits[1])


def test_a_refusal_before_the_body_was_sent_is_told(send: Any, serve: Any) -> None:
    def script(peer: Any) -> None:
        peer._until(b"\r\n\r\n")
        peer.page("413 Content Too Large", {"error": {"message": "3 MB"}}, b"connection: close\r\n")
        peer.sock.shutdown(socket.SHUT_WR)
        peer.wait_for_close()

    prompts = tuple(tuple(range(2048)) for _ in range(1024))
    (reply,) = send(serve(script).url, [request(prompts=prompts)])
    assert reply.error == "Refused: 413 Content Too Large: 3 MB"


def test_interim_answers_are_passed_over(send: Any, serve: Any) -> None:
    def answer(peer: Any, found: Any) -> None:
        peer.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        peer.stream(2)

    (reply,) = send(serve(answer=answer).url, [request()])
    assert reply.error is None
    assert reply.output_tokens == (2,)


def test_bytes_behind_the_end_cost_the_connection_only(send: Any, serve: Any) -> None:
    def answer(peer: Any, found: Any) -> None:
        peer.stream_head()
        peer.token(1, finish="length")
        peer.send(b"0\r\n\r\nHTTP/1.1 408 Request Timeout\r\n\r\n")

    replies = send(serve(answer=answer).url, [request(0), request(1)])
    assert [reply.error for reply in replies] == [None, None]
    assert [reply.output_tokens for reply in replies] == [(1,), (1,)]


def test_what_is_no_http_is_a_bad_reply(send: Any, serve: Any) -> None:
    def answer(peer: Any, found: Any) -> None:
        peer.send(b"SSH-2.0-OpenSSH_9.2\r\n\r\n")
        peer.wait_for_close()

    (reply,) = send(serve(answer=answer).url, [request()])
    assert reply.error is not None
    assert reply.error.startswith("BadReply: not an HTTP/1.x status line")


def test_a_body_that_breaks_its_framing_is_a_bad_reply(send: Any, serve: Any) -> None:
    def answer(peer: Any, found: Any) -> None:
        peer.stream_head()
        peer.token(1)
        peer.send(b"zz\r\n\r\n")
        peer.wait_for_close()

    (reply,) = send(serve(answer=answer).url, [request()])
    assert reply.error == "BadReply: malformed chunk size: b'zz'"
    assert reply.output_tokens == (1,)


def test_extras_can_be_left_out(send: Any, serve: Any) -> None:
    def answer(peer: Any, found: Any) -> None:
        server.notes.put(found)
        peer.stream(1)

    server = serve(answer=answer)
    send(server.url, [request()], extras=False)
    assert set(server.notes.get()) == {
        "model",
        "prompt",
        "max_tokens",
        "temperature",
        "stream",
        "stream_options",
    }


def test_tls_goes_through_httpx_and_says_so(
    send: Any, serve: Any, certificate: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    import ssl

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)
    server = serve(
        answer=lambda peer, found: peer.stream(3),
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
