"""``deepspeed.init_inference`` without kernels (AutoTP): a transformers llama whose linears DeepSpeed splits.

For random weights the model is laid out without memory, split by DeepSpeed, and only then filled, each rank its own
share; a checkpoint is read whole into host memory by every rank, as DeepSpeed wants it.
"""

from __future__ import annotations

from typing import Any

import torch

from loadgen.records import ServerSpec
from loadgen.servers._ds.decode import Decoder
from loadgen.servers._ds.options import Options
from loadgen.servers._ds.patches import Patches
from loadgen.servers._torch import weights
from loadgen.servers._torch.model import llama_config


def build(spec: ServerSpec, options: Options, device: torch.device, patches: Patches) -> Any:
    """DeepSpeed's InferenceEngine on this rank. torch.distributed must be up when ``tp`` is above 1."""
    import deepspeed

    dtype = getattr(torch, spec.dtype)
    random = spec.dummy_weights or spec.model.checkpoint is None
    model = layout(spec, dtype) if random else from_checkpoint(spec, dtype)
    engine = deepspeed.init_inference(
        model,
        dtype=dtype,
        tensor_parallel={"tp_size": spec.tp},
        replace_with_kernel_inject=False,
    )
    if random:
        fill(engine.module, spec, options.seed, patches)
    restore_rotary(engine.module, device, patches)
    engine.module.eval().requires_grad_(False)
    return engine


def decoder(
    engine: Any, spec: ServerSpec, options: Options, device: torch.device, patches: Patches
) -> Decoder:
    """The decode loop over ``engine``; how many heads are this rank's is read off its weights."""
    if options.cuda_graph:
        patches.note("cuda-graph")
    rows = engine.module.model.layers[0].self_attn.k_proj.weight.shape[0]
    return Decoder(
        engine,
        layers=spec.model.layers,
        heads=rows // spec.model.head_dim,
        dim=spec.model.head_dim,
        dtype=getattr(torch, spec.dtype),
        device=device,
        cuda_graph=options.cuda_graph,
    )


def layout(spec: ServerSpec, dtype: torch.dtype) -> Any:
    """The model of ``spec`` without memory: its parameters have shapes only."""
    from transformers import AutoModelForCausalLM

    make: Any = AutoModelForCausalLM.from_config
    with torch.device("meta"):
        return make(llama_config(spec.model), dtype=dtype, attn_implementation="sdpa")


def fill(model: Any, spec: ServerSpec, seed: int, patches: Patches) -> None:
    """Write the seeded values of every parameter, of a split one this rank's part."""
    whole = weights.shapes(spec.model)
    with torch.no_grad():
        for name, parameter in model.named_parameters(remove_duplicate=False):
            start = _start(model, name, tuple(parameter.shape), whole[name])
            weights.fill(parameter.data, weights.source(name, spec.model), whole[name], seed, start)
    patches.note("random-weights")


def _start(model: Any, name: str, mine: tuple[int, ...], whole: tuple[int, ...]) -> tuple[int, int]:
    """The (row, column) at which this rank's part of a parameter begins; raises ValueError for a split unknown here."""
    if mine == whole:
        return 0, 0
    module = model.get_submodule(name.rpartition(".")[0])
    by_columns = "Allreduce" in type(module).__name__
    dim = 1 if by_columns else 0
    sizes = module._partition_sizes
    if sum(sizes) != whole[dim] or mine[dim] != sizes[module.tp_index] or mine[1 - dim] != whole[1 - dim]:
        raise ValueError(f"{name}: DeepSpeed's {type(module).__name__} holds {mine} of {whole}, cut {sizes}")
    before = sum(sizes[: module.tp_index])
    return (0, before) if by_columns else (before, 0)


def restore_rotary(model: Any, device: torch.device, patches: Patches) -> None:
    """Give the model rotary frequencies in float32, whatever its dtype."""
    from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

    model.model.rotary_emb = LlamaRotaryEmbedding(model.config).to(device)
    patches.note("float32-rotary")


def from_checkpoint(spec: ServerSpec, dtype: torch.dtype) -> Any:
    """The checkpoint's model, whole, in host memory."""
    from transformers import AutoModelForCausalLM

    assert spec.model.checkpoint is not None
    return AutoModelForCausalLM.from_pretrained(
        spec.model.checkpoint,
        dtype=dtype,
        attn_implementation="sdpa",
        local_files_only=True,
        trust_remote_code=False,
        use_safetensors=True,
    )
