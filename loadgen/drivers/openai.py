"""The OpenAI completions protocol: what is asked and where, and which driver carries it."""

from __future__ import annotations

import select
from collections.abc import Mapping
from typing import Any

from loadgen.drivers.openai_endpoint import Endpoint, needs_proxy
from loadgen.errors import BadInput
from loadgen.protocols import Driver
from loadgen.records import Timeouts

OPTIONS: dict[str, str] = {
    "extras": "true/false: send ignore_eos, min_tokens and return_token_ids, which OpenAI refuses (default true)",
    "transport": "auto, raw or httpx (default auto: raw, on Linux, unless TLS or a proxy is needed)",
    "stamps": "kernel or user: where arrival times come from (default kernel, where the machine can)",
    "request_ids": "true/false: send an x-request-id of PHASE-SEQ with each request (default false)",
}


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
