"""A server that speaks OpenAI's API as loosely or strictly as a test wants; a word of a text is a token to it."""

from __future__ import annotations

import http.server
import json
import socket
import socketserver
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

STANDARD = frozenset(
    [
        "model",
        "prompt",
        "messages",
        "max_tokens",
        "max_completion_tokens",
        "temperature",
        "stream",
        "stream_options",
    ]
)


@dataclass
class Manner:
    """What a server takes and tells. ``forms`` are its routes with what they take; ``stops`` is the length at which an
    output ends by itself unless the server heeds ``ignore_eos``; ``names`` whether a refusal names the fields;
    ``lists`` what becomes of a list of prompts: a batch, its first prompt alone, or ``null`` before its stream;
    ``tokenizes`` whose /tokenize it has."""

    forms: tuple[str, ...] = ("completions ids", "completions text", "chat text")
    fields: frozenset[str] = STANDARD | {"ignore_eos", "min_tokens", "return_token_ids"}
    names: bool = True
    ids: bool = False
    usage: bool = True
    heeds: bool = True
    stops: int = 10**6
    overhead: int = 0
    context: int = 10**6
    key: str | None = None
    lists: str = "first"
    tokenizes: str | None = None
    pages: Mapping[str, Any] = field(default_factory=dict)
    asked: list[tuple[str, dict[str, Any]]] = field(default_factory=list)


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    manner = Manner()
    rows = 1

    def log_message(self, format: str, *args: object) -> None:
        return

    def page(self, status: int, found: Any, kind: str = "application/json") -> None:
        body = found.encode() if isinstance(found, str) else json.dumps(found).encode()
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def refuse(self, status: int, words: str) -> None:
        self.page(status, {"error": {"message": words}})

    def do_GET(self) -> None:
        pages = {"/v1/models": {"data": [{"id": "small"}]}, **self.manner.pages}
        found = pages.get(self.path.partition("?")[0])
        if found is None:
            self.refuse(404, "Not Found")
        else:
            self.page(200, found)

    def do_POST(self) -> None:
        manner = self.manner
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.path == "/tokenize":
            self.tokens(body)
            return
        tails = {"/chat/completions": "chat", "/messages": "messages"}
        route = next((name for tail, name in tails.items() if self.path.endswith(tail)), "completions")
        manner.asked.append((route, body))
        text = body["messages"][0]["content"] if "messages" in body else body["prompt"]
        self.rows = 1
        if isinstance(text, list) and not isinstance(text[0], int):
            self.rows, text = 1 if manner.lists == "first" else len(text), text[0]
        form = f"{route} {'text' if isinstance(text, str) else 'ids'}"
        if manner.key is not None and self.headers.get("Authorization") != f"Bearer {manner.key}":
            self.refuse(401, "Incorrect API key provided")
        elif not any(each.startswith(route) for each in manner.forms):
            self.refuse(404, "Not Found")
        elif form not in manner.forms:
            self.refuse(400, "prompt: Input should be a valid string")
        elif unknown := sorted(body.keys() - manner.fields):
            self.refuse(400, f"unknown fields: {', '.join(unknown)}" if manner.names else "cannot be read")
        else:
            self.answer(route, body, len(text.split()) + manner.overhead if form[-1] == "t" else len(text))

    def tokens(self, body: dict[str, Any]) -> None:
        """What /tokenize says of a prompt, in the shape of an engine: vllm, llama.cpp, tgi."""
        shape, chat = self.manner.tokenizes, "messages" in body
        if shape is None or (chat and shape != "vllm"):
            self.refuse(404, "Not Found")
            return
        text = (
            body["messages"][0]["content"]
            if chat
            else body[{"llama.cpp": "content", "tgi": "inputs"}.get(shape, "prompt")]
        )
        count = len(text.split()) + self.manner.overhead
        ids = list(range(count))
        self.page(200, {"vllm": {"count": count}, "llama.cpp": {"tokens": ids}, "tgi": ids}[shape])

    def answer(self, route: str, body: dict[str, Any], prompt_tokens: int) -> None:
        manner = self.manner
        limit = body.get("max_tokens") or body["max_completion_tokens"]
        count = limit if manner.heeds and body.get("ignore_eos") else min(limit, manner.stops)
        if prompt_tokens + limit > manner.context:
            self.refuse(400, f"maximum context length is {manner.context} tokens")
            return
        if route == "messages":
            self.message(prompt_tokens, count, stream=body["stream"])
            return
        used = {"prompt_tokens": prompt_tokens * self.rows, "completion_tokens": count * self.rows}
        finish = "length" if count == limit else "stop"
        pieces = [
            self.choice(route, body, number, finish if number == count - 1 else None)
            for number in range(count)
        ]
        if not body["stream"]:
            whole = {**pieces[-1], "finish_reason": finish}
            if "delta" in whole:
                whole["message"] = whole.pop("delta")
            if "token_ids" in whole:
                whole["token_ids"] = list(range(count))
            wholes = [{**whole, "index": row} for row in range(self.rows)]
            self.page(200, {"choices": wholes, **({"usage": used} if manner.usage else {})})
            return
        events: list[Any] = [
            {"choices": [{**piece, "index": row} for row in range(self.rows)]} for piece in pieces
        ]
        events = [None, *events] if manner.lists == "null" and self.rows > 1 else events
        events += [{"choices": [], "usage": used}] if manner.usage and "stream_options" in body else []
        stream = "".join(f"data: {json.dumps(event)}\n\n" for event in events) + "data: [DONE]\n\n"
        self.page(200, stream, "text/event-stream")

    def message(self, prompt_tokens: int, count: int, *, stream: bool) -> None:
        """The answer in Anthropic's shape."""
        used = {"input_tokens": prompt_tokens, "output_tokens": count}
        text = {"type": "text", "text": " w" * count}
        if not stream:
            self.page(200, {"type": "message", "content": [text], "stop_reason": "max_tokens", "usage": used})
            return
        delta = {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": " w"}}
        events: list[dict[str, Any]] = [
            {"type": "message_start", "message": {"usage": {**used, "output_tokens": 1}}},
            {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
            {"type": "ping"},
            *[delta] * count,
            {
                "type": "message_delta",
                "delta": {"stop_reason": "max_tokens"},
                "usage": {"output_tokens": count},
            },
            {"type": "message_stop"},
        ]
        lines = "".join(f"event: {event['type']}\ndata: {json.dumps(event)}\n\n" for event in events)
        self.page(200, lines, "text/event-stream")

    def choice(self, route: str, body: dict[str, Any], number: int, finish: str | None) -> dict[str, Any]:
        word = {"delta": {"content": f" w{number}"}} if route == "chat" else {"text": f" w{number}"}
        ids = {"token_ids": [number]} if self.manner.ids and body.get("return_token_ids") else {}
        return {"index": 0, "finish_reason": finish, **word, **ids}


class SixServer(http.server.ThreadingHTTPServer):
    address_family = socket.AF_INET6


class SocketServer(http.server.ThreadingHTTPServer):
    address_family = socket.AF_UNIX

    def server_bind(self) -> None:
        socketserver.TCPServer.server_bind(self)

    def get_request(self) -> tuple[socket.socket, Any]:
        connection, _ = super().get_request()
        return connection, ("unix", 0)


@contextmanager
def endpoint(manner: Manner, *, host: str = "127.0.0.1", socket_path: Path | None = None) -> Iterator[str]:
    """The URL of a server of this manner, on this machine."""
    handler = type("Mannered", (Handler,), {"manner": manner})
    if socket_path is not None:
        server: Any = SocketServer(str(socket_path), handler)  # type: ignore[arg-type]
        url = f"http+unix://{quote(str(socket_path), safe='')}"
    else:
        server = (SixServer if ":" in host else http.server.ThreadingHTTPServer)((host, 0), handler)
        url = f"http://{f'[{host}]' if ':' in host else host}:{server.server_address[1]}"
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield url
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
