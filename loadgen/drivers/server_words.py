"""A server's own words in an answer that is an error, made fit to be shown. Pure."""

from __future__ import annotations

import json

from loadgen import urls
from loadgen.labels import clean


def words_of(body: bytes) -> str:
    """The message in an error body of the common shapes, else the body itself; in one line of printable text."""
    try:
        found = json.loads(body.decode("utf-8-sig", "replace"), strict=False)
    except (ValueError, RecursionError):
        return shown(body)
    for key in ("error", "message", "detail"):
        if isinstance(found, dict) and found.get(key):
            found = found[key]
    return _line(found, 500) if isinstance(found, str) else shown(body)


def shown(body: bytes) -> str:
    """The beginning of a body, in one line of printable text."""
    return _line(body.decode("utf-8", "replace"), 300) or "(nothing)"


def _line(text: str, most: int) -> str:
    # Before it is cut: half of a key is known to nobody as one.
    text = urls.shown(clean(" ".join(text.split())))
    return text[:most] + "…" if len(text) > most else text
