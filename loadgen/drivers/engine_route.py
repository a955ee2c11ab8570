"""An engine's own route over HTTP, where its OpenAI routes lack what exact work needs: what those have in common.

A route is a body and a reading of the answer; the connections, the stamps and the framing are the OpenAI drivers'.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import orjson

from loadgen.drivers.answer import NOT_THE_SHAPE, Answer, ending, is_done, lenient
from loadgen.drivers.openai import carried
from loadgen.drivers.openai_endpoint import Endpoint
from loadgen.drivers.server_words import words_of
from loadgen.errors import BadInput, BadReply, DriverError, Refused
from loadgen.load_records import Timeouts
from loadgen.protocols import Driver
from loadgen.request_records import Request

TRANSPORT = ("transport", "stamps")  # of the OpenAI drivers, taken here too
Body = Callable[[Request], Mapping[str, Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """What one event says of one sequence. ``ids`` are new; ``output_tokens`` is the engine's own count so far, where
    it tells one; ``finish`` ends the sequence."""

    index: int
    ids: Sequence[int] = ()
    finish: str | None = None
    prompt_tokens: int | None = None
    output_tokens: int | None = None


def place_of(event: Mapping[str, Any], place: int) -> int:
    """The sequence that an event is of; its number in a list where it says none."""
    index = event.get("index")
    return place if index is None else index


class EngineAnswer(Answer):
    """Reads what ``parts`` makes of each event; counts by ids, and by the engine's own count where ids fall short.

    A sequence without a ``finish`` is not whole, however the connection ended.
    """

    __slots__ = ("_asked", "_told_output", "_told_prompt")

    def __init__(self, request: Request, status: int, reason: str, content_type: str) -> None:
        super().__init__(request, status, reason, content_type)
        self._asked = len(request.prompts)
        self._told_prompt: list[int | None] = [None] * self._asked
        self._told_output: list[int | None] = [None] * self._asked

    def parts(self, event: Mapping[str, Any], place: int) -> Iterator[Part]:
        """The parts of an event; ``place`` is its number in a whole answer that is a list. May raise what a wrong shape
        raises."""
        raise NotImplementedError

    def seen(self, index: int) -> int:
        """Output tokens of a sequence so far, by ids."""
        return self._counts[index]

    def take(self, events: list[bytes], at_ns: int | None) -> None:
        """Count the output tokens of the events of one read; of a whole body when ``at_ns`` is None. Never raises."""
        if self.failed is not None:
            return
        tokens, lost = 0, False
        self._read += 1
        try:
            for data in events:
                if is_done(data):
                    continue
                found = self._found(data)
                for place, event in enumerate(found if isinstance(found, list) else [found]):
                    if not event:
                        continue  # llama.cpp's first event is null; {} keeps a stream alive
                    if event.get("error"):
                        raise Refused(words_of(data))
                    for part in self.parts(event, place):
                        new = self._note(part)
                        tokens += new
                        if new:
                            latest = self._latest_read[part.index]
                            lost = lost or latest == self._read
                            if not latest:
                                self._began(at_ns)
                            self._latest_read[part.index] = self._read
        except DriverError as error:
            self.failed = error
        except NOT_THE_SHAPE as error:
            self.failed = BadReply(
                f"not this engine's answer ({type(error).__name__}: {error}): {words_of(data)}"
            )
        self._note_read(tokens, lost, at_ns)

    def _found(self, data: bytes) -> Any:
        try:
            return orjson.loads(data)
        except orjson.JSONDecodeError:
            return lenient(data)

    def _note(self, part: Part) -> int:
        index = part.index
        if index.__class__ is not int or not 0 <= index < self._asked:
            raise IndexError(f"index {index!r} of {self._asked} sequences")
        for told, value in ((self._told_prompt, part.prompt_tokens), (self._told_output, part.output_tokens)):
            if value is not None:
                told[index] = value
        self._finish[index] = ending(part.finish) or self._finish[index]
        return self._count(index, list(part.ids)) if part.ids else 0

    def _conclude(self) -> None:
        super()._conclude()
        if self.failed is None and None in self._finish:
            self.failed = BadReply(
                f"{self._finish.count(None)} of {self._asked} sequences have no end: the answer was cut short"
            )

    def _output_tokens(self) -> tuple[tuple[int, ...] | None, Literal["ids", "usage"] | None]:
        counts, told = tuple(self._counts), tuple(n for n in self._told_output if n is not None)
        if len(told) == self._asked and told != counts:
            return told, "usage"
        return (counts, "ids") if self._by_ids else (None, None)

    def _used(self, key: str) -> int | None:
        told = self._told_prompt if key == "prompt_tokens" else self._told_output
        known = [count for count in told if count.__class__ is int and count is not None and count >= 0]
        return sum(known) if len(known) == self._asked else None


class EngineEndpoint(Endpoint):
    """The OpenAI endpoint of a server, with another route of it in place of the completions'."""

    __slots__ = ("_make",)

    def __init__(
        self,
        base_url: str,
        model: str,
        *,
        path: str,
        body: Body,
        answer: type[Answer],
        batches: bool,
        prompt: Literal["ids", "text"] = "ids",
    ) -> None:
        super().__init__(base_url, model, {"batches": batches, "prompt": prompt})
        self._make = body
        self.answer = answer
        self.target = self.prefix.removesuffix("/v1") + path

    @property
    def can(self) -> frozenset[str]:
        """See protocols.Driver: its texts are words for ids, and no others."""
        return super().can & {"ids"}

    def body(self, request: Request) -> bytes:
        """One wire call."""
        return orjson.dumps(self._make(request), option=orjson.OPT_SERIALIZE_NUMPY)


def driver(
    name: str, endpoint: Endpoint, timeouts: Timeouts, options: Mapping[str, Any], own: Sequence[str] = ()
) -> Driver:
    """The driver of a route. Raises BadInput for an option that is neither of ``own`` nor of the transport."""
    for key in options:
        if key not in (*TRANSPORT, *own):
            raise BadInput(
                f"{name} driver option {key!r}: unknown (accepted: {', '.join((*own, *TRANSPORT))})"
            )
    found = carried(endpoint, timeouts, {key: options[key] for key in TRANSPORT if key in options})
    found.name = name
    return found
