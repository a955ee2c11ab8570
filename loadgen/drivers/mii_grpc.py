"""DeepSpeed-MII over gRPC: GeneratorReply for static batches, GeneratorReplyStream for sequences with token times.

MII streams one sequence a call; a batch therefore comes whole, without token times, also when streaming was asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from loadgen.drivers import mii_messages as messages
from loadgen.drivers.answer import ending
from loadgen.drivers.grpc_calls import Call, GrpcCalls, Prepared, address_of
from loadgen.drivers.mii_text import Decimal, OneTokenWords, Text
from loadgen.drivers.words import Words, from_tokenizer
from loadgen.errors import BadInput, BadReply, DriverError, WrongLength
from loadgen.load_records import Timeouts
from loadgen.protocols import Driver
from loadgen.request_records import Reply, Request

WHOLE, STREAM = f"{messages.SERVICE}GeneratorReply", f"{messages.SERVICE}GeneratorReplyStream"
OPTIONS: dict[str, str] = {
    "text": "ids: prompts are token ids in decimal (a server of loadgen's for a preset); tokenizer or words: words of "
    "one token",
    "tokenizer": "for text = tokenizer: the checkpoint folder whose tokenizer.json the server uses",
    "words": "for text = words: the words, as Words.option gives them",
}


def make_driver(base_url: str, model: str, timeouts: Timeouts, options: Mapping[str, Any]) -> Driver:
    """The driver for one MII server, ``grpc://HOST:PORT``. ``options`` are those of ``OPTIONS``. Raises BadInput."""
    for name in options:
        if name not in OPTIONS:
            raise BadInput(f"mii-grpc driver option {name!r}: unknown (accepted: {', '.join(OPTIONS)})")
    kind, folder, words = options.get("text", "ids"), options.get("tokenizer"), options.get("words")
    with_it = {"tokenizer": isinstance(folder, str), "words": words is not None}
    if kind not in ("ids", *with_it) or any(given != (kind == name) for name, given in with_it.items()):
        raise BadInput(
            f"mii-grpc driver options text = {kind!r}, tokenizer = {folder!r} (accepted: text = ids alone, "
            "text = tokenizer with tokenizer = FOLDER, or text = words with words)"
        )
    text: Text = Decimal()
    if kind != "ids":
        text = OneTokenWords(Words.of_option(words) if words is not None else from_tokenizer(str(folder)))
    return MiiDriver(address_of(base_url), timeouts, text)


class MiiDriver:
    """See ``loadgen.protocols.Driver``."""

    name = "mii-grpc"
    stamps = "user"
    batches = True

    def __init__(self, address: str, timeouts: Timeouts, text: Text) -> None:
        self._calls = GrpcCalls(address, timeouts, {WHOLE: "unary", STREAM: "stream"})
        self._text = text
        self.can = frozenset({"ids"} if isinstance(text, Decimal) else ())

    async def open(self, connections: int) -> None:
        """Connect. Raises ConnectFailed."""
        await self._calls.open(connections)

    def prepare(self, request: Request) -> Prepared:
        """Greedy, exactly ``output_tokens`` tokens, whatever an end-of-sequence token says."""
        stream = request.stream and len(request.prompts) == 1
        settings: dict[str, str | int | float | bool] = {
            "max_new_tokens": request.output_tokens,
            "ignore_eos": True,
            "do_sample": False,
        }
        if stream:
            settings["stream"] = True
        message = messages.MultiStringRequest(
            request=[self._text.prompt(prompt) for prompt in request.prompts],
            query_kwargs=messages.settings(settings),
        )
        return Prepared(request, STREAM if stream else WHOLE, message.SerializeToString())

    def start(self, prepared: Prepared, done: Callable[[Any], None]) -> None:
        """Send it; ``done`` is called once with what ``decode`` takes."""
        self._calls.start(prepared, done)

    def decode(self, raw: Call) -> Reply:
        """Count what came. A fault in the answer is told before the connection's end: it came first."""
        answer = _Answer(raw.prepared.request, self._text)
        error = raw.error
        try:
            for at_ns, message in raw.arrivals:
                answer.take(at_ns, message, streamed=raw.prepared.method == STREAM)
            if error is None:
                answer.conclude()
        except DriverError as caught:
            error = f"{type(caught).__name__}: {caught}"
        return answer.reply(raw, error)

    async def close(self) -> None:
        """Cancel what is under way and close the connections."""
        await self._calls.close()


