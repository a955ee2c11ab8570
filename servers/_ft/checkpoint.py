"""Write and check FasterTransformer checkpoints: ``<out>/<T>-gpu/`` with ``config.ini`` and the ``.bin`` files.

The backend loads random weights over a missing or short file with no more than a warning, so a folder appears under
its name only when it is whole, with a manifest of every file's size and SHA-256, and is checked before each start.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from loadgen.errors import BadInput
from loadgen.records import ModelSpec
from loadgen.servers._ft import layout as ft
from loadgen.servers._ft.found import MANIFEST, Progress, check, silent
from loadgen.servers._ft.tensors import Folder, Random, Tensors
from loadgen.system import cpus
from loadgen.theory import models
from loadgen.units import show_bytes, show_s

FORMAT = 1
CHUNK_ELEMENTS = 1 << 24  # of an unsplit matrix, at a time
TILE = 256
MOST_WORKERS = 8
LAYER = re.compile(r"model\.layers\.\d+")
NUMPY_DTYPE: dict[str, np.dtype[Any]] = {"fp16": np.dtype("<f2"), "fp32": np.dtype("<f4")}


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """A whole checkpoint: its folder, its bytes, and whether it lay there already."""

    folder: Path
    bytes: int
    reused: bool


def layout_of(spec: ModelSpec, tp: int, variant: str, dtype: str) -> ft.Layout:
    """The checked layout for a preset or a checkpoint folder; BadInput for what cannot be laid out."""
    model = ft.from_spec(spec)
    if spec.checkpoint is not None:
        model = ft.read_config(model, Path(spec.checkpoint) / "config.json")
    layout = ft.Layout(model=model, tp=tp, variant=variant, dtype=ft.dtype_of(dtype))
    ft.check(layout)
    return layout


def convert(
    spec: ModelSpec,
    layout: ft.Layout,
    out: Path,
    *,
    seed: int = 0,
    replace: bool = False,
    progress: Progress = silent,
) -> Written:
    """Write ``out/<T>-gpu`` from the spec's checkpoint, or from seeded random numbers for a preset.

    Memory: one matrix of one rank for each core at work. An existing folder made of the same source for the same layout
    is taken as it is; one made otherwise raises BadInput unless ``replace``. ``progress`` gets a layer's name, bytes
    done, bytes in all.
    """
    source = _source(spec, layout, seed)
    target = out / layout.folder
    want = {"format": FORMAT, "source": dict(source.identity), "layout": asdict(layout)}
    sizes = ft.sizes(layout)
    total = sum(sizes.values())
    if target.exists():
        if _made_of(target, want):
            problems = check(target, contents=False)
            if not problems:
                return Written(folder=target, bytes=total, reused=True)
        if not replace:
            raise BadInput(
                f"{target} exists and was not made of this model in this layout; remove it or choose another folder"
            )
    _check_shapes(source, layout)
    out.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(out).free
    if free < total + (64 << 20):
        raise BadInput(f"{out}: {total / 2**30:.1f} GiB are needed and {free / 2**30:.1f} GiB are free")
    partial = out / f".{layout.folder}.partial-{os.getpid()}"
    partial.mkdir()
    try:
        written = _write_files(source, layout, partial, total, progress)
        (partial / "config.ini").write_text(ft.config_ini(layout))
        manifest = {**want, "files": written}
        (partial / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n")
        if target.exists():
            shutil.rmtree(target)
        partial.rename(target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return Written(folder=target, bytes=total, reused=False)


def _source(spec: ModelSpec, layout: ft.Layout, seed: int) -> Tensors:
    if spec.checkpoint is not None:
        return Folder(Path(spec.checkpoint), spec.fingerprint)
    return Random(_source_shapes(layout.model), seed)


def _source_shapes(model: ft.FtModel) -> dict[str, tuple[int, ...]]:
    """Hugging Face tensor name → shape ([out, in])."""
    shapes: dict[str, tuple[int, ...]] = {}
    whole = ft.Layout(model=model, tp=1, variant="b", dtype="fp16")
    for file in ft.files(whole):
        for name in file.sources:
            shapes[name] = tuple(reversed(file.shape)) if file.transposed else file.shape
            if name.endswith(".q_proj.weight"):
                shapes[name] = (model.heads * model.head_dim, model.hidden)
            elif name.endswith((".k_proj.weight", ".v_proj.weight")):
                shapes[name] = (model.kv_heads * model.head_dim, model.hidden)
    return shapes


def _check_shapes(source: Tensors, layout: ft.Layout) -> None:
    for name, shape in _source_shapes(layout.model).items():
        if source.shape(name) != shape:
            raise BadInput(
                f"{layout.model.name}: tensor {name} is {list(source.shape(name))}, config.json makes it {list(shape)}"
            )


def _write_files(
    source: Tensors, layout: ft.Layout, folder: Path, total: int, progress: Progress
) -> dict[str, dict[str, object]]:
    """Layers side by side, on as many cores as there are up to MOST_WORKERS: numpy leaves Python's lock meanwhile."""
    layers: dict[str, list[ft.File]] = {}
    for file in ft.files(layout):
        layer = LAYER.match(file.name)
        layers.setdefault(layer[0] if layer else file.name, []).append(file)
    written: dict[str, dict[str, object]] = {}
    sizes, done = ft.sizes(layout), 0
    with ThreadPoolExecutor(min(MOST_WORKERS, len(cpus.usable()))) as pool:
        work = {
            pool.submit(_write_layer, source, layout, folder, files): name for name, files in layers.items()
        }
        try:
            for ended in as_completed(work):
                written |= ended.result()
                done += sum(sizes[file.name] for file in layers[work[ended]])
                progress(work[ended], done, total)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    return {file.name: written[file.name] for file in ft.files(layout)}


