"""What is chosen for servers of many manners, each asked over a real socket."""

from __future__ import annotations

import socket
from typing import Any

import pytest
from endpoints import STANDARD, Manner, endpoint

from loadgen.drivers.words import LONG_OPENING
from loadgen.errors import BadInput
from loadgen.launch import probes
from loadgen.launch.discover import Asked, Found, asked_of, discover, endpoint_of
from loadgen.launch.endpoint import fitted
from loadgen.launch.pages import Pages
from loadgen.load.prompts import SAFE_VOCAB
from loadgen.load_records import LoadSpec
from loadgen.records import Trial

VLLM = {
    "/v1/models": {
        "data": [{"id": "small", "owned_by": "vllm", "root": "/home/somebody", "max_model_len": 64}]
    },
    "/version": {"version": "0.32.0"},
}
LLAMA_CPP = {
    "/v1/models": {"data": [{"id": "small", "owned_by": "llamacpp", "meta": {"n_vocab": 512, "n_ctx": 128}}]},
    "/props": {"default_generation_settings": {"n_ctx": 32}, "build_info": "b1-x"},
}


def found(manner: Manner, *, url: str = "", **asked: Any) -> Found:
    with endpoint(manner) as base:
        return discover(base + url, Asked(**asked))


def test_ids_and_every_extra_where_they_are_taken() -> None:
    manner = Manner(ids=True, pages=VLLM)
    chosen = found(manner)
    assert (chosen.model, chosen.choice, chosen.at_most) == ("small", {}, False)
    assert (chosen.vocab, chosen.vocabulary, chosen.context) == (SAFE_VOCAB, None, 64)
    assert chosen.facts["engine"] == "vllm"
    assert chosen.facts["version"] == "0.32.0"
    assert "/home/somebody" not in str(chosen.facts)
    assert chosen.line.startswith(
        "completions by token ids, with ignore_eos, min_tokens, return_token_ids, lengths exact"
    )
    assert len(manner.asked) == 1
    assert all(3 <= token < 16 for token in manner.asked[0][1]["prompt"])


def test_nothing_is_sent_above_the_smallest_vocabulary_and_context_that_pages_name() -> None:
    chosen = found(Manner(pages=LLAMA_CPP))
    assert (chosen.vocab, chosen.context, chosen.at_most) == (512, 32, False)
    assert chosen.facts["version"] == "b1-x"


def test_pages_of_a_lenient_server_are_read_too() -> None:
    odd = '\ufeff{"data": [{"id": "small", "owned_by": "v\\ud800", "max_model_len": 64, "x": [-Infinity, "\t"]}]}'
    chosen = found(Manner(ids=True, pages={"/v1/models": odd}))
    assert (chosen.model, chosen.context) == ("small", 64)
    assert "engine" not in chosen.facts


def test_fields_that_are_refused_by_name_are_left_out() -> None:
    chosen = found(Manner(fields=STANDARD | {"ignore_eos", "min_tokens"}, pages=VLLM))
    assert chosen.choice == {"extras": ["ignore_eos", "min_tokens"]}
    assert not chosen.at_most


def test_fields_that_are_refused_without_a_name_are_tried_again_in_part() -> None:
    manner = Manner(fields=STANDARD | {"ignore_eos"}, names=False, pages=VLLM)
    assert found(manner).choice == {"extras": ["ignore_eos"]}
    assert [set(body) - STANDARD for _, body in manner.asked][1] == set()


def test_a_strict_server_gets_what_openai_knows_and_outputs_at_most() -> None:
    chosen = found(Manner(fields=STANDARD))
    assert chosen.choice == {"extras": []}
    assert chosen.at_most
    assert "output at most as long as asked" in chosen.line


def test_a_server_that_passes_over_ignore_eos_is_not_believed() -> None:
    assert found(Manner(heeds=False, stops=3)).at_most
    assert found(Manner(heeds=False)).at_most  # eight tokens that came may be chance


@pytest.mark.parametrize("stream", [True, False])
def test_text_where_no_ids_are_taken_in_words_that_the_server_counted(stream: bool) -> None:
    manner = Manner(forms=("completions text",), overhead=5)
    chosen = found(manner, stream=stream)
    assert chosen.choice == {"prompt": "text"}
    words = chosen.options["words"]
    assert (words["overhead"], words["long_overhead"]) == (6, 5 + len(LONG_OPENING.split()))
    assert chosen.vocab == 3 + len(words["words"])
    assert (
        "completions by token ids refused: 400 Bad Request: prompt: Input should be a valid string"
        in chosen.line
    )


def test_chat_where_there_is_nothing_else() -> None:
    chosen = found(Manner(forms=("chat text",), overhead=9, fields=STANDARD - {"max_tokens", "temperature"}))
    assert chosen.choice == {
        "endpoint": "chat",
        "prompt": "text",
        "limit": "max_completion_tokens",
        "extra_body": {"temperature": None},
        "extras": [],
    }
    assert chosen.options["words"]["long_overhead"] == 9 + len(LONG_OPENING.split())
    assert chosen.facts["route"] == "chat by text"


def test_a_server_without_usage_leaves_lengths_uncounted() -> None:
    chosen = found(Manner(forms=("chat text",), usage=False))
    assert "input lengths are counted by nobody" in chosen.line
    assert "tokens counted by nobody" in chosen.line


@pytest.mark.parametrize(
    ("route", "shape"),
    [("completions", "vllm"), ("completions", "llama.cpp"), ("completions", "tgi"), ("chat", "vllm")],
)
def test_a_server_without_usage_is_asked_how_it_tokenizes(route: str, shape: str) -> None:
    chosen = found(Manner(forms=(f"{route} text",), usage=False, overhead=4, tokenizes=shape))
    assert "stand beside the words, by its /tokenize" in chosen.line
    assert chosen.options["words"]["overhead"] == 5  # and the opening
    assert (
        "input lengths are counted by nobody"
        in found(Manner(forms=("chat text",), usage=False, tokenizes="tgi")).line
    )


