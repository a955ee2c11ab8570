"""The folder for an engine without a dummy loader: written once with the weights of ``hf``, or a checkpoint."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field

from loadgen.errors import BadInput
from loadgen.records import ServerSpec
from loadgen.servers._llama import weights

HELP = "same: the random numbers of framework hf, written once; there are no others. Default same"


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """Where it lies, what makes it where it does not yet, and what a container must see of it."""

    path: str
    setup: tuple[tuple[str, ...], ...] = ()
    mounts: Mapping[str, str] = field(default_factory=dict)


def check(spec: ServerSpec) -> None:
    """Raise BadInput where an engine's own weights are asked for: it has none."""
    if weights.choice(spec) == weights.ENGINE:
        raise BadInput(
            f"{spec.framework}: option weights = 'engine': it has no dummy weights (accepted: {weights.SAME})"
        )
    weights.seed_of(spec)


def model_of(spec: ServerSpec, python: str | None) -> Model:
    """The folder of a spec's model; ``python`` has torch and safetensors to write it."""
    if weights.choice(spec) is None:
        return Model(path=str(spec.model.checkpoint))
    folder = weights.folder(spec, python)
    return Model(path=folder.path, setup=(folder.setup,), mounts={os.path.dirname(folder.path): "rw"})


def facts(spec: ServerSpec, engine: str) -> dict[str, object]:
    """What a spec decides, for the page of an engine that was never seen running."""
    return {
        "engine": engine,
        "framework": spec.framework,
        "options": dict(spec.options),
        "model": spec.model.name,
        "vocab": spec.model.vocab,
        "max_context": spec.model.max_context,
        "dtype": spec.dtype,
        "tp": spec.tp,
        "pp": spec.pp,
        "kv_ahead": True,
        "by_contract_only": True,
        "weights": weights.numbers(spec, engine, "").page(),
    }
