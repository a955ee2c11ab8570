"""What transformers calls the argument by which a llama takes its KV cache: ``past_key_values`` until 5.23, then
``cache``."""

from __future__ import annotations

import inspect

from transformers.models.llama.modeling_llama import LlamaModel

NAMES = ("cache", "past_key_values")
NAME = next(name for name in NAMES if name in inspect.signature(LlamaModel.forward).parameters)