def _write_layer(
    source: Tensors, layout: ft.Layout, folder: Path, files: Sequence[ft.File]
) -> dict[str, dict[str, object]]:
    """File name → its size and SHA-256."""
    written: dict[str, dict[str, object]] = {}
    for file in files:
        digest = hashlib.sha256()
        size = 0
        with (folder / file.name).open("wb") as out:
            for block in _blocks(source, file, layout):
                raw = block.data.cast("B")
                out.write(raw)
                digest.update(raw)
                size += len(raw)
            out.flush()
            os.fsync(out.fileno())
        written[file.name] = {"bytes": size, "sha256": digest.hexdigest()}
    return written


def _blocks(source: Tensors, file: ft.File, layout: ft.Layout) -> Iterator[NDArray[Any]]:
    """The file's numbers in order, as C-contiguous arrays of the target dtype."""
    everything = slice(None)
    if not file.transposed:
        (name,) = file.sources
        height = source.shape(name)[0]
        step = max(1, CHUNK_ELEMENTS // (file.elements() // height))
        for start in range(0, height, step):
            yield _cast(source.part(name, slice(start, start + step), everything), file.name, layout)
        return
    whole = np.empty(file.shape, NUMPY_DTYPE[layout.dtype])
    column = 0
    for name in file.sources:
        outputs, inputs = source.shape(name)
        width = (outputs if file.split == "columns" else inputs) // layout.tp
        cut = slice(file.rank * width, (file.rank + 1) * width)
        rows, columns = (cut, everything) if file.split == "columns" else (everything, cut)
        part = _cast(source.part(name, rows, columns), file.name, layout)
        _transpose_into(whole[:, column : column + part.shape[0]], part)
        column += part.shape[0]
    yield whole


def _transpose_into(target: NDArray[Any], matrix: NDArray[Any]) -> None:
    """``target[:] = matrix.T`` by tiles that fit the cache: about five times as fast."""
    rows, columns = matrix.shape
    for i in range(0, rows, TILE):
        for j in range(0, columns, TILE):
            target[j : j + TILE, i : i + TILE] = matrix[i : i + TILE, j : j + TILE].T


def _cast(numbers: NDArray[Any], name: str, layout: ft.Layout) -> NDArray[Any]:
    target = NUMPY_DTYPE[layout.dtype]
    with np.errstate(over="ignore"):  # overflow is looked for, and named, below
        cast: NDArray[Any] = numbers.astype(target, copy=False)
    if (
        target.itemsize < numbers.dtype.itemsize
        and not np.isfinite(cast).all()
        and np.isfinite(numbers).all()
    ):
        raise BadInput(f"{layout.model.name}: {name} has values beyond fp16's range (accepted: dtype fp32)")
    return cast


def _made_of(folder: Path, want: dict[str, object]) -> bool:
    try:
        manifest = json.loads((folder / MANIFEST).read_text())
    except (OSError, ValueError):
        return False
    return isinstance(manifest, dict) and all(
        manifest.get(key) == json.loads(json.dumps(value)) for key, value in want.items()
    )


def main(argv: list[str]) -> int:
    """The set-up step of a server: convert, or check, and say so in its log."""
    parser = argparse.ArgumentParser(prog="checkpoint")
    parser.add_argument("--spec", help="ModelSpec as JSON: convert it")
    parser.add_argument("--tp", type=int, required=True)
    parser.add_argument("--variant", default="a")
    parser.add_argument("--dtype", default="fp16")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args(argv)
    try:
        if options.spec is not None:
            spec = models.from_json(options.spec)
            layout = layout_of(spec, options.tp, options.variant, options.dtype)
            began_s = time.monotonic()
            written = convert(spec, layout, options.out, replace=True, progress=_print_progress)
            how = "re-used" if written.reused else f"written in {show_s(time.monotonic() - began_s)}"
            print(f"{written.folder}: {show_bytes(written.bytes)} {how}", flush=True)
        folder = options.out / f"{options.tp}-gpu"
        problems = check(folder, contents=False)
    except BadInput as error:
        print(error, file=sys.stderr)
        return 2
    for problem in problems:
        print(f"{folder}: {problem}", file=sys.stderr)
    return 2 if problems else 0


def _print_progress(name: str, done: int, total: int) -> None:
    print(f"{done / total:6.1%} {name}", flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
