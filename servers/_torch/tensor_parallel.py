"""transformers' tensor parallelism, with each rank's weights held as plain local tensors.

transformers (5.17 to 5.23 alike) describes a llama's split in ``tp_plan`` and wraps ``forward`` of the named modules:
a ``colwise`` linear multiplies its rows, a ``rowwise`` one multiplies its columns and all-reduces the sum, and the head
(``colwise_gather_output``) gathers the logits. Without gradients these wrappers work on local tensors, but when the
weights are DTensors every call first unwraps them, hundreds of times a step. Plain local weights take the same path
without that, and let each rank make its own share.

The input embedding is whole on every rank: 5.17 leaves it so, 5.23 would split it at the price of one more all-reduce.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from torch import nn

SPLIT_DIM = {"colwise": 0, "colwise_rep": 0, "colwise_gather_output": 0, "rowwise": 1, "rowwise_rep": 1}


def planned(model: Any) -> Iterator[tuple[str, nn.Module, str]]:
    """(name, module, style) of every module in the model's own plan.

    Raises ValueError for a style that is not known here.
    """
    plan = dict(model.tp_plan)
    for name, module in model.named_modules():
        style = plan.get(re.sub(r"\.\d+(?=\.|$)", ".*", name))
        if style is not None and not isinstance(module, nn.Embedding):
            if style not in SPLIT_DIM:
                raise ValueError(
                    f"{name}: tensor-parallel style {style!r} is not one of {', '.join(SPLIT_DIM)}"
                )
            yield name, module, style


def split_dims(model: Any) -> dict[str, int]:
    """Parameter name → the dimension that ranks share out; parameters that are absent are whole on every rank."""
    return {f"{name}.weight": SPLIT_DIM[style] for name, _, style in planned(model)}


def install_hooks(model: Any, tp: int, device_type: str) -> None:
    """Wrap the planned modules' ``forward`` with transformers' own styles; their weights must be local already."""
    from torch.distributed.device_mesh import init_device_mesh
    from transformers.integrations.tensor_parallel import ALL_PARALLEL_STYLES

    mesh = init_device_mesh(device_type, (tp,), mesh_dim_names=("tp",))
    for _, module, style in list(planned(model)):
        ALL_PARALLEL_STYLES[style].install_forward(module, mesh)


def use_local_weights(model: nn.Module) -> None:
    """Replace the DTensors that ``from_pretrained`` made by this rank's local tensors; all ranks together."""
    from torch.distributed.tensor import DTensor

    for module in model.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            if not isinstance(parameter, DTensor):
                continue
            whole = isinstance(module, nn.Embedding)
            if whole and "forward" in vars(module):
                del module.forward  # the wrapper that expects a share of the table
            local = parameter.full_tensor() if whole else parameter.to_local()
            module.register_parameter(name, nn.Parameter(local, requires_grad=False))
