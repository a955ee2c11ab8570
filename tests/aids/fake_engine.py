"""No engine: the hf server's wire, and its refusal word for word for batches that its device would not hold."""

from __future__ import annotations

import http.server
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

WORDS = "out of device memory: CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 139 GiB"


class FakeEngine(http.server.BaseHTTPRequestHandler):
    """Answers a batch of up to ``fits`` sequences, once it has made room at the cost of ``full`` refused calls. Where
    ``fits`` is ``None`` it takes them and is silent, as ranks are that wait for each other."""

    protocol_version = "HTTP/1.1"
    fits: ClassVar[int | None] = 0
    full = 0
    over = threading.Event()
    asked: ClassVar[list[int]] = []

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        prompts = body["prompt"] if isinstance(body["prompt"][0], list) else [body["prompt"]]
        self.asked.append(len(prompts))
        if self.fits is None:
            self.over.wait()
            self.close_connection = True
            return
        if len(prompts) > self.fits or self.full > 0:
            type(self).full -= 1
            error = {"message": WORDS, "type": "out_of_memory", "param": None, "code": 500}
            self.reply(500, {"error": error})
            return
        choices = [
            {"index": n, "text": "", "token_ids": [1] * body["max_tokens"], "finish_reason": "length"}
            for n in range(len(prompts))
        ]
        self.reply(200, {"object": "text_completion", "choices": choices})

    def reply(self, status: int, body: dict[str, Any]) -> None:
        text = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, format: str, *args: object) -> None:
        return


@contextmanager
def fake_engine(fits: int | None, full: int = 0, asked: list[int] | None = None) -> Iterator[str]:
    """The URL of one whose device holds ``fits`` sequences, and is full for the first ``full`` calls.

    ``asked`` gets the batch of every call.
    """
    over = threading.Event()
    state = {"fits": fits, "full": full, "over": over, "asked": [] if asked is None else asked}
    handler = type("Holding", (FakeEngine,), state)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        over.set()
        server.shutdown()
        server.server_close()
        thread.join()
