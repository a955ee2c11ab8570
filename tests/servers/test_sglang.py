"""SGLang's launcher: command lines by version, refusals, what is read back. No server is started here."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from loadgen.errors import BadInput, MissingDependency, ServerError
from loadgen.launch.interpreter import Interpreter
from loadgen.records import ServerSpec
from loadgen.servers import sglang
from loadgen.servers.sglang import FRAMEWORK, ReadBack
from loadgen.theory.models import PRESETS

SPEC = ServerSpec(
    framework="sglang",
    model=PRESETS["llama-13b"],
    gpus=(0, 1),
    tp=2,
    max_batch=256,
    options={"weights": "engine"},
)


def installed(version: str) -> Interpreter:
    return Interpreter(
        path="/py", version="3.11", versions={"sglang": version}, modules=frozenset({sglang.MODULE})
    )


@pytest.fixture(autouse=True)
def newest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sglang, "_look", lambda _python: installed("0.5.23"))


def test_a_command_line_with_its_own_dummy_weights() -> None:
    found = FRAMEWORK.command(replace(SPEC, python="/py"), "/run", (30001,))
    assert found.argv == (
        *(
            "/py",
            "-m",
            "sglang.launch_server",
            "--model-path",
            "/run/model",
            "--served-model-name",
            "llama-13b",
        ),
        *("--load-format", "dummy", "--host", "127.0.0.1", "--port", "30001", "--dtype", "bfloat16"),
        *("--context-length", "2048", "--tp-size", "2", "--pp-size", "1", "--random-seed", "0"),
        *("--max-running-requests", "256", "--skip-tokenizer-init", "--skip-server-warmup"),
        *(
            "--enable-metrics",
            "--incremental-streaming-output",
            "--stream-interval",
            "1",
            "--disable-radix-cache",
        ),
    )
    assert found.setup == ()
    assert found.env["TMPDIR"] == "/run"  # what it leaves there goes with the run folder
    assert "model/config.json" in found.files
    assert found.env["SGLANG_ENABLE_HEALTH_ENDPOINT_GENERATION"] == "0"
    assert found.ready_url == "http://127.0.0.1:30001/ready"


def test_an_older_version_has_another_page_for_readiness(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sglang, "_look", lambda _python: installed("0.5.15.post1"))
    assert FRAMEWORK.command(SPEC, "/run", (30001,)).ready_url.endswith("/health")
    FRAMEWORK.check(SPEC)
    monkeypatch.setattr(sglang, "_look", lambda _python: installed("0.5.14"))
    with pytest.raises(MissingDependency, match=r"sglang 0\.5\.14 \(accepted: 0\.5\.15"):
        FRAMEWORK.check(SPEC)


def test_the_same_weights_as_hf_are_files_that_are_written_first() -> None:
    found = FRAMEWORK.command(replace(SPEC, options={}), "/run", (30001,))
    (setup,) = found.setup
    model = found.argv[found.argv.index("--model-path") + 1]
    assert setup[setup.index("--out") + 1] == model
    assert found.argv[found.argv.index("--load-format") + 1] == "safetensors"
    assert list(found.mounts.values()) == ["rw"]


def test_options_become_flags_of_this_version_alone() -> None:
    options = {
        "weights": "engine", "mem_fraction_static": 0.8, "kv_tokens": 4096, "chunked_prefill_size": -1,
        "cuda_graph_max_batch": 64, "cuda_graphs": False, "overlap_schedule": False, "prefix_caching": True,
        "attention": "fa3",
    }  # fmt: skip
    argv = FRAMEWORK.command(replace(SPEC, options=options), "/run", (30001,)).argv
    assert argv[argv.index("--stream-interval") + 2 :] == (
        *("--disable-overlap-schedule", "--disable-decode-cuda-graph", "--disable-prefill-cuda-graph"),
        *("--cuda-graph-max-bs-decode", "64", "--chunked-prefill-size", "-1", "--max-total-tokens", "4096"),
        *("--mem-fraction-static", "0.8", "--attention-backend", "fa3"),
    )


@pytest.mark.parametrize(
    "options",
    [
        {"mem_fraction_static": 1},
        {"kv_tokens": 0},
        {"chunked_prefill_size": 0},
        {"attention": "--trust-remote-code"},
        {"weights": "other"},
        {"prefix_caching": "maybe"},
        {"no_such": 1},
    ],
)
def test_what_is_no_option_is_refused_by_name(options: dict[str, Any]) -> None:
    with pytest.raises(BadInput, match=next(iter(options))) as caught:
        FRAMEWORK.check(replace(SPEC, options=options))
    assert "accepted" in str(caught.value)


def test_what_is_read_back(monkeypatch: pytest.MonkeyPatch) -> None:
    told: dict[str, Any] = {
        "version": "0.5.23", "attention_backend": "fa3", "chunked_prefill_size": 8192, "disable_radix_cache": True,
        "max_total_num_tokens": 135000, "max_running_requests": 256, "model_path": "/secret/place",
        "cuda_graph_config": {"decode": {"backend": "full", "max_bs": 256}, "prefill": {"backend": "disabled"}},
    }  # fmt: skip
    monkeypatch.setattr(sglang, "server_info", lambda _url: told)
    facts = ReadBack(spec=SPEC, base="http://h:1")("")
    assert facts["engine"] == "sglang 0.5.23"
    assert (facts["attention"], facts["kv_tokens"], facts["prefix_caching"]) == ("fa3", 135000, False)
    assert (facts["graphs"], facts["decode_graphs_up_to"], facts["prefill_graphs"]) == (True, 256, "disabled")
    assert facts["weights"] == {"maker": "SGLang", "distribution": "uniform, up to 0.001"}
    assert "/secret/place" not in str(facts)
    told["disable_radix_cache"] = False
    with pytest.raises(ServerError, match="caches prefixes"):
        ReadBack(spec=SPEC, base="http://h:1")("")
