"""The framework object: what it accepts, and how it would start the server."""

import dataclasses
import json
import subprocess
import sys
from importlib import metadata
from typing import Any

import pytest
import torch

from loadgen.errors import BadInput
from loadgen.records import ServerSpec
from loadgen.servers._hf.text import ByteText
from loadgen.servers._torch import model as hf_model
from loadgen.servers.hf import FRAMEWORK
from loadgen.theory.models import PRESETS

SPEC = ServerSpec(framework="hf", model=PRESETS["llama-13b"], gpus=(0,))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"options": {"engine": "vllm"}}, ["engine", "'vllm'", "generate, compiled, continuous"]),
        ({"options": {"engin": "generate"}}, ["'engin'", "engine"]),
        ({"options": {"attention": "flash"}}, ["attention", "sdpa, eager"]),
        ({"options": {"compile": True}}, ["compile", "True"]),
        ({"options": {"seed": -1}}, ["seed", "-1"]),
        ({"dtype": "int8"}, ["int8", "bfloat16"]),
        ({"dummy_weights": False}, ["llama-13b", "checkpoint folder"]),
        ({"tp": 3, "gpus": (0, 1, 2)}, ["40 attention heads", "tp = 3"]),
        ({"tp": 2}, ["1 GPUs", "accepted: 2"]),
        ({"tp": 0}, ["tp = 0"]),
        ({"tp": 2, "gpus": (1, 1)}, ["twice"]),
        ({"model": PRESETS["llama-65b"], "tp": 16, "gpus": tuple(range(16))}, ["tp = 16", "840"]),
        ({"tp": 2, "pp": 2, "gpus": (0, 1, 2, 3)}, ["tp = 2", "pp = 2"]),
        ({"pp": 2, "gpus": ()}, ["pp = 2", "none is given"]),
        ({"pp": 2, "gpus": (0, 1), "options": {"engine": "compiled"}}, ["pp = 2", "compiled"]),
        ({"tp": 2, "gpus": (0, 1), "options": {"engine": "continuous"}}, ["tp = 2", "continuous"]),
        ({"model": PRESETS["llama-2-70b"], "tp": 16, "gpus": tuple(range(16))}, ["8 key/value heads"]),
    ],
)
def test_what_cannot_run_is_refused_with_one_clear_line(change: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(BadInput) as caught:
        FRAMEWORK.check(dataclasses.replace(SPEC, **change))
    assert "\n" not in str(caught.value)
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"gpus": ()},
        {"tp": 4, "gpus": (4, 5, 6, 7)},
        {"pp": 2, "gpus": (0, 1)},
        {"tp": 2, "gpus": (), "options": {"engine": "compiled", "compile": "off", "seed": 3}},
    ],
)
def test_what_can_run_is_accepted(change: dict[str, Any]) -> None:
    FRAMEWORK.check(dataclasses.replace(SPEC, **change))


def test_the_command_is_data() -> None:
    spec = dataclasses.replace(
        SPEC, tp=2, gpus=(3, 1), python="/opt/engine/bin/python", options={"engine": "compiled"}
    )
    command = FRAMEWORK.command(spec, "/run/here", [4321])
    assert command.argv[0] == "/opt/engine/bin/python"
    assert command.argv[1].endswith("loadgen/launch/_child.py")
    assert command.argv[3] == "loadgen.servers._hf.main"
    assert command.argv[command.argv.index("--run-dir") + 1] == "/run/here"
    fields = json.loads(command.argv[command.argv.index("--spec") + 1])
    assert (fields["tp"], fields["port"], fields["options"]) == (2, 4321, {"engine": "compiled"})
    assert command.env["CUDA_VISIBLE_DEVICES"] == "3,1"
    assert command.base_url == "http://127.0.0.1:4321"
    assert command.ready_url == "http://127.0.0.1:4321/health"
    assert command == FRAMEWORK.command(spec, "/run/here", [4321])


def test_a_cpu_server_sees_no_gpu_and_a_wildcard_host_is_reached_by_loopback() -> None:
    spec = dataclasses.replace(SPEC, gpus=(), host="0.0.0.0", port=9)
    command = FRAMEWORK.command(spec, "/run/here", [4321])
    assert command.env["CUDA_VISIBLE_DEVICES"] == ""
    assert command.base_url == "http://127.0.0.1:9"


def test_importing_the_framework_loads_no_engine() -> None:
    heavy = "{'torch', 'transformers', 'httpx', 'numpy'}"
    code = f"import sys, loadgen.servers.hf; print(sorted({heavy} & set(sys.modules)))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout == "[]\n"


def test_needs_name_the_libraries() -> None:
    needs = {need.name: need for need in FRAMEWORK.needs()}
    assert needs["torch"].ok
    assert needs["torch"].found == f"installed {metadata.version('torch')}"


def test_layers_split_evenly_over_stages() -> None:
    stages = hf_model.layer_devices(PRESETS["llama-13b"], 3)
    per_stage = [
        sum(1 for name, gpu in stages.items() if ".layers." in name and gpu == stage) for stage in range(3)
    ]
    assert sorted(per_stage) == [13, 13, 14]
    assert stages["model.embed_tokens"] == 0
    assert stages["lm_head"] == stages["model.norm"] == 2
    assert [stages[f"model.layers.{i}"] for i in range(40)] == sorted(
        stages[f"model.layers.{i}"] for i in range(40)
    )


def test_shares_of_any_degree_are_parts_of_the_same_random_matrix() -> None:
    from torch import nn

    like, cpu = nn.Parameter(torch.empty(96, 48)), torch.device("cpu")

    def share(dim: int, rank: int, tp: int) -> torch.Tensor:
        return hf_model._share("layer.weight", like, cpu, dim, rank, tp, 0)

    for dim in (0, 1):
        whole = share(dim, 0, 1)
        assert whole.shape == (96, 48)
        assert abs(whole.std().item() - 0.02) < 0.001
        for tp in (2, 3, 4, 6, 8):
            assert torch.equal(torch.cat([share(dim, rank, tp) for rank in range(tp)], dim), whole)
    other = hf_model._share("layer.weight", like, cpu, 0, 0, 1, 1)
    assert not torch.equal(other, share(0, 0, 1))


def test_bytes_stand_for_text_where_there_is_no_tokenizer() -> None:
    text = ByteText()
    assert text.encode("aé") == [97, 195, 169]
    growing = text.sequence()
    assert [growing.push(token) for token in (97, 10, 195, 31999)] == ["a", "<10>", "<195>", "<31999>"]
