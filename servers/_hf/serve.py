"""Rank 0's serving part: the queue, the metrics, the application on uvicorn, and what ``/info`` tells."""

from __future__ import annotations

import logging
import os
import signal
import socket
import sys
import threading
from typing import Any

import uvicorn

from loadgen.records import ServerSpec
from loadgen.servers._hf.continuous import ContinuousDevice, ContinuousEngine
from loadgen.servers._hf.http_app import build_app, prompt_tokens
from loadgen.servers._hf.metrics import Metrics, resident_bytes
from loadgen.servers._hf.queue import Device, Done, Job, Scheduler
from loadgen.servers._hf.ranks import Followers
from loadgen.servers._hf.requests import Limits
from loadgen.servers._hf.start import ReadyRank
from loadgen.servers._hf.text import Text, text_of
from loadgen.servers._torch.facts import process_facts
from loadgen.servers._torch.memory import Figures

log = logging.getLogger("loadgen.hf")
LIBRARIES = ("torch", "transformers", "accelerate", "safetensors", "starlette", "uvicorn", "triton")
STARTED_BY = ("loadgen.servers.hf",)
KEEP_ALIVE_S = 3600  # clients open their connections ahead of time and keep them
DRAIN_S = 1  # for replies under way when told to stop
STOP_S = 15.0  # for the device to finish its step, and for all that follows it
KEEP_ALIVE_S = 3600  # a client's idle connection is its own to close: losing the race costs it a request


def serve(spec: ServerSpec, ready: ReadyRank, followers: Followers | None, listener: socket.socket) -> bool:
    """Serve until SIGTERM or SIGINT: HTTP on a thread of its own, the device on this one. False: it ended unasked."""

    def memory() -> Figures:
        return {**ready.memory.figures(), **(followers.memory if followers else {})}

    def on_gpus() -> Figures:
        return memory() if spec.gpus else {}

    text = text_of(spec.model.checkpoint)
    metrics = Metrics(ready.engine.name, lambda: device.waiting, lambda: device.running_sequences, on_gpus)

    def observe(job: Job, done: Done) -> None:
        generated = sum(map(len, done.run.tokens)) if done.run else 0
        metrics.finished(done.kind or "ok", len(job.call.prompts), prompt_tokens(job.call), generated)

    device: Scheduler
    if isinstance(ready.engine, ContinuousEngine):
        device = ContinuousDevice(ready.engine, ready.eos, observe)
    else:
        device = Device(ready.engine, ready.eos, followers, observe, memory=ready.memory)
    limits = Limits(
        model=spec.model.name,
        vocab=spec.model.vocab,
        max_context=spec.model.max_context,
        max_batch=spec.max_batch,
        encode=text.encode,
        converse=text.converse,
    )
    facts = _facts(spec, ready, text)

    def info() -> dict[str, Any]:
        return {
            **facts,
            "memory": {"resident_bytes": resident_bytes(), "cuda": None, ready.memory.kind: memory() or None},
        }

    # Calls that run one at a time have each their own peaks; where they mix, somebody must say from when to count.
    begin = ready.memory.begin if ready.engine.in_flight_batching else None
    if begin is not None:
        begin()
    app = build_app(device, limits, text, metrics, info, begin)
    server = uvicorn.Server(
        uvicorn.Config(
            app,
            log_level="warning",
            access_log=False,
            timeout_graceful_shutdown=DRAIN_S,
            timeout_keep_alive=KEEP_ALIVE_S,
        )
    )
    asked = threading.Event()

    def on_signal(number: int, frame: object) -> None:
        asked.set()
        server.should_exit = True

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, on_signal)
    host, port = listener.getsockname()[:2]
    log.info("ready: %s serves %s on http://%s:%d", ready.engine.name, spec.model.name, host, port)
    threading.Thread(target=_answer, args=(server, listener, device), name="http").start()
    device.work()
    return asked.is_set()


def _answer(server: uvicorn.Server, listener: socket.socket, device: Scheduler) -> None:
    """The HTTP thread: serve until told to stop, then stop the device, by force if it does not react."""
    try:
        server.run(sockets=[listener])
    finally:
        device.stop()
        watchdog = threading.Timer(STOP_S, _lost)
        watchdog.daemon = True
        watchdog.start()


def _lost() -> None:
    log.error("the device did not stop within %g s; the process ends at once", STOP_S)
    sys.stderr.flush()
    os._exit(1)


def _facts(spec: ServerSpec, ready: ReadyRank, text: Text) -> dict[str, Any]:
    """What does not change while the server runs."""
    return {
        **process_facts(spec, LIBRARIES, STARTED_BY),
        "engine": ready.engine.name,
        "framework": "hf",
        "options": dict(spec.options),
        "weight_bytes": ready.weight_bytes,
        "weight_bytes_note": "of rank 0" if spec.tp > 1 else "of all GPUs" if spec.pp > 1 else "",
        "max_context": spec.model.max_context,
        "max_batch": spec.max_batch,
        "vocab": spec.model.vocab,
        "eos": sorted(ready.eos) or None,
        "text": text.name,
        "chat_template": text.template,
        "temperature_default": 0.0,
        "in_flight_batching": ready.engine.in_flight_batching,
        "kv_ahead": ready.engine.kv_ahead,
        "graphs": ready.engine.graphs,
        "eager": ready.engine.eager,
        "kv_block_tokens": getattr(ready.engine, "kv_block_tokens", None),
        "scheduling": "iteration level"
        if ready.engine.in_flight_batching
        else "one call at a time, first in first out",
        "load_s": round(ready.load_s, 3),
        "warmup_s": round(ready.warmup_s, 3),
    }
