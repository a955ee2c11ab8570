"""What a completions answer says, read block by block as it arrived.

Every driver of the OpenAI protocol hands the body's blocks with their arrival times to one ``Answer``, so that tokens
are counted the same way whatever carried them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Literal

from orjson import JSONDecodeError, loads

from loadgen.drivers.server_words import shown, words_of
from loadgen.drivers.sse import EventStream
from loadgen.errors import BadReply, DriverError, Refused
from loadgen.request_records import Reply, Request

NOT_THE_SHAPE = (KeyError, TypeError, AttributeError, IndexError, ValueError, RecursionError)
MOST_BODY = 256 << 20  # bytes that are kept of an answer that is no stream
MOST_ID, MOST_TOKENS = 2**31 - 1, 2**31 - 1  # what the stored columns hold
BEHIND_DONE = "tokens came behind [DONE]"
# Finish reasons, in small letters, of an answer that the server gave up, which would pass for a short one; and those
# that say nothing, whatever text a server makes of its null.
GIVEN_UP = frozenset(
    {"abort", "aborted", "cancel", "cancelled", "canceled", "error", "failed", "failure", "timeout"}
)
NO_FINISH = frozenset({"", "null", "none"})
# What an event holds that is an error in another shape than OpenAI's, behind a status of 200 that had already gone out.
WORDS, CODES = ("message", "msg"), ("code", "status", "status_code")


class Answer:
    """Becomes a Reply. An arrival is one read that brought output tokens: its time goes to ``token_ns``.

    ``tokens_per_arrival`` are the tokens of that read over all sequences, counted by the ids in the events. A server
    that sends no ids is counted by its usage figures; ``tokens_per_arrival`` is then the number of non-empty texts,
    which need not be tokens, so that its sum may differ from ``output_tokens``. Usage is one figure for all sequences
    of a batch: it tells the count of each only if it is the greatest possible, since none may exceed what was asked.
    ``coalesced`` counts reads that hold two arrivals of one sequence: the time of the earlier one is lost.

    An event without choices holds no token; of several usage figures the last known one counts, wherever it came; an
    event with an ``error`` fails the request whatever stands beside it, as do tokens behind ``[DONE]``; all else that
    an event holds is passed over.
    """

    __slots__ = (
        "_begun_ns",
        "_blocks",
        "_by_ids",
        "_coalesced",
        "_counts",
        "_done",
        "_events",
        "_finish",
        "_first",
        "_first_answer_ns",
        "_last_ns",
        "_latest_read",
        "_read",
        "_request",
        "_size",
        "_status",
        "_text_only",
        "_token_ns",
        "_tokens",
        "_unbegun",
        "_usage",
        "failed",
    )

    def __init__(self, request: Request, status: int, reason: str, content_type: str) -> None:
        sequences = len(request.prompts)
        self._request = request
        self._status = None if status == 200 else f"{status} {reason}".strip()
        streamed = status == 200 and content_type == "text/event-stream"
        self._events = EventStream() if streamed else None
        self._blocks: list[tuple[bytes, int]] = []  # of a body that does not call itself an event stream
        self._counts = [0] * sequences
        self._latest_read = [0] * sequences  # the read that last brought each sequence a token
        self._finish: list[str | None] = [None] * sequences
        self._by_ids = self._text_only = self._done = False
        self._first: list[int] = []
        self._usage: Mapping[str, Any] = {}
        self._unbegun = sequences  # without a token yet
        self._begun_ns: int | None = None
        self._first_answer_ns: int | None = None
        self._token_ns: list[int] = []
        self._tokens: list[int] = []
        self._coalesced = self._read = self._last_ns = self._size = 0
        self.failed: DriverError | None = None

    def feed(self, block: bytes, at_ns: int) -> None:
        """Take what one read brought of the body. A fault is kept in ``failed``; nothing behind it is read."""
        self._last_ns = at_ns
        if self._events is None:
            self._size += len(block)
            if self._size <= MOST_BODY:
                self._blocks.append((block, at_ns))
            elif self.failed is None:
                self.failed = BadReply(f"a body of more than {MOST_BODY >> 20} MiB")
        else:
            self.take(self._events.feed(block), at_ns)

    @property
    def between_events(self) -> bool:
        """Whether ``take`` may be given events past ``feed``."""
        return self._events is not None and self._events.between_events and self.failed is None

    @property
    def tokens(self) -> int:
        """Output tokens that have come, by ids, or by texts where the server sends no ids."""
        return sum(self._tokens)

    def reply(self, *, sent_ns: int, end_ns: int, reads: int, lag_ns: int | None, error: str | None) -> Reply:
        """The Reply, once the transport saw the body's end or failed with ``error`` (``ClassName: message``)."""
        if self._status is not None:
            self.failed = Refused(f"{self._status}: {words_of(self._body())}")
        elif error is None:
            self._conclude()
        if self.failed is not None:  # the server's own words say more than how the connection ended
            error = f"{type(self.failed).__name__}: {self.failed}"
        output_tokens, counted_by = self._output_tokens()
        finish = self._finish[0]
        if len(self._finish) > 1:
            finish = ",".join(sorted({reason for reason in self._finish if reason is not None})) or None
        return Reply(
            seq=self._request.seq,
            sent_ns=sent_ns,
            end_ns=end_ns,
            token_ns=tuple(self._token_ns),
            tokens_per_arrival=tuple(self._tokens),
            output_tokens=output_tokens,
            counted_by=counted_by,
            usage_prompt_tokens=self._used("prompt_tokens"),
            usage_output_tokens=self._used("completion_tokens"),
            cached_tokens=cached_tokens(self._usage),
            begun_ns=self._begun_ns,
            first_answer_ns=self._first_answer_ns,
            first_tokens=tuple(self._first[: self._request.keep_ids]),
            finish=finish,
            reads=reads,
            coalesced=self._coalesced,
            lag_ns=lag_ns,
            error=error,
        )

    def _body(self) -> bytes:
        return b"".join(block for block, _ in self._blocks)

    def _conclude(self) -> None:
        """The body is whole: take what is left of it, and doubt it if it is not an answer."""
        if self._events is None and self._request.stream and _begins_a_stream(self._body()):
            self._events = EventStream()  # under another content type, such as a framework's text/plain
            for block, at_ns in self._blocks:
                self.feed(block, at_ns)
        if self._events is None:
            self.take([self._body()], None)
        elif held := self._events.held:
            if held.lstrip()[:1] == b"{":
                self.take([held], None)  # one JSON object that calls itself an event stream
            elif rest := self._events.finish():
                self.take(rest, self._last_ns)
        if self.failed is not None:
            return
        finish = self._finish
        if given_up := {each for each in finish if each is not None and each.lower() in GIVEN_UP}:
            reasons = ", ".join(sorted(given_up))
            self.failed = Refused(f"the server gave the answer up: finish_reason {reasons}")
        elif silent := sum(
            not (ended or read) for ended, read in zip(finish, self._latest_read, strict=True)
        ):
            body = f": {shown(self._body())}" if self._events is None else ""
            of = f" for {silent} of {len(finish)} prompts" if len(finish) > 1 else ""
            self.failed = BadReply(f"no choices{of}{body}")
        elif self._events is not None and not self._done and None in finish:
            self.failed = BadReply("the stream ended without [DONE] and without a finish reason")

    def take(self, events: list[bytes], at_ns: int | None) -> None:
        """Count the output tokens of the events of one read; of a whole body when ``at_ns`` is None.

        Never raises: what is wrong with an event stands in ``failed``.
        """
        if self.failed is not None:
            return
        tokens = 0
        until_done = 0 if self._done else None
        lost = False
        self._read += 1
        try:
            for data in events:
                if data == b"[DONE]":
                    self._done, until_done = True, tokens
                    continue
                try:
                    event = loads(data)
                    choices = event["choices"]
                    usage = event.get("usage")
                except (JSONDecodeError, *NOT_THE_SHAPE):
                    event = self._odd(data)
                    choices, usage = event.get("choices"), event.get("usage")
                    until_done = tokens if self._done and until_done is None else until_done
                if event.get("error") or (not choices and tells_an_error(event)):
                    raise Refused(words_of(data))
                if usage:
                    self._note_usage(usage)
                    if "timings" in event:  # llama.cpp's, in the event that holds its usage
                        self._note_usage({"timings": event["timings"]})
                for choice in choices or ():
                    index = choice.get("index")
                    if index.__class__ is not int or index < 0:
                        index = self._place(index, choice, choices, at_ns)
                    ids = choice.get("token_ids")
                    if ids is not None:
                        new = self._count(index, ids)
                    elif choice.get("text"):
                        self._text_only = True
                        new = 1
                    else:
                        new = 0
                    if new:
                        tokens += new
                        latest = self._latest_read[index]
                        if latest == self._read:
                            lost = True
                        elif not latest:
                            self._began(at_ns)
                        self._latest_read[index] = self._read
                    if choice.get("finish_reason") or not new:
                        self._note_end(index, choice, event, data)
        except DriverError as error:
            self.failed = error
        except NOT_THE_SHAPE as error:
            self.failed = BadReply(f"not a completion ({type(error).__name__}: {error}): {shown(data)}")
        if until_done is not None and tokens > until_done and self.failed is None:
            self.failed = BadReply(BEHIND_DONE)
        if tokens and at_ns is not None:
            self._token_ns.append(at_ns)
            self._tokens.append(tokens)
            self._coalesced += lost
        if self._events is not None and self._events.failed is not None:
            self.failed = Refused(words_of(self._events.failed))

    def _note_read(self, tokens: int, lost: bool, at_ns: int | None) -> None:
        """What one read brought; ``take`` has the same in its own body, where a call is a cost of every token."""
        if tokens and at_ns is not None:
            self._token_ns.append(at_ns)
            self._tokens.append(tokens)
            self._coalesced += lost
        if self._events is not None and self._events.failed is not None:
            self.failed = Refused(words_of(self._events.failed))

    def _odd(self, data: bytes) -> dict[str, Any]:
        """An event that is not of the usual shape. Raises Refused for an error, BadReply for what is no JSON object.

        Null is an event of nothing.
        """
        if is_done(data):
            self._done = True
            return {}
        event = lenient(data)
        if event is None:
            return {}
        if not isinstance(event, dict):
            raise BadReply(f"no choices: {shown(data)}")
        if tells_an_error(event):
            raise Refused(words_of(data))
        return event

    def _place(self, index: Any, choice: object, choices: list[Any], at_ns: int | None) -> int:
        """The sequence of a choice without a usable index: there may be no other, or their order tells."""
        if index is None and len(self._counts) == 1:
            return 0
        if index is None and at_ns is None and len(choices) == len(self._counts):
            return next(place for place, each in enumerate(choices) if each is choice)
        raise IndexError(f"index {index!r} of {len(self._counts)} sequences")

    def _note_end(self, index: int, choice: Mapping[str, Any], event: Mapping[str, Any], data: bytes) -> None:
        """Take what a choice says of its end. Raises Refused where it, or the event around it, says that it failed."""
        if choice.get("error") or tells_an_error(event):
            raise Refused(words_of(data))
        self._finish[index] = ending(choice.get("finish_reason")) or self._finish[index]

    def _note_usage(self, usage: Any) -> None:
        """Keep the figures that are known: an object of another kind, such as a price, or of zeros, does not take them
        away."""
        known = self._usage
        if usage.__class__ is dict and not known and None not in usage.values():
            self._usage = usage
        elif isinstance(usage, Mapping):
            told = {key: value for key, value in usage.items() if value or not known.get(key)}
            self._usage = {**known, **told}

    def _began(self, at_ns: int | None) -> None:
        """Another sequence has its first token."""
        self._unbegun -= 1
        if not self._unbegun and len(self._counts) > 1:
            self._begun_ns = at_ns

    def _count(self, index: int, ids: list[int]) -> int:
        if ids.__class__ is not list:
            raise TypeError("token_ids is no list")
        self._by_ids = True
        self._counts[index] += len(ids)
        if index == 0 and len(self._first) < (most := self._request.keep_ids):
            for token in ids[:most]:
                if token.__class__ is not int or not 0 <= token <= MOST_ID:
                    raise TypeError(f"token id {shown(repr(token).encode())} is none")
            self._first += ids[:most]
        return len(ids)

    def _output_tokens(self) -> tuple[tuple[int, ...] | None, Literal["ids", "usage"] | None]:
        if self._by_ids and not self._text_only:
            return tuple(self._counts), "ids"
        used = self._used("completion_tokens")
        sequences, asked = len(self._counts), self._request.output_tokens
        if used is not None and sequences == 1:
            return (used,), "usage"
        if used is not None and used == sequences * asked:
            return (asked,) * sequences, "usage"
        return None, None

    def _used(self, key: str) -> int | None:
        value: Any = self._usage.get(key)
        if value.__class__ is float and value.is_integer():  # of a JSON writer that knows one kind of number
            value = int(value)
        return value if value.__class__ is int and 0 <= value <= MOST_TOKENS else None


