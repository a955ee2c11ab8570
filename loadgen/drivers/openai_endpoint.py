"""An OpenAI-compatible endpoint: its address, its headers, and the bodies that are sent there."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import SplitResult, unquote, urlsplit

import orjson

from loadgen import urls
from loadgen.drivers.answer import Answer
from loadgen.drivers.chat_answer import ChatAnswer
from loadgen.drivers.usage_of_each import UsageOfEach
from loadgen.drivers.words import COMMON, OPENING, Words
from loadgen.errors import BadInput
from loadgen.request_records import Request
from loadgen.urls import API_KEY_VARIABLE

ROUTES = {"chat": "/chat/completions", "completions": "/completions", "messages": "/messages"}
EXTRAS = ("ignore_eos", "min_tokens", "return_token_ids")  # what OpenAI's own API does not know
OWN_FIELDS = frozenset(
    {"model", "prompt", "messages", "max_tokens", "max_completion_tokens", "stream", *EXTRAS}
)
FRAMING = frozenset({"host", "content-length", "transfer-encoding", "connection", "content-encoding"})
_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_VARIABLE = re.compile(r"\$\{(\w+)\}")
_CREDENTIAL = re.compile(r"auth|key|token|secret|cookie|password", re.I)
ANTHROPIC_VERSION = "2023-06-01"


class Endpoint:
    """Where to send requests, and the bodies to send there. ``options`` are those of ``openai.OPTIONS``, checked.

    A URL's path is a prefix to the routes, with or without ``/v1``, or names the very route; a query is sent along.
    ``http+unix://%2Fpath%2Fof%2Fsocket`` is a unix socket. Raises BadInput for a URL that cannot be.
    """

    __slots__ = (
        "_fields", "_headers", "_lengths", "_lists", "_query", "_words", "answer", "extras", "model", "prefix",
        "prompt", "request_ids", "route", "scheme", "socket", "target", "url",
    )  # fmt: skip

    def __init__(self, base_url: str, model: str, options: Mapping[str, Any]) -> None:
        if (wrong := urls.problem(base_url)) is not None or not base_url.startswith("http"):
            why = wrong or "is not an HTTP endpoint"
            raise BadInput(
                f"base URL {urls.shown(base_url)}: {why} (accepted: http://HOST:PORT or https://HOST:PORT)"
            )
        url = urlsplit(base_url)
        self.socket = unquote(url.netloc) if url.scheme == "http+unix" else None
        self.scheme = "http" if self.socket else url.scheme
        path = url.path.rstrip("/")
        named = named_route(path)
        self.route: str = options.get("endpoint") or named or "completions"
        self.prefix = path.removesuffix(ROUTES[named]) if named else path.removesuffix("/v1") + "/v1"
        self._query = url.query
        self.url = SplitResult(self.scheme, "localhost" if self.socket else url.netloc, "", "", "")
        self.target = self._path(self.prefix + ROUTES[self.route])
        self.model = model
        self.prompt: str = (
            "ids" if self.route == "completions" and options.get("prompt") != "text" else "text"
        )
        plain = UsageOfEach if options.get("usage") == "each" else Answer
        self.answer = plain if self.route == "completions" else ChatAnswer
        self.extras = extras_of(options.get("extras", True))
        limit: str = options.get("limit", "max_tokens")
        self._lengths = (limit, "min_tokens") if "min_tokens" in self.extras else (limit,)
        self._lists = bool(options.get("batches", True))
        self.request_ids = bool(options.get("request_ids", False))
        words = options.get("words")
        self._words = Words.of_option(words) if words else Words(words=COMMON, overhead=0, opening=OPENING)
        more: Mapping[str, Any] = options.get("extra_body", {})
        self._fields = {stream: self._constant(more, stream=stream) for stream in (False, True)}
        self._headers: Mapping[str, str] = options.get("headers", {})

    def _path(self, path: str) -> str:
        return path + (f"?{self._query}" if self._query else "")

    @property
    def host(self) -> str:
        """Name or address in the URL, an IPv6 one without its brackets."""
        return self.url.hostname or ""

    @property
    def port(self) -> int:
        """The URL's port, or the scheme's own: 80, 443."""
        return self.url.port if self.url.port is not None else (443 if self.scheme == "https" else 80)

    @property
    def batches(self) -> bool:
        """Whether one call takes several prompts."""
        return self.route == "completions" and self._lists

    @property
    def can(self) -> frozenset[str]:
        """See protocols.Driver."""
        if self.prompt == "ids":
            return frozenset({"ids"})
        return frozenset({"text"} if self.route == "completions" else {"text", "messages"})

    def page(self, name: str) -> str:
        """The URL of a page: ``models`` and others that begin without a slash lie beside the routes; ``/version`` lies
        beside ``/v1``."""
        path = f"{self.prefix.removesuffix('/v1')}{name}" if name[0] == "/" else f"{self.prefix}/{name}"
        return self.url.geturl() + self._path(path)

    def headers(self) -> dict[str, str]:
        """The headers that every request carries. The key comes from the environment and is kept nowhere else, and so
        does every ``${VARIABLE}`` in one that was asked for.

        Raises BadInput for what no header can carry, and for a variable that is not set.
        """
        headers = {"content-type": "application/json", "accept": "*/*", "accept-encoding": "identity"}
        key = os.environ.get(API_KEY_VARIABLE)
        if key:
            urls.check_key()
            headers["authorization"] = f"Bearer {key}"
        if self.route == "messages":
            headers |= {"anthropic-version": ANTHROPIC_VERSION} | ({"x-api-key": key} if key else {})
        return headers | {name.lower(): _expanded(name, value) for name, value in self._headers.items()}

    def body(self, request: Request) -> bytes:
        """One wire call: one prompt or, where the route takes it, a list of them for a static batch."""
        prompts: Any = request.prompts
        content = request.content if self.prompt == "text" else None
        if content is not None:
            prompts = [content]
        elif self.prompt == "text":
            prompts = [self._words.prompt(ids) for ids in prompts]
        fields = self._fields[request.stream].copy()
        if self.route == "completions":
            fields["prompt"] = prompts[0] if len(prompts) == 1 else prompts
        else:
            whole = content is not None and not isinstance(content, str)
            fields["messages"] = prompts[0] if whole else [{"role": "user", "content": prompts[0]}]
        for name in self._lengths:
            fields[name] = request.output_tokens
        return orjson.dumps(fields, option=orjson.OPT_SERIALIZE_NUMPY)

    def _constant(self, extra_body: Mapping[str, Any], *, stream: bool) -> dict[str, Any]:
        """The fields that all requests share."""
        fields: dict[str, Any] = {"model": self.model, "temperature": 0, "stream": stream}
        if stream and self.route != "messages":
            fields["stream_options"] = {"include_usage": True}
        fields |= {name: True for name in ("ignore_eos", "return_token_ids") if name in self.extras}
        return {name: value for name, value in {**fields, **extra_body}.items() if value is not None}


def named_route(path: str) -> str | None:
    """The route that a URL's path ends in, ``None`` where it is a prefix to routes."""
    return next((route for route, tail in ROUTES.items() if path.endswith(tail)), None)


