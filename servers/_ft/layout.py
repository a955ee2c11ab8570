"""FasterTransformer's checkpoint for llama as data: file names, shapes, splits, limits and ``config.ini``.

Pure and light. The two community backends that know llama differ: variant ``a`` (``model_type`` = ``Llama``) is
llama-1 and llama-2 up to 13B with rotary base 10000, variant ``b`` (``llama``) adds grouped key/value heads, the
rotary base and linear rotary scaling.
"""

from __future__ import annotations

import configparser
import io
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from loadgen.errors import BadInput
from loadgen.records import ModelSpec

VARIANTS = {"a": "Llama", "b": "llama"}  # the backend's own spelling of model_type
DTYPES = {"fp16": 2, "fp32": 4}
STORED_DTYPES = DTYPES | {"bf16": 2}  # what a .bin may hold; it is converted to data_type at load
DTYPE_OF = {"float16": "fp16", "fp16": "fp16", "half": "fp16", "float32": "fp32", "fp32": "fp32"}
FOLDER = r"([1-9]\d*)-gpu"
# The attention kernels are instantiated for these alone; with any other size they silently compute nothing.
HEAD_SIZES = (32, 48, 64, 80, 96, 128, 144, 160, 192, 224, 256)
BF16_REFUSED = (
    "FasterTransformer accepts bf16 and computes wrong tokens from the second one on, in both variants"
)

Split = Literal["none", "rows", "columns"]


@dataclass(frozen=True, slots=True, kw_only=True)
class FtModel:
    """What ``config.ini`` says of a llama, and all that the file sizes follow from."""

    name: str
    layers: int
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab: int
    rms_eps: float
    rope_theta: float = 10000.0
    rope_factor: float = 1.0
    start_id: int = 1
    end_id: int = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """One checkpoint folder: the model cut for ``tp`` GPUs, as ``variant`` reads it, in ``dtype``."""

    model: FtModel
    tp: int
    variant: str
    dtype: str

    @property
    def folder(self) -> str:
        """The folder's name, by which FasterTransformer tells how the weights are cut."""
        return f"{self.tp}-gpu"


@dataclass(frozen=True, slots=True, kw_only=True)
class File:
    """One ``.bin``: C order, no header. ``sources`` are the Hugging Face matrices ([out, in]) it is made of; each
    is transposed to [in, out] when ``transposed`` and cut in ``tp`` parts, of which ``rank`` is this file's."""

    name: str
    shape: tuple[int, ...]
    sources: tuple[str, ...]
    transposed: bool = False
    split: Split = "none"
    rank: int = 0

    def elements(self) -> int:
        """How many numbers the file holds; times the dtype's size they are its bytes."""
        count = 1
        for extent in self.shape:
            count *= extent
        return count


def sizes_in(folder: Path) -> list[int]:
    """The tensor parallel sizes that the checkpoints in a folder are cut for."""
    found = (re.fullmatch(FOLDER, path.name) for path in folder.glob("*-gpu"))
    return sorted(int(match[1]) for match in found if match)


def from_spec(spec: ModelSpec) -> FtModel:
    """A preset, or the shape that was read from a checkpoint's ``config.json``."""
    return FtModel(
        name=spec.name,
        layers=spec.layers,
        hidden=spec.hidden,
        intermediate=spec.intermediate,
        heads=spec.heads,
        kv_heads=spec.kv_heads,
        head_dim=spec.head_dim,
        vocab=spec.vocab,
        rms_eps=spec.rms_eps,
        rope_theta=spec.rope_theta,
    )


def read_config(model: FtModel, path: Path) -> FtModel:
    """``with_config`` of a checkpoint's own file."""
    return with_config(model, json.loads(path.read_text()), str(path))


def with_config(model: FtModel, config: Mapping[str, Any], where: str) -> FtModel:
    """``model`` with what only ``config.json`` knows: rotary scaling, start and end ids.

    Raises BadInput for what FasterTransformer's llama has no parameter for, and would therefore silently ignore.
    """
    for key in ("attention_bias", "mlp_bias"):
        if config.get(key):
            raise BadInput(
                f"{where}: {key} = true: FasterTransformer's llama has no biases (accepted: false)"
            )
    if config.get("hidden_act", "silu") != "silu":
        raise BadInput(f"{where}: hidden_act = {config['hidden_act']!r}: accepted: 'silu'")
    rope = config.get("rope_scaling") or config.get("rope_parameters") or {}
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind not in ("default", "linear"):
        raise BadInput(
            f"{where}: rotary scaling {kind!r}: FasterTransformer has linear scaling alone (accepted: default, linear)"
        )
    if float(rope.get("partial_rotary_factor", 1.0)) != 1.0:
        raise BadInput(f"{where}: partial_rotary_factor must be 1 for FasterTransformer")
    return replace(
        model,
        rope_factor=float(rope.get("factor", 1.0)) if kind == "linear" else 1.0,
        start_id=_first_id(config.get("bos_token_id"), 1),
        end_id=_first_id(config.get("eos_token_id"), 2),
    )


