"""llama shapes: presets and Hugging Face checkpoint folders → ModelSpec, and what a shape weighs.

Standard library only: server children run this module in interpreters that lack everything else of ours.

Symbols of the formulas: L layers, h hidden size, f MLP intermediate size, V vocabulary, H query heads, K key/value
heads, d head dimension, b bytes per element, p tensor-parallel degree.
"""

from __future__ import annotations

import dataclasses
import difflib
import itertools
import json
import math
import os
from typing import Any

from loadgen.errors import BadInput
from loadgen.records import ModelSpec
from loadgen.theory.checkpoint import from_folder

DTYPE_BYTES = {"bfloat16": 2, "float16": 2, "float32": 4}
DTYPE_ALIASES = {
    "bf16": "bfloat16",
    "fp16": "float16",
    "half": "float16",
    "fp32": "float32",
    "float": "float32",
}

# The published shapes. Context lengths are those the models were trained for; LLaMA 1 stops at 2048.
PRESETS: dict[str, ModelSpec] = {
    spec.name: spec
    for spec in (
        ModelSpec(
            name="tiny", layers=4, hidden=128, intermediate=352, heads=4, kv_heads=2, head_dim=32, vocab=1024,
            max_context=4096,
        ),
        ModelSpec(
            name="llama-7b", layers=32, hidden=4096, intermediate=11008, heads=32, kv_heads=32, head_dim=128,
            vocab=32000, max_context=2048, rms_eps=1e-6,
        ),
        ModelSpec(
            name="llama-13b", layers=40, hidden=5120, intermediate=13824, heads=40, kv_heads=40, head_dim=128,
            vocab=32000, max_context=2048, rms_eps=1e-6,
        ),
        ModelSpec(
            name="llama-30b", layers=60, hidden=6656, intermediate=17920, heads=52, kv_heads=52, head_dim=128,
            vocab=32000, max_context=2048, rms_eps=1e-6,
        ),
        ModelSpec(
            name="llama-65b", layers=80, hidden=8192, intermediate=22016, heads=64, kv_heads=64, head_dim=128,
            vocab=32000, max_context=2048,
        ),
        ModelSpec(
            name="llama-2-70b", layers=80, hidden=8192, intermediate=28672, heads=64, kv_heads=8, head_dim=128,
            vocab=32000, max_context=4096,
        ),
        ModelSpec(
            name="llama-3-8b", layers=32, hidden=4096, intermediate=14336, heads=32, kv_heads=8, head_dim=128,
            vocab=128256, max_context=8192, rope_theta=500000.0,
        ),
    )
}  # fmt: skip


