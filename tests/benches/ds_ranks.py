"""Ranks of framework ``ds`` without its server: what the DeepSpeed benches share. Light until a rank starts.

A bench runs itself once per rank with ``--rank``; ``launch`` starts them and shows rank 0's lines. Works in an
interpreter that has only the engine's libraries.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))
from loadgen.launch._child import bootstrap  # noqa: E402

bootstrap(str(ROOT / "servers"))

from loadgen.records import ModelSpec, ServerSpec  # noqa: E402
from loadgen.servers._ds import options as ds_options  # noqa: E402
from loadgen.theory.models import from_json, resolve, to_json  # noqa: E402


def arguments(words: str) -> argparse.ArgumentParser:
    """The options that every bench has; give it a ``--model``, TP degrees, GPUs or ``--cpu``."""
    parser = argparse.ArgumentParser(description=words)
    parser.add_argument("--model", default="llama-13b")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--tp", default="1", help="comma-separated degrees")
    parser.add_argument("--cpu", action="store_true")
    parser.add_argument("--op-cache", default="")
    parser.add_argument(
        "--port", type=int, default=29555, help="of the ranks' meeting; the next is taken too"
    )
    parser.add_argument("--timeout", type=float, default=300.0, help="seconds for one engine at one degree")
    parser.add_argument("--rank", type=int, default=-1, help=argparse.SUPPRESS)
    parser.add_argument("--work", default="", help=argparse.SUPPRESS)
    return parser


def spec_of(
    given: Any, tp: int, options: dict[str, Any], model: ModelSpec | None = None, max_batch: int | None = None
) -> ServerSpec:
    """The server that a bench stands in for."""
    if given.op_cache:
        options = {**options, "op_cache": os.path.abspath(given.op_cache)}
    return ServerSpec(
        framework="ds",
        model=model or resolve(given.model),
        tp=tp,
        gpus=() if given.cpu else tuple(range(tp)),
        dtype=given.dtype,
        max_batch=max_batch,
        options=options,
    )


def prepare(spec: ServerSpec, given: Any) -> None:
    """Compile what the engine needs, in a process of its own, as the server does."""
    done = subprocess.run([*child(spec), "--task", "prepare"], env=environment(given), check=False)
    if done.returncode:
        sys.exit(done.returncode)


def child(spec: ServerSpec) -> list[str]:
    program = [sys.executable, str(ROOT / "loadgen/_child.py"), str(ROOT / "servers")]
    return [*program, "loadgen.servers._ds.main", "--spec", dump(spec)]


def launch(spec: ServerSpec, given: Any, script: str, work: dict[str, Any]) -> list[str]:
    """Run ``script`` once per rank; rank 0's standard output. When it ends, the others are ended too."""
    from loadgen.servers._ds.main import _rank_environment

    with tempfile.TemporaryDirectory(prefix="loadgen-ds-bench-") as folder:
        argv = [sys.executable, script, "--work", json.dumps({"spec": dump(spec), "folder": folder, **work})]
        ranks = []
        for rank in range(spec.tp):
            env = {**environment(given), **_rank_environment(spec, rank, [0, 0, given.port, 0])}
            out = subprocess.PIPE if rank == 0 else subprocess.DEVNULL
            ranks.append(subprocess.Popen([*argv, "--rank", str(rank)], env=env, stdout=out, text=True))
        try:
            text, _ = ranks[0].communicate(timeout=given.timeout)
        except subprocess.TimeoutExpired:
            return [f"timed out after {given.timeout:g} s"]
        finally:
            for process in ranks:
                if process.poll() is None:
                    process.kill()
                process.wait()
            for left in Path("/dev/shm").glob(f"deepspeed_allreduce_buffer_*_127.0.0.1_{given.port}_*"):
                left.unlink()
    lines = text.splitlines()
    return lines if ranks[0].returncode == 0 else [*lines, f"rank 0 ended with status {ranks[0].returncode}"]


def start_rank(spec: ServerSpec, rank: int, folder: str) -> tuple[Any, Any, dict[str, str]]:
    """(options, what stands on this rank, patches), as in the server."""
    from loadgen.servers._ds import rank as ds_rank
    from loadgen.servers._ds.patches import Patches

    options, patches = ds_options.read(spec), Patches()
    port = int(os.environ["MASTER_PORT"])
    place = ds_rank.RankPlace(
        rank=rank, run_dir=folder, grpc_port=0, http_port=0, zmq_port=port + 1, pipes=()
    )
    device = ds_rank._device(spec, rank)
    ds_rank._load_ops(spec, options)
    ds_rank._meet(spec, options, place, device)
    return options, ds_rank._start_rank(spec, options, place, device, patches), patches.made


def dump(spec: ServerSpec) -> str:
    fields = {name: getattr(spec, name) for name in ("framework", "tp", "gpus", "dtype", "max_batch")}
    return json.dumps({**fields, "model": json.loads(to_json(spec.model)), "options": dict(spec.options)})


def load(text: str) -> ServerSpec:
    fields = json.loads(text)
    model = from_json(json.dumps(fields.pop("model")))
    return ServerSpec(**{**fields, "model": model, "gpus": tuple(fields["gpus"])})


def environment(given: Any) -> dict[str, str]:
    return {**os.environ, "DS_ACCELERATOR": "cpu" if given.cpu else "cuda", "HF_HUB_OFFLINE": "1"}


def table(rows: Sequence[dict[str, Any]], columns: Sequence[str]) -> str:
    """Rows as aligned text; a figure that was not measured is a dash."""
    shown = [list(columns)]
    for row in rows:
        values = (row.get(column) for column in columns)
        shown.append(["–" if v is None else f"{v:.3g}" if isinstance(v, float) else str(v) for v in values])
    widths = [max(len(line[i]) for line in shown) for i in range(len(columns))]
    return "\n".join(
        "  ".join(word.rjust(width) for word, width in zip(line, widths, strict=True)) for line in shown
    )


def leave(code: int = 0) -> None:
    """End a rank past the tear-down of collectives."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
