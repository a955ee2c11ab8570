"""Child: write a llama's folder with random weights, configuration and tokenizer, where none lies there yet.

Usage: ``python -m loadgen.servers._llama.write --model JSON --dtype … --device cpu|cuda --seed N --out DIR``. It
appears under its name only when it is whole.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from loadgen.records import ModelSpec
from loadgen.servers._llama.files import CONFIG, config_json, tokenizer_files
from loadgen.theory import models
from loadgen.units import show_bytes, show_s

SHARD_BYTES = 4 << 30
SPARE = 1.02  # of the disk: headers, and what else is written meanwhile


def write(model: ModelSpec, dtype: str, device: str, seed: int, out: Path) -> None:
    """Write the folder ``out``. Raises OSError where it cannot be written, and where the disk is too small."""
    out.parent.mkdir(parents=True, exist_ok=True)
    size = models.parameters(model) * models.DTYPE_BYTES[dtype]
    free = shutil.disk_usage(out.parent).free
    if free < size * SPARE:
        raise OSError(f"{out.parent}: {show_bytes(size)} are needed, and {show_bytes(free)} are free")
    folder = Path(tempfile.mkdtemp(prefix=f"{out.name}.", dir=out.parent))
    try:
        _fill(folder, model, dtype, device, seed)
        folder.chmod(0o755)
        try:
            folder.rename(out)
        except OSError:
            if not out.is_dir():  # else another process was faster, with the same content
                raise
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _fill(folder: Path, model: ModelSpec, dtype: str, device: str, seed: int) -> None:
    from safetensors.torch import save_file

    (folder / CONFIG).write_text(config_json(model, dtype))
    for name, text in tokenizer_files(model.vocab, model.max_context).items():
        (folder / name).write_text(text)
    where: dict[str, str] = {}
    total = 0
    for number, shard in enumerate(_shards(model, dtype, device, seed), 1):
        name = f"model-{number:05}.safetensors"
        save_file(shard, folder / name, metadata={"format": "pt"})
        where |= dict.fromkeys(shard, name)
        total += sum(tensor.numel() * tensor.element_size() for tensor in shard.values())
    index = {"metadata": {"total_size": total}, "weight_map": where}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=1))


def _shards(model: ModelSpec, dtype: str, device: str, seed: int) -> Iterator[dict[str, Any]]:
    """Name → tensor in main memory, at most ``SHARD_BYTES`` at a time, or one tensor. A tied head is left out."""
    import torch

    from loadgen.servers._torch.weights import parameters

    shard: dict[str, Any] = {}
    held = 0
    for name, weight in parameters(model, getattr(torch, dtype), torch.device(device), seed):
        if model.tied and name == "lm_head.weight":
            continue
        size = weight.numel() * weight.element_size()
        if shard and held + size > SHARD_BYTES:
            yield shard
            shard, held = {}, 0
        shard[name] = weight.cpu()
        held += size
    yield shard


def main(argv: list[str] | None = None) -> int:
    """Write it, or say that it lies there."""
    parser = argparse.ArgumentParser()
    for name in ("model", "dtype", "device", "seed", "out"):
        parser.add_argument(f"--{name}", required=True)
    asked = parser.parse_args(argv)
    out = Path(asked.out)
    if out.is_dir():
        print(f"weights: {out} lies there", flush=True)
        return 0
    began = time.monotonic()
    try:
        write(models.from_json(asked.model), asked.dtype, asked.device, int(asked.seed), out)
    except OSError as error:
        print(f"weights cannot be written: {error}", file=sys.stderr)
        return 1
    size = sum(os.path.getsize(path) for path in out.iterdir())
    print(f"weights: {out} written, {show_bytes(size)} in {show_s(time.monotonic() - began)}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
