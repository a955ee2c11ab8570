"""Eight ranks, as far as a CPU can show them: what may be split so, each rank's share, and eight real processes."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
import pytest
import torch
from click.testing import CliRunner

from loadgen.api import sweeps
from loadgen.cli import main
from loadgen.errors import BadInput, ProfileError
from loadgen.launch import frameworks
from loadgen.launch.process import Server, free_ports, serving
from loadgen.plan.plan import make_plan
from loadgen.profile.read import load_profile
from loadgen.records import ModelSpec, ServerSpec
from loadgen.servers._ds import main as ds_server
from loadgen.servers._ds import options as ds_options
from loadgen.servers._ft import checkpoint
from loadgen.servers._hf import ranks
from loadgen.servers._torch import model as hf_model
from loadgen.servers._torch import tensor_parallel
from loadgen.servers._torch import weights as ds_weights
from loadgen.theory.models import PRESETS, kv_bytes_per_token, weight_bytes
from loadgen.theory.predict import predict

TP = 8
CPU = torch.device("cpu")
# A width that DeepSpeed, which splits in grains of 64, too, shares out evenly; one key/value head a rank.
SMALL = ModelSpec(
    name="small", layers=2, hidden=512, intermediate=512, heads=8, kv_heads=8, head_dim=64, vocab=1024,
    max_context=512,
)  # fmt: skip
SPLIT = ServerSpec(framework="hf", model=SMALL, dtype="float32", tp=TP, ready_timeout_s=240)
ALONE = replace(SPLIT, tp=1)
RAGGED = ((1, 2, 3, 4, 5, 6, 7), (900, 31), (5,) * 12)
NEW = 12
EXPERIMENT = ("pp=1", f"tp={TP}")  # of exp3: the splits by layers left out


# What may be split


@pytest.mark.parametrize("framework", ["hf", "ds"])
@pytest.mark.parametrize("model", ["llama-13b", "llama-65b", "llama-2-70b", "llama-3-8b"])
def test_the_reports_models_split_into_eight(model: str, framework: str) -> None:
    sets = (*EXPERIMENT, f"model={model}", f"framework={framework}")
    plan = make_plan(load_profile("exp3", sets, TP, frameworks.names()))
    assert [trial.load.batch_size for trial in plan.trials] == [2**n for n in range(9)]
    ((spec, _),) = plan.groups()
    assert spec is not None
    assert (spec.tp, spec.gpus) == (TP, tuple(range(TP)))
    if framework == "hf":
        frameworks.find(framework).check(spec)
    else:  # its check looks at the GPUs of this machine; the arithmetic is in the options
        assert ds_options.read(spec).engine == "mii-fastgen"
        assert ds_options.read(replace(spec, options={"engine": "ds-inference-autotp"})).tuned is False


def test_a_model_that_does_not_divide_is_refused_before_anything_starts() -> None:
    with pytest.raises(
        ProfileError, match=r"llama-30b has 52 heads, which tp = 8 does not divide .*tp 1, 2, 4"
    ):
        load_profile("exp3", (*EXPERIMENT, "model=llama-30b"), TP, frameworks.names())


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"heads": 12}, "12 attention heads do not divide by tp = 8"),
        ({"kv_heads": 4}, "4 key/value heads do not divide by tp = 8"),
        ({"intermediate": 516}, "516 MLP rows do not divide by tp = 8"),
        ({"vocab": 1023}, "1023 vocabulary do not divide by tp = 8"),
    ],
)
def test_hf_names_what_does_not_divide(change: dict[str, int], words: str) -> None:
    with pytest.raises(BadInput, match=words):
        frameworks.find("hf").check(replace(SPLIT, model=replace(SMALL, **change)))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"heads": 12}, "12 heads, which tp = 8"),
        ({"kv_heads": 4}, "4 key/value heads, which tp = 8"),
        ({"intermediate": 516}, "516 intermediate size, which tp = 8"),
    ],
)
def test_ds_names_what_does_not_divide(change: dict[str, int], words: str) -> None:
    with pytest.raises(BadInput, match=words):
        ds_options.read(replace(SPLIT, framework="ds", model=replace(SMALL, **change)))


def test_a_vocabulary_that_does_not_divide_takes_fastgen_away() -> None:
    model = replace(PRESETS["llama-13b"], vocab=32001)
    spec = ServerSpec(framework="ds", model=model, tp=TP, gpus=tuple(range(TP)))
    read = ds_options.read(spec)
    assert read.engine == "ds-inference-autotp"
    assert "a vocabulary of 32001, which tp 8 does not divide" in read.reason


@pytest.mark.parametrize("count", [1, 4, 7])
def test_eight_gpus_are_needed(count: int) -> None:
    with pytest.raises(ProfileError, match=rf"8 GPUs are needed, this machine has {count} .*up to {count}"):
        load_profile("exp3", EXPERIMENT, count, frameworks.names())


@pytest.mark.parametrize("framework", ["hf", "ds", "ft"])
def test_too_few_gpus_or_one_twice_are_refused(framework: str) -> None:
    spec = ServerSpec(framework=framework, model=PRESETS["llama-13b"], dtype="float16", tp=TP)
    for gpus in ((0, 1, 2, 3), (0, 1, 2, 3, 4, 5, 6, 6)):
        with pytest.raises(BadInput, match=r"gpus|GPUs"):
            frameworks.find(framework).check(replace(spec, gpus=gpus))


@pytest.mark.parametrize("framework", ["hf", "ds"])
@pytest.mark.parametrize(
    ("model", "weights", "kv"),
    [("llama-13b", "3.30 GiB", "2.93 GiB"), ("llama-65b", "15.63 GiB", "9.38 GiB")],
)
def test_the_plan_can_be_seen_on_any_machine(
    framework: str, model: str, weights: str, kv: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sweeps, "visible_gpus", lambda: ())
    sets = [
        word for each in (*EXPERIMENT, f"model={model}", f"framework={framework}") for word in ("--set", each)
    ]
    done = CliRunner().invoke(main, ["sweep", "exp3", *sets, "--dry-run"])
    assert done.exit_code == 0, done.output
    assert f"{framework} {model} tp8, bfloat16, GPUs 0, 1, 2, 3, 4, 5, 6, 7" in done.output
    assert done.output.count(weights) == 9
    assert kv in next(line for line in done.output.splitlines() if "batch 256" in line)


# What each rank holds


@pytest.mark.parametrize("model", ["llama-13b", "llama-65b"])
def test_a_gpu_holds_an_eighth_and_what_is_on_every_gpu(model: str) -> None:
    shape = PRESETS[model]
    whole, share = (weight_bytes(shape, "bfloat16", tp) for tp in (1, TP))
    lookup = 2 * shape.vocab * shape.hidden
    norms = 2 * shape.hidden * (2 * shape.layers + 1)
    assert share == (whole - lookup - norms) / TP + lookup + norms
    assert kv_bytes_per_token(shape, "bfloat16", TP) * TP == kv_bytes_per_token(shape, "bfloat16")
    trials = {
        tp: make_plan(
            load_profile("exp3", ("pp=1", f"tp={tp}", f"model={model}"), TP, frameworks.names())
        ).trials
        for tp in (1, TP)
    }
    for alone, split in zip(trials[1], trials[TP], strict=True):
        one, eighth = predict(alone, None), predict(split, None)
        assert (eighth.weight_bytes, one.weight_bytes) == (share, whole)
        assert one.kv_bytes is not None
        assert eighth.kv_bytes == one.kv_bytes / TP


@pytest.mark.parametrize("model", ["llama-13b", "llama-65b"])
def test_random_weights_of_the_reports_models_cut_into_eight_shares_of_whole_blocks(model: str) -> None:
    for name, shape in ds_weights.shapes(PRESETS[model]).items():
        if len(shape) == 2:
            size = shape[1 if name.endswith(ds_weights.CUT_BY_COLUMNS) else 0]
            assert math.gcd(size, hf_model.BLOCKS) % TP == 0, name
            assert size % (64 * TP) == 0 or "embed" in name or "lm_head" in name, name  # DeepSpeed's grains


def on_paper(model: ModelSpec) -> Any:
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(hf_model.llama_config(model), dtype=torch.float32)


def test_eight_shares_make_up_every_matrix() -> None:
    model = on_paper(SMALL)
    dims = tensor_parallel.split_dims(model)
    assert len(dims) == 2 * 7 + 1  # the seven matrices of each layer, and the head
    for name, parameter in model.named_parameters():
        whole = hf_model._share(name, parameter, CPU, dims.get(name), 0, 1, 3)
        shares = [hf_model._share(name, parameter, CPU, dims.get(name), rank, TP, 3) for rank in range(TP)]
        if name in dims:
            assert {share.numel() for share in shares} == {parameter.numel() // TP}
            assert torch.equal(torch.cat(shares, dims[name]), whole), name
        else:
            assert all(torch.equal(share, whole) for share in shares), name


def test_deepspeeds_eight_slices_are_those_of_the_same_matrices() -> None:
    """Its output head is split by columns, all else as transformers' plan has it."""
    for name, shape in ds_weights.shapes(SMALL).items():
        whole = torch.empty(shape)
        ds_weights.fill(whole, name, shape, 3)
        if len(shape) == 1:
            continue
        cut = 1 if name.endswith((*ds_weights.CUT_BY_COLUMNS, "lm_head.weight")) else 0
        width = shape[cut] // TP
        for rank in range(TP):
            part = torch.empty_like(whole.narrow(cut, rank * width, width))
            start = (0, rank * width) if cut else (rank * width, 0)
            ds_weights.fill(part, name, shape, 3, start)
            assert torch.equal(part, whole.narrow(cut, rank * width, width)), (name, rank)


