"""What any engine of llamas refuses before its start, whatever the machine. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from loadgen.errors import BadInput
from loadgen.records import ServerSpec
from loadgen.theory.models import split_problem


def check(spec: ServerSpec, dtypes: Sequence[str]) -> None:
    """Raise BadInput for a dtype that is none of ``dtypes``, weights that are not there, and a split that does not go
    up: heads, or the number of GPUs."""
    name = spec.framework
    if spec.dtype not in dtypes:
        raise BadInput(f"{name}: dtype = {spec.dtype!r} (accepted: {', '.join(dtypes)})")
    if not spec.dummy_weights and spec.model.checkpoint is None:
        raise BadInput(
            f"{name}: model {spec.model.name!r} is a preset without weights (accepted: a checkpoint folder)"
        )
    if spec.tp < 1 or spec.pp < 1:
        raise BadInput(f"{name}: tp = {spec.tp}, pp = {spec.pp} (accepted: whole numbers from 1)")
    if (problem := split_problem(spec.model, spec.tp, spec.pp)) is not None:
        raise BadInput(f"{name}: {problem}")
    if spec.gpus and len(spec.gpus) != spec.tp * spec.pp:
        raise BadInput(
            f"{name}: {len(spec.gpus)} GPUs for tp {spec.tp} × pp {spec.pp} (accepted: {spec.tp * spec.pp})"
        )
    if len(set(spec.gpus)) != len(spec.gpus):
        raise BadInput(f"{name}: gpus = {spec.gpus} names one twice")