def is_done(data: bytes) -> bool:
    """Whether an event is the end mark, also with blanks about it or as a JSON text."""
    return data == b"[DONE]" or data.strip().strip(b'"') == b"[DONE]"


def lenient(data: bytes) -> Any:
    """The JSON of an event or a body that orjson refuses. Raises BadReply.

    Nobody reads the texts, so what is wrong within one is let pass: half of a surrogate pair, control characters, bytes
    that are not UTF-8; and so are numbers that are not finite.
    """
    try:
        return json.loads(data.decode("utf-8-sig", "replace"), strict=False)
    except (ValueError, RecursionError):
        raise BadReply(f"not JSON: {shown(data)}") from None


def ending(reason: Any) -> str | None:
    """A finish reason; ``None`` for what a server writes where there is none yet."""
    text = str(reason or "").strip()
    return None if text.lower() in NO_FINISH else text


def tells_an_error(event: Mapping[str, Any]) -> bool:
    """Whether an event holds an error in another shape than OpenAI's: of a server's framework, or of a proxy.

    Beside tokens or usage mere words are none.
    """
    codes = (event.get(name) for name in CODES)
    if event.get("object") == "error" or event.get("errors"):
        return True
    if any(code.__class__ is int and code >= 400 for code in codes):
        return True
    if "choices" in event or "usage" in event or "type" in event:
        return False
    return bool(event.get("detail")) or any(event.get(name).__class__ is str for name in WORDS)


def cached_tokens(usage: Mapping[str, Any]) -> int | None:
    """Input tokens that a cache had, by a reply's usage: OpenAI's ``prompt_tokens_details`` (also of vLLM and SGLang,
    where they are told to), llama.cpp's ``timings.cache_n``, DeepSeek's ``prompt_cache_hit_tokens``."""
    details = usage.get("prompt_tokens_details")
    told = details.get("cached_tokens") if details.__class__ is dict else None
    if told is None:
        timings = usage.get("timings")
        told = timings.get("cache_n") if timings.__class__ is dict else usage.get("prompt_cache_hit_tokens")
    return told if told.__class__ is int and 0 <= told <= MOST_TOKENS else None


def _begins_a_stream(body: bytes) -> bool:
    return body.removeprefix(b"\xef\xbb\xbf").lstrip().startswith((b"data:", b"event:", b"id:", b":"))