@pytest.mark.parametrize("variant", ["a", "b"])
def test_fastertransformers_checkpoint_for_eight(variant: str, tmp_path: Path) -> None:
    folders = {}
    for tp in (1, TP):
        layout = checkpoint.layout_of(SMALL, tp, variant, "fp16")
        folders[tp] = checkpoint.convert(SMALL, layout, tmp_path).folder
        assert checkpoint.check(folders[tp]) == []
    assert folders[TP].name == "8-gpu"

    def read(tp: int, name: str, rank: int, rows: int) -> np.ndarray:
        return np.fromfile(folders[tp] / f"model.layers.1.{name}.weight.{rank}.bin", "<f2").reshape(rows, -1)

    for name in ("attention.dense", "mlp.down_proj"):
        parts = [read(TP, name, rank, SMALL.hidden // TP) for rank in range(TP)]
        np.testing.assert_array_equal(np.concatenate(parts), read(1, name, 0, SMALL.hidden))
    for name in ("mlp.gate_proj", "mlp.up_proj"):
        parts = [read(TP, name, rank, SMALL.hidden) for rank in range(TP)]
        np.testing.assert_array_equal(np.concatenate(parts, axis=1), read(1, name, 0, SMALL.hidden))
    qkv = np.split(read(1, "attention.query_key_value", 0, SMALL.hidden), 3, axis=1)
    for rank in range(TP):
        mine = np.concatenate([np.split(part, TP, axis=1)[rank] for part in qkv], axis=1)
        np.testing.assert_array_equal(read(TP, "attention.query_key_value", rank, SMALL.hidden), mine)


# How ranks are started


@pytest.mark.parametrize("framework", ["hf", "ds"])
def test_the_command_shows_all_eight_gpus_to_one_server(framework: str) -> None:
    spec = ServerSpec(framework=framework, model=PRESETS["llama-65b"], tp=TP, gpus=(7, 6, 5, 4, 3, 2, 1, 0))
    found = frameworks.find(framework)
    ports = (21001, 21002, 21003, 21004)[: found.ports]
    command = found.command(spec, "/run", ports)
    assert command.env["CUDA_VISIBLE_DEVICES"] == "7,6,5,4,3,2,1,0"
    sent = json.loads(command.argv[command.argv.index("--spec") + 1])
    assert (sent["tp"], sent["gpus"], sent["port"]) == (TP, [7, 6, 5, 4, 3, 2, 1, 0], 21001)
    assert sent["model"] == {**sent["model"], "name": "llama-65b", "layers": 80, "heads": 64}


def test_every_rank_knows_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (
        "RANK",
        "LOCAL_RANK",
        "WORLD_SIZE",
        "OMP_NUM_THREADS",
        "NCCL_SOCKET_IFNAME",
        "GLOO_SOCKET_IFNAME",
    ):
        monkeypatch.delenv(name, raising=False)
    spec = replace(SPLIT, framework="ds", gpus=tuple(range(TP)))
    ports = [21001, 21002, 21003, 21004]
    both = {
        "hf": [ranks.rank_environment(rank, TP) for rank in range(TP)],
        "ds": [ds_server._rank_environment(spec, rank, ports) for rank in range(TP)],
    }
    for environments in both.values():
        assert [each["RANK"] for each in environments] == [str(rank) for rank in range(TP)]
        assert [each["LOCAL_RANK"] for each in environments] == [str(rank) for rank in range(TP)]
        assert {each["WORLD_SIZE"] for each in environments} == {"8"}
        assert {each["NCCL_SOCKET_IFNAME"] for each in environments} == {"lo"}
        assert all(int(each["OMP_NUM_THREADS"]) >= 1 for each in environments)
    assert {each["MASTER_PORT"] for each in both["ds"]} == {"21003"}
    assert {each["LOCAL_SIZE"] for each in both["ds"]} == {"8"}


# Eight processes


@dataclass
class RunningServers:
    spec: ServerSpec
    server: Server

    def info(self) -> dict[str, Any]:
        found: dict[str, Any] = httpx.get(str(self.server.command.info_url), trust_env=False).json()
        return found

    def family(self) -> list[psutil.Process]:
        return psutil.Process(self.server.pid).children(recursive=True)

    def ask(self) -> list[tuple[int, ...]]:
        """Greedy tokens of the ragged prompts."""
        body = {"prompt": RAGGED, "max_tokens": NEW, "ignore_eos": True, "return_token_ids": True}
        url = f"{self.server.command.base_url}/v1/completions"
        reply = httpx.post(url, json=body, timeout=120, trust_env=False)
        return [tuple(choice["token_ids"]) for choice in reply.json()["choices"]]


@pytest.fixture(scope="module")
def standing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServers]:
    """Framework hf; eight of ds give the same tokens too, and take half a minute more to come up."""
    folder = tmp_path_factory.mktemp("hf")
    found = frameworks.find(SPLIT.framework)
    found.check(SPLIT)
    command = found.command(SPLIT, str(folder / "run"), free_ports(found.ports))
    with serving(command, folder / "run", folder / "log", ready_timeout_s=SPLIT.ready_timeout_s) as server:
        yield RunningServers(SPLIT, server)


@pytest.fixture(scope="module")
def whole() -> Any:
    return hf_model.build(ALONE, CPU, 0, 0, "sdpa")


def test_eight_processes_give_the_greedy_tokens_of_one(standing: RunningServers, whole: Any) -> None:
    answers = standing.ask()
    for prompt, answer in zip(RAGGED, answers, strict=True):
        ids = torch.tensor([prompt])
        out = whole.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=NEW, do_sample=False)
        expected = tuple(out[0, len(prompt) :].tolist())
        assert answer
        assert answer == expected[: len(answer)]
    info = standing.info()
    assert (info["tp"], info["device"], info["gpus"]) == (TP, "cpu", [])
    assert info["weight_bytes"] == weight_bytes(SMALL, "float32", TP)
    assert hf_model.weight_bytes(whole) == weight_bytes(SMALL, "float32")
    caches = {rank: figures["kv_needed_bytes"] for rank, figures in info["memory"]["cpu"].items()}
    assert set(caches) == {str(rank) for rank in range(TP)}
    assert len(set(caches.values())) == 1
    assert len([each for each in standing.family() if "--rank" in each.cmdline()]) >= TP - 1
