"""Rank 0's serving part: warm the pipeline, open the doors, tell the facts, and leave when told to."""

from __future__ import annotations

import logging
import signal
import time
from typing import TYPE_CHECKING, Any

import torch

from loadgen.records import ServerSpec
from loadgen.servers._ds.channel import Leader
from loadgen.servers._ds.options import FASTGEN, Options
from loadgen.servers._ds.patches import Patches
from loadgen.servers._ds.service import THREADS, Service, serve_grpc, serve_pages
from loadgen.servers._ds.text import text_of
from loadgen.servers._torch.facts import process_facts
from loadgen.servers._torch.memory import Figures

if TYPE_CHECKING:
    from loadgen.servers._ds.place import Rank, RankPlace

log = logging.getLogger("loadgen.ds")
STARTED_BY = ("loadgen.servers.ds", "loadgen.servers._ds.prepare", "loadgen.servers._ds.ops")
DRAIN_S = 1.0  # for replies under way when told to stop
LIBRARIES = ("deepspeed", "deepspeed-mii", "deepspeed-kernels", "torch", "transformers", "grpcio", "triton")


def serve(
    spec: ServerSpec,
    options: Options,
    place: RankPlace,
    ready: Rank,
    leader: Leader,
    patches: Patches,
    started: float,
) -> None:
    """Serve until SIGTERM, SIGINT or MII's own Terminate."""
    pipeline = ready.lead(leader)
    pipeline.start()
    text = text_of(spec.model.checkpoint, spec.model.vocab)
    loaded = time.monotonic()
    prompt = text.decode(range(5, 21))

    def ask(tokens: int) -> str:
        return _ask(pipeline, prompt, tokens)

    ready.check(ask)
    ask(3)  # through every layer and library on every rank, before anybody is told that it is ready
    patches.note("loopback")
    patches.note("no-load-balancer")
    if options.engine == FASTGEN:
        patches.note("drain-streams")
    service = Service(async_pipeline=pipeline)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda _number, _frame: service.get_stop_event().set())
    if spec.host not in ("127.0.0.1", "::1", "localhost"):
        log.warning("listening on %s: anyone who reaches it can use and end this server", spec.host)
    server = serve_grpc(service, spec.host, place.grpc_port)
    facts = {
        **_facts(spec, options, patches, text.name),
        **ready.facts(),
        "load_s": round(loaded - started, 3),
        "warmup_s": round(time.monotonic() - loaded, 3),
    }
    if ready.begin_memory is not None:
        ready.begin_memory()  # what the warm-up needed is nobody's trial
    serve_pages(
        spec.host,
        place.http_port,
        lambda: {**facts, "memory": _memory(spec, ready.memory())},
        ready.begin_memory,
    )
    log.info(
        "ready: %s serves %s on grpc://%s:%d", options.engine, spec.model.name, spec.host, place.grpc_port
    )
    service.get_stop_event().wait()
    log.info("stopping")
    server.stop(DRAIN_S).wait()


def _ask(pipeline: Any, prompt: str, tokens: int) -> str:
    """A greedy answer, as MII's service would fetch it."""
    uid = pipeline.put_request(prompt, {"max_new_tokens": tokens, "ignore_eos": True, "do_sample": False})
    _, response = pipeline.get_response()
    pipeline.flush_uid(uid)
    return str(response.generated_text)


def _facts(spec: ServerSpec, options: Options, patches: Patches, text: str) -> dict[str, Any]:
    """What does not change while the server runs."""
    fastgen = options.engine == FASTGEN
    return {
        **process_facts(spec, LIBRARIES, STARTED_BY),
        "engine": options.engine,
        "engine_reason": options.reason,
        "framework": "ds",
        "options": dict(spec.options),
        "patches": patches.made,
        "service": f"modelresponse.ModelResponse of deepspeed-mii, {THREADS} threads",
        "max_context": spec.model.max_context,
        "max_batch": spec.max_batch,
        "vocab": spec.model.vocab,
        "text": text,
        "in_flight_batching": fastgen,
        "kv_ahead": fastgen,
        "graphs": spec.options.get("cuda_graph") is True,
    }


def _memory(spec: ServerSpec, ranks: Figures) -> dict[str, Any]:
    """Memory of every rank, in bytes (``_torch/memory.py``), and what the driver counts as used on rank 0's GPU."""
    if not spec.gpus:
        return {"cuda": None, "cpu": ranks or None}
    free, total = torch.cuda.mem_get_info(0)
    return {"cuda": ranks, "device_used_bytes": total - free}
