"""A page of a server, fetched within a time and a size, whatever the server does."""

from __future__ import annotations

import threading

import httpx

LIMIT_BYTES = 16 << 20


def fetch(url: str, limit_s: float) -> bytes | None:
    """The body of a page; ``None`` without a success within ``limit_s`` seconds and ``LIMIT_BYTES``.

    Time-outs of HTTP libraries count from byte to byte: a page that drips never ends. So a thread fetches it, and is
    left to itself when its time is over.
    """
    found: list[bytes] = []
    worker = threading.Thread(target=_fetch, args=(url, limit_s, found), name="page", daemon=True)
    worker.start()
    worker.join(limit_s)
    return found[0] if found else None


def _fetch(url: str, limit_s: float, found: list[bytes]) -> None:
    body = bytearray()
    try:
        with httpx.stream("GET", url, timeout=limit_s, trust_env=False) as reply:
            if not reply.is_success:
                return
            for block in reply.iter_bytes():
                body += block
                if len(body) > LIMIT_BYTES:
                    return
    except (httpx.HTTPError, httpx.InvalidURL, OSError, ValueError):
        return
    found.append(bytes(body))
