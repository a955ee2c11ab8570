"""Engines' own routes, against scripted servers that answer as each engine was seen, or read, to answer."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from loadgen.drivers import llamacpp, lmdeploy, sglang, tgi
from loadgen.drivers.find import BUILT_IN, driver_factory
from loadgen.errors import BadInput
from loadgen.load_records import Timeouts
from loadgen.protocols import DriverFactory
from loadgen.request_records import Request

TWO = ((5, 6, 7), (8, 9, 10))


def request(tokens: int = 3, *, stream: bool = True, prompts: Any = TWO) -> Request:
    return Request(seq=0, phase="measured", prompts=prompts, output_tokens=tokens, stream=stream)


def end(peer: Any) -> None:
    peer.send(b"0\r\n\r\n")


def llama_event(index: int, tokens: list[int], *, ended: bool = False, predicted: int = 3) -> dict[str, Any]:
    found: dict[str, Any] = {"index": index, "content": "", "tokens": tokens, "stop": ended}
    found |= {"tokens_predicted": predicted, "tokens_evaluated": 3}
    return found | ({"stop_type": "limit", "truncated": False} if ended else {})


def test_llama_cpp_s_list_stream_begins_with_null_and_each_sequence_says_its_end(
    send: Any, serve: Any
) -> None:
    def answer(peer: Any, found: Any) -> None:
        server.notes.put(found)
        peer.stream_head()
        peer.event(None)
        for step in range(3):
            for index in (1, 0):
                peer.event(llama_event(index, [10 * index + step]))
        for index in (0, 1):
            peer.event(llama_event(index, [], ended=True))
        end(peer)

    server = serve(answer=answer)
    (reply,) = send(server.url, [request()], make=llamacpp.make_driver)
    assert reply.error is None
    assert reply.output_tokens == (3, 3)
    assert reply.counted_by == "ids"
    assert reply.first_tokens == (0, 1, 2)
    assert (reply.usage_prompt_tokens, reply.usage_output_tokens) == (6, 6)
    assert sum(reply.tokens_per_arrival) == 6
    assert reply.finish == "limit"
    body = server.notes.get()
    assert body["prompt"] == [[5, 6, 7], [8, 9, 10]]
    assert (body["n_predict"], body["temperature"], body["ignore_eos"]) == (3, 0, True)
    assert (body["cache_prompt"], body["return_tokens"]) == (False, True)


def test_llama_cpp_s_whole_answers(send: Any, serve: Any) -> None:
    def answer(peer: Any, found: Any) -> None:
        if found["prompt"] == [5, 6, 7]:
            peer.page("200 OK", llama_event(0, [1, 2, 3], ended=True))
        else:
            peer.page(
                "200 OK", [llama_event(1, [4, 5, 6], ended=True), llama_event(0, [1, 2, 3], ended=True)]
            )

    server = serve(answer=answer)
    one, two = send(
        server.url,
        [request(stream=False, prompts=((5, 6, 7),)), request(stream=False)],
        make=llamacpp.make_driver,
    )
    assert (one.error, one.output_tokens, one.usage_prompt_tokens) == (None, (3,), 3)
    assert (two.error, two.output_tokens, two.usage_prompt_tokens) == (None, (3, 3), 6)
    assert two.first_tokens == (1, 2, 3)


def test_a_stream_that_a_stopping_llama_cpp_ends_cleanly_is_no_answer(send: Any, serve: Any) -> None:
    def answer(peer: Any, found: Any) -> None:
        peer.stream_head()
        for index in (0, 1):
            peer.event(llama_event(index, [1]))
        peer.event(llama_event(1, [], ended=True, predicted=1))
        end(peer)

    (reply,) = send(serve(answer=answer).url, [request()], make=llamacpp.make_driver)
    assert reply.error is not None
    assert reply.error.startswith("BadReply: ")


def test_ids_that_fall_short_of_the_engine_s_own_count_are_not_the_count(send: Any, serve: Any) -> None:
    """llama.cpp holds a token back whose bytes are no whole character, and sends the next one's id alone."""

    def answer(peer: Any, found: Any) -> None:
        peer.stream_head()
        for index in (0, 1):
            peer.event(llama_event(index, [1]))
            peer.event(llama_event(index, [], ended=True, predicted=3 - index))
        end(peer)

    (reply,) = send(serve(answer=answer).url, [request()], make=llamacpp.make_driver)
    assert (reply.error, reply.output_tokens, reply.counted_by) == (None, (3, 2), "usage")


