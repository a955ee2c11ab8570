"""A llama's folder that we write: transformers reads it, and it is the model that framework hf makes."""

from __future__ import annotations

import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from loadgen.engine_facts import NORMAL, OURS, Weights
from loadgen.errors import BadInput
from loadgen.records import ServerSpec
from loadgen.servers._llama import files, weights, write
from loadgen.theory.models import PRESETS, resolve

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

SHAPE = replace(
    PRESETS["tiny"],
    layers=2,
    hidden=48,
    intermediate=80,
    head_dim=12,
    vocab=96,
    max_context=128,
    rope_theta=5e4,
)
SPEC = ServerSpec(framework="vllm", model=SHAPE, dtype="float32", options={"seed": 3})


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        plan = weights.folder(SPEC, None)
    for words in ("written", "lies there"):
        done = subprocess.run(plan.setup, capture_output=True, text=True, check=True)
        assert words in done.stdout
    return Path(plan.path)


def test_it_holds_the_very_model_of_framework_hf(folder: Path) -> None:
    from loadgen.servers._torch.model import build, llama_config

    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    ours = build(SPEC, torch.device("cpu"), 0, 3, "sdpa")
    wanted = ours.state_dict()
    assert wanted.keys() == model.state_dict().keys()
    for name, weight in model.state_dict().items():
        assert torch.equal(weight, wanted[name]), name
    read, made = model.config.to_dict(), llama_config(SHAPE).to_dict()
    for name in ("_name_or_path", "dtype", "architectures", "transformers_version"):
        read.pop(name, None)
        made.pop(name, None)
    assert {name: value for name, value in read.items() if name in made} == made
    assert model.generation_config.eos_token_id is None
    prompt = torch.tensor([[5, 7, 11]])
    assert torch.equal(model(prompt).logits, ours(prompt).logits)


def test_loadgen_serves_it_as_a_checkpoint(folder: Path) -> None:
    found = resolve(str(folder))
    assert replace(found, name=SHAPE.name, checkpoint=None, fingerprint="") == SHAPE
    assert found.checkpoint == str(folder)


def test_its_tokenizer_has_one_token_a_word_and_no_end(folder: Path) -> None:
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    assert len(tokenizer) == SHAPE.vocab
    assert tokenizer("95 0 17")["input_ids"] == [95, 0, 17]
    assert tokenizer.decode([95, 0, 17]) == "95 0 17"
    assert (tokenizer.eos_token, tokenizer.bos_token) == (None, None)
    with pytest.raises(Exception, match="WordLevel"):
        tokenizer("96")


def test_a_tied_head_is_the_embedding_and_shards_are_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(write, "SHARD_BYTES", 20_000)
    write.write(replace(SHAPE, tied=True), "bfloat16", "cpu", 0, tmp_path / "tied")
    assert len(list((tmp_path / "tied").glob("*.safetensors"))) > 3
    assert [path.name for path in tmp_path.iterdir()] == ["tied"]
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "tied")
    assert model.dtype == torch.bfloat16
    assert model.lm_head.weight.data_ptr() == model.model.embed_tokens.weight.data_ptr()


def test_a_disk_that_is_too_small_is_told_and_nothing_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(write.models, "parameters", lambda _model: 1 << 60)
    argv = ["--model", '{"name":"x","layers":1,"hidden":8,"intermediate":8,"heads":1,"kv_heads":1,"head_dim":8,'
            '"vocab":8,"max_context":8}', "--dtype", "float32", "--device", "cpu", "--seed", "0"]  # fmt: skip
    assert write.main([*argv, "--out", str(tmp_path / "a/b")]) == 1
    assert "are needed" in capsys.readouterr().err
    assert not (tmp_path / "a/b").exists()


def test_the_folder_is_named_by_all_that_decides_its_content() -> None:
    same = [SPEC, replace(SPEC, tp=2, max_batch=8, model=replace(SHAPE, fingerprint="x"))]
    others = [
        replace(SPEC, dtype="bfloat16"),
        replace(SPEC, gpus=(0,)),
        replace(SPEC, options={"seed": 4}),
        replace(SPEC, model=replace(SHAPE, rope_theta=1e4)),
    ]
    names = [weights.folder(spec, None).path for spec in (*same, *others)]
    assert names[0] == names[1]
    assert len(set(names)) == 1 + len(others)


def test_whose_numbers_they_are() -> None:
    assert weights.choice(SPEC) == "same"
    assert weights.numbers(SPEC, "vLLM", "uniform") == Weights(maker=OURS, distribution=NORMAL, seed=3)
    own = replace(SPEC, options={"weights": "engine"})
    assert weights.numbers(own, "vLLM", "uniform") == Weights(maker="vLLM", distribution="uniform")
    loaded = replace(
        SPEC, dummy_weights=False, model=replace(SHAPE, checkpoint="/m", fingerprint="f"), options={}
    )
    assert weights.choice(loaded) is None
    assert weights.numbers(loaded, "vLLM", "uniform").text == "a checkpoint (f)"
    for wrong in (replace(SPEC, options={"weights": "x"}), replace(loaded, options={"weights": "same"})):
        with pytest.raises(BadInput, match="option weights = "):
            weights.choice(wrong)
    for seed in (-1, True, "0"):
        with pytest.raises(BadInput, match="option seed"):
            weights.seed_of(replace(SPEC, options={"seed": seed}))


def test_small_files_are_the_same_for_the_same_model() -> None:
    assert files.config_json(SHAPE, "float32") == files.config_json(SHAPE, "float32")
    assert files.tokenizer_files(96, 128) == files.tokenizer_files(96, 128)
