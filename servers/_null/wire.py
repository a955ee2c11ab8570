"""What the null server reads and writes: requests taken apart, answers rendered ahead."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from functools import lru_cache

TOKEN_ID = 7

_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*(\d+)", re.IGNORECASE)
_ID = re.compile(rb"\r\nx-request-id:[ \t]*([^\r\n]*)", re.IGNORECASE)
_IDS_ONLY = re.compile(rb'"prompt":\[[\[\d]')


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """One completion request, as far as a server without a model must know it."""

    tokens: int
    sequences: int
    prompt_tokens: int
    stream: bool


class Rejected(ValueError):
    """A request that gets a 400."""


def content_length(head: bytes | bytearray) -> int:
    """The body's length in bytes; 0 where the head names none."""
    found = _LENGTH.search(head)
    return int(found[1]) if found else 0


def request_id(head: bytes) -> bytes:
    """The client's own id of a request; empty where it sent none."""
    found = _ID.search(head)
    return found[1].strip() if found else b""


def read_body(body: bytes) -> Asked:
    """What a body asks for. Raises Rejected.

    Token ids are counted by their commas: a batch of a million ids must not delay the other streams. The quoted
    name looked for cannot occur within a JSON string, where quotes are escaped.
    """
    start = body.find(b'"prompt":[')
    if start < 0 or _IDS_ONLY.match(body, start) is None:
        return _read_any(body)
    first = start + len(b'"prompt":[')
    next_name = body.find(b'"', first)
    end = body.rfind(b"]", first, next_name if next_name > 0 else len(body))
    nested = body[first : first + 1] == b"["
    return _asked(
        _fields(body[:first] + b"0" + body[end:]),
        sequences=body.count(b"[", first, end) if nested else 1,
        prompt_tokens=body.count(b",", first, end) + 1,
    )


@lru_cache(maxsize=256)
def _fields(text: bytes) -> dict[str, object]:
    return _parse(text)


def _parse(text: bytes) -> dict[str, object]:
    try:
        fields = json.loads(text)
    except ValueError as error:
        raise Rejected(f"the body is not JSON: {error}") from None
    if not isinstance(fields, dict):
        raise Rejected("the body is not an object")
    return fields


def _asked(fields: dict[str, object], sequences: int, prompt_tokens: int) -> Asked:
    tokens = fields.get("max_tokens", 16)
    if not isinstance(tokens, int) or isinstance(tokens, bool) or tokens < 1:
        raise Rejected(f"max_tokens = {tokens!r} (accepted: whole numbers from 1)")
    return Asked(
        tokens=tokens,
        sequences=sequences,
        prompt_tokens=prompt_tokens,
        stream=fields.get("stream") is True,
    )


def _read_any(body: bytes) -> Asked:
    fields = _parse(body)
    prompt = fields.get("prompt")
    if isinstance(prompt, str):
        return _asked(fields, 1, len(prompt.split()))
    if isinstance(prompt, list) and prompt:
        if all(isinstance(one, int) for one in prompt):
            return _asked(fields, 1, len(prompt))
        if all(isinstance(one, str) or (isinstance(one, list) and one) for one in prompt):
            sizes = [len(one.split()) if isinstance(one, str) else len(one) for one in prompt]
            return _asked(fields, len(prompt), sum(sizes))
    raise Rejected("prompt: accepted are a text, token ids, or a list of either")


@lru_cache(maxsize=256)
def chunk(sequences: int, *, last: bool) -> bytes:
    """One step of the stream as an HTTP chunk: one token for each sequence."""
    finish = "length" if last else None
    choices = [
        {"index": i, "text": " null", "token_ids": [TOKEN_ID], "logprobs": None, "finish_reason": finish}
        for i in range(sequences)
    ]
    event = {"id": "null", "object": "text_completion", "model": "null", "choices": choices}
    return framed(b"data: " + json.dumps(event).encode() + b"\n\n")


@lru_cache(maxsize=256)
def ending(asked: Asked) -> bytes:
    """What follows the last token: usage, the end mark, the end of the body."""
    usage = _usage(asked)
    event = {"id": "null", "object": "text_completion", "model": "null", "choices": [], "usage": usage}
    return (
        framed(b"data: " + json.dumps(event).encode() + b"\n\n") + framed(b"data: [DONE]\n\n") + b"0\r\n\r\n"
    )


STREAM_HEAD = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n"
    b"cache-control: no-cache\r\ntransfer-encoding: chunked\r\n\r\n"
)


@lru_cache(maxsize=256)
def whole(asked: Asked) -> bytes:
    """The answer without streaming."""
    choices = [
        {
            "index": i,
            "text": " null" * asked.tokens,
            "token_ids": [TOKEN_ID] * asked.tokens,
            "finish_reason": "length",
        }
        for i in range(asked.sequences)
    ]
    found = {"id": "null", "object": "text_completion", "model": "null", "choices": choices}
    return page(200, found | {"usage": _usage(asked)})


def page(status: int, found: object) -> bytes:
    """A JSON answer."""
    body = json.dumps(found).encode()
    reason = {200: "OK", 400: "Bad Request", 404: "Not Found"}[status]
    head = (
        f"HTTP/1.1 {status} {reason}\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def framed(data: bytes) -> bytes:
    """One chunk of a chunked body."""
    return b"%x\r\n%s\r\n" % (len(data), data)


def _usage(asked: Asked) -> dict[str, int]:
    output = asked.tokens * asked.sequences
    return {
        "prompt_tokens": asked.prompt_tokens,
        "completion_tokens": output,
        "total_tokens": asked.prompt_tokens + output,
    }
