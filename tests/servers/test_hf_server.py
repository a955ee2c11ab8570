"""The real server child with a tiny llama on CPU, over a real socket."""

import json
from collections.abc import Iterator
from importlib import metadata
from typing import Any

import httpx
import pytest
import torch

from loadgen.launch.process import Server
from loadgen.records import ServerSpec
from loadgen.servers._hf import generate
from loadgen.servers._hf.requests import Call
from loadgen.servers._torch import model as hf_model
from loadgen.theory.models import PRESETS

SPEC = ServerSpec(framework="hf", model=PRESETS["tiny"], dtype="float32", max_batch=8)
RAGGED = [[1, 2, 3, 4, 5, 6, 7], [900, 31], [5] * 12]


@pytest.fixture(scope="module")
def server(tiny_hf: Server) -> Server:
    return tiny_hf


@pytest.fixture(scope="module")
def client(server: Server) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.command.base_url, timeout=60, trust_env=False) as running:
        yield running


@pytest.fixture(scope="module")
def model() -> Any:
    return hf_model.build(SPEC, torch.device("cpu"), 0, seed=0, attention="sdpa")


def ask(client: httpx.Client, **fields: Any) -> dict[str, Any]:
    reply = client.post("/v1/completions", json={"ignore_eos": True, "return_token_ids": True, **fields})
    assert reply.status_code == 200, reply.text
    return reply.json()


def stream(client: httpx.Client, **fields: Any) -> list[dict[str, Any]]:
    body = {"stream": True, "ignore_eos": True, "return_token_ids": True, **fields}
    with client.stream("POST", "/v1/completions", json=body) as reply:
        assert reply.status_code == 200
        assert reply.headers["content-type"].startswith("text/event-stream")
        lines = [line.removeprefix("data: ") for line in reply.iter_lines() if line]
    assert lines[-1] == "[DONE]"
    return [json.loads(line) for line in lines[:-1]]


def direct(model: Any, prompts: list[list[int]], new: int) -> list[list[int]]:
    """The same prompts, one at a time and unpadded, through transformers' own greedy generate."""
    answers = []
    for prompt in prompts:
        out = model.generate(
            torch.tensor([prompt]),
            attention_mask=torch.ones(1, len(prompt)),
            max_new_tokens=new,
            do_sample=False,
        )
        answers.append(out[0, len(prompt) :].tolist())
    return answers


def test_greedy_tokens_of_a_ragged_static_batch_equal_transformers_generate(
    client: httpx.Client, model: Any
) -> None:
    reply = ask(client, prompt=RAGGED, max_tokens=16)
    assert [choice["token_ids"] for choice in reply["choices"]] == direct(model, RAGGED, 16)
    assert [choice["index"] for choice in reply["choices"]] == [0, 1, 2]
    assert {choice["finish_reason"] for choice in reply["choices"]} == {"length"}
    assert reply["usage"] == {"prompt_tokens": 21, "completion_tokens": 48, "total_tokens": 69}


def test_a_stream_brings_one_event_per_step_with_a_choice_per_sequence(client: httpx.Client) -> None:
    whole = ask(client, prompt=RAGGED, max_tokens=9)
    *steps, end, usage = stream(client, prompt=RAGGED, max_tokens=9, stream_options={"include_usage": True})
    assert len(steps) == 9
    tokens: list[list[int]] = [[], [], []]
    texts = ["", "", ""]
    for step in steps:
        assert [choice["index"] for choice in step["choices"]] == [0, 1, 2]
        for choice in step["choices"]:
            assert len(choice["token_ids"]) == 1
            assert choice["text"]
            tokens[choice["index"]] += choice["token_ids"]
            texts[choice["index"]] += choice["text"]
    assert tokens == [choice["token_ids"] for choice in whole["choices"]]
    assert texts == [choice["text"] for choice in whole["choices"]]
    assert [choice["finish_reason"] for choice in end["choices"]] == ["length"] * 3
    assert usage["choices"] == []
    assert usage["usage"] == whole["usage"]


