"""An OpenAI-compatible endpoint's address and key, and whether reaching it needs a proxy."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any
from urllib.parse import SplitResult, urlsplit

import orjson

from loadgen.errors import BadInput
from loadgen.records import Request
from loadgen.urls import API_KEY_VARIABLE as API_KEY_VARIABLE


class Endpoint:
    """Where to send completions, and the bodies to send there."""

    __slots__ = ("extras", "model", "request_ids", "scheme", "target", "url")

    def __init__(self, base_url: str, model: str, options: Mapping[str, Any]) -> None:
        url = urlsplit(base_url)
        if url.scheme not in ("http", "https") or not url.hostname:
            raise BadInput(
                f"base URL {base_url!r}: not an endpoint (accepted: http://HOST:PORT or https://HOST:PORT)"
            )
        if url.username is not None or url.password is not None:
            raise BadInput(
                f"base URL of {url.hostname}: credentials do not belong there; set {API_KEY_VARIABLE}"
            )
        try:
            _ = url.port
        except ValueError as error:
            raise BadInput(f"base URL {base_url!r}: {error} (accepted: a port from 0 to 65535)") from error
        path = url.path.rstrip("/")
        self.url = SplitResult(url.scheme, url.netloc, path.removesuffix("/v1") + "/v1/completions", "", "")
        self.scheme, self.target = url.scheme, self.url.path
        self.model = model
        self.extras = bool(options.get("extras", True))
        self.request_ids = bool(options.get("request_ids", False))

    @property
    def host(self) -> str:
        """Name or address in the URL, an IPv6 one without its brackets."""
        return self.url.hostname or ""

    @property
    def port(self) -> int:
        """The URL's port, or the scheme's own: 80, 443."""
        return self.url.port if self.url.port is not None else (443 if self.scheme == "https" else 80)

    def headers(self) -> dict[str, str]:
        """The headers that every request carries. The key comes from the environment and is kept nowhere else.

        Raises BadInput for a key that no header can carry.
        """
        headers = {"content-type": "application/json", "accept": "*/*", "accept-encoding": "identity"}
        key = os.environ.get(API_KEY_VARIABLE)
        if key:
            if not key.isascii() or not key.isprintable():
                raise BadInput(f"{API_KEY_VARIABLE}: not a header value (accepted: printable ASCII)")
            headers["authorization"] = f"Bearer {key}"
        return headers

    def body(self, request: Request) -> bytes:
        """One wire call: a token-id list for one sequence, a list of such lists for a static batch."""
        prompts = request.prompts
        fields: dict[str, Any] = {
            "model": self.model,
            "prompt": prompts[0] if len(prompts) == 1 else prompts,
            "max_tokens": request.output_tokens,
            "temperature": 0,
            "stream": request.stream,
        }
        if request.stream:
            fields["stream_options"] = {"include_usage": True}
        if self.extras:
            fields |= {"min_tokens": request.output_tokens, "ignore_eos": True, "return_token_ids": True}
        return orjson.dumps(fields)


def needs_proxy(host: str) -> bool:
    """Whether the environment sends plain HTTP to ``host`` through a proxy. This machine is always reached directly."""
    if is_this_machine(host):
        return False
    names = ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY")
    if not any(os.environ.get(name) for name in names):
        return False
    from urllib.request import proxy_bypass  # heavy, and rarely needed

    return not proxy_bypass(host)


def is_this_machine(host: str) -> bool:
    """Whether ``host`` names the loopback interface."""
    return host in ("localhost", "::1") or host.startswith("127.")
