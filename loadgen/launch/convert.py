"""``loadgen convert``: write a checkpoint in a framework's own layout ahead of time, or check one.

Runs on any machine with numpy: no GPU, no engine. Framework NAME writes in ``servers/_NAME/checkpoint.py`` and
reads in ``servers/_NAME/found.py``.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from loadgen.errors import BadInput
from loadgen.theory import models

TARGETS = ("ft",)
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Converted:
    """A whole checkpoint: where it lies, its bytes, and whether it lay there already, made of the same source."""

    folder: Path
    bytes: int
    reused: bool


def convert(
    to: str,
    model: str,
    *,
    tp: int,
    variant: str,
    dtype: str,
    out: Path,
    seed: int = 0,
    replace: bool = False,
    progress: Progress = lambda _name, _done, _total: None,
) -> Converted:
    """Write ``out/<tp>-gpu`` from a checkpoint folder, or from seeded random numbers for a preset.

    ``progress`` gets a layer's or a file's name, the bytes done and the bytes in all. Raises BadInput for a model that
    the layout cannot hold, too little disk, and a folder that was made otherwise (unless ``replace``).
    """
    writer = _part(to, "checkpoint")
    spec = models.resolve(model)
    layout = writer.layout_of(spec, tp, variant, dtype)
    written = writer.convert(spec, layout, out, seed=seed, replace=replace, progress=progress)
    return Converted(folder=written.folder, bytes=written.bytes, reused=written.reused)


def check(
    to: str, folder: Path, *, progress: Progress = lambda _name, _done, _total: None
) -> Mapping[Path, list[str]]:
    """Each checkpoint at or in ``folder`` → its problems, file by file; all lists empty when all is well.

    Raises BadInput when ``folder`` is none or holds no checkpoint.
    """
    reader = _part(to, "found")
    if not folder.is_dir():
        raise BadInput(f"--check {folder}: no such folder")
    return {found: reader.check(found, progress=progress) for found in reader.checkpoints(folder)}


def _part(to: str, module: str) -> Any:
    if to not in TARGETS:
        raise BadInput(f"--to {to!r} (accepted: {', '.join(TARGETS)})")
    return importlib.import_module(f"loadgen.servers._{to}.{module}")