def extras_of(value: Any) -> tuple[str, ...]:
    """The extra fields that are sent: all, none, or those named in a list or a text with commas. Raises BadInput."""
    if isinstance(value, bool):
        return EXTRAS if value else ()
    named = value.replace(",", " ").split() if isinstance(value, str) else value
    if not isinstance(named, list | tuple) or any(name not in EXTRAS for name in named):
        raise BadInput(
            f"openai driver option extras = {value!r}: (accepted: true, false, or some of {', '.join(EXTRAS)})"
        )
    return tuple(name for name in EXTRAS if name in named)


def check_extra_body(value: Any) -> None:
    """Raise BadInput for fields that loadgen does not let others set, or that are no JSON object."""
    if not isinstance(value, Mapping):
        raise BadInput(f"extra body {value!r}: not a JSON object of fields (null leaves a field out)")
    if secret := _secret_field(value):
        raise BadInput(
            f"extra body: {secret}: a credential's value would be stored (accepted: LOADGEN_API_KEY, or a header with "
            "${VARIABLE}, both read from the environment)"
        )
    if taken := OWN_FIELDS & value.keys():
        raise BadInput(
            f"extra body: {', '.join(sorted(taken))}: set by loadgen itself (accepted: other fields, such as "
            "temperature; extras by the option of that name)"
        )


def _secret_field(value: Any) -> str | None:
    """The first field, at any depth, whose name says that its text is a credential."""
    if isinstance(value, Mapping):
        for name, inner in value.items():
            if isinstance(inner, str) and inner and urls.names_secret(str(name)):
                return str(name)
            if (found := _secret_field(inner)) is not None:
                return found
    if isinstance(value, list | tuple):
        return next((found for inner in value if (found := _secret_field(inner)) is not None), None)
    return None


def check_headers(value: Any) -> None:
    """Raise BadInput for what is no header, and for a credential that is not read from the environment."""
    if not isinstance(value, Mapping):
        raise BadInput("headers: not a table of names and values")
    for name, text in value.items():
        if not isinstance(name, str) or not _NAME.fullmatch(name) or name.lower() in FRAMING:
            raise BadInput(
                f"header {str(name)[:40]!r}: cannot be set (accepted: NAME: VALUE, of another header)"
            )
        if not isinstance(text, str) or not text.isascii() or not text.isprintable():
            raise BadInput(f"header {name}: not a header value (accepted: printable ASCII)")
        if _CREDENTIAL.search(name) and not _VARIABLE.search(text):
            raise BadInput(
                f"header {name}: a credential's value would be stored (accepted: {name}: ${{VARIABLE}}, which is read "
                "from the environment)"
            )


def _expanded(name: str, text: str) -> str:
    def value(match: re.Match[str]) -> str:
        found = os.environ.get(match[1])
        if found is None or not found.isascii() or not found.isprintable():
            why = "is not set" if found is None else "is no header value"
            raise BadInput(f"header {name}: {match[1]} {why} (accepted: printable ASCII in the environment)")
        urls.keep_secret(found)
        return found

    return _VARIABLE.sub(value, text)
