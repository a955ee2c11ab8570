"""Where a FasterTransformer server's weights come from, decided ahead and told in the results. Pure."""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from loadgen.engine_facts import CHECKPOINT, ITS_OWN, OURS, UNIFORM, own_weights
from loadgen.engine_facts import Weights as Numbers
from loadgen.errors import BadInput, MissingDependency
from loadgen.launch.child import child_argv
from loadgen.launch.options import Options
from loadgen.records import ServerSpec
from loadgen.servers._ft import layout as ft
from loadgen.theory import models
from loadgen.units import show_bytes

CHOICES = ("auto", "written", "backend")
SMALL_BYTES = 1 << 30  # a preset up to here is written without asking


@dataclass(frozen=True, slots=True, kw_only=True)
class Weights:
    """The checkpoint folder that the backend reads, how it comes about, and what results call it.

    ``label`` says it in words, ``numbers`` whose they are.
    """

    label: str
    numbers: Numbers
    folder: str
    layout: ft.Layout
    setup: tuple[tuple[str, ...], ...]
    files: Mapping[str, str]

    def plan(self) -> str:
        """The checkpoint plan in words."""
        sizes = ft.sizes(self.layout)
        total = sum(sizes.values())
        made = f"{len(sizes)} .bin files, {show_bytes(total)}" if self.setup else "config.ini alone"
        return (
            f"weights: {self.label}\n"
            f"folder: {self.folder}\n"
            f"layout: variant {self.layout.variant}, {self.layout.dtype}, tensor parallel {self.layout.tp}\n"
            f"files: {made}\n"
        )


def layout(spec: ServerSpec, options: Options) -> ft.Layout:
    """The checked layout; raises BadInput for a model, dtype or split that the backend computes wrongly."""
    model = ft.from_spec(spec.model)
    if spec.model.checkpoint is not None:
        model = ft.read_config(model, Path(spec.model.checkpoint, "config.json"))
    variant = options.choice("variant", tuple(ft.VARIANTS))
    found = ft.Layout(model=model, tp=spec.tp, variant=variant, dtype=ft.dtype_of(spec.dtype))
    ft.check(found, spec.pp)
    return found


def check(spec: ServerSpec, options: Options) -> None:
    """Raises BadInput for impossible choices, MissingDependency when a large preset's weights were left undecided."""
    found = layout(spec, options)
    choice = options.choice("weights", CHOICES)
    given = options.text("checkpoint")
    if given is not None and choice != "auto":
        raise BadInput(f"ft: option checkpoint={given} with weights={choice} (accepted: one of the two)")
    if given is None and choice == "backend" and not spec.dummy_weights:
        raise BadInput(
            f"ft: option weights=backend would not load {spec.model.name} (accepted: with --dummy-weights)"
        )
    if given is not None and (there := ft.sizes_in(_home(given))) and found.tp not in there:
        raise BadInput(
            f"ft: option checkpoint={given}: cut for tp {', '.join(map(str, there))}, and tp = {found.tp} is asked for "
            f"(accepted: that tp, or loadgen convert --to ft … --tp {found.tp})"
        )
    size = sum(ft.sizes(found).values())
    if given is None and choice == "auto" and spec.dummy_weights and size > SMALL_BYTES:
        raise MissingDependency(
            f"ft: {spec.model.name} has no weights on this machine, and random ones take {show_bytes(size)} of disk",
            "--option weights=backend (nothing but config.ini is written; the backend makes random weights of its own, "
            f"and results say so), or --option weights=written (under {cache_folder(options)}), or --model FOLDER",
        )


def cache_folder(options: Options) -> Path:
    """Where converted checkpoints are kept: option ``cache``, else the user's cache folder."""
    given = options.text("cache")
    if given is not None:
        return Path(given).expanduser().absolute()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "loadgen" / "ft"


def _home(given: str) -> Path:
    """The folder that holds the <T>-gpu folders, of which one may have been given."""
    folder = Path(given).expanduser().absolute()
    return folder.parent if re.fullmatch(ft.FOLDER, folder.name) else folder


def weights(spec: ServerSpec, options: Options, run_dir: str) -> Weights:
    """How this server gets its weights. ``auto``: a checkpoint is converted, a preset's random numbers are written
    when they are few, else the backend makes its own (``check`` asks for that choice first)."""
    found = layout(spec, options)
    given = options.text("checkpoint")
    if given is not None:
        numbers, out = Numbers(maker=CHECKPOINT), _home(given)
        return _on_disk(found, out, "checkpoint (given, sizes checked)", numbers, _setup(found, out))
    choice = options.choice("weights", CHOICES)
    size = sum(ft.sizes(found).values())
    if spec.dummy_weights and (choice == "backend" or (choice == "auto" and size > SMALL_BYTES)):
        path = f"checkpoint/{found.folder}"
        return Weights(
            label="random (made by the backend itself: its warnings of missing files are meant)",
            numbers=Numbers(maker="FasterTransformer", distribution=ITS_OWN),
            folder=f"{run_dir}/{path}",
            layout=found,
            setup=(),
            files={f"{path}/config.ini": ft.config_ini(found)},
        )
    source = spec.model if not spec.dummy_weights else dataclasses.replace(spec.model, checkpoint=None)
    identity = spec.model.fingerprint if source.checkpoint else "random"
    out = cache_folder(options) / f"{spec.model.name}-{identity}-{found.variant}-{found.dtype}"
    label = "checkpoint (converted)" if source.checkpoint else "random (written by loadgen, seed 0)"
    numbers = own_weights(spec) if source.checkpoint else Numbers(maker=OURS, distribution=UNIFORM, seed=0)
    return _on_disk(found, out, label, numbers, _setup(found, out, "--spec", models.to_json(source)))


def _on_disk(found: ft.Layout, out: Path, label: str, numbers: Numbers, setup: tuple[str, ...]) -> Weights:
    return Weights(
        label=label, numbers=numbers, folder=str(out / found.folder), layout=found, setup=(setup,), files={}
    )


def _setup(found: ft.Layout, out: Path, *source: str) -> tuple[str, ...]:
    return child_argv(
        None,
        "loadgen.servers._ft.checkpoint",
        *source,
        *("--tp", str(found.tp), "--variant", found.variant, "--dtype", found.dtype, "--out", str(out)),
    )
