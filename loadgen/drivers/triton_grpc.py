"""FasterTransformer's tensors over Triton's gRPC: a static batch is one request, streaming one call of responses.

The one module that imports tritonclient, and of it only the messages: the wire calls are gRPC's own asyncio, given and
giving plain bytes, so that an arrival costs a stamp and an append. Responses are understood in ``decode``.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Mapping
from typing import Any

import grpc.aio
import numpy as np
from google.protobuf.message import DecodeError
from tritonclient.grpc import service_pb2

from loadgen.drivers import ft_counts
from loadgen.drivers.ft_counts import Answer, Meaning, Tensors
from loadgen.drivers.grpc_calls import Call, GrpcCalls, Prepared, address_of, fault
from loadgen.errors import BadInput, BadReply, DriverError, Refused
from loadgen.load_records import Timeouts
from loadgen.protocols import Driver
from loadgen.request_records import Reply, Request

messages = service_pb2
SERVICE = "/inference.GRPCInferenceService/"
STREAM, WHOLE = f"{SERVICE}ModelStreamInfer", f"{SERVICE}ModelInfer"
OPTIONS: dict[str, str] = {
    "model": "the model's name in Triton's repository (default: the endpoint's model)",
    "variant": "a or b: what sequence_length counts (default a: the padded input width too)",
    "vocab": "vocabulary size: the end id sent is the first one outside (default: none sent; the model's own holds)",
    "merged": "true/false: the server merges waiting requests (dynamic batching): count ids alone (default false)",
}
KEEP_WHOLE = 32 * 1024  # larger responses are read as soon as the next has been stamped


def make_driver(base_url: str, model: str, timeouts: Timeouts, options: Mapping[str, Any]) -> Driver:
    """The driver for one Triton server, ``grpc://HOST:PORT``. ``options`` are those of ``OPTIONS``. Raises BadInput."""
    address = address_of(base_url)
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


class TritonDriver:
    """See ``loadgen.protocols.Driver``. ``open`` asks the server how its model answers: streamed or whole."""

    name = "triton-grpc"
    stamps = "user"
    batches = True
    can = frozenset({"ids"})

    def __init__(self, address: str, model: str, timeouts: Timeouts, meaning: Meaning) -> None:
        self._model, self._timeouts, self._meaning = model, timeouts, meaning
        self._calls = GrpcCalls(address, timeouts, {STREAM: "bidirectional", WHOLE: "unary"}, self._fold_last)
        self.decoupled = False

    async def open(self, connections: int) -> None:
        """Connect, and learn from the model's configuration how to call it. Raises ConnectFailed, Refused, BadReply."""
        await self._calls.open(connections)
        await self._read_config()

    async def _read_config(self) -> None:
        ask = self._calls.channel.unary_unary(
            SERVICE + "ModelConfig",
            request_serializer=messages.ModelConfigRequest.SerializeToString,
        )
        try:
            told = await ask(messages.ModelConfigRequest(name=self._model), timeout=self._timeouts.connect_s)
            reply = messages.ModelConfigResponse.FromString(told)
        except grpc.aio.AioRpcError as error:
            raise fault(error.code(), error.details(), answered=False) from None
        except DecodeError as error:
            raise BadReply(f"not a model's configuration of Triton's: {error}") from None
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
        ids = np.zeros((rows, width), np.uint32)
        for row, prompt in zip(ids, request.prompts, strict=True):
            row[: len(prompt)] = prompt
        message = messages.ModelInferRequest(model_name=self._model, id=str(request.seq))
        message.parameters["triton_enable_empty_final_response"].bool_param = True
        tensors: list[tuple[str, tuple[int, int], Any]] = [
            ("input_ids", (rows, width), ids),
            ("input_lengths", (rows, 1), array("I", map(len, request.prompts))),
            ("request_output_len", (rows, 1), array("I", [request.output_tokens] * rows)),
        ]
        if self._meaning.end_id is not None:
            tensors.append(("end_id", (rows, 1), array("I", [self._meaning.end_id] * rows)))
        for name, shape, values in tensors:
            message.inputs.add(name=name, datatype="UINT32", shape=shape)
            message.raw_input_contents.append(values.tobytes())
        return Prepared(request, STREAM if self.decoupled else WHOLE, message.SerializeToString())

    def start(self, prepared: Prepared, done: Callable[[Any], None]) -> None:
        """Hand the request to gRPC; it is stamped before, so that gRPC's own work is in the latency."""
        self._calls.start(prepared, done)

    def _fold_last(self, call: Call) -> None:
        """Large responses are read as soon as the next has been stamped."""
        if len(call.arrivals) > 1 and len(call.arrivals[-1][1]) > KEEP_WHOLE:
            self._fold(call, len(call.arrivals) - 2)

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
        """The outputs of a response (None: it carries a flag alone), and whether it is the final one.

        Raises BadReply for bytes that are no such message.
        """
        try:
            return self._read(response)
        except (DecodeError, ValueError, IndexError, OverflowError) as error:
            raise BadReply(f"not an answer of Triton's ({len(response)} bytes): {error}") from None

    def _read(self, response: bytes) -> tuple[Tensors | None, bool]:
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
        await self._calls.close()
