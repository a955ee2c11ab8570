"""A stand-in for the real FasterTransformer server, for tests alone: it replays how that was seen to end and to hang.

Usage: ``standin_ft.py PORT MODE``. It becomes ready, and takes OpenAI's completions so that a request reaches it.
``dies``: the first request closes every socket; the process ends some time later, when its ranks have gone.
``hangs``: two ranks wait for each other. Pages live, requests are taken, and nothing comes.
"""

from __future__ import annotations

import http.server
import os
import sys
import threading
import time

TEARDOWN_S = 1.0  # the real one took three


class Handler(http.server.BaseHTTPRequestHandler):
    """Health, and requests that are never answered."""

    protocol_version = "HTTP/1.1"
    mode = "hangs"

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("content-length", "0")
        self.end_headers()

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        if self.mode == "hangs":
            ranks = [threading.Event(), threading.Event()]
            ranks[0].wait()  # which the other would set, once this one had set its own
        self.server.socket.close()
        self.connection.close()
        time.sleep(TEARDOWN_S)
        os.write(1, b"[FT][ERROR] CUDA runtime error: unspecified launch failure\n")
        os._exit(134)

    def log_message(self, format: str, *args: object) -> None:
        return


if __name__ == "__main__":
    Handler.mode = sys.argv[2]
    http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