@pytest.mark.parametrize(("batch", "inputs", "outputs"), [(1, 1, 1), (1, 33, 17), (8, 5, 2)])
def test_exactly_the_asked_tokens_come(client: httpx.Client, batch: int, inputs: int, outputs: int) -> None:
    prompts = [[(7 * i + j) % 1024 for j in range(inputs)] for i in range(batch)]
    reply = ask(client, prompt=prompts, max_tokens=outputs, min_tokens=outputs)
    assert [len(choice["token_ids"]) for choice in reply["choices"]] == [outputs] * batch
    assert reply["usage"]["prompt_tokens"] == batch * inputs
    assert reply["usage"]["completion_tokens"] == batch * outputs


def test_text_prompts_are_bytes_and_a_list_of_texts_is_a_batch(client: httpx.Client) -> None:
    reply = ask(client, prompt=["ab", "é"], max_tokens=3)
    same = ask(client, prompt=[[97, 98], list("é".encode())], max_tokens=3)
    assert [c["token_ids"] for c in reply["choices"]] == [c["token_ids"] for c in same["choices"]]
    assert len(ask(client, prompt="hello", max_tokens=3)["choices"]) == 1


def test_a_seed_decides_what_is_sampled(client: httpx.Client) -> None:
    def sample(seed: int | None) -> Any:
        body = {"prompt": [1, 2, 3], "max_tokens": 12, "temperature": 1.0, "seed": seed}
        return ask(client, **body)["choices"][0]["token_ids"]

    assert sample(1) == sample(1)
    assert len({tuple(sample(seed)) for seed in (1, 2, 3)}) == 3
    assert sample(None) != sample(None)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"prompt": [1] * 4000, "max_tokens": 97}, ["4000", "97", "4096"]),
        ({"prompt": []}, ["prompt", "empty"]),
        ({}, ["prompt", "missing"]),
        ({"prompt": ""}, ["no tokens"]),
        ({"prompt": [[1], []]}, ["prompt 1", "no tokens"]),
        ({"prompt": [1, 1024]}, ["1024", "0 to 1023"]),
        ({"prompt": [[1], [-1]]}, ["prompt 1", "-1"]),
        ({"prompt": [1, "a"]}, ["int", "str"]),
        ({"prompt": [[1, 2.5]]}, ["float"]),
        ({"prompt": [[True]]}, ["bool"]),
        ({"prompt": [[1]] * 9}, ["9 prompts", "at most 8"]),
        ({"prompt": [1], "max_tokens": 0}, ["max_tokens", "0", "1 to"]),
        ({"prompt": [1], "max_tokens": "9"}, ["max_tokens", "'9'"]),
        ({"prompt": [1], "max_tokens": 4, "min_tokens": 5}, ["min_tokens", "0 to 4"]),
        ({"prompt": [1], "temperature": -1}, ["temperature", "-1"]),
        ({"prompt": [1], "seed": 1.5}, ["seed"]),
        ({"prompt": [1], "stream": "yes"}, ["stream", "'yes'"]),
        ({"prompt": [1], "stream_options": {"usage": True}}, ["stream_options", "include_usage"]),
        ({"prompt": [1], "max_token": 4}, ["max_token", "max_tokens"]),
        ({"prompt": [1], "n": 2}, ["n = 2"]),
        ({"prompt": [1], "top_p": 0.9}, ["top_p"]),
    ],
)
def test_a_bad_request_is_told_what_and_what_is_accepted(
    client: httpx.Client, fields: dict[str, Any], words: list[str]
) -> None:
    reply = client.post("/v1/completions", json=fields)
    assert reply.status_code == 400
    error = reply.json()["error"]
    assert error["type"] == "invalid_request_error"
    for word in words:
        assert word in error["message"]


@pytest.mark.parametrize("body", [b"", b"{", b"[1]", b"\xff", b'{"prompt": ' + b"[" * 100_000])
def test_what_is_not_a_json_object_is_refused(client: httpx.Client, body: bytes) -> None:
    reply = client.post("/v1/completions", content=body)
    assert reply.status_code == 400
    assert "body" in reply.json()["error"]["message"]


def test_another_model_is_not_found(client: httpx.Client) -> None:
    reply = client.post("/v1/completions", json={"model": "gpt-5", "prompt": [1]})
    assert reply.status_code == 404
    assert "'tiny'" in reply.json()["error"]["message"]