def test_what_the_user_fixed_is_not_tried_otherwise() -> None:
    manner = Manner()
    chosen = found(manner, options={"endpoint": "chat", "extras": False, "extra_body": {"top_k": 1}})
    assert {route for route, _ in manner.asked} == {"chat"}
    assert chosen.choice == {"endpoint": "chat", "prompt": "text", "extras": [], "extra_body": {"top_k": 1}}
    assert all("ignore_eos" not in body for _, body in manner.asked)


def test_the_route_may_stand_in_the_url() -> None:
    manner = Manner(forms=("chat text",))
    assert found(manner, url="/v1/chat/completions").choice["endpoint"] == "chat"
    assert {route for route, _ in manner.asked} == {"chat"}


def test_a_server_that_refuses_everything_is_left_to_the_load_to_tell() -> None:
    manner = Manner(key="sesame")
    chosen = found(manner)
    assert chosen.choice == {}
    assert "401 Unauthorized: Incorrect API key provided" in chosen.line
    assert "nothing was taken" in chosen.line


def test_nobody_listens() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}"
        with pytest.raises(BadInput, match="no server answers there"):
            discover(url, Asked())
        assert "ConnectFailed" in discover(url, Asked(model="m")).line


def test_a_server_that_never_answers_costs_the_time_for_asking_alone() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(BadInput, match="no server answers there"):
            discover(url, Asked(), limit_s=0.2)
        chosen = discover(url, Asked(model="m"), limit_s=0.2)
    assert "nothing was taken in time" in chosen.line
    assert chosen.at_most


@pytest.mark.parametrize(
    ("page", "why"),
    [
        ({"data": []}, "no list of them"),
        ([1, 2], "no object of JSON"),
        (
            {"data": [{"id": 5}, {"id": ""}, {"id": "m" * 501}, {"id": "two\nlines"}, {"id": "\x1b[31mred"}]},
            "no list",
        ),
    ],
)
def test_no_model_is_listed_that_can_stand_in_a_line(page: object, why: str) -> None:
    with pytest.raises(BadInput, match=f"names no model .{why}.*; give one with --model"):
        found(Manner(pages={"/v1/models": page}))


def test_models_that_are_listed_with_a_key_alone_tell_of_the_key() -> None:
    pages = Pages(found={}, fault="401 Unauthorized", reached=True)
    with pytest.raises(
        BadInput, match=r"http://h:1: 401 Unauthorized: set LOADGEN_API_KEY, or name the header"
    ):
        pages.model(None, "http://h:1")
    assert pages.model("m", "http://h:1") == "m"


def test_our_own_servers_are_not_asked_twice() -> None:
    manner = Manner(pages={"/info": {"engine": "transformers/generate", "vocab": 32000}})
    chosen = found(manner)
    assert (chosen.ours, chosen.vocab, chosen.choice, manner.asked) == (True, 32000, {}, [])
    assert chosen.line.endswith("lengths exact, tokens by ids, vocabulary 32000")
    assert endpoint_of("http://h:1", chosen).info_url == "http://h:1/info"
    chat = found(manner, options={"endpoint": "chat"})
    assert (chat.ours, chat.at_most, chat.choice["endpoint"]) == (True, False, "chat")


def test_a_trial_is_held_to_what_the_server_can() -> None:
    place = endpoint_of("http://h:1", found(Manner(fields=STANDARD, pages=LLAMA_CPP)))
    load = LoadSpec(kind="closed", input_tokens=8, output_tokens=24)
    trial = Trial(id="x", load=load, url="http://h:1", model_name="small")
    sent = fitted(trial, place)
    assert (sent.vocab, sent.load.at_most, sent.id) == (512, True, "x")
    assert not fitted(Trial(id="x", load=load, url="http://h:1", exact=True), place).load.at_most
    with pytest.raises(BadInput, match="accepted: a sum up to 32"):
        fitted(Trial(id="x", load=LoadSpec(kind="closed", input_tokens=9, output_tokens=24), url="u"), place)
    with pytest.raises(BadInput, match="vocab = 600: ids that the server does not know"):
        fitted(Trial(id="x", load=load, url="u", vocab=600), place)


def test_what_a_trial_fixed() -> None:
    load = LoadSpec(kind="closed", input_tokens=8, output_tokens=24, stream=False)
    driver = {"tokenizer": "t", "extras": False}
    asked = asked_of(Trial(id="x", load=load, url="u", model_name="m", driver=driver, exact=True))
    assert asked == Asked(options={"extras": False}, model="m", tokenizer="t", stream=False, exact=True)


def test_exact_text_needs_a_server_that_counts_prompts() -> None:
    manner = Manner(forms=("completions text",), usage=False, ids=True, pages=VLLM)
    assert "input lengths are counted by nobody" in found(manner).line
    with pytest.raises(BadInput, match="--exact: the server counts no prompt tokens"):
        found(manner, exact=True)


def test_two_texts_that_were_counted_in_time_are_a_measure(monkeypatch: pytest.MonkeyPatch) -> None:
    send = probes.Prober.send

    def slow(self: probes.Prober, options: Any, ids: Any, output_tokens: int, rows: int = 1) -> Any:
        if len(options.get("words", {"words": [""]})["words"][0].split()) > 200:
            raise probes.Late
        return send(self, options, ids, output_tokens, rows)

    monkeypatch.setattr(probes.Prober, "send", slow)
    chosen = found(Manner(forms=("chat text",), overhead=7, pages=VLLM))
    assert "8 tokens of each input stand beside the words" in chosen.line
