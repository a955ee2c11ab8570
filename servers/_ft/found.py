"""FasterTransformer checkpoints that are there: which, and whether they are whole."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable
from pathlib import Path

from loadgen.errors import BadInput
from loadgen.servers._ft import layout as ft

MANIFEST = "loadgen-manifest.json"
Progress = Callable[[str, int, int], None]


def silent(_name: str, _done: int, _total: int) -> None:
    """Progress that nobody watches."""


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


def check(folder: Path, *, contents: bool = True, progress: Progress = silent) -> list[str]:
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
