"""One rank's engine, made ready: built and warmed: process group, device, model, engine."""

from __future__ import annotations

import datetime
import os
import time
from dataclasses import dataclass
from typing import Any

import torch

from loadgen.records import ServerSpec
from loadgen.servers._hf.call import Run
from loadgen.servers._hf.queue import Engine
from loadgen.servers._hf.ranks import STORE_FILE
from loadgen.servers._hf.requests import Call
from loadgen.servers._torch import model as hf_model
from loadgen.servers._torch.memory import Memory

COLLECTIVE_TIMEOUT = datetime.timedelta(minutes=30)


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadyRank:
    """A rank that is ready to run calls."""

    engine: Engine
    eos: frozenset[int]
    memory: Memory
    weight_bytes: int
    load_s: float
    warmup_s: float

    def leave(self) -> None:
        """Release the engine, then the process group: a CUDA graph that holds collectives must go first."""
        self.engine.close()
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()


def start_rank(spec: ServerSpec, rank: int, run_dir: str) -> ReadyRank:
    """Everything between a bare process and a warm engine; all ranks of a server call this alike."""
    started = time.monotonic()
    device = torch.device("cuda", rank) if spec.gpus else torch.device("cpu")
    if spec.gpus:
        torch.cuda.set_device(device)
    if spec.tp > 1:
        _join_group(spec, rank, device, run_dir)
    options = spec.options
    model = hf_model.build(
        spec, device, rank, seed=int(options.get("seed", 0)), attention=str(options.get("attention", "sdpa"))
    )
    eos = hf_model.end_ids(model)
    weights = hf_model.weight_bytes(model)
    # The engine of one process over several GPUs has all of them; otherwise a rank has the GPU of its own number.
    memory = Memory(range(spec.pp) if spec.pp > 1 else (rank,), cuda=bool(spec.gpus))
    memory.load_done()
    engine = _engine(spec, model, eos, device, memory)
    loaded = time.monotonic()
    # Nothing is ready before one small generation went through every layer and library on every rank.
    engine.run(Run(Call(prompts=((1, 2, 3, 4),), max_tokens=3, ignore_eos=True), eos))
    return ReadyRank(
        engine=engine,
        eos=eos,
        memory=memory,
        weight_bytes=weights,
        load_s=loaded - started,
        warmup_s=time.monotonic() - loaded,
    )


def _join_group(spec: ServerSpec, rank: int, device: torch.device, run_dir: str) -> None:
    torch.distributed.init_process_group(
        "nccl" if spec.gpus else "gloo",
        init_method=f"file://{os.path.abspath(os.path.join(run_dir, STORE_FILE))}",
        rank=rank,
        world_size=spec.tp,
        timeout=COLLECTIVE_TIMEOUT,
        device_id=device if spec.gpus else None,
    )


def _engine(
    spec: ServerSpec, model: Any, eos: frozenset[int], device: torch.device, memory: Memory
) -> Engine:
    kind = spec.options.get("engine", "generate")
    if kind == "generate":
        from loadgen.servers._hf.generate import GenerateEngine

        return GenerateEngine(model, eos, device, memory.used)
    if kind == "compiled":
        from loadgen.servers._hf.compiled import CompiledEngine

        return CompiledEngine(
            model,
            eos,
            device,
            compile_mode=str(spec.options.get("compile", "default")),
            tp=spec.tp,
            on_cache=memory.used,
        )
    if kind == "continuous":
        from loadgen.servers._hf.continuous import ContinuousEngine

        continuous = ContinuousEngine(model, eos, max_batch=spec.max_batch)
        if (blocks := continuous.blocks()) is not None:
            memory.count(blocks)
        return continuous
    raise ValueError(f"unknown engine {kind!r}")
