"""Servers found out over gRPC: MII by what it answers, and what is neither Triton's nor MII's. Real Tritons are asked
in ``tests/servers/test_triton.py`` and ``test_triton_grpc.py``, a real MII in ``tests/servers/test_ds_server.py``."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent import futures
from contextlib import ExitStack
from pathlib import Path

import grpc
import pytest
from mii_stub import Answer, by_ids, by_words, serving_mii
from tokenizer_files import SYLLABLES, trained_tokenizer

from loadgen.drivers import grpc_discover
from loadgen.drivers import mii_messages as messages
from loadgen.drivers.grpc_discover import _told, discover
from loadgen.drivers.mii_grpc import make_driver
from loadgen.drivers.words import COMMON
from loadgen.errors import BadInput
from loadgen.launch.process import free_ports
from loadgen.load_records import Timeouts
from loadgen.request_records import Request


@pytest.fixture
def serve() -> Iterator[Callable[[Answer], str]]:
    with ExitStack() as stack:
        yield lambda answer: stack.enter_context(serving_mii(answer))


def test_miis_server_of_decimal_ids_is_known_by_its_count(serve: Callable[[Answer], str]) -> None:
    found = discover(serve(by_ids), vocab=99)
    assert (found.protocol, found.options, found.words, found.vocab) == (
        "mii-grpc",
        {"text": "ids"},
        None,
        99,
    )
    assert found.engine["server"] == "deepspeed-mii"


def test_miis_server_with_a_tokenizer_gets_words_of_measured_length(serve: Callable[[Answer], str]) -> None:
    url = serve(by_words)
    found = discover(url, protocol="mii-grpc")
    assert (found.options["text"], found.words) == ("words", len(COMMON))
    driver = make_driver(url, found.model, Timeouts(), found.options)
    request = Request(seq=0, phase="measured", prompts=((5,) * 20,), output_tokens=2)
    (text,) = messages.MultiStringRequest.FromString(driver.prepare(request).wire).request  # type: ignore[attr-defined]
    assert by_words(text)["prompt_tokens"] == 20


def test_a_tokenizers_words_are_held_to_miis_count(serve: Callable[[Answer], str], tmp_path: Path) -> None:
    trained_tokenizer(tmp_path, SYLLABLES, bos=True)
    found = discover(serve(by_words), tokenizer=str(tmp_path))
    assert {"bab", "nat"} <= set(found.options["words"]["words"])
    assert found.options["words"]["overhead"] == 2


def test_miis_server_that_counts_nothing_cannot_be_loaded_exactly(serve: Callable[[Answer], str]) -> None:
    with pytest.raises(BadInput, match="counts no prompt tokens"):
        discover(serve(lambda prompt: {"response": "ok", "generated_tokens": 2}))


def test_an_ipv6_address_is_reached() -> None:
    with serving_mii(by_ids, "[::1]") as url:
        assert discover(url).protocol == "mii-grpc"


def test_what_is_neither_is_refused_with_what_it_said() -> None:
    server = grpc.server(futures.ThreadPoolExecutor(1))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        with pytest.raises(BadInput, match=r"neither Triton nor DeepSpeed-MII .*UNIMPLEMENTED.*--protocol"):
            discover(f"grpc://127.0.0.1:{port}")
        with pytest.raises(BadInput, match="Triton refuses to say what it serves: UNIMPLEMENTED"):
            discover(f"grpc://127.0.0.1:{port}", protocol="triton-grpc")
    finally:
        server.stop(0)


def test_nobody_listening_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grpc_discover, "CONNECT_S", 0.2)
    with pytest.raises(BadInput, match=r"no gRPC server answers there within 0\.2 s"):
        discover(f"grpc://127.0.0.1:{free_ports(1)[0]}")


@pytest.mark.parametrize("value", ["", "{", "[]", "3", '{"spec": 1}', '{"spec": {"model": {}}}'])
def test_a_parameter_of_our_name_that_is_not_ours_tells_nothing(value: str) -> None:
    assert _told({"loadgen_settings": value}) == {}


def test_a_parameter_with_counts_that_are_none_tells_of_the_engine_alone() -> None:
    assert _told(
        {"loadgen_info": '{"vocab": "x", "max_context": 18446744073709551615, "max_batch": 4}'}
    ).keys() == {"engine"}
    assert _told({"loadgen_info": '{"vocab": 9, "variant": "c"}'}) == {"vocab": 9}


def test_bytes_that_are_no_message_are_told_as_such() -> None:
    def reply(_wire: bytes, _: object) -> bytes:
        return b"\xff\xff"

    server = grpc.server(futures.ThreadPoolExecutor(2))
    for service, method in {
        "inference.GRPCInferenceService": "ServerMetadata",
        "modelresponse.ModelResponse": "GeneratorReply",
    }.items():
        handlers = {method: grpc.unary_unary_rpc_method_handler(reply)}
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        for protocol in ("triton-grpc", "mii-grpc"):
            with pytest.raises(BadInput, match="answers with what is no message of it"):
                discover(f"grpc://127.0.0.1:{port}", protocol=protocol)
    finally:
        server.stop(0)
