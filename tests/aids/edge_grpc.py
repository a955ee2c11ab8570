"""Odd messages over gRPC, whole and damaged, through the drivers that read them; and what Triton says of itself."""

from __future__ import annotations

import json
from array import array
from typing import Any

from edge_replies import JSON, ODD, Edges, fits, some
from hypothesis import strategies as st

from loadgen.drivers import mii_messages, triton_grpc
from loadgen.drivers.ft_counts import Meaning
from loadgen.drivers.grpc_calls import Call, Prepared
from loadgen.drivers.grpc_discover import GrpcServer, _triton
from loadgen.drivers.mii_grpc import STREAM as MII_STREAM
from loadgen.drivers.mii_grpc import WHOLE as MII_WHOLE
from loadgen.drivers.mii_grpc import MiiDriver
from loadgen.drivers.mii_text import Decimal
from loadgen.load_records import Timeouts
from loadgen.request_records import Request
from loadgen.results.record_json import to_json

SHAPES = st.lists(st.sampled_from([0, 1, 2, 3, -1, 2**40]), max_size=3)
NUMBERS = st.sampled_from([[], [1, 2], [1, 2, 3], [5, 2**32 - 1, 0], [4], [3]]).map(
    lambda ids: array("I", ids).tobytes()
) | st.binary(max_size=9)


def _tensors(shapes: list[list[int]], contents: list[bytes], kind: str, *, final: bool) -> bytes:
    message = triton_grpc.messages.ModelInferResponse(model_name="m")
    message.parameters["triton_final_response"].bool_param = final
    for name, shape in zip(("output_ids", "sequence_length"), shapes, strict=False):
        message.outputs.add(name=name, datatype=kind, shape=shape)
    message.raw_output_contents.extend(contents)
    return bytes(triton_grpc.messages.ModelStreamInferResponse(infer_response=message).SerializeToString())


def _damaged(wire: bytes, cut: int, other: bytes) -> bytes:
    return wire if cut > len(wire) else wire[:cut] + other + wire[cut + len(other) :]


TENSORS = st.builds(
    _tensors,
    st.lists(st.sampled_from([[1, 1, 3], [1, 1], [1, 1, 2]]) | SHAPES, max_size=2),
    st.lists(NUMBERS, max_size=3),
    st.sampled_from(["UINT32", "INT32", "BYTES"]),
    final=st.booleans(),
)
TRITON = st.lists(st.builds(_damaged, TENSORS, st.integers(0, 60), st.binary(max_size=2)), max_size=3)
COUNTS = st.sampled_from([0, 1, 2, 3, -1, 2**31, 2**62])
MII_REPLIES = st.lists(
    st.fixed_dictionaries(
        {},
        optional={
            "response": st.sampled_from(["7 8", "1", "x", "9" * 5000, "٣", ""]),
            "finish_reason": st.sampled_from(["none", "length", "\x00"]),
            "prompt_tokens": COUNTS,
            "generated_tokens": COUNTS,
        },
    ),
    max_size=2,
).map(lambda found: bytes(mii_messages.MultiGenerationReply(response=found).SerializeToString()))
MII = st.lists(st.builds(_damaged, MII_REPLIES, st.integers(0, 60), st.binary(max_size=2)), max_size=3)
LIMITS = Timeouts()
REQUEST = Request(seq=0, phase="measured", prompts=((1, 2),), output_tokens=2, stream=True)


def _called(driver: Any, method: str, wires: list[bytes]) -> None:
    call = Call(Prepared(REQUEST, method, b""), lambda _: None)
    call.sent_ns, call.end_ns = 1, 99
    call.arrivals = [(10 + at, wire) for at, wire in enumerate(wires)]
    fits(driver.decode(call))


def triton(wires: list[bytes]) -> None:
    for meaning in (Meaning(), Meaning(variant="b", end_id=9), Meaning(end_id=9, merged=True)):
        driver = triton_grpc.TritonDriver("127.0.0.1:1", "m", LIMITS, meaning)
        for driver.decoupled in (True, False):
            _called(driver, triton_grpc.STREAM, wires)


def mii(wires: list[bytes]) -> None:
    driver = MiiDriver("127.0.0.1:1", LIMITS, Decimal())
    for method in (MII_STREAM, MII_WHOLE):
        _called(driver, method, wires)


class _Says:
    """A Triton that answers every question about itself with what it was given."""

    url = "grpc://127.0.0.1:1"

    def __init__(self, parameters: dict[str, str]) -> None:
        self._parameters = parameters

    def ask(self, _method: str, _message: Any, answer: Any) -> Any:
        found = answer()
        if answer is triton_grpc.messages.RepositoryIndexResponse:
            found.models.add(name="m")
        elif answer is triton_grpc.messages.ModelConfigResponse:
            found.config.name = "m"
            for name in ("input_ids", "input_lengths", "request_output_len"):
                found.config.input.add(name=name)
            for name, text in self._parameters.items():
                found.config.parameters[name].string_value = text
        return found


SETTINGS = some(
    spec=some(model=some("name", "vocab", "max_context") | JSON, dtype=ODD) | JSON,
    asked=JSON,
    variant=JSON,
    engine=JSON,
    vocab=JSON,
    max_context=JSON,
)


def _texts(found: Any) -> str:
    return json.dumps(found).encode("utf-8", "replace").decode()


def triton_metadata(found: tuple[Any, Any]) -> None:
    server: GrpcServer = _triton(
        _Says({"loadgen_settings": _texts(found[0]), "loadgen_info": _texts(found[1])}),  # type: ignore[arg-type]
        None,
        None,
    )
    triton_grpc.make_driver("grpc://127.0.0.1:1", server.model, LIMITS, server.options)
    assert server.max_context is None or server.max_context + 1 > 0
    to_json(server.engine)


EDGES: Edges = {
    "Triton's replies": (TRITON, triton),
    "Triton's metadata": (st.tuples(SETTINGS | JSON, SETTINGS | JSON), triton_metadata),
    "MII's replies": (MII, mii),
}
