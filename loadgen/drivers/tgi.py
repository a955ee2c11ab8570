"""TGI's own route ``/generate_stream``: text in, one event a token out, one prompt a call.

No route of it takes token ids, and none ignores the end of a sequence. With a tokenizer of one token a word and without
an end token both lengths are exact all the same: ``truncate`` keeps the last N tokens, and the answer says how many it
read (``input_length``) and wrote.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from loadgen.drivers.engine_route import EngineAnswer, EngineEndpoint, Part, driver
from loadgen.drivers.mii_text import Decimal, OneTokenWords, Text
from loadgen.drivers.words import from_tokenizer
from loadgen.errors import BadInput
from loadgen.load_records import Timeouts
from loadgen.protocols import Driver
from loadgen.request_records import Request

ROUTE = "/generate_stream"
OPTIONS = ("text", "tokenizer")


class Stream(EngineAnswer):
    """``{index, token{id}, generated_text, details{finish_reason, generated_tokens, input_length}}``, the last two
    in the last event alone."""

    __slots__ = ()

    def parts(self, event: Mapping[str, Any], place: int) -> Iterator[Part]:
        """One token an event; ``index`` numbers the tokens of the one sequence."""
        details: Mapping[str, Any] = event.get("details") or {}
        yield Part(
            index=0,
            ids=(event["token"]["id"],),
            finish=str(details["finish_reason"]) if details else None,
            prompt_tokens=details["input_length"] if details else None,
            output_tokens=details["generated_tokens"] if details else None,
        )


def text_of(options: Mapping[str, Any]) -> Text:
    """How prompts become text. ``text``: ids (the words are the ids in decimal) or tokenizer (the folder's words).

    Raises BadInput for other words, and for a tokenizer whose words are not one token each.
    """
    kind = options.get("text", "ids")
    if kind not in ("ids", "tokenizer"):
        raise BadInput(f"tgi driver option text = {kind!r}: (accepted: ids, tokenizer)")
    if kind == "ids":
        return Decimal()
    return OneTokenWords(from_tokenizer(str(options.get("tokenizer", ""))))


def make_driver(base_url: str, model: str, timeouts: Timeouts, options: Mapping[str, Any]) -> Driver:
    """The driver of a TGI router. Raises BadInput, as ``text_of`` does, and for other options."""
    text = text_of(options)

    def body(request: Request) -> Mapping[str, Any]:
        ids = request.prompts[0]
        return {
            "inputs": text.prompt(ids),
            "parameters": {
                "truncate": len(ids),
                "max_new_tokens": request.output_tokens,
                "details": True,
                "do_sample": False,
                "stop": [],
            },
        }

    endpoint = EngineEndpoint(
        base_url,
        model,
        path=ROUTE,
        body=body,
        answer=Stream,
        batches=False,
        prompt="ids" if isinstance(text, Decimal) else "text",
    )
    return driver("tgi", endpoint, timeouts, options, own=OPTIONS)