def _first_id(value: object, default: int) -> int:
    first = value[0] if isinstance(value, list) and value else value
    return first if isinstance(first, int) else default


def dtype_of(name: str) -> str:
    """FasterTransformer's word for a dtype; BadInput for bf16, with the reason, and for anything else."""
    if name in ("bfloat16", "bf16"):
        raise BadInput(f"dtype = {name}: {BF16_REFUSED} (accepted: fp16, fp32)")
    if name not in DTYPE_OF:
        raise BadInput(f"dtype = {name!r} is unknown to FasterTransformer (accepted: fp16, fp32)")
    return DTYPE_OF[name]


def check(layout: Layout, pp: int = 1) -> None:
    """Raises BadInput for a model that this variant, or this split, computes wrongly or refuses to load."""
    model, tp = layout.model, layout.tp
    where = f"{model.name} on FasterTransformer"
    if layout.variant not in VARIANTS:
        raise BadInput(f"{where}: variant = {layout.variant!r} (accepted: a, b)")
    dtype_of(layout.dtype)
    if tp < 1 or pp < 1:
        raise BadInput(f"{where}: tp = {tp}, pp = {pp} (accepted: whole numbers of at least 1)")
    for what, count in (
        ("heads", model.heads),
        ("key/value heads", model.kv_heads),
        ("intermediate size", model.intermediate),
    ):
        if count % tp:
            raise BadInput(f"{where}: {count} {what} cannot be split over tp = {tp} (accepted: its divisors)")
    if model.layers % pp:
        raise BadInput(
            f"{where}: {model.layers} layers cannot be split over pp = {pp} (accepted: its divisors)"
        )
    if model.head_dim not in HEAD_SIZES:
        accepted = ", ".join(map(str, HEAD_SIZES))
        raise BadInput(
            f"{where}: head size {model.head_dim}: its kernels silently compute nothing (accepted: {accepted})"
        )
    if model.heads * model.head_dim != model.hidden:
        raise BadInput(
            f"{where}: {model.heads} heads of {model.head_dim} do not make the hidden size {model.hidden}, "
            "which it takes for granted"
        )
    if layout.variant == "a":
        _check_variant_a(model, where)


def _check_variant_a(model: FtModel, where: str) -> None:
    if model.kv_heads != model.heads:
        raise BadInput(
            f"{where}: {model.heads} heads share {model.kv_heads} key/value heads, which variant a cannot (accepted: "
            "variant b)"
        )
    if model.rope_theta != 10000.0 or model.rope_factor != 1.0:
        raise BadInput(
            f"{where}: rotary base {model.rope_theta:g}, scaling {model.rope_factor:g}: variant a has 10000 and 1 "
            "built in (accepted: variant b)"
        )


def files(layout: Layout) -> Iterator[File]:
    """Every ``.bin`` of the folder, in the order in which it is written."""
    m = layout.model
    yield File(name="model.wte.weight.bin", shape=(m.vocab, m.hidden), sources=("model.embed_tokens.weight",))
    yield File(name="model.final_layernorm.weight.bin", shape=(m.hidden,), sources=("model.norm.weight",))
    yield File(name="model.lm_head.weight.bin", shape=(m.vocab, m.hidden), sources=("lm_head.weight",))
    for layer in range(m.layers):
        prefix = f"model.layers.{layer}"
        for norm in ("input_layernorm", "post_attention_layernorm"):
            name = f"{prefix}.{norm}.weight"
            yield File(name=f"{name}.bin", shape=(m.hidden,), sources=(name,))
        yield from _layer_files(layout, prefix)


