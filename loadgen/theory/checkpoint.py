"""A Hugging Face checkpoint folder (``config.json`` of a llama, safetensors) → ModelSpec, and its fingerprint."""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from loadgen.errors import BadInput
from loadgen.input_files import open_input, read_input
from loadgen.records import ModelSpec

MOST_SIZE = 2**31 - 1  # of a tensor in one direction
# What is walked through one by one; twenty times those of the largest llama.
MOST = {"num_hidden_layers": 4096, "num_attention_heads": 4096}
WHOLE = "model.safetensors"
MOST_HEADER = 100_000_000  # bytes: the format's own limit
PLAIN = frozenset({"BF16", "F16", "F32", "F64"})

Tensor = tuple[str, list[Any]]  # what its numbers are, and its shape


def from_folder(folder: str) -> ModelSpec:
    """The shape of the checkpoint in ``folder``, an absolute path. Raises BadInput for one that cannot be served."""
    config = _read_config(folder)

    def get(key: str, default: int | None = None) -> int:
        value = config.get(key)
        if value is None:
            value = default
        return _positive_int(value, key, os.path.join(folder, "config.json"))

    heads, hidden = get("num_attention_heads"), get("hidden_size")
    rope = config.get("rope_parameters") or {}  # transformers 5 moved rope_theta in here
    where = os.path.join(folder, "config.json")
    if not isinstance(rope, dict):
        raise BadInput(f"model {where}: rope_parameters = {rope!r} must be an object")
    theta = rope.get("rope_theta", config.get("rope_theta", 10000.0))
    tied = config.get("tie_word_embeddings", False)
    if not isinstance(tied, bool):
        raise BadInput(f"model {where}: tie_word_embeddings = {tied!r} must be true or false")
    spec = ModelSpec(
        name=os.path.basename(folder),
        layers=get("num_hidden_layers"),
        hidden=hidden,
        intermediate=get("intermediate_size"),
        heads=heads,
        kv_heads=get("num_key_value_heads", heads),
        head_dim=get("head_dim", hidden // heads),
        vocab=get("vocab_size"),
        max_context=get("max_position_embeddings"),
        rope_theta=_positive(theta, "rope_theta", where),
        rms_eps=_positive(config.get("rms_norm_eps", 1e-6), "rms_norm_eps", where),
        tied=tied,
        checkpoint=folder,
    )
    return replace(spec, fingerprint=_fingerprint(spec, folder, config))


def shapes(spec: ModelSpec) -> dict[str, tuple[int, ...]]:
    """The tensors of a llama of this shape, by their names without ``model.`` before them: rows and columns."""
    queries, keys, hidden = spec.heads * spec.head_dim, spec.kv_heads * spec.head_dim, spec.hidden
    layer = {
        "self_attn.q_proj": (queries, hidden),
        "self_attn.k_proj": (keys, hidden),
        "self_attn.v_proj": (keys, hidden),
        "self_attn.o_proj": (hidden, queries),
        "mlp.gate_proj": (spec.intermediate, hidden),
        "mlp.up_proj": (spec.intermediate, hidden),
        "mlp.down_proj": (hidden, spec.intermediate),
        "input_layernorm": (hidden,),
        "post_attention_layernorm": (hidden,),
    }
    whole: dict[str, tuple[int, ...]] = {
        "embed_tokens.weight": (spec.vocab, hidden),
        "norm.weight": (hidden,),
    }
    if not spec.tied:
        whole["lm_head.weight"] = (spec.vocab, hidden)
    return whole | {
        f"layers.{place}.{part}.weight": shape
        for place in range(spec.layers)
        for part, shape in layer.items()
    }


def _read_config(folder: str) -> dict[str, Any]:
    path = os.path.join(folder, "config.json")
    if not os.path.isdir(folder):
        raise BadInput(
            f"model {folder}: no such folder (accepted: a preset's name, or a folder with config.json and safetensors)"
        )
    try:
        config = json.loads(read_input(path).decode())  # as engines read it: a byte order mark stops them
    except FileNotFoundError:
        raise BadInput(f"model {folder}: no config.json in it, so it is no Hugging Face checkpoint") from None
    except (OSError, ValueError, RecursionError) as error:
        raise BadInput(f"model {path}: not readable as JSON: {error}") from None
    if not isinstance(config, dict):
        raise BadInput(f"model {path}: a JSON object was expected")
    if config.get("model_type") != "llama":
        raise BadInput(
            f"model {path}: model_type = {config.get('model_type')!r} is not supported (accepted: 'llama')"
        )
    if config.get("quantization_config"):
        raise BadInput(f"model {path}: quantised checkpoints are not supported (accepted: plain safetensors)")
    return config


def _positive_int(value: object, key: str, where: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise BadInput(f"model {where}: {key} = {value!r} must be a whole number of at least 1")
    if value > (most := MOST.get(key, MOST_SIZE)):
        raise BadInput(f"model {where}: {key} is more than any model has (accepted: up to {most})")
    return value


def _positive(value: object, key: str, where: str) -> float:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not 0 < float(str(value)) < math.inf:
        raise BadInput(f"model {where}: {key} = {value!r} must be a number above 0")
    return float(str(value))


def _fingerprint(spec: ModelSpec, folder: str, config: dict[str, Any]) -> str:
    """Identifies the content without reading all of it, and regardless of where and when it was copied.

    Hashed: the configuration, and of each weight file its name, size, header and a few blocks spread over its
    tensors (two fine-tunes of one model differ in nothing but those).
    """
    try:
        digest = hashlib.sha256(json.dumps(config, sort_keys=True).encode())
    except RecursionError:
        raise BadInput(f"model {folder}: its config.json is nested too deeply") from None
    found: dict[str, Tensor] = {}
    for name in _weight_files(folder):
        path = os.path.join(folder, name)
        try:
            with open_input(path) as file:
                size = os.fstat(file.fileno()).st_size
                digest.update(b"\n%b\n%d\n" % (os.fsencode(name), size))
                header = file.read(_header_size(file.read(8), path, size))
                digest.update(header)
                found |= _tensors(header, size, path)
                for step in range(17):
                    file.seek(max(0, size - 4096) * step // 16)
                    digest.update(file.read(4096))
        except OSError as error:
            raise BadInput(f"model {path}: not readable: {error}") from None
    _check_tensors(spec, found, folder)
    return digest.hexdigest()[:16]


def _tensors(header: bytes, size: int, path: str) -> dict[str, Tensor]:
    """The tensors of a safetensors header, whose bytes are all there. Raises BadInput for a file cut short."""
    try:
        table = json.loads(header)
        table.pop("__metadata__", None)
        found = {
            name.removeprefix("model."): (str(entry["dtype"]), list(entry["shape"]))
            for name, entry in table.items()
        }
        end = max((entry["data_offsets"][1] for entry in table.values()), default=0)
        wanted = 8 + len(header) + end
        short = wanted > size
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise BadInput(f"model {path}: not a safetensors file: {error}") from None
    if wanted != size:
        raise BadInput(
            f"model {path}: {'cut short' if short else 'longer than it says'}: {size} bytes of {wanted}"
        )
    return found


def _check_tensors(spec: ModelSpec, found: Mapping[str, Tensor], folder: str) -> None:
    """Raises BadInput when a llama's tensor lacks, or is another: an engine would make one up, or end after minutes."""
    wanted = shapes(spec)
    missing = [name for name in wanted if name not in found]
    if missing:
        packed = any("qweight" in name for name in found)
        hint = " (quantised checkpoints are not supported)" if packed else ""
        raise BadInput(f"model {folder}: {len(missing)} tensors lack, first {missing[0]}{hint}")
    for name, shape in wanted.items():
        kind, there = found[name]
        if kind not in PLAIN:
            raise BadInput(
                f"model {folder}: {name} holds {kind}: quantised checkpoints are not supported (accepted: "
                f"{', '.join(sorted(PLAIN))})"
            )
        if there != list(shape):
            raise BadInput(f"model {folder}: {name} is {there}, and by config.json {list(shape)}")


def _header_size(start: bytes, path: str, size: int) -> int:
    header = int.from_bytes(start, "little")  # safetensors: 8 bytes of length, a JSON header, the tensors
    if len(start) < 8 or not 2 <= header <= min(size - 8, MOST_HEADER):
        raise BadInput(f"model {path}: not a safetensors file, or cut short")
    return header


def _weight_files(folder: str) -> list[str]:
    index = os.path.join(folder, "model.safetensors.index.json")
    if os.path.exists(index):
        try:
            names = sorted(set(json.loads(read_input(index).decode())["weight_map"].values()))
        except (OSError, ValueError, LookupError, AttributeError, TypeError, RecursionError) as error:
            raise BadInput(f"model {index}: not a safetensors index: {error}") from None
        if not all(isinstance(name, str) and name == os.path.basename(name) for name in names):
            raise BadInput(f"model {index}: not a safetensors index: it names other than files of its folder")
        missing = [name for name in names if not os.path.exists(os.path.join(folder, name))]
        if missing:
            raise BadInput(
                f"model {folder}: its index names {len(missing)} missing files, first {missing[0]}"
            )
        if WHOLE not in names and os.path.exists(os.path.join(folder, WHOLE)):
            raise BadInput(
                f"model {folder}: both {WHOLE} and an index of other files; engines differ in which they take"
            )
        return names
    if os.path.exists(os.path.join(folder, WHOLE)):
        return [WHOLE]  # what transformers takes, whatever lies beside it
    names = sorted(name for name in os.listdir(folder) if name.endswith(".safetensors"))
    if any("-of-" in name for name in names):
        raise BadInput(
            f"model {folder}: parts of a checkpoint without {os.path.basename(index)}, which tells of all"
        )
    if not names:
        raise BadInput(f"model {folder}: no *.safetensors in it (accepted: safetensors, whole or sharded)")
    return names
