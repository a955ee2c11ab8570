"""An endpoint that somebody else runs, and its end in mid-trial: what is a sign of it, and what is none."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from loadgen.launch.endpoint import Endpoint
from loadgen.launch.restarts import Look, Losses, restarted
from loadgen.load_records import Timeouts
from loadgen.request_records import Reply
from loadgen.trial import run_trial

REFUSED, CUT = "ConnectFailed: h:80: Connection refused", "BadReply: the connection was closed before the end"
PAGE = 'process_start_time_seconds {started}\nvllm:prompt_tokens_total{{engine="0"}} {tokens}\n'


class Quiet:
    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *_args: None


def heard(*replies: tuple[int, int, str | None]) -> Losses:
    """Of replies as sent, ended, error, in the order in which they ended."""
    losses = Losses()
    for seq, (sent, ended, error) in enumerate(replies):
        losses.heard(Reply(seq=seq, sent_ns=sent, end_ns=ended, error=error))
    return losses


@pytest.mark.parametrize(
    "replies",
    [
        [(0, 5, None), (6, 7, REFUSED), (8, 9, None)],
        [(0, 5, None), (6, 7, REFUSED)],
        [(0, 5, None), (1, 6, CUT), (2, 6, CUT), (3, 7, CUT), (8, 9, None)],
        [(0, 5, None), (1, 6, CUT), (6, 7, REFUSED), (7, 8, "Refused: 503 loading"), (8, 9, None)],
        [(0, 5, "Refused: 429"), (6, 7, "ConnectFailed: s: No such file or directory"), (8, 9, None)],
    ],
)
def test_signs(replies: list[tuple[int, int, str | None]]) -> None:
    assert "nothing else was answered meanwhile" in heard(*replies).words


@pytest.mark.parametrize(
    "replies",
    [
        [(0, 5, None), (6, 7, CUT), (7, 8, CUT), (8, 9, None), (9, 10, CUT)],  # each of them alone
        [(0, 5, "Refused: 429"), (6, 7, "Refused: 503"), (7, 8, "Refused: 502"), (8, 9, None)],
        [(0, 2, None), (3, 4, REFUSED), (3, 5, REFUSED), (3, 6, REFUSED), (1, 9, None)],  # its queue was full
        [(0, 2, None), (3, 4, REFUSED), (5, 6, None), (1, 9, None)],
        [(0, 5, REFUSED), (6, 7, REFUSED)],  # never there: all of its requests failed
        [(0, 5, None), *[(6, 7, "ConnectFailed: h:80: Cannot assign requested address")] * 9],  # the client's
        [(0, 5, None), *[(6, 7, "TimedOut: total after 5 s")] * 9, *[(6, 7, "Cancelled: after 1 s")] * 9],
        [(0, 5, None), *[(6, 7, "ConnectFailed: the driver was closed")] * 9],
    ],
)
def test_no_signs(replies: list[tuple[int, int, str | None]]) -> None:
    assert heard(*replies).words == ""


def test_memory_of_losses_is_bounded() -> None:
    losses = heard((0, 1, None), *[(at, at, REFUSED) for at in range(2, 30_002)])
    assert losses.count == 30_000
    assert len(losses._lost) == 10_000


def look(at_s: float = 1000.0, listens: str = "a", pid: object = None, **page: float) -> Look:
    text = PAGE.format(**page) if page else ""
    return Look(at_s=at_s, listeners=frozenset(listens), pid=pid, metrics=text)


@pytest.mark.parametrize(
    ("before", "after", "words"),
    [
        (look(), look(listens="b"), "another socket listens"),
        (look(pid=7), look(pid=8), "its page names process 8, and before 7"),
        (look(started=900.0, tokens=5), look(started=1030.0, tokens=1), "moved by 130 s, into the trial"),
        (look(started=900.0, tokens=5), look(started=900.0, tokens=1), "vllm:prompt_tokens_total went back"),
    ],
)
def test_what_pages_and_sockets_tell(before: Look, after: Look, words: str) -> None:
    fault = restarted(before, after, heard((0, 5, None), (6, 7, CUT)))
    assert fault is not None
    assert words in str(fault)
    assert "remedy" in str(fault)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (look(), look()),
        (look(listens=""), look()),  # not seen before, or not any more
        (look(), look(listens="")),
        (look(listens="ab"), look(listens="bc")),  # one of several processes
        (look(pid=7), look(pid=8)),
        (look(started=900.0, tokens=5), look(started=950.0, tokens=1)),  # another replica's page
        (look(started=900.0, tokens=5), look(started=900.0, tokens=9)),
        (look(started=900.0, tokens=5), look()),
    ],
)
def test_what_they_do_not_tell(before: Look, after: Look) -> None:
    assert restarted(before, after, heard((0, 5, None))) is None


ANSWER = json.dumps({"choices": [{"index": 0, "text": "", "token_ids": [1] * 3, "finish_reason": "length"}]})


@contextmanager
def away(answers: int, restart: bool, silent: bool = False) -> Iterator[str]:
    """The URL of an endpoint that is gone after so many answers, or falls silent; with ``restart`` it comes back a
    moment later."""
    listener = socket.create_server(("127.0.0.1", 0))
    port, over, left = listener.getsockname()[1], threading.Event(), [answers]
    peers: list[socket.socket] = []

    def talk(peer: socket.socket) -> None:
        with contextlib.suppress(OSError), peer.makefile("rb") as lines:
            while line := lines.readline():
                if line.lower().startswith(b"content-length"):
                    size = int(line.split()[1])
                if line == b"\r\n":
                    lines.read(size)
                    left[0] -= 1
                    if left[0] < 0 and silent:
                        over.wait()
                    if left[0] == -1:
                        gone.set()
                        return
                    head = (
                        f"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {len(ANSWER)}"
                    )
                    peer.sendall(f"{head}\r\n\r\n{ANSWER}".encode())

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                peers.append(listener.accept()[0])
                threads.append(threading.Thread(target=talk, args=(peers[-1],), daemon=True))
                threads[-1].start()

    def close() -> None:
        for each in (listener, *peers):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()

    def restarting() -> None:
        nonlocal listener
        gone.wait()
        close()
        if restart and not over.is_set():
            time.sleep(0.1)
            listener = socket.create_server(("127.0.0.1", port))
            accept()

    gone = threading.Event()
    threads = [threading.Thread(target=each, daemon=True) for each in (accept, restarting)]
    for thread in threads:
        thread.start()
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        over.set()
        gone.set()
        close()
        for thread in threads:
            thread.join()


def run(build: Any, endpoint: Endpoint, requests: int, **more: Any) -> Any:
    trial = build.endpoint_trial(
        input_tokens=4, output_tokens=3, requests=requests, warmup=1, stream=False, **more
    )
    return run_trial(trial, endpoint, Quiet(), environment="e")  # type: ignore[arg-type]


@pytest.mark.parametrize("restart", [True, False])
def test_a_trial_whose_endpoint_ended_in_its_middle_has_failed(build: Any, restart: bool) -> None:
    with away(5, restart) as url:
        result = run(build, Endpoint(base_url=url), 1000 if restart else 12)
    assert result.summary is None
    assert result.failure.error == "ServerRestarted"
    assert "while it was loaded" in result.failure.message


def test_a_trial_whose_endpoint_fell_silent_in_its_middle_has_failed(build: Any) -> None:
    """Its page is silent, too, so that not each request has to time out."""
    limits = Timeouts(connect_s=5, first_byte_s=0.2, between_bytes_s=0.2, total_s=0.2)
    with away(5, restart=False, silent=True) as url:
        result = run(build, Endpoint(base_url=url, hung=lambda: True), 5000, timeouts=limits)
    assert result.failure.error == "ServerHung"
    assert "the smallest one, too" in result.failure.message