def test_a_context_that_was_shifted_is_an_error(send: Any, serve: Any) -> None:
    event = llama_event(0, [1, 2, 3], ended=True) | {"truncated": True}
    server = serve(answer=lambda peer, _found: peer.page("200 OK", event))
    (reply,) = send(server.url, [request(stream=False, prompts=((5, 6, 7),))], make=llamacpp.make_driver)
    assert "truncated" in (reply.error or "")


def sglang_event(
    index: int | None, ids: list[int], told: int, *, ended: bool = False, reason: str = "length"
) -> dict[str, Any]:
    meta = {"id": "x", "prompt_tokens": 3, "completion_tokens": told, "cached_tokens": 0}
    finish = {"type": reason, "length": told} if ended else None
    found: dict[str, Any] = {"text": "", "output_ids": ids, "meta_info": {**meta, "finish_reason": finish}}
    return found if index is None else {**found, "index": index}


TGI_END = {
    "token": {"id": 3},
    "details": {"finish_reason": "length", "generated_tokens": 3, "input_length": 3},
}


@pytest.mark.parametrize("increments", [False, True])
def test_sglang_s_ids_are_cumulative_or_increments(send: Any, serve: Any, increments: bool) -> None:
    def answer(peer: Any, found: Any) -> None:
        server.notes.put(found)
        peer.stream_head()
        for told in (1, 3):  # a late client gets two steps at once
            for index in (0, 1):
                every = [100 * index + step for step in range(told)]
                new = every[max(0, told - 2) :] if told == 3 else every
                peer.event(sglang_event(index, new if increments else every, told, ended=told == 3))
        peer.event("[DONE]")
        end(peer)

    server = serve(answer=answer)
    (reply,) = send(server.url, [request()], make=sglang.make_driver)
    assert reply.error is None
    assert (reply.output_tokens, reply.counted_by) == ((3, 3), "ids")
    assert reply.first_tokens == (0, 1, 2)
    assert (reply.usage_prompt_tokens, reply.finish) == (6, "length")
    assert sum(reply.tokens_per_arrival) == 6
    body = server.notes.get()
    assert body["input_ids"] == [[5, 6, 7], [8, 9, 10]]
    assert body["sampling_params"] == {"max_new_tokens": 3, "ignore_eos": True, "temperature": 0}


def test_sglang_s_whole_list_is_in_order(send: Any, serve: Any) -> None:
    found = [sglang_event(None, [1, 2, 3], 3, ended=True), sglang_event(None, [4, 5, 6], 3, ended=True)]
    server = serve(answer=lambda peer, _found: peer.page("200 OK", found))
    (reply,) = send(server.url, [request(stream=False)], make=sglang.make_driver)
    assert (reply.error, reply.output_tokens, reply.first_tokens) == (None, (3, 3), (1, 2, 3))


@pytest.mark.parametrize(
    ("events", "error"),
    [
        ([{"error": {"message": "too long", "code": 400}}, "[DONE]"], "Refused: too long"),
        ([sglang_event(0, [1], 1), "[DONE]"], "BadReply: "),
        (
            [sglang_event(0, [1], 3, ended=True), "[DONE]"],
            "BadReply: completion_tokens 3 after 0, with 1 ids",
        ),
        ([sglang_event(2, [1], 1, ended=True), "[DONE]"], "BadReply: not this engine's answer (IndexError"),
        (
            [sglang_event(0, [1], 1, ended=True, reason="abort"), "[DONE]"],
            "Refused: the server gave the answer up",
        ),
        ([sglang_event(0, [1], 1, ended=True, reason=""), "[DONE]"], "BadReply: the stream ended without"),
        ([{"text": "x"}, "[DONE]"], "BadReply: not this engine's answer (KeyError"),
        ([[1, 2], "[DONE]"], "BadReply: not this engine's answer (AttributeError"),
    ],
)
def test_what_is_wrong_with_an_answer_is_told(send: Any, serve: Any, events: Any, error: str) -> None:
    def answer(peer: Any, found: Any) -> None:
        peer.stream_head()
        for event in events:
            peer.event(event)
        end(peer)

    (reply,) = send(serve(answer=answer).url, [request(prompts=((5, 6, 7),))], make=sglang.make_driver)
    assert (reply.error or "").startswith(error)


