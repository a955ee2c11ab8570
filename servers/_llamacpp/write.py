"""Child: write a llama as a GGUF file, with random weights or a checkpoint's, where none lies there yet.

Usage: ``python -m loadgen.servers._llamacpp.write --model JSON --dtype … --device cpu|cuda --seed N --out FILE
[--checkpoint DIR]``. The file appears under its name only when it is whole.

The vocabulary is made up, and holds no byte tokens ``<0x..>``: with those, random output breaks UTF-8, and the server
answers 500. Without them no text can be read, and prompts are token ids.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from loadgen.records import ModelSpec
from loadgen.theory import models
from loadgen.units import show_bytes, show_s

NAMES = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}
WHOLE = {
    "model.embed_tokens.weight": "token_embd.weight",
    "model.norm.weight": "output_norm.weight",
    "lm_head.weight": "output.weight",
}


def gguf_name(name: str) -> str | None:
    """GGUF's name of a Hugging Face parameter; ``None`` for one that it has not (rotary frequencies)."""
    if name in WHOLE:
        return WHOLE[name]
    _, _, rest = name.partition("model.layers.")
    layer, _, part = rest.partition(".")
    known = NAMES.get(part.removesuffix(".weight"))
    return None if known is None else f"blk.{layer}.{known}.weight"


def rotated(weight: Any, heads: int) -> Any:
    """A query or key matrix with each head's rows in the order of llama.cpp's rotary embedding: pairs side by side,
    where transformers has halves (convert_hf_to_gguf.py of llama.cpp, ``permute``)."""
    rows = weight.shape[0]
    return weight.reshape(heads, 2, rows // heads // 2, -1).swapaxes(1, 2).reshape(weight.shape)


def write(model: ModelSpec, weights: Iterator[tuple[str, Any]], dtype: str, out: Path) -> None:
    """Write the file ``out``; ``weights`` are torch tensors by their Hugging Face names.

    Raises OSError where it cannot be written.
    """
    import gguf
    import torch

    out.parent.mkdir(parents=True, exist_ok=True)
    kinds = {"bfloat16": "BF16", "float16": "F16", "float32": "F32"}
    kind = gguf.GGMLQuantizationType[kinds[dtype]]
    handle, partial = tempfile.mkstemp(prefix=f"{out.name}.", dir=out.parent)
    os.close(handle)
    writer = gguf.GGUFWriter(partial, "llama", use_temp_file=True)
    try:
        _describe(writer, model, gguf)
        for name, weight in weights:
            target = gguf_name(name)
            if target is None or (model.tied and name == "lm_head.weight"):
                continue
            weight = weight.cpu()
            if ".q_proj." in name:
                weight = rotated(weight, model.heads)
            elif ".k_proj." in name:
                weight = rotated(weight, model.kv_heads)
            if weight.dim() == 1:  # norms are float32 in every GGUF
                writer.add_tensor(target, weight.to(torch.float32).numpy())
            elif dtype == "bfloat16":  # of which numpy knows nothing
                raw = weight.to(torch.bfloat16).contiguous().view(torch.uint8).numpy()
                writer.add_tensor(target, raw, raw_dtype=kind)
            else:
                writer.add_tensor(target, weight.to(getattr(torch, dtype)).contiguous().numpy())
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        os.chmod(partial, 0o644)
        os.replace(partial, out)
    finally:
        Path(partial).unlink(missing_ok=True)


def _describe(writer: Any, model: ModelSpec, gguf: Any) -> None:
    writer.add_name(model.name or "llama")
    writer.add_context_length(model.max_context)
    writer.add_embedding_length(model.hidden)
    writer.add_block_count(model.layers)
    writer.add_feed_forward_length(model.intermediate)
    writer.add_head_count(model.heads)
    writer.add_head_count_kv(model.kv_heads)
    writer.add_key_length(model.head_dim)
    writer.add_value_length(model.head_dim)
    writer.add_rope_dimension_count(model.head_dim)
    writer.add_rope_freq_base(model.rope_theta)
    writer.add_layer_norm_rms_eps(model.rms_eps)
    writer.add_vocab_size(model.vocab)
    writer.add_tokenizer_model("llama")
    writer.add_token_list([f"\u2581{number}" for number in range(model.vocab)])
    writer.add_token_scores([0.0] * model.vocab)
    writer.add_token_types([int(gguf.TokenType.NORMAL)] * model.vocab)
    writer.add_add_bos_token(False)


def random(model: ModelSpec, dtype: str, device: str, seed: int) -> Iterator[tuple[str, Any]]:
    """The random weights of framework ``hf``."""
    import torch

    from loadgen.servers._torch.weights import parameters

    return parameters(model, getattr(torch, dtype), torch.device(device), seed)


def of_checkpoint(folder: Path) -> Iterator[tuple[str, Any]]:
    """The weights of a folder of safetensors, file after file."""
    from safetensors import safe_open

    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118 - it is no mapping
                yield name, file.get_tensor(name)


def main(argv: list[str] | None = None) -> int:
    """Write it, or say that it lies there."""
    parser = argparse.ArgumentParser()
    for name in ("model", "dtype", "device", "seed", "out"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--checkpoint")
    asked = parser.parse_args(argv)
    out = Path(asked.out)
    if out.is_file():
        print(f"weights: {out} lies there", flush=True)
        return 0
    began = time.monotonic()
    model = models.from_json(asked.model)
    if asked.checkpoint:
        weights = of_checkpoint(Path(asked.checkpoint))
    else:
        weights = random(model, asked.dtype, asked.device, int(asked.seed))
    try:
        write(model, weights, asked.dtype, out)
    except OSError as error:
        print(f"weights cannot be written: {error}", file=sys.stderr)
        return 1
    size = out.stat().st_size
    print(f"weights: {out} written, {show_bytes(size)} in {show_s(time.monotonic() - began)}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
