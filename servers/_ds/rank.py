"""One rank of framework ``ds``: its device, the process group, the engine; then serve (rank 0) or follow."""

from __future__ import annotations

import datetime
import logging
import os
import sys
import time
from typing import Any

import torch

from loadgen.records import ServerSpec
from loadgen.servers._ds import ops
from loadgen.servers._ds.channel import Follower, Leader
from loadgen.servers._ds.options import AUTOTP, FASTGEN, KERNEL, Options
from loadgen.servers._ds.patches import Patches, fail_aloud
from loadgen.servers._ds.place import Rank, RankPlace
from loadgen.servers._torch.memory import Memory

log = logging.getLogger("loadgen.ds")
STORE_FILE = "ds-rendezvous"
# Ranks wait in collectives as long as nobody asks for anything; a rank's death is seen by the launcher.
COLLECTIVE_TIMEOUT = datetime.timedelta(days=7)


def run(spec: ServerSpec, options: Options, place: RankPlace) -> None:
    """From a bare process to its end. Leaves by ``os._exit``: tearing collectives down in order can hang."""
    started = time.monotonic()
    patches = Patches()
    fail_aloud(patches)
    device = _device(spec, place.rank)
    _load_ops(spec, options)
    _meet(spec, options, place, device)
    ready = _start_rank(spec, options, place, device, patches)
    if place.rank:
        ready.follow(Follower(*place.pipes[0]))
    else:
        from loadgen.servers._ds.serve import serve

        leader = Leader(place.pipes)
        leader.outcomes(0)  # every other rank stands
        serve(spec, options, place, ready, leader, patches, started)
        leader.close()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def _device(spec: ServerSpec, rank: int) -> torch.device:
    if not spec.gpus:
        return torch.device("cpu")
    torch.cuda.set_device(rank)
    return torch.device("cuda", rank)


def _load_ops(spec: ServerSpec, options: Options) -> None:
    names = ops.needed(options.engine, spec.tp, bool(spec.gpus))
    if names:
        ops.load(names, ops.folder(options.op_cache, ops.compute_capability(bool(spec.gpus))))


def _meet(spec: ServerSpec, options: Options, place: RankPlace, device: torch.device) -> None:
    """Bring torch.distributed and DeepSpeed's layer over it up, by a file: no port listens for that."""
    if spec.tp == 1 and options.engine == AUTOTP:
        return
    import deepspeed

    torch.distributed.init_process_group(
        "nccl" if spec.gpus else "gloo",
        init_method=f"file://{os.path.abspath(os.path.join(place.run_dir, STORE_FILE))}",
        rank=place.rank,
        world_size=spec.tp,
        timeout=COLLECTIVE_TIMEOUT,
        device_id=device if spec.gpus else None,
    )
    deepspeed.init_distributed(verbose=False)


def _start_rank(
    spec: ServerSpec, options: Options, place: RankPlace, device: torch.device, patches: Patches
) -> Rank:
    memory = Memory((place.rank,), cuda=bool(spec.gpus))
    if options.engine == FASTGEN:
        from loadgen.servers._ds import fastgen

        return fastgen.build(spec, options, device, place.run_dir, place.zmq_port, patches, memory)
    from loadgen.servers._ds import autotp, kernel
    from loadgen.servers._ds.static import Static

    engines: Any = kernel if options.engine == KERNEL else autotp
    engine = engines.build(spec, options, device, patches)
    memory.load_done()
    decoder = engines.decoder(engine, spec, options, device, patches)
    return Static(decoder, spec, memory, equal=options.engine == KERNEL)