@pytest.mark.parametrize(
    ("kind", "events"),
    [
        (sglang.Generated, [{**sglang_event(0, [1, 2, 3], 3, ended=True), "index": None}]),
        (llamacpp.Completion, [{**llama_event(0, [1, 2, 3], ended=True), "index": None}]),
        (tgi.Stream, [{"token": {"id": 1}}, {"token": {"id": 2}, "details": None}, TGI_END]),
    ],
)
def test_what_holds_no_token_is_passed_over_on_every_route(kind: Any, events: Any) -> None:
    answer = kind(request(prompts=((5, 6, 7),)), 200, "OK", "text/event-stream")
    blocks = [b"data: " + json.dumps(event).encode().replace(b'""', b'"\x01"') + b"\n\n" for event in events]
    for block in (b'event: ping\ndata: {"now": 1}\n\n', b"data: {}\n\n", *blocks, b"data: [DONE] \n\n"):
        answer.feed(block, 100)
    reply = answer.reply(sent_ns=1, end_ns=9, reads=9, lag_ns=None, error=None)
    assert (reply.error, reply.output_tokens) == (None, (3,))


def test_lmdeploy_takes_one_prompt_a_call_and_sends_increments(send: Any, serve: Any) -> None:
    def answer(peer: Any, found: Any) -> None:
        server.notes.put(found)
        peer.stream_head()
        for told in (1, 2, 3):
            peer.event(sglang_event(None, [told], told, ended=told == 3))
        peer.event("[DONE]")
        end(peer)

    server = serve(answer=answer)
    (reply,) = send(server.url, [request(prompts=((5, 6, 7),))], make=lmdeploy.make_driver)
    assert (reply.error, reply.output_tokens, reply.first_tokens) == (None, (3,), (1, 2, 3))
    assert server.notes.get() == {
        "input_ids": [5, 6, 7],
        "max_tokens": 3,
        "ignore_eos": True,
        "temperature": 0,
        "stream": True,
    }


@pytest.mark.parametrize(
    ("make", "batches", "target"),
    [
        (llamacpp.make_driver, True, "/completion"),
        (sglang.make_driver, True, "/generate"),
        (lmdeploy.make_driver, False, "/generate"),
    ],
)
def test_routes_lie_beside_the_openai_ones(
    send: Any, serve: Any, make: Callable[..., Any], batches: bool, target: str
) -> None:
    heads = []

    def script(peer: Any) -> None:
        heads.append(peer.request()[0])
        peer.page("400 Bad Request", {"error": {"message": "no"}})

    server = serve(script)
    (reply,) = send(f"{server.url}/v1", [request(prompts=((1,),))], make=make)
    assert reply.error == "Refused: 400 Bad Request: no"
    assert heads[0].startswith(f"POST {target} HTTP/1.1".encode())
    assert make("http://127.0.0.1:1", "m", Timeouts(), {}).batches is batches
    with pytest.raises(BadInput, match="no_such"):
        make("http://127.0.0.1:1", "m", Timeouts(), {"no_such": 1})


@pytest.mark.parametrize("protocol", BUILT_IN)
def test_every_protocol_has_its_driver(protocol: str) -> None:
    found: DriverFactory = driver_factory(protocol)
    assert callable(found)


def test_tgi_takes_words_and_tells_both_lengths_at_the_end(send: Any, serve: Any) -> None:
    def answer(peer: Any, found: Any) -> None:
        server.notes.put(found)
        peer.stream_head()
        for number in (1, 2, 3):
            event: dict[str, Any] = {"index": number, "token": {"id": number, "text": " x", "special": False}}
            event |= {"generated_text": None, "details": None}
            if number == 3:
                event |= {"generated_text": "x x x"}
                event |= {"details": {"finish_reason": "length", "generated_tokens": 3, "input_length": 3}}
            peer.event(event)
        end(peer)

    server = serve(answer=answer)
    (reply,) = send(server.url, [request(prompts=((5, 6, 7),))], make=tgi.make_driver)
    assert (reply.error, reply.output_tokens, reply.first_tokens) == (None, (3,), (1, 2, 3))
    assert (reply.usage_prompt_tokens, reply.usage_output_tokens, reply.finish) == (3, 3, "length")
    body = server.notes.get()
    assert body["inputs"] == "5 6 7"
    assert (body["parameters"]["truncate"], body["parameters"]["max_new_tokens"]) == (3, 3)
    with pytest.raises(BadInput, match="text = 'other'"):
        tgi.make_driver(server.url, "m", Timeouts(), {"text": "other"})
