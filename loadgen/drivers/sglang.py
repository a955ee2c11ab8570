"""SGLang's own route ``/generate``: token ids both ways in every version, a list of prompts as one batch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from loadgen.drivers.engine_route import EngineAnswer, EngineEndpoint, Part, driver, place_of
from loadgen.errors import BadReply
from loadgen.load_records import Timeouts
from loadgen.protocols import Driver
from loadgen.request_records import Request

ROUTE = "/generate"


class Generated(EngineAnswer):
    """``{index, output_ids, meta_info{prompt_tokens, completion_tokens, finish_reason}}``.

    ``output_ids`` are all so far, or, with --incremental-streaming-output and in LMDeploy, the new ones alone: either
    way the last ones are new, as many as ``completion_tokens`` grew by.
    """

    __slots__ = ()

    def parts(self, event: Mapping[str, Any], place: int) -> Iterator[Part]:
        """One sequence an event; whole, a list in order."""
        meta, ids = event["meta_info"], event["output_ids"]
        index = place_of(event, place)
        told = meta["completion_tokens"]
        new = told - self.seen(index)
        if not 0 <= new <= len(ids):
            raise BadReply(f"completion_tokens {told} after {self.seen(index)}, with {len(ids)} ids")
        ended = meta.get("finish_reason")
        yield Part(
            index=index,
            ids=ids[len(ids) - new :],
            finish=str(ended["type"]) if isinstance(ended, Mapping) else ended,
            prompt_tokens=meta["prompt_tokens"],
            output_tokens=told,
        )


def body(request: Request) -> Mapping[str, Any]:
    """Greedy, to the very length. min_new_tokens is not sent: a server without a tokenizer refuses it."""
    prompts = request.prompts
    return {
        "input_ids": prompts[0] if len(prompts) == 1 else prompts,
        "sampling_params": {
            "max_new_tokens": request.output_tokens,
            "ignore_eos": True,
            "temperature": 0,
        },
        "stream": request.stream,
    }


def make_driver(base_url: str, model: str, timeouts: Timeouts, options: Mapping[str, Any]) -> Driver:
    """The driver of an SGLang server."""
    endpoint = EngineEndpoint(base_url, model, path=ROUTE, body=body, answer=Generated, batches=True)
    return driver("sglang", endpoint, timeouts, options)
