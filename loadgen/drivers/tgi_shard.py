"""text-generation-inference's shards over gRPC, asked as its router asks them: one Prefill, then Decode by Decode.

The caller is the scheduler: it sends each step when the last one's answer has been read. So model, sampling and
detokenising are measured, without router, queue and HTTP, and with this client's own work between two steps (0.1 ms at
256 sequences). A shard holds one batch at a time. Every shard of a model gets every message; each answers for its share
of the sequences.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import orjson

from loadgen.drivers.grpc_calls import CHANNEL_OPTIONS, Prepared, fault
from loadgen.drivers.mii_text import Decimal, Text
from loadgen.drivers.tgi import OPTIONS, text_of
from loadgen.drivers.tgi_messages import SERVICE, message, request_of
from loadgen.drivers.tgi_steps import Answer, step_of
from loadgen.errors import BadInput, BadReply, ConnectFailed, DriverError, TimedOut, WrongLength
from loadgen.load_records import Timeouts
from loadgen.protocols import Driver
from loadgen.request_records import Reply, Request
from loadgen.units import nanoseconds, seconds

PREFILL, DECODE, FILTER, CLEAR, DISCOVER = (
    f"{SERVICE}{name}" for name in ("Prefill", "Decode", "FilterBatch", "ClearCache", "ServiceDiscovery")
)
ECHOED = (5, 6, 7)
CLEAN_S = 5.0
PAGE = "info.json"  # beside the sockets, by the shards' launcher: how many tokens the cache holds


def make_driver(base_url: str, model: str, timeouts: Timeouts, options: Mapping[str, Any]) -> Driver:
    """The driver of the shards of one model, by the socket of the first: ``unix:PATH``. Raises BadInput."""
    if not base_url.startswith("unix:"):
        raise BadInput(f"URL {base_url!r}: not a shard's (accepted: unix:PATH)")
    for name in options:
        if name not in OPTIONS:
            raise BadInput(f"tgi-shard driver option {name!r}: unknown (accepted: {', '.join(OPTIONS)})")
    return ShardDriver(base_url, timeouts, text_of(options))


class _Run:
    """A batch under way, then the record of it: per step when its last answer came, and all answers."""

    __slots__ = ("alive", "answers", "done", "end_ns", "error", "prepared", "sent_ns")

    def __init__(self, prepared: Prepared, done: Callable[[Any], None]) -> None:
        self.prepared, self.done = prepared, done
        self.sent_ns = self.end_ns = time.monotonic_ns()
        self.answers: list[tuple[int, list[bytes]]] = []
        self.alive = set(range(len(prepared.request.prompts)))
        self.error: str | None = None


class ShardDriver:
    """See ``loadgen.protocols.Driver``."""

    name = "tgi-shard"
    stamps = "user"
    batches = True

    def __init__(self, url: str, timeouts: Timeouts, text: Text) -> None:
        self._url, self._timeouts, self._text = url, timeouts, text
        self.can = frozenset({"ids"} if isinstance(text, Decimal) else ())
        self._kv_tokens: int | None = None
        self._channels: list[Any] = []
        self._task: asyncio.Task[None] | None = None
        self._closing = False
        self._busy = False  # until the task's last act, which is to call for the next batch

    async def open(self, connections: int) -> None:
        """Connect to every shard. Raises ConnectFailed, and WrongLength where a prompt is echoed as other tokens."""
        self._kv_tokens = _kv_tokens(Path(self._url.removeprefix("unix:")).with_name(PAGE))
        await self._connect([self._url])
        limit_s = self._timeouts.connect_s
        (told,) = await self._ask(DISCOVER, b"", limit_s, "asked for its shards")
        urls = message("ServiceDiscoveryResponse").FromString(told).urls
        paths = [url.removeprefix("unix://") for url in urls]
        await self._connect([f"unix:{path}" for path in paths if path != self._url.removeprefix("unix:")])
        await self._echo()

    async def _connect(self, urls: Sequence[str]) -> None:
        for url in urls:
            self._channels.append(grpc.aio.insecure_channel(url, options=CHANNEL_OPTIONS))
            try:
                async with asyncio.timeout(self._timeouts.connect_s):
                    await self._channels[-1].channel_ready()
            except TimeoutError:
                await self.close()
                raise ConnectFailed(f"no connection to {url} within {self._timeouts.connect_s:g} s") from None

    async def _echo(self) -> None:
        """No step tells how long a prompt was: a small one is asked for its tokens, where the shard tells them."""
        request = Request(seq=0, phase="warmup", prompts=(ECHOED,), output_tokens=1)
        wire = self._wire(request, prefill_logprobs=True)
        answers = await self._ask(PREFILL, wire, self._timeouts.first_byte_s, "first_byte_s")
        for step in map(step_of, answers):
            for generation in step.generations:
                echo = tuple(generation.prefill_tokens.ids)
                same = echo == ECHOED if isinstance(self._text, Decimal) else len(echo) == len(ECHOED)
                if echo and not same:
                    raise WrongLength(f"a prompt of the tokens {ECHOED} was read as {echo}")

    def prepare(self, request: Request) -> Prepared:
        """The batch's Prefill."""
        return Prepared(request, PREFILL, self._wire(request))

    def _wire(self, request: Request, **more: Any) -> bytes:
        special = not isinstance(self._text, Decimal)  # one word less makes room for them
        requests = [
            request_of(place, self._text.prompt(ids), len(ids), request.output_tokens, special=special) | more
            for place, ids in enumerate(request.prompts)
        ]
        batch = {
            "id": request.seq,
            "requests": requests,
            "size": len(requests),
            "max_tokens": _tokens(request),
        }
        return bytes(message("PrefillRequest")(batch=batch).SerializeToString())

    def start(self, prepared: Prepared, done: Callable[[Any], None]) -> None:
        """Send the Prefill; it is stamped before, so that gRPC's own work is in the latency."""
        run = _Run(prepared, done)
        tokens = _tokens(prepared.request)
        if self._busy:
            run.error = "Refused: a shard holds one batch at a time, and one is under way"
        elif self._kv_tokens is not None and tokens > self._kv_tokens:  # which a shard does not look for
            run.error = (
                f"Refused: {tokens} tokens at full length, and the shard's cache holds {self._kv_tokens}"
            )
        if run.error is not None:
            asyncio.get_running_loop().call_soon(done, run)
            return
        self._busy = True
        self._task = asyncio.get_running_loop().create_task(self._steps(run))

    async def _steps(self, run: _Run) -> None:
        total_ns = run.sent_ns + nanoseconds(self._timeouts.total_s)
        method, wire = PREFILL, run.prepared.wire
        limit_s, words = self._timeouts.first_byte_s, "first_byte_s"
        try:
            while True:
                left_s = seconds(total_ns - time.monotonic_ns())
                if left_s < limit_s:
                    limit_s, words = max(left_s, 0.001), "total_s"
                answers = await self._ask(method, wire, limit_s, words)
                run.answers.append((time.monotonic_ns(), answers))
                batch = await self._following(run, answers)
                if batch is None or self._closing:
                    break
                method, wire = DECODE, message("DecodeRequest")(batches=[batch]).SerializeToString()
                limit_s, words = self._timeouts.between_bytes_s, "between_bytes_s"
        except DriverError as error:
            run.error = f"{type(error).__name__}: {error}"
        except Exception as error:  # noqa: BLE001 a batch that ends nowhere would be waited for, for ever
            run.error = f"BadReply: {type(error).__name__}: {error}"
        run.end_ns = run.answers[-1][0] if run.answers and run.error is None else time.monotonic_ns()
        if run.error is not None or self._closing:
            await self._abandon()
        self._busy = False
        if not self._closing:
            run.done(run)

    async def _following(self, run: _Run, answers: list[bytes]) -> Any | None:
        """The batch to decode next, without the sequences that have ended; ``None`` where all have."""
        steps = [step_of(answer) for answer in answers]
        for step in steps:
            run.alive -= {each.request_id for each in step.generations if each.HasField("generated_text")}
        batch = next((step.batch for step in steps if step.HasField("batch")), None)
        if batch is None:
            return None
        if not run.alive:
            await self._ask(CLEAR, _cleared(batch.id), CLEAN_S, "asked to clear its cache")
            return None
        if len(run.answers) >= run.prepared.request.output_tokens:
            raise BadReply(
                f"{len(run.alive)} sequences have no end after {len(run.answers)} steps of a token each"
            )
        if batch.size == len(run.alive):
            return batch
        wanted = message("FilterBatchRequest")(batch_id=batch.id, request_ids=sorted(run.alive))
        told = await self._ask(FILTER, wanted.SerializeToString(), CLEAN_S, "asked to filter a batch")
        return message("FilterBatchResponse").FromString(told[0]).batch

    async def _ask(self, method: str, wire: bytes, limit_s: float, words: str) -> list[bytes]:
        """The answers of all shards, which get the message at once. Raises a DriverError; ``words`` name the limit."""
        calls = [channel.unary_unary(method)(wire, timeout=limit_s) for channel in self._channels]
        try:
            return [await call for call in calls]
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
                name = method.rpartition("/")[2]
                raise TimedOut(f"no answer to {name} within {limit_s:g} s ({words})") from None
            raise fault(error.code(), error.details(), answered=False) from None
        finally:
            for call in calls:
                call.cancel()  # of one that has ended it does nothing

    async def _abandon(self) -> None:
        """Free what a batch that was given up holds."""
        with suppress(DriverError):  # the batch's own error is told
            await self._ask(CLEAR, b"", CLEAN_S, "asked to clear its cache")

    def decode(self, raw: _Run) -> Reply:
        """Count what came. A fault in the answer is told before the connection's end: it came first."""
        request = raw.prepared.request
        answer = Answer(len(request.prompts))
        error = raw.error
        try:
            for at_ns, answers in raw.answers:
                answer.take(at_ns, answers)
            if error is None:
                answer.conclude()
        except DriverError as caught:
            error = f"{type(caught).__name__}: {caught}"
        return Reply(
            seq=request.seq,
            sent_ns=raw.sent_ns,
            end_ns=raw.end_ns,
            token_ns=tuple(answer.token_ns) if request.stream else (),
            tokens_per_arrival=tuple(answer.tokens) if request.stream else (),
            output_tokens=tuple(answer.counts) if raw.answers else None,
            counted_by="ids" if raw.answers else None,
            begun_ns=answer.begun_ns if request.stream else None,
            first_tokens=tuple(answer.first),
            finish=answer.finish,
            reads=len(raw.answers),
            error=error,
        )

    async def close(self) -> None:
        """Give up what is under way and close the connections."""
        if self._task is not None and self._busy:
            # The step under way is waited for: a message that one shard got and another did not would hang both.
            self._closing = True
            await asyncio.wait({self._task}, timeout=CLEAN_S)
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        for channel in self._channels:
            await channel.close()
        self._channels.clear()


def _tokens(request: Request) -> int:
    """Of all its sequences, at their full length."""
    return sum(len(ids) + request.output_tokens for ids in request.prompts)


def _kv_tokens(page: Path) -> int | None:
    """How many tokens the cache holds, as the shards' launcher wrote it beside their sockets."""
    try:
        told = orjson.loads(page.read_bytes()).get("kv_tokens")
    except (OSError, ValueError, AttributeError):
        return None
    return told if isinstance(told, int) else None


def _cleared(batch: int) -> bytes:
    return bytes(message("ClearCacheRequest")(id=batch).SerializeToString())
