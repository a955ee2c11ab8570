"""Whose random numbers an engine multiplies: ``weights = same`` or ``engine``; and a folder of them on disk. Pure.

``same`` are the numbers of framework ``hf``: servers are compared on equal data, and give equal tokens. ``engine`` are
what the engine's own loader of dummy weights makes, mostly numbers so small that a GPU at its power cap runs faster.
"""

from __future__ import annotations

import dataclasses
import os
from dataclasses import dataclass
from pathlib import Path

from loadgen.engine_facts import Weights, own_weights
from loadgen.errors import BadInput
from loadgen.identity import digest
from loadgen.launch.child import child_argv
from loadgen.records import ServerSpec
from loadgen.theory import models

SAME, ENGINE = "same", "engine"
CHOICES = (SAME, ENGINE)
HELP = "same (the random numbers of framework hf) or engine (those of the engine's own dummy loader). Default same"
FORMAT = 1  # of the numbers: a folder of another is not taken for one of these


@dataclass(frozen=True, slots=True, kw_only=True)
class Folder:
    """A llama's folder on disk, and the command that makes it where it does not lie there yet."""

    path: str
    setup: tuple[str, ...]


def choice(spec: ServerSpec) -> str | None:
    """``same`` or ``engine``; ``None`` where a checkpoint is loaded. Raises BadInput for other words, and for either
    with a checkpoint."""
    given = spec.options.get("weights")
    if not spec.dummy_weights:
        if given is not None:
            raise BadInput(
                f"{spec.framework}: option weights = {given!r} with a checkpoint's (accepted: with --dummy-weights)"
            )
        return None
    if given is not None and given not in CHOICES:
        raise BadInput(f"{spec.framework}: option weights = {given!r} (accepted: {', '.join(CHOICES)})")
    return str(given or SAME)


def numbers(spec: ServerSpec, maker: str, distribution: str) -> Weights:
    """Whose they are, for the results; ``maker`` and ``distribution`` are those of the engine's own."""
    return Weights(maker=maker, distribution=distribution) if choice(spec) == ENGINE else own_weights(spec)


def seed_of(spec: ServerSpec) -> int:
    """The seed of random weights. Raises BadInput for what is none."""
    seed = spec.options.get("seed", 0)
    if not isinstance(seed, int) or isinstance(seed, bool) or seed < 0:
        raise BadInput(f"{spec.framework}: option seed = {seed!r} (accepted: a whole number from 0)")
    return seed


def cache_folder() -> Path:
    """Where what is made once lies: ``loadgen`` in the user's cache folder."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "loadgen"


def folder(spec: ServerSpec, python: str | None) -> Folder:
    """The folder of a spec's llama with the weights ``same`` and the tokenizer of ``files.py``, named by all that
    decides its content. ``python`` has torch and safetensors, as an engine's own interpreter does.

    On GPUs the numbers are those that a GPU makes, which a CPU's are not.
    """
    shape = dataclasses.replace(spec.model, name="", checkpoint=None, fingerprint="")
    device = "cuda" if spec.gpus else "cpu"
    content = [FORMAT, dataclasses.asdict(shape), spec.dtype, device, seed_of(spec)]
    path = cache_folder() / "llamas" / f"{Path(spec.model.name).name}-{spec.dtype}-{digest(content)[:16]}"
    setup = child_argv(
        python,
        "loadgen.servers._llama.write",
        *("--model", models.to_json(shape)),
        *("--dtype", spec.dtype, "--device", device, "--seed", str(seed_of(spec)), "--out", str(path)),
    )
    return Folder(path=str(path), setup=setup)
