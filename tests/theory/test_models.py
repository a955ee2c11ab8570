"""Shapes, their weights, and checkpoint folders."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

from loadgen.errors import BadInput
from loadgen.records import ModelSpec
from loadgen.theory import models
from loadgen.theory.checkpoint import shapes
from loadgen.theory.models import PRESETS, kv_bytes_per_token, parameters, resolve, weight_bytes


@pytest.mark.parametrize(
    ("name", "count"),
    [
        # As published, and as transformers counts them.
        ("llama-7b", 6_738_415_616),
        ("llama-13b", 13_015_864_320),
        ("llama-30b", 32_528_943_616),
        ("llama-65b", 65_285_660_672),
        ("llama-2-70b", 68_976_648_192),
        ("llama-3-8b", 8_030_261_248),
    ],
)
def test_parameter_counts_are_the_published_ones(name: str, count: int) -> None:
    assert parameters(resolve(name)) == count


def test_transformers_counts_the_same_for_tiny() -> None:
    transformers = pytest.importorskip("transformers")
    torch = pytest.importorskip("torch")
    spec = resolve("tiny")
    with torch.device("meta"):
        model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**models.hf_config(spec)))
    assert sum(p.numel() for p in model.parameters()) == parameters(spec)
    assert model.config.max_position_embeddings == spec.max_context


@pytest.mark.parametrize(
    ("name", "megabytes"), [("llama-13b", 0.8192), ("llama-65b", 2.62144), ("llama-2-70b", 0.32768)]
)
def test_kv_bytes_per_token(name: str, megabytes: float) -> None:
    spec = resolve(name)
    assert kv_bytes_per_token(spec, "float16") == round(megabytes * 1e6)
    assert kv_bytes_per_token(spec, "float32") == 2 * round(megabytes * 1e6)
    assert kv_bytes_per_token(spec, "bfloat16", tp=4) == round(megabytes * 1e6) // 4
    assert kv_bytes_per_token(spec, "bfloat16", pp=2) == round(megabytes * 1e6) // 2


@pytest.mark.parametrize("name", PRESETS)
def test_weights_of_one_gpu_are_all_parameters(name: str) -> None:
    spec = resolve(name)
    assert weight_bytes(spec, "bfloat16") == 2 * parameters(spec)
    assert weight_bytes(spec, "fp32") == 4 * parameters(spec)


@given(
    name=st.sampled_from(sorted(PRESETS)),
    tp=st.sampled_from([1, 2, 4, 8]),
    pp=st.integers(1, 4),
    replicated=st.booleans(),
)
def test_a_share_of_the_weights_is_between_even_and_whole(
    name: str, tp: int, pp: int, replicated: bool
) -> None:
    spec = resolve(name)
    whole = weight_bytes(spec, "bfloat16")
    share = weight_bytes(spec, "bfloat16", tp, pp, embeddings_replicated=replicated)
    assert whole / (tp * pp) <= share <= whole
    if tp > 1 and pp == 1:
        assert share < whole


def test_replicated_embedding_is_what_the_shares_differ_in() -> None:
    spec = resolve("llama-13b")
    kept = weight_bytes(spec, "fp16", 4)
    split = weight_bytes(spec, "fp16", 4, embeddings_replicated=False)
    assert kept - split == 2 * 32000 * 5120 * 3 // 4


def test_splits() -> None:
    assert models.split_problem(resolve("llama-2-70b"), 8) is None
    assert "64 heads, which tp = 3" in (models.split_problem(resolve("llama-65b"), 3) or "")
    assert "8 key/value heads, which tp = 16" in (models.split_problem(resolve("llama-2-70b"), 16) or "")
    assert "fewer than pp = 5" in (models.split_problem(resolve("tiny"), 1, 5) or "")
    assert models.valid_tp(resolve("llama-13b")) == (1, 2, 4, 8)


def test_a_preset_can_run_past_its_context() -> None:
    assert models.extend_context(resolve("llama-13b"), 4096).max_context == 4096
    assert models.extend_context(resolve("llama-3-8b"), 4096).max_context == 8192


def test_unknown_model_says_what_is_accepted() -> None:
    with pytest.raises(BadInput, match=r"'lama-13b'; did you mean 'llama-13b'\? \(accepted: tiny, llama-7b"):
        resolve("lama-13b")
    with pytest.raises(BadInput, match="no such folder"):
        resolve("./nowhere")


@pytest.mark.parametrize("name", PRESETS)
def test_json_round_trip(name: str) -> None:
    assert models.from_json(models.to_json(resolve(name))) == resolve(name)


def test_dtypes() -> None:
    assert models.dtype_name("bf16") == "bfloat16"
    with pytest.raises(BadInput, match=r"unknown dtype 'int3'.*accepted: bfloat16"):
        models.dtype_name("int3")


def test_models_imports_only_the_standard_library() -> None:
    code = (
        "import sys; old = set(sys.modules); import loadgen.theory.models; "
        "new = {m.split('.')[0] for m in set(sys.modules) - old}; "
        "print(*sorted(new - set(sys.stdlib_module_names) - {'loadgen'}))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == ""


CONFIG: dict[str, Any] = {
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "vocab_size": 256,
    "max_position_embeddings": 128,
    "rms_norm_eps": 1e-5,
}


def checkpoint(folder: Path, seed: int = 0, **changes: Any) -> Path:
    folder.mkdir(exist_ok=True)
    config = {key: value for key, value in (CONFIG | changes).items() if value is not None}
    (folder / "config.json").write_text(json.dumps(config))
    random = np.random.default_rng(seed)

    def told(key: str, usual: int) -> int:
        return found if 0 < (found := config.get(key, usual)) < 100 else usual  # of a bad one none is made

    spec = ModelSpec(
        name="m", layers=2, hidden=64, intermediate=96, heads=4, vocab=256, max_context=128,
        kv_heads=told("num_key_value_heads", 4), head_dim=told("head_dim", 16),
    )  # fmt: skip
    tensors = {
        name if name.startswith("lm_head") else f"model.{name}": random.standard_normal(shape).astype(
            np.float32
        )
        for name, shape in shapes(spec).items()
    }
    save_file(tensors, folder / "model.safetensors")
    return folder


def test_checkpoint_folder(tmp_path: Path) -> None:
    spec = resolve(str(checkpoint(tmp_path / "my-llama")))
    assert (spec.name, spec.layers, spec.heads, spec.kv_heads, spec.head_dim) == ("my-llama", 2, 4, 4, 16)
    assert (spec.vocab, spec.max_context, spec.rope_theta, spec.tied) == (256, 128, 10000.0, False)
    assert spec.checkpoint == str(tmp_path / "my-llama")
    assert len(spec.fingerprint) == 16


def test_checkpoint_options_are_read(tmp_path: Path) -> None:
    folder = checkpoint(
        tmp_path / "m", num_key_value_heads=2, head_dim=32, rope_theta=5e5, tie_word_embeddings=True
    )
    spec = resolve(str(folder))
    assert (spec.kv_heads, spec.head_dim, spec.rope_theta, spec.tied) == (2, 32, 5e5, True)
    newer = checkpoint(tmp_path / "n", rope_parameters={"rope_type": "default", "rope_theta": 7e4})
    assert resolve(str(newer)).rope_theta == 7e4


def test_fingerprint_follows_content_not_place_or_time(tmp_path: Path) -> None:
    first = checkpoint(tmp_path / "a")
    copy = tmp_path / "b"
    shutil.copytree(first, copy)
    os.utime(copy / "model.safetensors", (1, 1))
    assert resolve(str(copy)).fingerprint == resolve(str(first)).fingerprint
    checkpoint(copy, seed=1)
    assert resolve(str(copy)).fingerprint != resolve(str(first)).fingerprint
    checkpoint(copy, rms_norm_eps=1e-6)
    assert resolve(str(copy)).fingerprint != resolve(str(first)).fingerprint


def test_sharded_checkpoint(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path / "m")
    os.rename(folder / "model.safetensors", folder / "model-00001-of-00002.safetensors")
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": "model-00001-of-00002.safetensors"}}))
    assert resolve(str(folder)).fingerprint
    index.write_text(json.dumps({"weight_map": {"a": "model-00002-of-00002.safetensors"}}))
    with pytest.raises(BadInput, match="1 missing files, first model-00002-of-00002"):
        resolve(str(folder))
    index.write_text("{}")
    with pytest.raises(BadInput, match="not a safetensors index"):
        resolve(str(folder))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "mistral"}, "model_type = 'mistral' is not supported"),
        ({"model_type": None}, "model_type = None is not supported"),
        ({"hidden_size": None}, "hidden_size = None must be a whole number"),
        ({"num_hidden_layers": 0}, "num_hidden_layers = 0 must be"),
        ({"vocab_size": True}, "vocab_size = True must be"),
        (
            {"num_hidden_layers": 2**31},
            "num_hidden_layers is more than any model has",
        ),  # 22 GB of names, once
        ({"num_attention_heads": 10**6}, "num_attention_heads is more than any model has"),
        ({"vocab_size": 2**31}, "vocab_size is more than any model has"),
        ({"head_dim": 0}, "head_dim = 0 must be"),
        ({"hidden_size": 2, "head_dim": None}, "head_dim = 0 must be"),
        ({"tie_word_embeddings": "false"}, "tie_word_embeddings = 'false' must be true or false"),
        ({"quantization_config": {"bits": 4}}, "quantised checkpoints are not supported"),
    ],
)
def test_bad_configurations(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        resolve(str(checkpoint(tmp_path / "m", **changes)))


def test_folders_that_are_no_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"no config\.json in it"):
        resolve(str(tmp_path))
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(BadInput, match="not readable as JSON"):
        resolve(str(tmp_path))
    (tmp_path / "config.json").write_text("[]")
    with pytest.raises(BadInput, match="a JSON object was expected"):
        resolve(str(tmp_path))
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    with pytest.raises(BadInput, match=r"no \*\.safetensors in it"):
        resolve(str(tmp_path))
    (tmp_path / "model.safetensors").write_bytes(b"git-lfs pointer, not tensors")
    with pytest.raises(BadInput, match="not a safetensors file, or cut short"):
        resolve(str(tmp_path))


def test_a_checkpoint_keeps_its_context(tmp_path: Path) -> None:
    spec = resolve(str(checkpoint(tmp_path / "m")))
    assert models.extend_context(spec, 4096) == spec


@pytest.mark.parametrize(
    ("key", "value"),
    [("rope_theta", "x"), ("rms_norm_eps", "x"), ("rope_parameters", [1]), ("rope_parameters", "default")],
)
def test_an_odd_config_is_told_in_one_line(tmp_path: Path, key: str, value: object) -> None:
    with pytest.raises(BadInput, match=key):
        models.resolve(str(checkpoint(tmp_path / "odd", **{key: value})))


def test_a_checkpoint_cut_short_or_in_parts_is_refused(tmp_path: Path) -> None:
    short = checkpoint(tmp_path / "short") / "model.safetensors"
    short.write_bytes(short.read_bytes()[:-100])
    with pytest.raises(BadInput, match="cut short"):
        models.resolve(str(short.parent))
    part = checkpoint(tmp_path / "part") / "model.safetensors"
    part.rename(part.with_name("model-00001-of-00002.safetensors"))
    with pytest.raises(BadInput, match="parts of a checkpoint"):
        models.resolve(str(part.parent))
    long = checkpoint(tmp_path / "long") / "model.safetensors"
    long.write_bytes(long.read_bytes() + b"x")
    with pytest.raises(BadInput, match="longer than it says"):
        models.resolve(str(long.parent))


def test_the_length_of_a_header_is_no_reason_to_read_so_much(tmp_path: Path) -> None:
    whole = checkpoint(tmp_path / "sparse") / "model.safetensors"
    with whole.open("rb+") as file:
        file.write((2**40).to_bytes(8, "little"))
        file.truncate(2**41)
    with pytest.raises(BadInput, match="not a safetensors file"):
        models.resolve(str(whole.parent))


def test_a_checkpoint_that_lacks_tensors_is_refused(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path / "lacks")
    save_file({"model.norm.weight": np.ones(1, np.float32)}, folder / "model.safetensors")
    with pytest.raises(BadInput, match="tensors lack"):
        models.resolve(str(folder))


def test_a_checkpoint_is_what_every_engine_takes_for_it(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path / "m")
    whole = folder / "model.safetensors"
    tensors = load_file(whole)
    up = "model.layers.1.mlp.up_proj.weight"
    save_file({name: each for name, each in tensors.items() if name != up}, whole)
    save_file({up: tensors[up]}, folder / "rest.safetensors")  # transformers does not look at it
    with pytest.raises(BadInput, match=r"1 tensors lack, first layers\.1\.mlp\.up_proj\.weight"):
        models.resolve(str(folder))
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {up: "rest.safetensors"}}))
    with pytest.raises(BadInput, match=r"both model\.safetensors and an index"):
        models.resolve(str(folder))


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.ones((256, 63), np.float32), r"lm_head\.weight is \[256, 63\], and by config\.json \[256, 64\]"),
        (np.ones((256, 64), np.int8), r"lm_head\.weight holds I8: quantised"),
    ],
)
def test_a_tensor_of_another_shape_or_kind_is_refused(tmp_path: Path, array: Any, message: str) -> None:
    folder = checkpoint(tmp_path / "m")
    save_file(
        load_file(folder / "model.safetensors") | {"lm_head.weight": array}, folder / "model.safetensors"
    )
    with pytest.raises(BadInput, match=message):
        models.resolve(str(folder))


def test_a_config_that_engines_cannot_read_is_refused(tmp_path: Path) -> None:
    config = checkpoint(tmp_path / "m") / "config.json"
    config.write_bytes(b"\xef\xbb\xbf" + config.read_bytes())
    with pytest.raises(BadInput, match=r"not readable as JSON: .*BOM"):
        models.resolve(str(config.parent))
