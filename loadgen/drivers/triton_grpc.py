"""FasterTransformer's tensors over Triton's gRPC: a static batch is one request, streaming one call of responses.

The one module that imports tritonclient, and of it only the messages: the wire calls are gRPC's own asyncio, given and
giving plain bytes, so that an arrival costs a stamp and an append. Responses are understood in ``decode``.
"""

from __future__ import annotations

import asyncio
import time
from array import array
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import urlsplit

import grpc
import grpc.aio
from tritonclient.grpc import service_pb2 as messages

from loadgen.drivers import ft_counts
from loadgen.drivers.ft_counts import Answer, Meaning, Tensors
from loadgen.errors import BadInput, BadReply, ConnectFailed, DriverError, Refused, TimedOut
from loadgen.protocols import Driver
from loadgen.records import Reply, Request, Timeouts
from loadgen.units import nanoseconds, seconds

SERVICE = "/inference.GRPCInferenceService/"
OPTIONS: dict[str, str] = {
    "model": "the model's name in Triton's repository (default: the endpoint's model)",
    "variant": "a or b: what sequence_length counts (default a: the padded input width too)",
    "vocab": "vocabulary size: the end id sent is the first one outside (default: none sent; the model's own holds)",
    "merged": "true/false: the server merges waiting requests (dynamic batching): count ids alone (default false)",
}
MAX_CHANNELS = 8  # connections; each carries many calls at once
KEEP_WHOLE = 32 * 1024  # larger responses are read as soon as the next has been stamped
CHANNEL_OPTIONS = (
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
    ("grpc.use_local_subchannel_pool", 1),  # else all channels to one address share a connection
    ("grpc.enable_retries", 0),  # a silent second try would be a wrong latency
    ("grpc.enable_http_proxy", 0),
)
# How gRPC words the loss of a connection; UNAVAILABLE with other words is the server's own refusal.
LOST = ("connect", "Socket closed", "Connection reset", "Broken pipe", "GOAWAY", "EOF", "transport")


def make_driver(base_url: str, model: str, timeouts: Timeouts, options: Mapping[str, Any]) -> Driver:
    """The driver for one Triton server, ``grpc://HOST:PORT``. ``options`` are those of ``OPTIONS``. Raises BadInput."""
    url = urlsplit(base_url if "://" in base_url else f"grpc://{base_url}")
    try:
        address = f"{url.hostname if ':' not in (url.hostname or '') else f'[{url.hostname}]'}:{url.port}"
    except ValueError as error:
        raise BadInput(f"URL {base_url!r}: {error} (accepted: grpc://HOST:PORT)") from None
    if url.scheme != "grpc" or not url.hostname or url.port is None:
        raise BadInput(f"URL {base_url!r}: not a Triton gRPC endpoint (accepted: grpc://HOST:PORT)")
    for name in options:
        if name not in OPTIONS:
            raise BadInput(f"triton-grpc driver option {name!r}: unknown (accepted: {', '.join(OPTIONS)})")
    variant, vocab, merged = options.get("variant", "a"), options.get("vocab"), options.get("merged", False)
    if variant not in ft_counts.VARIANTS:
        raise BadInput(f"triton-grpc driver option variant = {variant!r} (accepted: a, b)")
    if vocab is not None and (not isinstance(vocab, int) or not 0 < vocab < 1 << 31):
        raise BadInput(f"triton-grpc driver option vocab = {vocab!r} (accepted: a whole number from 1)")
    if merged and vocab is None:
        raise BadInput(
            "triton-grpc driver option merged = true needs vocab: merged requests are counted by their ids"
        )
    meaning = Meaning(variant=variant, end_id=vocab, merged=bool(merged))
    return TritonDriver(address, str(options.get("model", model)), timeouts, meaning)


class Call:
    """A request under way, then the raw record of it: arrivals as (ns, response bytes or counts already read)."""

    __slots__ = ("arrivals", "done", "end_ns", "error", "late", "prepared", "sent_ns", "timer", "wire")

    def __init__(self, prepared: Prepared, done: Callable[[Any], None]) -> None:
        self.prepared, self.done = prepared, done
        self.sent_ns = self.end_ns = time.monotonic_ns()
        self.arrivals: list[tuple[int, bytes | tuple[int, ...]]] = []
        self.error: str | None = None
        self.late: str | None = None  # which time-out cancelled it
        self.timer: asyncio.TimerHandle | None = None
        self.wire: Any = None


class Prepared:
    """A request serialised ahead of its due time."""

    __slots__ = ("request", "wire")

    def __init__(self, request: Request, wire: bytes) -> None:
        self.request, self.wire = request, wire


