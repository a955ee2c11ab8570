"""transformers' continuous batching behind the same API: calls overlap, tokens stay those of generate."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch

from loadgen.launch.process import Server, free_ports, serving
from loadgen.records import ServerSpec
from loadgen.servers._torch import model as hf_model
from loadgen.servers.hf import FRAMEWORK
from loadgen.theory.models import PRESETS

SPEC = ServerSpec(framework="hf", model=PRESETS["tiny"], dtype="float32", options={"engine": "continuous"})
PROMPTS = [[1, 2, 3, 4, 5, 6, 7], [900, 31], [5] * 12]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder: Path = tmp_path_factory.mktemp("hf")
    command = FRAMEWORK.command(SPEC, str(folder), free_ports(1))
    with serving(command, folder, folder / "log", ready_timeout_s=120) as running:
        yield running


@pytest.fixture(scope="module")
def client(server: Server) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.command.base_url, timeout=60, trust_env=False) as running:
        yield running


@pytest.fixture(scope="module")
def expected() -> list[list[int]]:
    model: Any = hf_model.build(SPEC, torch.device("cpu"), 0, seed=0, attention="sdpa")
    answers = []
    for prompt in PROMPTS:
        out = model.generate(
            torch.tensor([prompt]), attention_mask=torch.ones(1, len(prompt)), max_new_tokens=20
        )
        answers.append(out[0, len(prompt) :].tolist())
    return answers


def ask(client: httpx.Client, **fields: Any) -> dict[str, Any]:
    reply = client.post("/v1/completions", json={"ignore_eos": True, "return_token_ids": True, **fields})
    assert reply.status_code == 200, reply.text
    return reply.json()


def test_a_batch_and_calls_at_once_give_generates_tokens(
    client: httpx.Client, expected: list[list[int]]
) -> None:
    reply = ask(client, prompt=PROMPTS, max_tokens=20)
    assert [choice["token_ids"] for choice in reply["choices"]] == expected
    assert reply["usage"]["completion_tokens"] == 60
    with ThreadPoolExecutor(3) as pool:
        replies = list(pool.map(lambda prompt: ask(client, prompt=prompt, max_tokens=20), PROMPTS))
    assert [reply["choices"][0]["token_ids"] for reply in replies] == expected


def test_it_streams_and_says_what_it_is(client: httpx.Client, expected: list[list[int]]) -> None:
    body = {
        "prompt": PROMPTS[0],
        "max_tokens": 20,
        "stream": True,
        "ignore_eos": True,
        "return_token_ids": True,
    }
    with client.stream("POST", "/v1/completions", json=body) as reply:
        lines = [line.removeprefix("data: ") for line in reply.iter_lines() if line]
    import json

    events = [json.loads(line) for line in lines[:-1]]
    assert [t for event in events for choice in event["choices"] for t in choice["token_ids"]] == expected[0]
    assert lines[-1] == "[DONE]"
    info = client.get("/info").json()
    assert info["engine"] == "hf/continuous"
    assert info["in_flight_batching"] is True


def test_what_it_cannot_do_is_refused(client: httpx.Client) -> None:
    reply = client.post("/v1/completions", json={"prompt": [1], "temperature": 0.5})
    assert reply.status_code == 400
    assert "greedily" in reply.json()["error"]["message"]


def test_a_client_that_leaves_is_dropped(client: httpx.Client, server: Server) -> None:
    name = 'hf_requests_total{outcome="cancelled"} '
    with (
        httpx.Client(base_url=server.command.base_url, trust_env=False) as impatient,
        pytest.raises(httpx.ReadTimeout),
    ):
        impatient.post(
            "/v1/completions", json={"prompt": [1], "max_tokens": 4000, "ignore_eos": True}, timeout=0.5
        )
    ask(client, prompt=[1], max_tokens=2)
    for _ in range(100):
        if f"{name}1.0" in client.get("/metrics").text:
            break
    else:
        pytest.fail("the abandoned call was not dropped")


def test_the_paged_cache_is_counted_since_the_peaks_were_reset(client: httpx.Client) -> None:
    """Blocks of 256 tokens: three sequences of 300 + 10 take two each, one of 5 + 2 takes one."""

    def peak(sequences: int, prompt: int, new: int) -> int:
        page = client.get("/info").json()
        assert client.post(page["reset_peaks_url"]).json() == {"status": "ok"}
        body = {"prompt": [[5] * prompt] * sequences, "max_tokens": new, "ignore_eos": True}
        assert client.post("/v1/completions", json=body).status_code == 200
        figures = client.get("/info").json()["memory"]["cpu"]["0"]
        assert figures["kv_needed_bytes"] == figures["kv_blocks_peak"] * figures["kv_block_bytes"]
        assert figures["kv_reserved_bytes"] == figures["kv_blocks"] * figures["kv_block_bytes"]
        return int(figures["kv_blocks_peak"] * figures["kv_block_tokens"])

    assert peak(3, 300, 10) >= 3 * 512
    # It frees blocks when it next has work.
    assert min(peak(1, 5, 2) for _ in range(10)) in (256, 512)