def resolve(name_or_path: str) -> ModelSpec:
    """The shape of a preset, or of a checkpoint folder (``config.json`` of a llama, safetensors).

    Raises BadInput for an unknown name and for a folder that cannot be served.
    """
    if name_or_path in PRESETS:
        return PRESETS[name_or_path]
    if os.path.isdir(name_or_path) or os.sep in name_or_path:
        return from_folder(os.path.abspath(name_or_path))
    near = difflib.get_close_matches(name_or_path, PRESETS, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    raise BadInput(
        f"unknown model {name_or_path!r}{hint} (accepted: {', '.join(PRESETS)}, "
        "or a folder with config.json and safetensors)"
    )


def extend_context(spec: ModelSpec, tokens: int) -> ModelSpec:
    """A preset whose context is at least ``tokens``; a checkpoint as it is.

    Rotary positions have no end and random weights no training, so a preset can run past its trained context.
    """
    if spec.checkpoint is not None or tokens <= spec.max_context:
        return spec
    return dataclasses.replace(spec, max_context=tokens)


def dtype_name(text: str) -> str:
    """The full name of a dtype; raises BadInput for one that is not served."""
    name = DTYPE_ALIASES.get(text, text)
    if name not in DTYPE_BYTES:
        raise BadInput(f"unknown dtype {text!r} (accepted: {', '.join([*DTYPE_BYTES, *DTYPE_ALIASES])})")
    return name


def width_text(dtype: str) -> str:
    """``16-bit``: floats of one width cost the same. A dtype that is not served, as an endpoint's, is its own name."""
    width = DTYPE_BYTES.get(dtype)
    return dtype if width is None else f"{8 * width}-bit"


def parameters(spec: ModelSpec) -> int:
    """Parameters P = 2·V·h (V·h when tied) + L·(2·h·H·d + 2·h·K·d + 3·h·f + 2·h) + h."""
    embeddings = spec.vocab * spec.hidden * (1 if spec.tied else 2)
    return embeddings + spec.layers * (_layer_matrices(spec) + 2 * spec.hidden) + spec.hidden


def weight_bytes(
    spec: ModelSpec, dtype: str, tp: int = 1, pp: int = 1, *, embeddings_replicated: bool = True
) -> int:
    """Weight bytes on the fullest GPU of ``tp`` × ``pp``.

    Matrices are split over ``tp``; norms are replicated, and so is the input embedding by default (transformers,
    DeepSpeed and FasterTransformer all split the output head but not the look-up table). Layers are split over
    ``pp`` stages: the first also holds the embedding, the last the head.
    """
    return max(
        stage_weight_bytes(spec, dtype, stage, tp, pp, embeddings_replicated=embeddings_replicated)
        for stage in range(pp)
    )


def stage_weight_bytes(
    spec: ModelSpec, dtype: str, stage: int, tp: int = 1, pp: int = 1, *, embeddings_replicated: bool = True
) -> int:
    """Weight bytes on a GPU of one pipeline stage, counted from 0. A tied head is the embedding, on the first."""
    embedding = spec.vocab * spec.hidden
    per_layer = math.ceil(_layer_matrices(spec) / tp) + 2 * spec.hidden
    held = stage_layers(spec.layers, pp)[stage] * per_layer
    if stage == 0:
        held += embedding if embeddings_replicated else math.ceil(embedding / tp)
    if stage == pp - 1:
        held += spec.hidden + (0 if spec.tied else math.ceil(embedding / tp))
    return held * DTYPE_BYTES[dtype_name(dtype)]


def stage_layers(layers: int, pp: int) -> tuple[int, ...]:
    """How many layers each of ``pp`` stages holds; layer i lies on stage ⌊i·pp/L⌋."""
    starts = [-(-stage * layers // pp) for stage in range(pp + 1)]
    return tuple(after - start for start, after in itertools.pairwise(starts))


def activation_bytes(spec: ModelSpec, dtype: str, tokens: int, sequences: int, tp: int = 1) -> int:
    """The least that a forward over ``tokens`` needs beside weights and cache, at its widest moment.

    In a layer's MLP: residual and input, n·2h, with gate, up and their product, n·3f/p; after the last layer: logits of
    each sequence, B·V, in the model's dtype and in float32. Attention's scores are taken as never written out.
    """
    size = DTYPE_BYTES[dtype_name(dtype)]
    mlp = tokens * (2 * spec.hidden + 3 * math.ceil(spec.intermediate / tp)) * size
    return max(mlp, tokens * spec.hidden * size + sequences * spec.vocab * (size + 4))


def kv_bytes_per_token(spec: ModelSpec, dtype: str, tp: int = 1, pp: int = 1) -> int:
    """Key/value cache bytes of one token on the fullest GPU: 2·L·K·d·b, heads split over tp, layers over pp."""
    heads = math.ceil(spec.kv_heads / tp)
    return 2 * math.ceil(spec.layers / pp) * heads * spec.head_dim * DTYPE_BYTES[dtype_name(dtype)]


def split_problem(spec: ModelSpec, tp: int, pp: int = 1) -> str | None:
    """Why the model cannot be split so, in words, or ``None`` when it can."""
    for what, count in (
        ("heads", spec.heads),
        ("key/value heads", spec.kv_heads),
        ("intermediate size", spec.intermediate),
    ):
        if count % tp:
            return f"{spec.name} has {count} {what}, which tp = {tp} does not divide"
    if pp > spec.layers:
        return f"{spec.name} has {spec.layers} layers, fewer than pp = {pp}"
    return None


def valid_tp(spec: ModelSpec) -> tuple[int, ...]:
    """Every tensor-parallel degree that divides the model."""
    return tuple(tp for tp in range(1, spec.heads + 1) if split_problem(spec, tp) is None)


def to_json(spec: ModelSpec) -> str:
    """One line that ``from_json`` reads back, for the command line of a server child."""
    return json.dumps(dataclasses.asdict(spec), separators=(",", ":"))


def from_json(text: str) -> ModelSpec:
    """The spec that ``to_json`` wrote."""
    return ModelSpec(**json.loads(text))


def hf_config(spec: ModelSpec) -> dict[str, Any]:
    """The keyword arguments of ``transformers.LlamaConfig`` for this shape (no special tokens: none may end a
    sequence early)."""
    return {
        "hidden_size": spec.hidden,
        "intermediate_size": spec.intermediate,
        "num_hidden_layers": spec.layers,
        "num_attention_heads": spec.heads,
        "num_key_value_heads": spec.kv_heads,
        "head_dim": spec.head_dim,
        "vocab_size": spec.vocab,
        "max_position_embeddings": spec.max_context,
        "rms_norm_eps": spec.rms_eps,
        "rope_parameters": {"rope_type": "default", "rope_theta": spec.rope_theta},
        "tie_word_embeddings": spec.tied,
        "bos_token_id": None,
        "eos_token_id": None,
        "pad_token_id": None,
    }


def _layer_matrices(spec: ModelSpec) -> int:
    attention = 2 * spec.hidden * (spec.heads + spec.kv_heads) * spec.head_dim
    return attention + 3 * spec.hidden * spec.intermediate