def test_neutral_fields_of_other_clients_are_taken(client: httpx.Client) -> None:
    ask(
        client,
        model="tiny",
        prompt=[1],
        max_tokens=1,
        n=1,
        top_p=1.0,
        logprobs=None,
        repetition_penalty=1.0,
        user="me",
    )


def test_it_says_what_it_is(client: httpx.Client) -> None:
    info = client.get("/info").json()
    assert info["engine"] == "hf/generate"
    assert (info["dtype"], info["tp"], info["pp"], info["gpus"]) == ("float32", 1, 1, [])
    assert info["weight_bytes"] == 4 * sum(
        p.numel() for p in hf_model.build(SPEC, torch.device("cpu"), 0, 0, "sdpa").parameters()
    )
    assert info["versions"]["torch"] == metadata.version("torch")
    assert len(info["code"]) == 12
    assert info["memory"]["cuda"] is None
    assert info["memory"]["resident_bytes"] > 100e6
    assert (info["max_context"], info["vocab"]) == (4096, 1024)
    assert client.get("/v1/models").json()["data"][0]["id"] == "tiny"
    assert client.get("/health").is_success


def scrape(client: httpx.Client) -> dict[str, float]:
    lines = [line for line in client.get("/metrics").text.splitlines() if not line.startswith("#")]
    return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines)}


def test_metrics_count_what_was_done_and_leave_out_what_is_not_there(client: httpx.Client) -> None:
    before = scrape(client)
    ask(client, prompt=[[1, 2, 3], [4, 5]], max_tokens=7)
    client.post("/v1/completions", json={"prompt": []})
    after = scrape(client)

    def grew(name: str) -> float:
        return after[name] - before.get(name, 0.0)

    assert grew("hf_prompt_tokens_total") == 5
    assert grew("hf_generated_tokens_total") == 14
    assert grew('hf_requests_total{outcome="ok"}') == 1
    assert grew('hf_requests_total{outcome="refused"}') == 1
    assert grew("hf_batch_size_sum") == 2
    assert after["hf_queue_depth"] == 0
    assert after["hf_resident_memory_bytes"] > 100e6
    assert not [name for name in after if "cuda" in name]


@pytest.mark.parametrize("streamed", [True, False])
def test_a_client_that_leaves_frees_the_device_early(
    client: httpx.Client, server: Server, streamed: bool
) -> None:
    cancelled = scrape(client).get('hf_requests_total{outcome="cancelled"}', 0.0)
    body = {"prompt": [1], "max_tokens": 4000, "ignore_eos": True, "stream": streamed}
    with httpx.Client(base_url=server.command.base_url, timeout=60, trust_env=False) as impatient:
        if streamed:
            with impatient.stream("POST", "/v1/completions", json=body) as reply:
                next(reply.iter_lines())
        else:
            with pytest.raises(httpx.ReadTimeout):
                impatient.post("/v1/completions", json=body, timeout=0.5)
    ask(client, prompt=[1], max_tokens=1)  # waits its turn behind the abandoned call
    assert scrape(client)['hf_requests_total{outcome="cancelled"}'] == cancelled + 1


def test_calls_at_once_are_all_served(client: httpx.Client, model: Any) -> None:
    from concurrent.futures import ThreadPoolExecutor

    prompts = [[i, i + 1, i + 2] for i in range(6)]
    with ThreadPoolExecutor(6) as pool:
        replies = list(pool.map(lambda prompt: ask(client, prompt=prompt, max_tokens=5), prompts))
    assert [reply["choices"][0]["token_ids"] for reply in replies] == direct(model, prompts, 5)


def test_settings_without_eos_leave_generate_no_reason_to_stop() -> None:
    call = Call(prompts=((1,),), max_tokens=5, min_tokens=2, ignore_eos=True)
    settings = generate.settings(call, frozenset({2, 7}))
    assert settings.eos_token_id is None
    settings = generate.settings(Call(prompts=((1,),), max_tokens=5, min_tokens=2), frozenset({2, 7}))
    assert settings.eos_token_id == [2, 7]
    assert settings.min_new_tokens == 2
