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
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from loadgen.errors import BadInput
from loadgen.records import ModelSpec
from loadgen.servers._ft import layout as ft
from loadgen.servers._ft.tensors import Folder, Random, Tensors
from loadgen.theory import models

MANIFEST = "loadgen-manifest.json"
FORMAT = 1
CHUNK_ELEMENTS = 1 << 24  # of an unsplit matrix, at a time
TILE = 256
NUMPY_DTYPE: dict[str, np.dtype[Any]] = {"fp16": np.dtype("<f2"), "fp32": np.dtype("<f4")}
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """A whole checkpoint: its folder, its bytes, and whether it lay there already."""

    folder: Path
    bytes: int
    reused: bool


def _silent(_name: str, _done: int, _total: int) -> None:
    """Progress that nobody watches."""


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
    progress: Progress = _silent,
) -> Written:
    """Write ``out/<T>-gpu`` from the spec's checkpoint, or from seeded random numbers for a preset.

    Memory: one matrix of one rank. An existing folder made of the same source for the same layout is taken as it
    is; one made otherwise raises BadInput unless ``replace``. ``progress`` gets file name, bytes done, bytes in all.
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
    written: dict[str, dict[str, object]] = {}
    done = 0
    for file in ft.files(layout):
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
        done += size
        progress(file.name, done, total)
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


def checkpoints(folder: Path) -> list[Path]:
    """The ``<T>-gpu`` folders at or directly in ``folder``. Raises BadInput where there is none."""
    if re.fullmatch(ft.FOLDER, folder.name):
        return [folder]
    found = [folder / f"{size}-gpu" for size in ft.sizes_in(folder)]
    if not found:
        raise BadInput(
            f"{folder}: neither a <T>-gpu folder nor one that holds any (accepted: what convert wrote)"
        )
    return found


def check(folder: Path, *, contents: bool = True, progress: Progress = _silent) -> list[str]:
    """Every problem of a ``<T>-gpu`` folder, in words; empty when it is whole.

    Sizes are those that ``config.ini`` implies, whoever wrote the folder. SHA-256 is compared where there is a
    manifest and ``contents`` is set.
    """
    try:
        text = (folder / "config.ini").read_text()
    except OSError as error:
        return [f"config.ini: {error.strerror or error}"]
    try:
        layout = ft.read_config_ini(text, int(folder.name.partition("-")[0]), "config.ini")
    except BadInput as error:
        return [str(error)]
    hashes = _hashes(folder) if contents else {}
    problems: list[str] = []
    sizes = ft.sizes(layout)
    done, total = 0, sum(sizes.values())
    for name, size in sizes.items():
        path = folder / name
        if not path.is_file():
            problems.append(f"{name}: missing; the backend would put random numbers in its place")
        elif path.stat().st_size != size:
            problems.append(f"{name}: {path.stat().st_size} bytes, expected {size}")
        elif name in hashes and _sha256(path) != hashes[name]:
            problems.append(f"{name}: its content is not what was written (SHA-256 differs)")
        done += size
        progress(name, done, total)
    return problems


def _hashes(folder: Path) -> dict[str, str]:
    path = folder / MANIFEST
    if not path.exists():
        return {}
    try:
        return {name: str(entry["sha256"]) for name, entry in json.loads(path.read_text())["files"].items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise BadInput(f"{path}: not a manifest that can be read: {error}") from None


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


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
            written = convert(spec, layout, options.out, replace=True, progress=_print_progress)
            print(
                f"{written.folder}: {'re-used' if written.reused else 'written'}, {written.bytes} bytes",
                flush=True,
            )
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
