"""What of a profile and of options may be shown: no credential, and of a URL no password."""

from __future__ import annotations

from collections.abc import Sequence

from loadgen import urls

URLS = frozenset({"url", "sources", "prometheus"})  # keys whose values are some


def told_value(path: Sequence[str], value: object) -> object:
    """A value that may be shown: none of a credential, and of a URL no password."""
    if any(map(urls.names_secret, path)):
        return None
    return urls.masked(value) if isinstance(value, str) and not URLS.isdisjoint(path) else value


def told_set(text: str) -> str:
    """A ``--set`` that may be shown."""
    key, equals, value = text.partition("=")
    told = told_value(key.strip().split("."), value)
    return f"{key}{equals}{'…' if told is None else told}"