def _layer_files(layout: Layout, prefix: str) -> Iterator[File]:
    """A layer's matrices, all ranks of one before the next: a writer then holds one matrix at a time."""
    m, tp = layout.model, layout.tp
    attention, mlp = f"{prefix}.self_attn", f"{prefix}.mlp"
    qkv = (m.hidden, (m.heads + 2 * m.kv_heads) * m.head_dim // tp)
    matrices: tuple[tuple[str, tuple[int, int], tuple[str, ...], Split], ...] = (
        ("attention.query_key_value", qkv, tuple(f"{attention}.{x}_proj" for x in "qkv"), "columns"),
        ("attention.dense", (m.hidden // tp, m.hidden), (f"{attention}.o_proj",), "rows"),
        ("mlp.gate_proj", (m.hidden, m.intermediate // tp), (f"{mlp}.gate_proj",), "columns"),
        ("mlp.up_proj", (m.hidden, m.intermediate // tp), (f"{mlp}.up_proj",), "columns"),
        ("mlp.down_proj", (m.intermediate // tp, m.hidden), (f"{mlp}.down_proj",), "rows"),
    )
    for name, shape, sources, split in matrices:
        for rank in range(tp):
            yield File(
                name=f"{prefix}.{name}.weight.{rank}.bin",
                shape=shape,
                sources=tuple(f"{source}.weight" for source in sources),
                transposed=True,
                split=split,
                rank=rank,
            )


def sizes(layout: Layout) -> dict[str, int]:
    """File name → bytes."""
    width = STORED_DTYPES[layout.dtype]
    return {file.name: file.elements() * width for file in files(layout)}


def config_ini(layout: Layout) -> str:
    """``config.ini``. Every key that the backend requires is written: a missing one ends the whole server."""
    m = layout.model
    values: dict[str, object] = {
        "model_name": m.name,
        "head_num": m.heads,
        "size_per_head": m.head_dim,
        "inter_size": m.intermediate,
        "num_layer": m.layers,
        "vocab_size": m.vocab,
        "rotary_embedding": m.head_dim,
        "layernorm_eps": repr(m.rms_eps),
        "start_id": m.start_id,
        "end_id": m.end_id,
        "weight_data_type": layout.dtype,
    }
    if layout.variant == "b":
        values |= {
            "kv_head_num": m.kv_heads,
            "rope_theta": repr(m.rope_theta),
            "rope_scaling_factor": repr(m.rope_factor),
        }
    return "[llama]\n" + "".join(f"{key} = {value}\n" for key, value in values.items())


def read_config_ini(text: str, tp: int, where: str) -> Layout:
    """The layout that a ``config.ini`` describes; BadInput names what is missing or wrong.

    With no ``kv_head_num`` the folder is taken for variant a (with it for b); files of both have the same sizes
    where both can hold a model.
    """
    parser = configparser.ConfigParser(interpolation=None)
    try:
        parser.read_file(io.StringIO(text))
        section = parser["llama"]
    except (configparser.Error, KeyError) as error:
        raise BadInput(f"{where}: no [llama] section that can be read: {error}") from None

    def number(key: str, default: float | None = None) -> float:
        raw = section.get(key)
        if raw is None:
            if default is not None:
                return default
            raise BadInput(f"{where}: {key} is missing; the backend ends the whole server on that")
        try:
            return float(raw)
        except ValueError:
            raise BadInput(f"{where}: {key} = {raw!r} is no number") from None

    heads, head_dim = int(number("head_num")), int(number("size_per_head"))
    if int(number("rotary_embedding")) != head_dim:
        raise BadInput(f"{where}: rotary_embedding must equal size_per_head = {head_dim}")
    model = FtModel(
        name=section.get("model_name", "llama"),
        layers=int(number("num_layer")),
        hidden=heads * head_dim,
        intermediate=int(number("inter_size")),
        heads=heads,
        kv_heads=int(number("kv_head_num", heads)),
        head_dim=head_dim,
        vocab=int(number("vocab_size")),
        rms_eps=number("layernorm_eps"),
        rope_theta=number("rope_theta", 10000.0),
        rope_factor=number("rope_scaling_factor", 1.0),
        start_id=int(number("start_id")),
        end_id=int(number("end_id")),
    )
    dtype = section.get("weight_data_type", "")
    if dtype not in STORED_DTYPES:
        raise BadInput(f"{where}: weight_data_type = {dtype!r} (accepted: {', '.join(STORED_DTYPES)})")
    return Layout(model=model, tp=tp, variant="b" if "kv_head_num" in section else "a", dtype=dtype)