class _Answer:
    """One request's messages, read in order. MII's figures are the count; ids in the text must agree with them."""

    def __init__(self, request: Request, text: Text) -> None:
        self._request, self._text = request, text
        self._generated: list[int] = []
        self._token_ns: list[int] = []
        self._arrived: list[int] = []
        self._first: list[int] = []
        self._finish: list[str] = []
        self._prompt_tokens = 0
        self._ids = 0
        self._by_ids = True

    def take(self, at_ns: int, message: bytes, *, streamed: bool) -> None:
        """Read one message. Raises BadReply for what is none, WrongLength for a prompt miscounted."""
        try:
            replies = messages.MultiGenerationReply.FromString(message).response
        except messages.DecodeError as error:
            raise BadReply(f"not a MultiGenerationReply of MII ({len(message)} bytes): {error}") from None
        if streamed:
            self._take_step(at_ns, replies)
        else:
            for place, reply in enumerate(replies):
                self._take_sequence(place, reply)

    def conclude(self) -> None:
        """The answer is whole. Raises BadReply for one that is not, or that contradicts itself."""
        if len(self._finish) != len(self._request.prompts):
            raise BadReply(
                f"{len(self._finish)} of {len(self._request.prompts)} sequences have a finish reason"
            )
        if self._by_ids and self._ids != sum(self._generated):
            raise BadReply(
                f"generated_tokens adds up to {sum(self._generated)}, the texts to {self._ids} tokens"
            )

    def reply(self, raw: Call, error: str | None) -> Reply:
        by_ids = self._by_ids and self._ids == sum(self._generated)
        return Reply(
            seq=self._request.seq,
            sent_ns=raw.sent_ns,
            end_ns=raw.end_ns,
            token_ns=tuple(self._token_ns),
            tokens_per_arrival=tuple(self._arrived),
            output_tokens=tuple(self._generated) or None,
            counted_by=("ids" if by_ids else "usage") if self._generated else None,
            usage_prompt_tokens=self._prompt_tokens or None,
            usage_output_tokens=sum(self._generated) if self._generated else None,
            first_tokens=tuple(self._first[: self._request.keep_ids]),
            finish=",".join(sorted(set(self._finish))) or None,
            reads=len(raw.arrivals),
            error=error,
        )

    def _take_step(self, at_ns: int, replies: Any) -> None:
        """A message of a stream: ``generated_tokens`` counts from the start; the last repeats it and brings none."""
        if len(replies) != 1:
            raise BadReply(f"a streamed message holds {len(replies)} sequences (expected 1)")
        step = replies[0]
        before = self._generated[0] if self._generated else 0
        new = step.generated_tokens - before
        if new < 0:
            raise BadReply(f"generated_tokens fell from {before} to {step.generated_tokens}")
        if self._finish:
            raise BadReply("a message came after the one with a finish reason")
        if new:
            self._token_ns.append(at_ns)
            self._arrived.append(new)
        self._generated = [step.generated_tokens]
        self._take_text(0, step.response)
        if (finish := ending(step.finish_reason)) is not None:
            self._finish.append(finish)
            self._check(0, step)

    def _take_sequence(self, place: int, reply: Any) -> None:
        self._generated.append(reply.generated_tokens)
        self._finish.append(reply.finish_reason)
        self._take_text(place, reply.response)
        self._check(place, reply)

    def _take_text(self, place: int, text: str) -> None:
        if not self._by_ids or not text:
            return
        ids = self._text.ids(text)
        if ids is None:
            self._by_ids = False
            return
        self._ids += len(ids)
        if place == 0 and len(self._first) < self._request.keep_ids:
            self._first += ids

    def _check(self, place: int, reply: Any) -> None:
        """The server's count of the prompt is the only proof that it got as many tokens as were meant."""
        prompts = self._request.prompts
        if place >= len(prompts):
            raise BadReply(f"the answer holds more sequences than the {len(prompts)} that were sent")
        self._prompt_tokens += reply.prompt_tokens
        if reply.prompt_tokens != len(prompts[place]):
            raise WrongLength(
                f"prompt {place}: {len(prompts[place])} tokens were meant, and the server counted {reply.prompt_tokens}"
            )
