"""A checkpoint folder with its own tokenizer, split over two ranks: real weights, prompts of exact length."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from loadgen.drivers.mii_grpc import make_driver
from loadgen.launch.process import free_ports, serving
from loadgen.load_records import Timeouts
from loadgen.records import ServerSpec
from loadgen.request_records import Reply, Request
from loadgen.servers._ds import fastgen
from loadgen.servers.ds import FRAMEWORK
from loadgen.theory.models import resolve

WORDS = [a + b + c for a in "bdfgklmn" for b in "aeiou" for c in "bdfgklmnrst"]


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """A small llama with random weights and a byte-level tokenizer that begins every text with a token."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=2000, special_tokens=["<s>", "</s>"], show_progress=False)
    tokenizer.train_from_iterator([word for word in WORDS for _ in range(3)], trainer)
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    wrapped = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>")
    wrapped.save_pretrained(tmp_path / "small")
    torch.manual_seed(7)
    config = LlamaConfig(
        vocab_size=len(wrapped), hidden_size=64, intermediate_size=192, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=256, bos_token_id=0, eos_token_id=1,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(tmp_path / "small", safe_serialization=True)
    return tmp_path / "small"


def test_a_checkpoint_answers_as_transformers_does_and_counts_exactly(
    checkpoint: Path, tmp_path: Path
) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    spec = ServerSpec(
        framework="ds", model=resolve(str(checkpoint)), tp=2, dtype="float32", dummy_weights=False
    )
    FRAMEWORK.check(spec)
    command = FRAMEWORK.command(spec, str(tmp_path / "run"), free_ports(FRAMEWORK.ports))
    prompts = (tuple(range(30, 50)), tuple(range(90, 110)))

    async def talk() -> list[Reply]:
        driver = make_driver(
            command.base_url, spec.model.name, Timeouts(total_s=60), FRAMEWORK.driver_options(spec)
        )
        await driver.open(1)
        replies = []
        for stream, rows in ((False, prompts), (True, prompts[:1])):
            request = Request(seq=1, phase="measured", prompts=rows, output_tokens=16, stream=stream)
            ended: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
            prepared: Any = driver.prepare(request)
            texts.append(prepared.wire)
            driver.start(prepared, ended.set_result)
            raw = await ended
            answers.append([message for _, message in raw.arrivals])
            replies.append(driver.decode(raw))
        await driver.close()
        return replies

    texts: list[bytes] = []
    answers: list[list[bytes]] = []
    with serving(command, tmp_path / "run", tmp_path / "log", ready_timeout_s=240):
        whole, streamed = asyncio.run(talk())
    assert (whole.error, streamed.error) == (None, None)
    assert (whole.output_tokens, streamed.output_tokens) == ((16, 16), (16,))
    assert (whole.usage_prompt_tokens, streamed.usage_prompt_tokens) == (40, 20)
    assert whole.counted_by == "usage"
    assert len(streamed.token_ns) == 16

    from loadgen.drivers import mii_messages as messages

    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    model = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32)
    sent = messages.MultiStringRequest.FromString(texts[0]).request
    got = messages.MultiGenerationReply.FromString(answers[0][0]).response
    for text, reply in zip(sent, got, strict=True):
        ids = tokenizer(text, return_tensors="pt").input_ids
        out = model.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=16, do_sample=False, eos_token_id=None,
            pad_token_id=0,
        )  # fmt: skip
        assert reply.response == tokenizer.decode(out[0, ids.shape[1] :])


def test_fastgen_reads_the_checkpoint_in_the_dtype_that_is_served(checkpoint: Path, tmp_path: Path) -> None:
    spec = ServerSpec(
        framework="ds", model=resolve(str(checkpoint)), gpus=(0,), dtype="bfloat16", dummy_weights=False
    )
    folder = Path(fastgen.model_folder(spec, str(tmp_path / "made")))
    assert fastgen.model_folder(spec, str(tmp_path / "made")) == str(folder)
    config = json.loads((folder / "config.json").read_text())
    assert (config["dtype"], config["torch_dtype"], config["hidden_size"]) == ("bfloat16", "bfloat16", 64)
    for name in ("model.safetensors", "tokenizer.json"):
        assert (folder / name).read_bytes() == (checkpoint / name).read_bytes()