class TritonDriver:
    """See ``loadgen.protocols.Driver``. ``open`` asks the server how its model answers: streamed or whole."""

    name = "triton-grpc"
    stamps = "user"

    def __init__(self, address: str, model: str, timeouts: Timeouts, meaning: Meaning) -> None:
        self._address, self._model, self._timeouts, self._meaning = address, model, timeouts, meaning
        self._first_ns = nanoseconds(timeouts.first_byte_s)
        self._between_ns = nanoseconds(timeouts.between_bytes_s)
        self._total_ns = nanoseconds(timeouts.total_s)
        self._channels: list[grpc.aio.Channel] = []
        self._calls: list[Any] = []
        self._turn = 0
        self._under_way: dict[Call, asyncio.Task[None]] = {}
        self.decoupled = False

    async def open(self, connections: int) -> None:
        """Connect, and learn from the model's configuration how to call it. Raises ConnectFailed, Refused."""
        for _ in range(max(1, min(connections, MAX_CHANNELS))):
            self._channels.append(grpc.aio.insecure_channel(self._address, options=CHANNEL_OPTIONS))
        try:
            async with asyncio.timeout(self._timeouts.connect_s):
                await asyncio.gather(*(channel.channel_ready() for channel in self._channels))
        except TimeoutError:
            raise ConnectFailed(
                f"no connection to {self._address} within {self._timeouts.connect_s:g} s"
            ) from None
        await self._read_config()
        self._calls = [
            channel.stream_stream(SERVICE + "ModelStreamInfer")
            if self.decoupled
            else channel.unary_unary(SERVICE + "ModelInfer")
            for channel in self._channels
        ]

    async def _read_config(self) -> None:
        ask = self._channels[0].unary_unary(
            SERVICE + "ModelConfig",
            request_serializer=messages.ModelConfigRequest.SerializeToString,
            response_deserializer=messages.ModelConfigResponse.FromString,
        )
        try:
            reply = await ask(messages.ModelConfigRequest(name=self._model), timeout=self._timeouts.connect_s)
        except grpc.aio.AioRpcError as error:
            raise fault(error.code(), error.details(), answered=False) from None
        names = {tensor.name for tensor in reply.config.input}
        missing = {"input_ids", "input_lengths", "request_output_len"} - names
        if missing:
            raise Refused(
                f"model {self._model} has no input {', '.join(sorted(missing))}: not FasterTransformer's"
            )
        if self._meaning.end_id is not None and "end_id" not in names:
            raise Refused(f"model {self._model} declares no end_id: rows could end early")
        self.decoupled = reply.config.model_transaction_policy.decoupled

    def prepare(self, request: Request) -> Prepared:
        """One ModelInferRequest: prompts padded on the right, one request_output_len and end_id per row."""
        rows = len(request.prompts)
        width = max(map(len, request.prompts))
        ids = array("I")
        for prompt in request.prompts:
            ids.extend(prompt)
            ids.extend([0] * (width - len(prompt)))
        message = messages.ModelInferRequest(model_name=self._model, id=str(request.seq))
        message.parameters["triton_enable_empty_final_response"].bool_param = True
        tensors = [
            ("input_ids", (rows, width), ids),
            ("input_lengths", (rows, 1), array("I", map(len, request.prompts))),
            ("request_output_len", (rows, 1), array("I", [request.output_tokens] * rows)),
        ]
        if self._meaning.end_id is not None:
            tensors.append(("end_id", (rows, 1), array("I", [self._meaning.end_id] * rows)))
        for name, shape, values in tensors:
            message.inputs.add(name=name, datatype="UINT32", shape=shape)
            message.raw_input_contents.append(values.tobytes())
        return Prepared(request, message.SerializeToString())

    def start(self, prepared: Prepared, done: Callable[[Any], None]) -> None:
        """Hand the request to gRPC; it is stamped before, so that gRPC's own work is in the latency."""
        call = Call(prepared, done)
        self._turn += 1
        multicall = self._calls[self._turn % len(self._calls)]
        run = self._stream(call, multicall) if self.decoupled else self._whole(call, multicall)
        self._under_way[call] = asyncio.get_running_loop().create_task(run)
        self._watch(call)

    async def _stream(self, call: Call, multicall: Any) -> None:
        arrivals = call.arrivals
        try:
            wire = call.wire = multicall()
            await wire.write(call.prepared.wire)
            await wire.done_writing()
            while (response := await wire.read()) is not grpc.aio.EOF:
                arrivals.append((time.monotonic_ns(), response))
                if len(response) > KEEP_WHOLE and len(arrivals) > 1:
                    self._fold(call, len(arrivals) - 2)
            code, details = await wire.code(), await wire.details()
        except asyncio.InvalidStateError:  # the server ended the call before the request was written
            code, details = await wire.code(), await wire.details()
        except grpc.aio.AioRpcError as error:
            code, details = error.code(), error.details()
        except asyncio.CancelledError:
            code, details = grpc.StatusCode.CANCELLED, "cancelled"
            if call.late is None:
                raise
        self._finish(call, code, details)

    async def _whole(self, call: Call, multicall: Any) -> None:
        code, details = grpc.StatusCode.OK, ""
        try:
            call.wire = multicall(call.prepared.wire)
            response = await call.wire
            call.arrivals.append((time.monotonic_ns(), response))
        except grpc.aio.AioRpcError as error:
            code, details = error.code(), error.details()
        except asyncio.CancelledError:
            code, details = grpc.StatusCode.CANCELLED, "cancelled"
            if call.late is None:
                raise
        self._finish(call, code, details)

    def _finish(self, call: Call, code: Any, details: str | None) -> None:
        if call.timer is not None:
            call.timer.cancel()
            call.timer = None
        call.end_ns = time.monotonic_ns()
        if call.late is not None:
            call.error = f"{TimedOut.__name__}: {call.late}"
        elif code is not grpc.StatusCode.OK:
            error = fault(code, details, answered=bool(call.arrivals))
            call.error = f"{type(error).__name__}: {error}"
        call.wire = None
        del self._under_way[call]
        call.done(call)

    def _watch(self, call: Call) -> None:
        """One timer per request, set again when it fires early: arrivals cost it nothing."""
        now = time.monotonic_ns()
        if call.arrivals:
            step, since = self._between_ns, call.arrivals[-1][0]
            words = f"no response for {self._timeouts.between_bytes_s:g} s (between_bytes_s)"
        else:
            step, since = self._first_ns, call.sent_ns
            words = f"no response within {self._timeouts.first_byte_s:g} s (first_byte_s)"
        due = since + step
        if call.sent_ns + self._total_ns <= due:
            due, words = (
                call.sent_ns + self._total_ns,
                f"not done within {self._timeouts.total_s:g} s (total_s)",
            )
        if now >= due and call.wire is not None:
            call.late = words
            call.wire.cancel()
            return
        # Until the first response nobody tells when the shorter limit between responses begins to count.
        wait = max(min(due - now, self._between_ns), 1_000_000)
        call.timer = asyncio.get_running_loop().call_later(seconds(wait), self._watch, call)

    def _fold(self, call: Call, place: int) -> None:
        """Keep of a large response, which holds the sequences so far, only what it counts to."""
        at_ns, response = call.arrivals[place]
        if isinstance(response, bytes):
            try:
                tensors, _ = self._understand(response)
                if tensors is not None:
                    counts = ft_counts.counts(tensors, call.prepared.request.prompts, self._meaning)
                    call.arrivals[place] = (at_ns, counts)
            except DriverError:
                return  # decode meets it again, and says so

    def decode(self, raw: Call) -> Reply:
        """Understand and count what came. A fault in the answer is told before the connection's end: it came first."""
        answer = Answer(raw.prepared.request, self._meaning)
        error = raw.error
        try:
            for at_ns, response in raw.arrivals:
                if isinstance(response, bytes):
                    tensors, final = self._understand(response)
                    answer.take(at_ns, tensors, final or not self.decoupled)
                else:
                    answer.take_counts(at_ns, response)
            if error is None:
                answer.conclude()
        except DriverError as caught:
            error = f"{type(caught).__name__}: {caught}"
        return answer.reply(
            sent_ns=raw.sent_ns,
            end_ns=raw.end_ns,
            streamed=self.decoupled,
            reads=len(raw.arrivals),
            error=error,
        )

    def _understand(self, response: bytes) -> tuple[Tensors | None, bool]:
        """The outputs of a response (None: it carries a flag alone), and whether it is the final one."""
        if self.decoupled:
            streamed = messages.ModelStreamInferResponse.FromString(response)
            if streamed.error_message:
                raise Refused(streamed.error_message)
            answer = streamed.infer_response
        else:
            answer = messages.ModelInferResponse.FromString(response)
        final = bool(answer.parameters["triton_final_response"].bool_param)
        if not answer.outputs:
            return None, final
        found = {}
        for output, content in zip(answer.outputs, answer.raw_output_contents, strict=False):
            if output.name in ("output_ids", "sequence_length"):
                if output.datatype not in ("UINT32", "INT32"):
                    raise BadReply(f"{output.name} is {output.datatype} (expected UINT32)")
                found[output.name] = (list(output.shape), array("I", content))
        if len(found) != 2:
            raise BadReply(
                f"no output_ids and sequence_length among {', '.join(o.name for o in answer.outputs)}"
            )
        return ft_counts.tensors(*found["output_ids"], *found["sequence_length"]), final

    async def close(self) -> None:
        """Cancel what is under way and close the connections."""
        tasks = list(self._under_way.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for call in self._under_way:
            if call.timer is not None:
                call.timer.cancel()
        self._under_way.clear()
        for channel in self._channels:
            await channel.close()
        self._channels.clear()
        self._calls.clear()


def fault(code: Any, details: str | None, *, answered: bool) -> DriverError:
    """A gRPC status as the error that it is: the connection's, the clock's, or the server's own words."""
    words = " ".join((details or "").split())
    if code is grpc.StatusCode.UNAVAILABLE and any(sign.lower() in words.lower() for sign in LOST):
        if answered:
            return BadReply(f"the connection was lost in mid-answer: {words}")
        return ConnectFailed(words)
    if code is grpc.StatusCode.DEADLINE_EXCEEDED:
        return TimedOut(words)
    return Refused(f"{code.name}: {words}")
