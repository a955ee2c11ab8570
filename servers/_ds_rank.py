"""One rank of framework ``ds``: its device, the process group, the engine; then serve (rank 0) or follow."""

from __future__ import annotations

import datetime
import logging
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from loadgen.records import ServerSpec
from loadgen.servers import _ds_ops
from loadgen.servers._ds_channel import Follower, Leader
from loadgen.servers._ds_options import AUTOTP, FASTGEN, KERNEL, Options
from loadgen.servers._ds_patches import Patches, fail_aloud
from loadgen.servers._memory import Figures, Memory

log = logging.getLogger("loadgen.ds")
STORE_FILE = "ds-rendezvous"
# Ranks wait in collectives as long as nobody asks for anything; a rank's death is seen by the launcher.
COLLECTIVE_TIMEOUT = datetime.timedelta(days=7)


class Stood(Protocol):
    """An engine that stands on this rank."""

    def lead(self, leader: Leader) -> Any:
        """Rank 0: the pipeline that MII's service calls, not yet started."""

    def follow(self, follower: Follower) -> None:
        """Any other rank: work with rank 0 until it leaves."""

    def check(self, ask: Callable[[int], str]) -> None:
        """Rank 0, before serving: raise RuntimeError if it computes what it should not. ``ask(n)`` gives n tokens."""

    def facts(self) -> dict[str, Any]:
        """What ``/info`` tells of it beside the common things."""

    def memory(self) -> Figures:
        """Rank 0: the memory figures of every rank (see ``_memory``)."""

    @property
    def begin_memory(self) -> Callable[[], None] | None:
        """Rank 0: count the peaks of every rank anew; None where each batch does."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Which rank this is, where it runs, and its pipes to the others: (down, up) descriptors."""

    rank: int
    run_dir: str
    grpc_port: int
    http_port: int
    zmq_port: int
    pipes: tuple[tuple[int, int], ...]


def run(spec: ServerSpec, options: Options, place: Place) -> None:
    """From a bare process to its end. Leaves by ``os._exit``: tearing collectives down in order can hang."""
    started = time.monotonic()
    patches = Patches()
    fail_aloud(patches)
    device = _device(spec, place.rank)
    _load_ops(spec, options)
    _meet(spec, options, place, device)
    stood = _stand_up(spec, options, place, device, patches)
    if place.rank:
        stood.follow(Follower(*place.pipes[0]))
    else:
        from loadgen.servers._ds_serve import serve

        leader = Leader(place.pipes)
        leader.outcomes(0)  # every other rank stands
        serve(spec, options, place, stood, leader, patches, started)
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
    names = _ds_ops.needed(options.engine, spec.tp, bool(spec.gpus))
    if names:
        _ds_ops.load(names, _ds_ops.folder(options.op_cache, _ds_ops.architecture(bool(spec.gpus))))


def _meet(spec: ServerSpec, options: Options, place: Place, device: torch.device) -> None:
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


def _stand_up(
    spec: ServerSpec, options: Options, place: Place, device: torch.device, patches: Patches
) -> Stood:
    memory = Memory((place.rank,), cuda=bool(spec.gpus))
    if options.engine == FASTGEN:
        from loadgen.servers import _ds_fastgen

        return _ds_fastgen.build(spec, options, device, place.run_dir, place.zmq_port, patches, memory)
    from loadgen.servers import _ds_autotp, _ds_kernel
    from loadgen.servers._ds_static import Static

    engines: Any = _ds_kernel if options.engine == KERNEL else _ds_autotp
    engine = engines.build(spec, options, device, patches)
    memory.load_done()
    decoder = engines.decoder(engine, spec, options, device, patches)
    return Static(decoder, spec, memory, equal=options.engine == KERNEL)
