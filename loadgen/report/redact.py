"""Texts without what they tell of a machine and its people: absolute paths, host names, user names. Pure.

The same thing always gets the same placeholder and two things never get one, so that what was told apart still is.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

RULE = (
    "Paths read <path>/NAME, hosts <host>, users <user>; a second one that would read the same is numbered."
)
# Neither part of a URL (after : or /), nor a word (km/h), nor what was replaced already (after >).
PATH = re.compile(r"(?<![\w.:/<>~-])/(?:[^\s/'\"`:,;()\[\]{}<>|=]+/)+[^\s/'\"`:,;()\[\]{}<>|=]*")
WHOLE_PATH = re.compile(r"/[^\s/]+/?")
USER = re.compile(r"(?<![\w.:])/(?:home|Users)/([^\s/'\"`:,;()\[\]{}<>|=]+)")
URL_HOST = re.compile(
    r"(?<=://)(?!127\.|localhost\b|0\.0\.0\.0|\[::1?\]|<)(?:\[[^\]\s]+\]|[^/\s:'\"<>,;()]+)"
)
FREE_TEXT = re.compile(r"[\s/@:=]")  # an identifier (a framework, a dtype) has none of these, and stays
WORDS = ("argv", "sets")  # of a command line: free text, each of them
HOSTS = ("host", "address")  # entries that name one
CODE = ("profile",)  # TOML that is read again: a user called "hf" must not break it


class Redactor:
    """Replaces what it was told to look for (``learn``), and every absolute path."""

    def __init__(self) -> None:
        self._hosts: set[str] = set()
        self._users: set[str] = set()
        self._known: dict[tuple[str, str], str] = {}
        self._taken: set[str] = set()

    def learn(self, plain: Any, key: str = "") -> None:
        """Find the hosts and users that plain data tell of: entries of HOSTS, owners of home folders."""
        if isinstance(plain, Mapping):
            for name, value in plain.items():
                self.learn(value, name)
        elif isinstance(plain, list | tuple):
            for value in plain:
                self.learn(value, key)
        elif isinstance(plain, str):
            self._users |= set(USER.findall(plain))
            if key in HOSTS and not _loopback(plain):
                short = plain.partition(".")[0]
                self._hosts |= (
                    {plain} if short.isdigit() else {plain, short}
                )  # of an address no part is a name

    def plain(self, plain: Any, key: str = "") -> Any:
        """Plain data with every text in it redacted, the names of entries included."""
        if isinstance(plain, Mapping):
            return {self.text(name): self.plain(value, name) for name, value in plain.items()}
        if isinstance(plain, list | tuple):
            return [self.plain(value, key) for value in plain]
        if not isinstance(plain, str):
            return plain
        if key in HOSTS and plain in self._hosts:
            return self._placeholder("host", plain)
        return self.text(plain, key)

    def text(self, text: str, key: str = "") -> str:
        """One text; ``key`` names the entry that holds it."""
        free = key in WORDS or (key not in CODE and bool(FREE_TEXT.search(text)))
        if WHOLE_PATH.fullmatch(text):
            return self._path(text)
        text = URL_HOST.sub(lambda found: self._placeholder("host", found[0]), text)
        text = PATH.sub(lambda found: self._path(found[0]), text)
        if free:
            text = _words(self._hosts).sub(lambda found: self._placeholder("host", found[0]), text)
            text = _words(self._users).sub(lambda found: self._placeholder("user", found[0]), text)
        return text

    def _path(self, path: str) -> str:
        """The last name alone tells what a path was; a home folder's is a user."""
        folder, _, name = path.rstrip("/").rpartition("/")
        name = "" if folder in ("/home", "/Users") else f"/{name}"
        return self._placeholder("path", path.rstrip("/"), name)

    def _placeholder(self, kind: str, thing: str, name: str = "") -> str:
        known = self._known.get((kind, thing))
        if known is not None:
            return known
        count, made = 1, f"<{kind}>{name}"
        while made in self._taken:
            count += 1
            made = f"<{kind} {count}>{name}"
        self._taken.add(made)
        self._known[kind, thing] = made
        return made


def _loopback(host: str) -> bool:
    return host in ("localhost", "::1", "0.0.0.0", "::") or host.startswith("127.")


def _words(names: Iterable[str]) -> re.Pattern[str]:
    """Whole words, the longest first; nothing at all where there is no name."""
    listed = "|".join(re.escape(name) for name in sorted(names, key=lambda name: (-len(name), name)) if name)
    return re.compile(rf"(?<![\w.<-])(?:{listed})(?![\w-])" if listed else r"(?!)")
