"""llama.cpp's own route ``/completion``: token ids both ways, a list of prompts as one batch.

Its OpenAI route sends no ids back, and of a list's usage the first prompt's alone. A list's stream begins with an event
``null``; each sequence ends with ``"stop": true``, which is demanded: a server that
is stopped ends its streams cleanly.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from loadgen.drivers.answer import ending
from loadgen.drivers.engine_route import EngineAnswer, EngineEndpoint, Part, driver, place_of
from loadgen.errors import Refused
from loadgen.load_records import Timeouts
from loadgen.protocols import Driver
from loadgen.request_records import Request

ROUTE = "/completion"


class Completion(EngineAnswer):
    """``{index, tokens, stop, stop_type, tokens_predicted, tokens_evaluated, truncated}``."""

    __slots__ = ()

    def parts(self, event: Mapping[str, Any], place: int) -> Iterator[Part]:
        """One sequence an event; whole, a list of them, in which each says its index."""
        ended = event["stop"] is True
        if ended and event.get("truncated"):
            raise Refused("the server dropped part of the context to go on (truncated)")
        yield Part(
            index=place_of(event, place),
            ids=event["tokens"],
            finish=(ending(event.get("stop_type")) or "stop") if ended else None,
            prompt_tokens=event["tokens_evaluated"] if ended else None,
            output_tokens=event["tokens_predicted"] if ended else None,
        )


def body(request: Request) -> Mapping[str, Any]:
    """Greedy, to the very length, nothing from the prompt cache."""
    prompts = request.prompts
    return {
        "prompt": prompts[0] if len(prompts) == 1 else prompts,
        "n_predict": request.output_tokens,
        "temperature": 0,
        "ignore_eos": True,
        "cache_prompt": False,
        "return_tokens": True,
        "stream": request.stream,
    }


def make_driver(base_url: str, model: str, timeouts: Timeouts, options: Mapping[str, Any]) -> Driver:
    """The driver of a llama.cpp server."""
    endpoint = EngineEndpoint(base_url, model, path=ROUTE, body=body, answer=Completion, batches=True)
    return driver("llamacpp", endpoint, timeouts, options)
