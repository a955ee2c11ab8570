"""The OpenAI completions protocol: what is asked and where, and which driver carries it."""

from __future__ import annotations

import select
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from loadgen.drivers.http_access import proxy_for
from loadgen.drivers.openai_endpoint import ROUTES, Endpoint, check_extra_body, check_headers, extras_of
from loadgen.drivers.words import Words
from loadgen.errors import BadInput
from loadgen.load_records import Timeouts
from loadgen.protocols import Driver

if TYPE_CHECKING:
    from loadgen.drivers.openai_httpx import HttpxDriver
    from loadgen.drivers.openai_raw import RawDriver

OPTIONS: dict[str, str] = {
    "endpoint": f"{', '.join(sorted(ROUTES))}: the route (default: what the URL's path names, else completions)",
    "prompt": "ids or text: what completions are sent (default ids; other routes take text)",
    "batches": "true/false: completions take a list of prompts in one call (default true); else single calls at once",
    "words": "the words that text is made of, as Words.option gives them (default: common ones, not measured)",
    "extras": "true, false or some of ignore_eos, min_tokens and return_token_ids, which OpenAI refuses (default true)",
    "extra_body": "further fields of each request's body; null leaves one out",
    "headers": "further headers; ${VARIABLE} in one is read from the environment",
    "usage": "whole or each: a figure for the call, or one for each of its prompts, to be added up (default whole)",
    "limit": "max_tokens or max_completion_tokens: the field that limits the output (default max_tokens)",
    "transport": "auto, raw or httpx (default auto: raw, on Linux, unless TLS or a proxy is needed)",
    "stamps": "kernel or user: where arrival times come from (default kernel, where the machine can)",
    "request_ids": "true/false: send an x-request-id of PHASE-SEQ with each request (default false)",
}
CHOICES = {
    "endpoint": tuple(sorted(ROUTES)),
    "prompt": ("ids", "text"),
    "limit": ("max_tokens", "max_completion_tokens"),
    "usage": ("whole", "each"),
    "transport": ("auto", "raw", "httpx"),
    "stamps": ("kernel", "user"),
}
CHECKS = {
    "extras": extras_of,
    "extra_body": check_extra_body,
    "headers": check_headers,
    "words": Words.of_option,
}


def make_driver(base_url: str, model: str, timeouts: Timeouts, options: Mapping[str, Any]) -> Driver:
    """The driver for an OpenAI-compatible endpoint: ``openai-raw``, or ``openai-httpx`` where TLS or a proxy is needed.

    ``options`` are those of ``OPTIONS``. Raises BadInput for an unknown option or an impossible URL.
    """
    settings = check_options(options)
    return carried(Endpoint(base_url, model, settings), timeouts, settings)


def carried(endpoint: Endpoint, timeouts: Timeouts, options: Mapping[str, Any]) -> RawDriver | HttpxDriver:
    """The driver that carries an endpoint's requests, by the options ``transport`` and ``stamps``. Raises BadInput."""
    settings = check_options(options)
    transport = settings.get("transport", "auto")
    plain = endpoint.scheme == "http" and endpoint.socket is None
    if transport == "auto":
        own = plain and hasattr(select, "epoll") and proxy_for("http", endpoint.host) is None
        transport = "raw" if own else "httpx"
    if transport == "httpx":
        from loadgen.drivers.openai_httpx import HttpxDriver

        return HttpxDriver(endpoint, timeouts)
    if not plain:
        raise BadInput(
            f"transport = 'raw': cannot carry {endpoint.scheme}:// (accepted: http:// URLs; else 'auto' or 'httpx')"
        )
    from loadgen.drivers.openai_raw import RawDriver

    return RawDriver(endpoint, timeouts, kernel_stamps=settings.get("stamps", "kernel") == "kernel")


def check_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """The driver options that were given, without those that are None. Raises BadInput for one that cannot be."""
    given = {key: value for key, value in options.items() if value is not None}
    for key, value in given.items():
        if key not in OPTIONS:
            raise BadInput(f"openai driver option {key!r}: unknown (accepted: {', '.join(OPTIONS)})")
        if key in CHOICES and value not in CHOICES[key]:
            raise BadInput(f"openai driver option {key} = {value!r}: (accepted: {', '.join(CHOICES[key])})")
        if key in CHECKS:
            CHECKS[key](value)
        elif key not in CHOICES and not isinstance(value, bool):
            raise BadInput(f"openai driver option {key} = {value!r}: (accepted: true, false)")
    if given.get("prompt") == "ids" and given.get("endpoint", "completions") != "completions":
        raise BadInput(
            f"openai driver option prompt = 'ids': {given['endpoint']} takes text (accepted: text)"
        )
    return given
