"""TensorRT-LLM's launcher against its command line and fields as they were read; nothing of it runs here."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from loadgen.drivers.openai import check_options
from loadgen.drivers.openai_endpoint import Endpoint
from loadgen.errors import BadInput, MissingDependency
from loadgen.records import ServerSpec
from loadgen.request_records import Request
from loadgen.servers.trtllm import FRAMEWORK
from loadgen.theory.models import PRESETS

SPEC = ServerSpec(
    framework="trtllm",
    model=PRESETS["llama-13b"],
    gpus=(0, 1),
    tp=2,
    max_batch=64,
    options={"weights": "engine"},
)
# What its completions take (extra="forbid"), of what loadgen sends.
TAKES = {
    *("model", "prompt", "max_tokens", "min_tokens", "ignore_eos", "temperature", "stream", "stream_options"),
    "detokenize",
}


@pytest.fixture(autouse=True)
def nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")


def test_a_command_line_with_dummy_weights() -> None:
    found = FRAMEWORK.command(SPEC, "/run", (30001,))
    assert found.argv == (
        *("trtllm-serve", "/run/llama-13b", "--host", "127.0.0.1", "--port", "30001", "--backend", "pytorch"),
        *("--tp_size", "2", "--pp_size", "1", "--max_batch_size", "64", "--max_num_tokens", "8192"),
        *("--max_seq_len", "2048", "--config", "/run/extra.yaml"),
    )
    settings = json.loads(found.files["extra.yaml"])
    assert settings["load_format"] == "dummy"
    assert settings["kv_cache_config"] == {"enable_block_reuse": False, "free_gpu_memory_fraction": 0.8}
    assert settings["enable_iter_perf_stats"] is True
    assert (found.metrics_url, found.records_url) == (None, "http://127.0.0.1:30001/metrics")
    assert {"llama-13b/config.json", "llama-13b/tokenizer.json"} <= found.files.keys()
    assert json.loads(found.files["info.json"])["by_contract_only"] is True


def test_the_same_weights_as_hf_lie_under_the_model_s_name() -> None:
    found = FRAMEWORK.command(replace(SPEC, options={}), "/run", (30001,))
    write, link = found.setup
    assert link == ("ln", "-sfn", write[write.index("--out") + 1], "/run/llama-13b")
    assert json.loads(found.files["extra.yaml"])["load_format"] == "auto"


@pytest.mark.parametrize("stream", [True, False])
def test_only_fields_that_it_takes_are_sent(stream: bool) -> None:
    endpoint = Endpoint("http://h:1", "m", check_options(FRAMEWORK.driver_options(SPEC)))
    request = Request(seq=0, phase="measured", prompts=((1, 2), (3, 4)), output_tokens=5, stream=stream)
    body = json.loads(endpoint.body(request))
    assert body.keys() <= TAKES
    assert ("stream_options" in body) is stream
    assert (body["detokenize"], body["temperature"], body["ignore_eos"], body["min_tokens"]) == (
        False,
        0,
        True,
        5,
    )


def test_each_prompt_s_usage_is_added_up() -> None:
    endpoint = Endpoint("http://h:1", "m", check_options(FRAMEWORK.driver_options(SPEC)))
    request = Request(seq=0, phase="measured", prompts=((1, 2), (3, 4)), output_tokens=2)
    answer = endpoint.answer(request, 200, "OK", "text/event-stream")
    events: list[dict[str, Any]] = [
        {"choices": [{"index": place, "text": "", "token_ids": [7, 8], "finish_reason": "length"}]}
        for place in (0, 1)
    ]
    events += [{"choices": [], "usage": {"prompt_tokens": 2, "completion_tokens": 2, "total_tokens": 4}}] * 2
    for event in events:
        answer.feed(b"data: " + json.dumps(event).encode() + b"\n\n", 1)
    answer.feed(b"data: [DONE]\n\n", 2)
    reply = answer.reply(sent_ns=0, end_ns=2, reads=1, lag_ns=None, error=None)
    assert (reply.error, reply.output_tokens, reply.counted_by) == (None, (2, 2), "ids")
    assert (reply.usage_prompt_tokens, reply.usage_output_tokens) == (4, 4)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"options": {"cache_share": 0}}, "cache_share = 0"),
        ({"options": {"batch_wait_ms": -1}}, "batch_wait_ms = -1"),
        ({"options": {"weights": "other"}}, "weights = 'other'"),
        ({"dtype": "float32"}, "dtype = 'float32'"),
    ],
)
def test_what_cannot_run_is_refused(change: dict[str, Any], words: str) -> None:
    with pytest.raises(BadInput, match=words):
        FRAMEWORK.check(replace(SPEC, **change))


def test_what_this_machine_lacks_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(MissingDependency, match="no trtllm-serve"):
        FRAMEWORK.check(SPEC)
    with pytest.raises(MissingDependency, match="no /envs/trt/bin/trtllm-serve"):
        FRAMEWORK.check(replace(SPEC, python="/envs/trt/bin/python"))
    (tmp_path / "trtllm-serve").touch(mode=0o755)
    monkeypatch.setenv("LOADGEN_TRTLLM_PYTHON", str(tmp_path / "python"))
    FRAMEWORK.check(SPEC)
    assert [need.ok for need in FRAMEWORK.needs()] == [True, True]
