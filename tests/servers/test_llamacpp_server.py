"""The real llama.cpp server on a CPU, by xllamacpp: one start for all of it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import httpx
import pytest
from real_engine import ROOT, Running, greedy, python_of, running

from loadgen.launch.engine_counters import server_side_counts
from loadgen.records import ServerSpec
from loadgen.theory.models import PRESETS

PYTHON = python_of("llamacpp")
PROMPTS = [[5, 6, 7, 8, 9], [900, 31], [17] * 12]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("llamacpp")
    program = folder / "llama-server"
    program.write_text(f"#!{PYTHON}\n" + (ROOT / "tests/engines/llama_server.py").read_text())
    program.chmod(0o755)
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        spec = ServerSpec(
            framework="llamacpp",
            model=replace(PRESETS["tiny"], max_context=128),
            dtype="float32",
            max_batch=4,
            options={"server": str(program), "threads": 1},
        )
        with running(spec, folder) as up:
            yield up


def test_greedy_tokens_are_those_of_transformers_on_the_same_weights(server: Running) -> None:
    wanted = greedy(server.spec, PROMPTS, 12)
    for prompt, tokens in zip(PROMPTS, wanted, strict=True):
        assert list(server.ask([prompt], 12).first_tokens) == tokens
    batch = server.ask(PROMPTS, 12)
    assert batch.error is None
    assert list(batch.first_tokens) == wanted[0]
    assert (batch.output_tokens, batch.counted_by) == ((12, 12, 12), "ids")
    assert batch.usage_prompt_tokens == 19


@pytest.mark.parametrize("stream", [True, False])
def test_a_static_batch_is_one_call_of_exact_lengths(server: Running, stream: bool) -> None:
    result = server.trial(batch_size=4, stream=stream)
    assert result.failure is None
    assert result.summary is not None
    assert result.summary.requests_failed == 0
    assert result.summary.output_tokens == 3 * 4 * 8
    assert (result.summary.ttft_s is not None) is stream
    assert result.engine["engine"] == "llama.cpp"
    seen = result.engine["server_side"]
    assert isinstance(seen, dict)
    assert (seen["source"], seen["output_tokens"], seen["prompt_tokens"]) == (
        "llama.cpp",
        4 * 4 * 8,
        4 * 4 * 20,
    )
    assert seen["cached_prompt_tokens"] == 0
    assert not {"batch-waves", "prefix-cache"} & {each.kind for each in result.caveats}


def test_more_sequences_than_slots_are_told_as_waves(server: Running) -> None:
    result = server.trial(batch_size=8)
    assert result.failure is None
    assert "batch-waves" in {each.kind for each in result.caveats}


def test_a_closed_loop_and_what_a_slot_cannot_hold(server: Running) -> None:
    result = server.trial(kind="closed", concurrency=3, requests=6)
    assert result.summary is not None
    assert (result.summary.requests_ok, result.summary.requests_failed) == (6, 0)
    cut = server.ask([[7] * 120], 20)
    assert cut.output_tokens is not None, "cut in silence: the count tells"
    assert cut.output_tokens[0] < 20
    long = server.ask([[7] * 200], 4)
    assert (long.error or "").startswith("Refused: 400")
    assert "exceeds the available context" in (long.error or "")
    outside = server.ask([[server.spec.model.vocab + 5] * 3], 4)
    assert (outside.error or "").startswith("Refused: 400")
    assert server.server.alive()


def test_its_pages_are_what_the_counters_expect(server: Running) -> None:
    page = httpx.get(server.endpoint.metrics_url or "", trust_env=False).text
    assert server_side_counts("", page)["source"] == "llama.cpp"
    models = httpx.get(f"{server.endpoint.base_url}/v1/models", trust_env=False).json()["data"][0]
    assert models["meta"]["n_vocab"] == server.spec.model.vocab
    assert server.endpoint.driver_options == {}
