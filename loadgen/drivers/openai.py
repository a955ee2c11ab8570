"""The OpenAI completions protocol: what is asked and where, and which driver carries it."""

from __future__ import annotations

import os
import select
from collections.abc import Mapping
from typing import Any
from urllib.parse import SplitResult, urlsplit

import orjson

from loadgen.errors import BadInput
from loadgen.protocols import Driver
from loadgen.records import Request, Timeouts

API_KEY_VARIABLE = "LOADGEN_API_KEY"
OPTIONS: dict[str, str] = {
    "extras": "true/false: send ignore_eos, min_tokens and return_token_ids, which OpenAI refuses (default true)",
    "transport": "auto, raw or httpx (default auto: raw, on Linux, unless TLS or a proxy is needed)",
    "stamps": "kernel or user: where arrival times come from (default kernel, where the machine can)",
    "request_ids": "true/false: send an x-request-id of PHASE-SEQ with each request (default false)",
}


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
        return self.url.hostname or ""

    @property
    def port(self) -> int:
        return self.url.port if self.url.port is not None else (443 if self.scheme == "https" else 80)

    def headers(self) -> dict[str, str]:
        """The headers that every request carries. The key comes from the environment and is kept nowhere else."""
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


def make_driver(base_url: str, model: str, timeouts: Timeouts, options: Mapping[str, Any]) -> Driver:
    """The driver for an OpenAI-compatible endpoint: ``openai-raw``, or ``openai-httpx`` where TLS or a proxy is needed.

    ``options`` are those of ``OPTIONS``. Raises BadInput for an unknown option or an impossible URL.
    """
    settings = check_options(options)
    endpoint = Endpoint(base_url, model, settings)
    transport = settings["transport"]
    if transport == "auto":
        own = endpoint.scheme == "http" and hasattr(select, "epoll") and not needs_proxy(endpoint.host)
        transport = "raw" if own else "httpx"
    if transport == "httpx":
        from loadgen.drivers.openai_httpx import HttpxDriver

        return HttpxDriver(endpoint, timeouts)
    if endpoint.scheme != "http":
        raise BadInput(
            f"transport = 'raw': cannot carry {base_url!r} (accepted: http:// URLs; else 'auto' or 'httpx')"
        )
    from loadgen.drivers.openai_raw import RawDriver

    return RawDriver(endpoint, timeouts, kernel_stamps=settings["stamps"] == "kernel")


def check_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """All driver options with their defaults laid in. Raises BadInput."""
    settings: dict[str, Any] = {"extras": True, "transport": "auto", "stamps": "kernel", "request_ids": False}
    choices = {"transport": ("auto", "raw", "httpx"), "stamps": ("kernel", "user")}
    for key, value in options.items():
        if key not in settings:
            raise BadInput(f"openai driver option {key!r}: unknown (accepted: {', '.join(settings)})")
        if key in choices and value not in choices[key]:
            raise BadInput(f"openai driver option {key} = {value!r}: (accepted: {', '.join(choices[key])})")
        if key not in choices and not isinstance(value, bool):
            raise BadInput(f"openai driver option {key} = {value!r}: (accepted: true, false)")
        settings[key] = value
    return settings


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
