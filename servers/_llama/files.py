"""The small files of a llama's folder, as text, as Hugging Face's libraries and so all engines read them. Pure."""

from __future__ import annotations

import json
from typing import Any

from loadgen.records import ModelSpec
from loadgen.theory.models import hf_config

CONFIG = "config.json"
TOKENIZER = "tokenizer.json"


def config_json(model: ModelSpec, dtype: str) -> str:
    """``config.json``. No token ends a sequence; rope's base is told in the form of before transformers 5, too."""
    return json.dumps(
        {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            **hf_config(model),
            "rope_theta": model.rope_theta,
            "hidden_act": "silu",
            "attention_bias": False,
            "mlp_bias": False,
            "dtype": dtype,
            "torch_dtype": dtype,
        },
        indent=1,
    )


def tokenizer_files(vocab: int, context: int) -> dict[str, str]:
    """A tokenizer of ``vocab`` words, the decimal numbers from 0 on: one word is one token, and its number the id.

    Nothing is added to a text, and no token ends a sequence: so lengths are exact both ways, also where a server takes
    text alone. A word that is none of them is an error of the library's.
    """
    tokenizer: dict[str, Any] = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [],
        "normalizer": None,
        "pre_tokenizer": {"type": "WhitespaceSplit"},
        "post_processor": None,
        "decoder": None,
        "model": {
            "type": "WordLevel",
            "vocab": {str(number): number for number in range(vocab)},
            "unk_token": "no such word",  # not in the vocabulary, which makes it an error
        },
    }
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": context,
        "clean_up_tokenization_spaces": False,
    }
    return {TOKENIZER: json.dumps(tokenizer), "tokenizer_config.json": json.dumps(config, indent=1)}
