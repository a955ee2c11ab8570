"""A checkpoint folder: its own weights, its own tokenizer, its own end of sequence; on one rank and on two."""

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch

from loadgen.launch.process import Server, free_ports, serving
from loadgen.records import ServerSpec
from loadgen.servers._torch import model as hf_model
from loadgen.servers.hf import FRAMEWORK
from loadgen.theory.models import PRESETS, resolve

PROMPTS = [[1, 2, 3, 4, 5, 6, 7], [900, 31], [5] * 12]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny llama with weights unlike the preset's, a tokenizer, and an end of sequence that greedy decoding meets."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

    made: Path = tmp_path_factory.mktemp("checkpoint")
    torch.manual_seed(11)
    config = hf_model.llama_config(PRESETS["tiny"])
    model: Any = LlamaForCausalLM(config)
    free = greedy(model, PROMPTS[0], 30)
    config.eos_token_id = model.generation_config.eos_token_id = free[6]
    model.generation_config.pad_token_id = 0
    model.save_pretrained(made)
    bytes_ = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={letter: 300 + i for i, letter in enumerate(bytes_)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer).save_pretrained(made)
    return made


def greedy(model: Any, prompt: list[int], new: int) -> list[int]:
    out = model.generate(
        torch.tensor([prompt]), attention_mask=torch.ones(1, len(prompt)), max_new_tokens=new, do_sample=False
    )
    answer: list[int] = out[0, len(prompt) :].tolist()
    return answer


@pytest.fixture(scope="module")
def reference(folder: Path) -> Any:
    from transformers import LlamaForCausalLM

    return LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32)


def spec_of(folder: Path, tp: int = 1, **options: Any) -> ServerSpec:
    return ServerSpec(
        framework="hf",
        model=resolve(str(folder)),
        dtype="float32",
        dummy_weights=False,
        tp=tp,
        options=options,
    )


@pytest.fixture(scope="module", params=[(1, "generate"), (1, "compiled"), (2, "generate")], ids=str)
def server(
    request: pytest.FixtureRequest, folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    tp, engine = request.param
    run_dir: Path = tmp_path_factory.mktemp("run")
    command = FRAMEWORK.command(spec_of(folder, tp, engine=engine), str(run_dir), free_ports(1))
    with serving(command, run_dir, run_dir / "log", ready_timeout_s=120) as running:
        yield running


def ask(server: Server, **fields: Any) -> dict[str, Any]:
    reply = httpx.post(
        f"{server.command.base_url}/v1/completions",
        json={"return_token_ids": True, **fields},
        timeout=60,
        trust_env=False,
    )
    assert reply.status_code == 200, reply.text
    found: dict[str, Any] = reply.json()
    return found


def test_it_answers_with_the_checkpoints_tokens_until_its_end(server: Server, reference: Any) -> None:
    eos = reference.config.eos_token_id
    choices = ask(server, prompt=PROMPTS, max_tokens=30)["choices"]
    assert [choice["token_ids"] for choice in choices] == [
        greedy(reference, prompt, 30) for prompt in PROMPTS
    ]
    ended = choices[0]
    assert ended["token_ids"][-1] == eos
    assert ended["finish_reason"] == "stop"
    assert len(ended["token_ids"]) <= 7
    ignoring = ask(server, prompt=PROMPTS, max_tokens=30, ignore_eos=True)["choices"]
    assert [len(choice["token_ids"]) for choice in ignoring] == [30] * 3
    assert ignoring[0]["token_ids"][: len(ended["token_ids"])] == ended["token_ids"]
    late = ask(server, prompt=PROMPTS[0], max_tokens=30, min_tokens=9)["choices"][0]
    assert len(late["token_ids"]) > 9
    assert eos not in late["token_ids"][:9]


def test_text_goes_through_the_checkpoints_tokenizer(server: Server) -> None:
    from transformers import AutoTokenizer

    folder = json.loads(server.command.argv[server.command.argv.index("--spec") + 1])["model"]["checkpoint"]
    tokenizer = AutoTokenizer.from_pretrained(folder)
    text = "naïve – ok"
    reply = ask(server, prompt=text, max_tokens=20, ignore_eos=True)
    assert reply["usage"]["prompt_tokens"] == len(tokenizer(text)["input_ids"]) == len(text.encode())
    choice = reply["choices"][0]
    assert choice["text"] == tokenizer.decode(choice["token_ids"], skip_special_tokens=False)
    body = {"prompt": text, "max_tokens": 20, "ignore_eos": True, "stream": True}
    streamed = httpx.post(
        f"{server.command.base_url}/v1/completions", json=body, timeout=60, trust_env=False
    ).text
    events = [json.loads(line[6:]) for line in streamed.splitlines() if line.startswith("data: {")]
    assert "".join(event["choices"][0]["text"] for event in events) == choice["text"]


def test_it_says_where_its_weights_come_from(server: Server, folder: Path) -> None:
    info = httpx.get(str(server.command.info_url), trust_env=False).json()
    assert info["weights"] == {"maker": "checkpoint", "fingerprint": spec_of(folder).model.fingerprint}
    assert info["eos"] == [resolve_eos(folder)]
    assert "tokenizer" in info["text"].lower()


def resolve_eos(folder: Path) -> int:
    found: int = json.loads((folder / "config.json").read_text())["eos_token_id"]
    return found


def test_a_growing_text_never_shows_half_a_character(folder: Path) -> None:
    from loadgen.servers._hf.text import text_of, whole

    text = text_of(str(folder))
    wanted = "aé – 日本語 🙂 z"
    growing = text.sequence()
    pieces = [growing.push(token) for token in text.encode(wanted)]
    assert "".join(pieces) + growing.flush() == wanted
    assert "\ufffd" not in "".join(pieces)
    assert (
        whole(text, text.encode(wanted)[:2]) == "a\ufffd"
    )  # an end in the middle of a character is not hidden


def test_a_tied_head_is_the_embedding() -> None:
    tied = ServerSpec(framework="hf", model=dataclasses.replace(PRESETS["tiny"], tied=True), dtype="float32")
    model = hf_model.build(tied, torch.device("cpu"), 0, seed=0, attention="sdpa")
    assert model.lm_head.weight is model.model.embed_tokens.weight


def test_a_conversation_goes_through_the_folders_template_or_the_plain_one(
    folder: Path, tmp_path: Path
) -> None:
    from transformers import AutoTokenizer

    from loadgen.servers._hf.text import text_of

    talk = [{"role": "user", "content": "hi"}, {"role": "user", "content": "é"}]
    plain = text_of(str(folder))
    assert plain.converse(talk) == plain.encode("user: hi\nuser: é\nassistant:")
    assert plain.template.startswith("plain")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.chat_template = (
        "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system') }}{% endif %}"
        "[{{ m.content }}]{% endfor %}{% if add_generation_prompt %}>{% endif %}"
    )
    tokenizer.save_pretrained(tmp_path)
    own = text_of(str(tmp_path))
    assert own.converse(talk) == own.encode("[hi][é]>")
    assert own.template == "of the checkpoint"
    with pytest.raises(ValueError, match="no system"):
        own.converse([{"role": "system", "content": "x"}])
