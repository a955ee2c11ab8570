"""ModelSpec → a transformers llama on its devices: random weights made there, or a checkpoint's.

Random weights are normal(0, 0.02) with norms at one. Every matrix is cut into blocks along the dimension that tensor
parallelism splits, each block seeded by (seed, parameter name, block number), so that one device type holds the same
*logical* matrix whatever the tensor-parallel degree, while each rank makes only its own blocks on its own device.
CPU and GPU generators differ, so their values do too.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from loadgen.records import ModelSpec, ServerSpec
from loadgen.servers._torch import cache_argument, tensor_parallel
from loadgen.theory.models import hf_config

STD = 0.02
BLOCKS = 840  # = lcm(1…8): a matrix splits into gcd(its size, 840) blocks, which every usual degree divides


def build(spec: ServerSpec, device: torch.device, rank: int, seed: int, attention: str) -> Any:
    """The model of ``spec``, this rank's share of it, in evaluation mode and without gradients."""
    dtype = getattr(torch, spec.dtype)
    if spec.model.checkpoint is not None and not spec.dummy_weights:
        model = _from_checkpoint(spec, dtype, device, attention)
    else:
        model = _random(spec, dtype, device, rank, seed, attention)
    model.eval().requires_grad_(False)
    return model


def llama_config(model: ModelSpec) -> Any:
    """A preset's shape as transformers' LlamaConfig. Random weights know no end of sequence: there is no EOS id."""
    from transformers import LlamaConfig

    return LlamaConfig(**hf_config(model))


def end_ids(model: Any) -> frozenset[int]:
    """The token ids that end a sequence, of the generation config or the model's."""
    found: set[int] = set()
    for config in (getattr(model, "generation_config", None), model.config):
        ids = getattr(config, "eos_token_id", None)
        found.update([ids] if isinstance(ids, int) else ids or [])
    return frozenset(found)


def weight_bytes(model: Any) -> int:
    """Bytes of this process's parameters, tied ones once."""
    return sum(p.numel() * p.element_size() for p in model.parameters())


def layer_devices(model: ModelSpec, pp: int) -> dict[str, int]:
    """accelerate's device map for ``pp`` GPUs: layers split evenly, embedding on the first, head on the last."""
    stages = {f"model.layers.{i}": i * pp // model.layers for i in range(model.layers)}
    head = 0 if model.tied else pp - 1  # a tied head is the embedding: it must lie where that lies
    return {"model.embed_tokens": 0, "model.rotary_emb": 0, **stages, "model.norm": pp - 1, "lm_head": head}


def _from_checkpoint(spec: ServerSpec, dtype: torch.dtype, device: torch.device, attention: str) -> Any:
    from transformers import AutoModelForCausalLM

    where: dict[str, Any] = {"device_map": {"": device}}
    if spec.tp > 1:
        from transformers.distributed import DistributedConfig

        where = {"distributed_config": DistributedConfig(tp_size=spec.tp)}
    elif spec.pp > 1:
        where = {"device_map": layer_devices(spec.model, spec.pp)}
    model = AutoModelForCausalLM.from_pretrained(
        spec.model.checkpoint,
        dtype=dtype,
        attn_implementation=attention,
        local_files_only=True,
        trust_remote_code=False,
        use_safetensors=True,
        **where,
    )
    if spec.tp > 1:
        tensor_parallel.use_local_weights(model)
    return model


def _random(
    spec: ServerSpec, dtype: torch.dtype, device: torch.device, rank: int, seed: int, attention: str
) -> Any:
    from transformers import AutoModelForCausalLM
    from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

    config = llama_config(spec.model)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, dtype=dtype, attn_implementation=attention)
    stages = layer_devices(spec.model, spec.pp) if spec.pp > 1 else None
    dims = tensor_parallel.split_dims(model)  # for one rank too: the cut decides the values
    for name, parameter in list(model.named_parameters(remove_duplicate=False)):
        if spec.model.tied and name == "lm_head.weight":
            continue
        here = device if stages is None else _device_of(name, stages)
        weight = _share(name, parameter, here, dims.get(name), rank, spec.tp, seed)
        _set(model, name, weight)
    if spec.model.tied:
        whole = model.model.embed_tokens.weight
        rows = whole.shape[0] // spec.tp
        _set(model, "lm_head.weight", whole[rank * rows : (rank + 1) * rows] if spec.tp > 1 else whole)
    # The rotary frequencies are a buffer, which the meta device lost; they stay float32 whatever the dtype.
    model.model.rotary_emb = LlamaRotaryEmbedding(config).to(device if stages is None else "cuda:0")
    if spec.tp > 1:
        tensor_parallel.install_hooks(model, spec.tp, device.type)
    if stages is not None:
        from accelerate import dispatch_model

        dispatch_model(model, device_map=stages, skip_keys=[cache_argument.NAME])
    return model


def _device_of(name: str, stages: dict[str, int]) -> torch.device:
    stage = max((prefix for prefix in stages if name.startswith(prefix + ".")), key=len)
    return torch.device("cuda", stages[stage])


def _share(
    name: str, parameter: nn.Parameter, device: torch.device, dim: int | None, rank: int, tp: int, seed: int
) -> torch.Tensor:
    """This rank's part of one parameter, made where it lies."""
    if parameter.dim() == 1:
        return torch.ones(parameter.shape, dtype=parameter.dtype, device=device)
    cut = 0 if dim is None else dim
    size = parameter.shape[cut]
    blocks = math.gcd(size, BLOCKS)
    if dim is not None and blocks % tp:
        raise ValueError(
            f"{name}: a dimension of {size} does not split into {tp} equal shares of whole blocks"
        )
    mine = range(rank * blocks // tp, (rank + 1) * blocks // tp) if dim is not None else range(blocks)
    width = size // blocks
    shape = list(parameter.shape)
    shape[cut] = width * len(mine)
    weight = torch.empty(shape, dtype=parameter.dtype, device=device)
    shape[cut] = width
    block = torch.empty(shape, dtype=parameter.dtype, device=device)
    generator = torch.Generator(device)
    for place, number in enumerate(mine):
        generator.manual_seed(zlib.crc32(f"{seed}/{name}/{number}".encode()))
        block.normal_(0.0, STD, generator=generator)
        weight.narrow(cut, place * width, width).copy_(block)
    return weight


def _set(model: nn.Module, name: str, weight: torch.Tensor) -> None:
    owner, _, leaf = name.rpartition(".")
    setter: Callable[[str, nn.Parameter | None], None] = model.get_submodule(owner).register_parameter
    setter(leaf, weight if isinstance(weight, nn.Parameter) else nn.Parameter(weight, requires_grad=False))
