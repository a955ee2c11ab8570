"""Whatever an endpoint speaks: over gRPC by its own metadata (here MII's), over HTTP with what becomes of batches."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import pytest
from endpoints import Manner, endpoint
from mii_stub import by_ids, by_words, serving_mii

from loadgen.drivers.words import COMMON
from loadgen.errors import BadInput
from loadgen.launch.discover import Asked
from loadgen.launch.endpoint import fitted
from loadgen.launch.target import find_out
from loadgen.load.prompts import FIRST_ID
from loadgen.load_records import LoadSpec
from loadgen.records import Trial

VLLM: Mapping[str, Any] = {"/v1/models": {"data": [{"id": "small", "owned_by": "vllm"}]}}


@pytest.fixture(scope="module")
def mii() -> Iterator[str]:
    with serving_mii(by_ids) as url:
        yield url


def test_mii_is_loaded_by_its_own_protocol(mii: str) -> None:
    found, place = find_out(mii, Asked(model="m"))
    assert (place.protocol, place.driver_options, place.at_most, place.text) == (
        "mii-grpc",
        {"text": "ids"},
        False,
        False,
    )
    assert (found.choice, found.model) == ({"protocol": "mii-grpc"}, "m")
    assert place.facts["lengths"] == "exact"


def test_prompts_of_words_stay_within_the_words() -> None:
    with serving_mii(by_words) as url:
        found, place = find_out(url, Asked(vocab=32000))
    assert found.choice == {"protocol": "mii-grpc", "text": "words"}
    assert place.text
    trial = Trial(
        id="x", load=LoadSpec(kind="static", input_tokens=20, output_tokens=2), url=url, vocab=32000
    )
    assert fitted(trial, place).vocab == FIRST_ID + len(COMMON)


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"options": {"endpoint": "chat"}}, r"endpoint = 'chat': not of mii-grpc \(accepted: none\)"),
        ({"protocol": "openai"}, r"protocol = 'openai': not spoken at grpc://.*triton-grpc or mii-grpc"),
    ],
)
def test_what_is_of_another_protocol_is_refused(mii: str, asked: Any, words: str) -> None:
    with pytest.raises(BadInput, match=words):
        find_out(mii, Asked(**asked))


def test_a_grpc_protocol_is_not_spoken_over_http() -> None:
    with pytest.raises(BadInput, match="protocol = 'mii-grpc': not spoken at http://h"):
        find_out("http://h", Asked(protocol="mii-grpc"))


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize(
    ("manner", "takes"),
    [
        ({"lists": "batch", "ids": True}, True),
        ({"lists": "batch"}, True),
        ({"lists": "batch", "usage": False}, True),
        ({"lists": "first", "ids": True}, False),
        ({"lists": "first"}, False),  # llama.cpp's whole answer has the usage of the first prompt alone
        ({"lists": "null", "ids": True}, True),  # an event of nothing before the others, as llama.cpp's
        ({"lists": "batch", "forms": ("completions text",)}, True),
        ({"lists": "batch", "stops": 5, "heeds": False}, True),
        ({"lists": "first", "stops": 5, "heeds": False}, False),
        (
            {"lists": "batch", "pages": {"/v1/models": {"data": [{"id": "small", "owned_by": "lmdeploy"}]}}},
            False,
        ),
    ],
)
def test_a_batch_is_one_call_where_a_list_of_prompts_is_answered_as_one(
    manner: dict[str, Any], takes: bool, stream: bool
) -> None:
    with endpoint(Manner(**{"pages": VLLM, **manner})) as url:
        found, place = find_out(url, Asked(stream=stream))
    assert place.driver_options.get("batches", True) is takes
    assert ("batches" in found.choice, "static_batches" in place.facts) == (not takes, not takes)
    assert ("released together" in found.line) is not takes


def test_a_load_without_batches_asks_for_none() -> None:
    manner = Manner(ids=True, pages=VLLM)
    with endpoint(manner) as url:
        find_out(url, Asked(batches=False))
    assert len(manner.asked) == 1
