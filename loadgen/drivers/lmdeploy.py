"""LMDeploy's own route ``/generate``: token ids both ways, one prompt a call.

Its completions take a flat list of ids for a list of prompts, and give every streamed choice the index 0.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from loadgen.drivers.engine_route import EngineEndpoint, driver
from loadgen.drivers.sglang import ROUTE, Generated
from loadgen.load_records import Timeouts
from loadgen.protocols import Driver
from loadgen.request_records import Request


def body(request: Request) -> Mapping[str, Any]:
    """Greedy, to the very length."""
    return {
        "input_ids": request.prompts[0],
        "max_tokens": request.output_tokens,
        "ignore_eos": True,
        "temperature": 0,
        "stream": request.stream,
    }


def make_driver(base_url: str, model: str, timeouts: Timeouts, options: Mapping[str, Any]) -> Driver:
    """The driver of an LMDeploy server."""
    endpoint = EngineEndpoint(base_url, model, path=ROUTE, body=body, answer=Generated, batches=False)
    return driver("lmdeploy", endpoint, timeouts, options)
