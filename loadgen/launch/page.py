"""A page of a server, fetched within a time and a size, whatever the server does."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from typing import Any, TypeVar

import httpx
import orjson

from loadgen.urls import without_secrets

LIMIT_BYTES = 16 << 20
T = TypeVar("T")


def within(limit_s: float, work: Callable[[], T]) -> T | None:
    """What ``work`` returns, or raises; ``None`` once ``limit_s`` seconds are over, when it is left to itself.

    Time-outs of libraries count from byte to byte, and a name that resolves slowly knows none: so a thread does it.
    """
    done: list[T] = []
    failed: list[Exception] = []

    def run() -> None:
        try:
            done.append(work())
        except Exception as error:  # noqa: BLE001 raised again, where somebody waits for it
            failed.append(error)

    worker = threading.Thread(target=run, name="page", daemon=True)
    worker.start()
    worker.join(limit_s)
    if failed:
        raise failed[0]
    return done[0] if done else None


def fetch(url: str, limit_s: float) -> bytes | None:
    """The body of a page; ``None`` without a success within ``limit_s`` seconds and ``LIMIT_BYTES``."""
    return within(limit_s, lambda: _fetch(url, limit_s))


def loosely(body: bytes) -> Any:
    """The JSON of a page of which a few words are wanted: what is wrong in its other texts may pass, and so may a BOM.

    Raises ValueError.
    """
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError:
        return json.loads(body.decode("utf-8-sig", "replace"), strict=False)


def _fetch(url: str, limit_s: float) -> bytes | None:
    body = bytearray()
    try:
        with httpx.stream("GET", url, timeout=limit_s, trust_env=False) as reply:
            if not reply.is_success:
                return None
            for block in reply.iter_bytes():
                body += block
                if len(body) > LIMIT_BYTES:
                    return None
    except (httpx.HTTPError, httpx.InvalidURL, OSError, ValueError):
        return None
    return without_secrets(bytes(body))
