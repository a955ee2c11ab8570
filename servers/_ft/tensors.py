"""Where a checkpoint's numbers come from: a Hugging Face folder, read in place, or a seed.

numpy alone. Safetensors are memory-mapped by hand, because numpy has no bfloat16 and the library's numpy reader
therefore refuses most of today's checkpoints.
"""

from __future__ import annotations

import hashlib
import json
import math
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from loadgen.errors import BadInput

BF16 = "BF16"
NUMPY: dict[str, np.dtype[Any]] = {"F16": np.dtype("<f2"), "F32": np.dtype("<f4"), BF16: np.dtype("<u2")}
RANDOM_STD = 0.02  # transformers' initializer_range for llama


class Tensors(Protocol):
    """Named float tensors. ``part`` returns float16 or float32 rows and columns of one, copied, little-endian."""

    identity: Mapping[str, object]

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of one tensor, as Hugging Face stores it: [out, in] of a matrix."""

    def part(self, name: str, rows: slice, columns: slice) -> NDArray[np.floating[Any]]:
        """Rows and columns of one, copied, little-endian; of a vector the rows alone."""


class Folder:
    """The safetensors of a Hugging Face folder, whole or sharded. A tied head is the input embedding."""

    def __init__(self, folder: Path, fingerprint: str = "") -> None:
        self.folder = folder
        self._where: dict[str, tuple[Path, str, tuple[int, ...], int]] = {}
        digest = hashlib.sha256(fingerprint.encode())
        digest.update((folder / "config.json").read_bytes())
        for path in weight_files(folder):
            self._index(path, digest)
        if "lm_head.weight" not in self._where and "model.embed_tokens.weight" in self._where:
            self._where["lm_head.weight"] = self._where["model.embed_tokens.weight"]
        self.identity: Mapping[str, object] = {
            "kind": "checkpoint",
            "path": str(folder),
            "hash": digest.hexdigest(),
        }

    def _index(self, path: Path, digest: Any) -> None:
        stat = path.stat()
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if not 2 <= length <= stat.st_size - 8:
                raise BadInput(f"{path}: not a safetensors file, or cut short")
            header = file.read(length)
        # Names, sizes, headers and times of change: a folder that is touched is converted again, never mistaken.
        digest.update(f"{path.name} {stat.st_size} {stat.st_mtime_ns}\n".encode())
        digest.update(header)
        for name, entry in json.loads(header).items():
            if name == "__metadata__":
                continue
            kind, shape = entry["dtype"], tuple(entry["shape"])
            begin, end = entry["data_offsets"]
            if kind in NUMPY and math.prod(shape) * NUMPY[kind].itemsize != end - begin:
                raise BadInput(f"{path}: {name}: {end - begin} bytes do not hold {kind} {list(shape)}")
            if 8 + length + end > stat.st_size:
                raise BadInput(f"{path}: cut short within {name}")
            self._where[name] = (path, kind, shape, 8 + length + begin)

    def _find(self, name: str) -> tuple[Path, str, tuple[int, ...], int]:
        if name not in self._where:
            raise BadInput(f"{self.folder}: no tensor {name} in its safetensors, so it is no whole llama")
        return self._where[name]

    def shape(self, name: str) -> tuple[int, ...]:
        """See Tensors. Raises BadInput for a tensor that the folder lacks."""
        return self._find(name)[2]

    def part(self, name: str, rows: slice, columns: slice) -> NDArray[np.floating[Any]]:
        """See Tensors; bfloat16 comes widened to float32. Raises BadInput for a lacking tensor or another dtype."""
        path, kind, shape, offset = self._find(name)
        if kind not in NUMPY:
            raise BadInput(f"{path}: {name} holds {kind} (accepted: {', '.join(NUMPY)})")
        stored = np.memmap(path, NUMPY[kind], "r", offset, shape)
        cut = stored[rows] if len(shape) == 1 else stored[rows, columns]
        if kind != BF16:
            return np.array(cut)
        # A bfloat16 is the upper half of the float32 of the same value.
        widened: NDArray[np.float32] = (cut.astype("<u4") << 16).view("<f4")
        return widened


class Random:
    """Uniform numbers (four times as fast as normal ones) of each tensor's own seed, the norms all one.

    The matrix in hand is kept from one rank's file to the next, by each thread its own.
    """

    def __init__(self, shapes: Mapping[str, tuple[int, ...]], seed: int = 0) -> None:
        self._shapes, self._seed = shapes, seed
        self._own = threading.local()
        self.identity: Mapping[str, object] = {"kind": "random", "seed": seed, "std": RANDOM_STD}

    def shape(self, name: str) -> tuple[int, ...]:
        """See Tensors."""
        return self._shapes[name]

    def part(self, name: str, rows: slice, columns: slice) -> NDArray[np.floating[Any]]:
        """See Tensors; the same numbers however they are cut."""
        held: dict[str, NDArray[np.float32]] = getattr(self._own, "held", {})
        if name not in held:
            layer = name.rsplit(".", 2)[0]  # …self_attn: q, k and v are needed together
            held = {key: value for key, value in held.items() if key.startswith(layer)}
            held[name] = self._make(name)
            self._own.held = held
        whole = held[name]
        return np.array(whole[rows] if whole.ndim == 1 else whole[rows, columns])

    def _make(self, name: str) -> NDArray[np.float32]:
        shape = self._shapes[name]
        if len(shape) == 1:
            return np.ones(shape, np.float32)
        key = hashlib.sha256(f"{self._seed} {name}".encode()).digest()
        generator = np.random.Generator(np.random.SFC64(int.from_bytes(key[:16], "little")))
        numbers = generator.random(shape, np.float32)
        numbers -= np.float32(0.5)
        numbers *= np.float32(RANDOM_STD * 12**0.5)
        return numbers


def weight_files(folder: Path) -> list[Path]:
    """The folder's safetensors: those of its index, or all of them.

    Raises BadInput where there is none, or where one of the index is missing.
    """
    index = folder / "model.safetensors.index.json"
    if index.exists():
        names = sorted(set(json.loads(index.read_text())["weight_map"].values()))
    else:
        names = sorted(path.name for path in folder.glob("*.safetensors"))
    if not names:
        raise BadInput(f"{folder}: no *.safetensors in it (accepted: safetensors, whole or sharded)")
    missing = [name for name in names if not (folder / name).exists()]
    if missing:
        raise BadInput(f"{folder}: its index names {len(missing)} missing files, first {missing[0]}")
    return [folder / name for name in names]
