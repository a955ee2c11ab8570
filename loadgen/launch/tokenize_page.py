"""How many tokens a server's own ``/tokenize`` takes a prompt for, where its replies count none.

vLLM and SGLang take ``prompt`` (vLLM ``messages``, too, through its chat template) and answer with ``count``; llama.cpp
takes ``content`` and answers with ``tokens``; text-generation-inference takes ``inputs`` and answers with a list.
"""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import orjson

from loadgen.drivers.http_access import access
from loadgen.drivers.openai_endpoint import Endpoint
from loadgen.launch.page import LIMIT_BYTES, loosely, within

PATH = "/tokenize"


def count_tokens(endpoint: Endpoint, text: str, limit_s: float) -> int | None:
    """The tokens of a prompt of the endpoint's route, with what its template and BOS add; ``None`` where no page tells
    within ``limit_s`` seconds. A chat's prompt is counted by servers alone that apply its template there."""
    chat = endpoint.route != "completions"
    body: dict[str, Any] = {"model": endpoint.model}
    if chat:
        body["messages"] = [{"role": "user", "content": text}]
    else:
        body |= {"prompt": text, "content": text, "inputs": text, "add_special": True}
    reply = within(limit_s, lambda: asyncio.run(_post(endpoint, body, limit_s)))
    if isinstance(reply, dict):
        listed = reply.get("tokens")
        count = reply.get("count", None if chat or not isinstance(listed, list) else len(listed))
    else:
        count = len(reply) if isinstance(reply, list) and not chat else None
    return count if type(count) is int and count > 0 else None


async def _post(endpoint: Endpoint, body: dict[str, Any], limit_s: float) -> Any:
    reach = access(endpoint.scheme, endpoint.host, endpoint.socket)
    found = bytearray()
    try:
        async with (
            asyncio.timeout(limit_s),
            httpx.AsyncClient(headers=endpoint.headers(), timeout=limit_s, **reach) as client,
            client.stream("POST", endpoint.page(PATH), content=orjson.dumps(body)) as reply,
        ):
            if not reply.is_success:
                return None
            async for block in reply.aiter_bytes():
                found += block
                if len(found) > LIMIT_BYTES:
                    return None
        return loosely(bytes(found))
    except (
        httpx.HTTPError,
        httpx.InvalidURL,
        OSError,
        ValueError,
        RecursionError,
    ):  # a TimeoutError is an OSError
        return None
