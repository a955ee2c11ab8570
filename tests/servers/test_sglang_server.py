"""The real SGLang on a CPU, with stand-ins for two packages: one start for all of it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import httpx
import pytest
from real_engine import Running, greedy, python_of, running

from loadgen.launch.engine_counters import server_side_counts
from loadgen.records import ServerSpec
from loadgen.telemetry.prometheus_text import read_page
from loadgen.theory.models import PRESETS

PYTHON = python_of("sglang")
PROMPTS = [[5, 6, 7, 8, 9], [900, 31], [17] * 12]
pytestmark = pytest.mark.timeout(900)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("sglang")
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        spec = ServerSpec(
            framework="sglang",
            model=replace(PRESETS["tiny"], max_context=128),
            dtype="float32",
            max_batch=4,
            python=str(PYTHON),
        )
        with running(spec, folder) as up:
            yield up


def test_it_serves_exact_lengths_and_the_tokens_of_transformers(server: Running) -> None:
    wanted = greedy(server.spec, PROMPTS, 8)
    batch = server.ask(PROMPTS, 8)
    assert batch.error is None
    assert (batch.output_tokens, batch.counted_by, batch.usage_prompt_tokens) == ((8, 8, 8), "ids", 19)
    assert list(batch.first_tokens) == wanted[0]
    whole = server.ask([PROMPTS[1]], 8, stream=False)
    assert (whole.error, whole.output_tokens) == (None, (8,))
    assert list(whole.first_tokens) == wanted[1]
    assert (server.ask([[5] * 120], 20).error or "").startswith("Refused: "), "over the context"


def test_a_static_batch_is_one_call(server: Running) -> None:
    result = server.trial(batch_size=4, requests=2)
    assert result.failure is None
    assert result.summary is not None
    assert (result.summary.requests_failed, result.summary.output_tokens) == (0, 2 * 4 * 8)
    assert result.engine["engine"] == "sglang 0.5.23"
    assert result.engine["prefix_caching"] is False
    assert result.engine["attention"] == "torch_native"
    assert result.engine["decode_graphs"] == "disabled"
    seen = result.engine["server_side"]
    assert isinstance(seen, dict)
    assert (seen["source"], seen["prompt_tokens"]) == ("sglang", 3 * 4 * 20)
    assert seen["output_tokens"] == 3 * 4 * 8


def test_its_pages_are_what_telemetry_expects(server: Running) -> None:
    page = httpx.get(server.endpoint.metrics_url or "", trust_env=False, timeout=30).text
    assert server_side_counts("", page)["source"] == "sglang"
    names = {name for name, _, _ in read_page(page).readings}
    assert {"engine_running", "engine_waiting", "kv_usage", "kv_capacity_tokens"} <= names


def test_an_id_outside_the_vocabulary_ends_it_and_its_words_say_so(server: Running) -> None:
    """The last test: it ends the server."""
    before = server.endpoint.family()
    lost = server.ask([[server.spec.model.vocab + 5] * 3], 4)
    assert lost.error is not None
    fault = server.endpoint.judge(before)
    assert fault is not None
    assert "vocabulary" in str(fault)
