"""One trial against an endpoint that takes work: load it, keep its samples, sum it up, doubt it."""

from __future__ import annotations

import datetime
import importlib
import json
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast
from urllib.parse import unquote, urlsplit

import httpx

from loadgen import checks, interrupt, triton_metrics
from loadgen.errors import LoadgenError, ServerError, ServerOutOfMemory, unserved
from loadgen.load import run_trial_load
from loadgen.metrics import Accumulator
from loadgen.protocols import DriverFactory, Watcher
from loadgen.records import Failure, Sample, Trial, TrialResult
from loadgen.store import SampleWriter

# The words of torch, CUDA, DeepSpeed and the kernel; a server that answers them to a request is still alive.
NO_MEMORY = re.compile(
    r"out of (?:\w+ )?memory|OutOfMemory|insufficient memory|can(?:no|')t allocate memory", re.I
)
OUT_OF_MEMORY = ServerOutOfMemory.__name__


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """Where a trial's requests go. ``fault`` tells whether the server behind it has died meanwhile."""

    base_url: str
    protocol: str = "openai"
    driver_options: Mapping[str, Any] = field(default_factory=dict)
    info_url: str | None = None
    metrics_url: str | None = None
    fault: Callable[[], ServerError | None] = lambda: None


def driver_factory(protocol: str) -> DriverFactory:
    """The driver of a protocol: ``triton-grpc`` is ``make_driver`` of ``loadgen/drivers/triton_grpc.py``."""
    module = importlib.import_module(f"loadgen.drivers.{protocol.replace('-', '_')}")
    return cast(DriverFactory, module.make_driver)


def server_info(url: str | None) -> dict[str, Any]:
    """What the server says of itself; empty when it has no such page or does not answer with JSON.

    A ``file:`` URL is a page that the server, or its launcher, wrote into its run folder (Triton serves none).
    """
    if url is None:
        return {}
    try:
        if url.startswith("file:"):
            found = json.loads(Path(unquote(urlsplit(url).path)).read_bytes())
        else:
            reply = httpx.get(url, timeout=5.0, trust_env=False)
            found = reply.json() if reply.is_success else {}
    except (httpx.HTTPError, OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def metrics_text(url: str | None) -> str:
    """The server's own counters as text; empty when it shows none. A stalled page costs seconds, never the trial."""
    if url is None:
        return ""
    try:
        reply = httpx.get(url, timeout=2.0, trust_env=False)
    except httpx.HTTPError:
        return ""
    return reply.text if reply.is_success else ""


def engine_of(endpoint: Endpoint, counters_before: str) -> dict[str, Any]:
    """What really ran, in the server's own words, and what its counters say of this trial."""
    info = server_info(endpoint.info_url)
    seen = triton_metrics.evidence(counters_before, metrics_text(endpoint.metrics_url), info)
    return {**info, "server_side": seen} if seen else info


def run_trial(
    trial: Trial,
    endpoint: Endpoint,
    watcher: Watcher,
    *,
    environment: str,
    writer: SampleWriter | None = None,
) -> TrialResult:
    """Run one trial to its end; every fault but an interrupt is part of the result."""
    watcher.trial(trial)
    started, start = datetime.datetime.now(datetime.UTC), time.monotonic()
    accumulator = Accumulator()
    no_memory: list[Failure] = []
    warmup_error: str | None = None

    def on_sample(sample: Sample, in_flight: int) -> None:
        nonlocal warmup_error
        accumulator.add(sample)
        if sample.phase == "warmup":
            warmup_error = sample.error
        if sample.error is not None and not no_memory and NO_MEMORY.search(sample.error):
            phase = "load" if sample.phase == "measured" else sample.phase
            no_memory.append(Failure(error=OUT_OF_MEMORY, message=sample.error, phase=phase))
        if writer is not None:
            writer.add(sample)
        watcher.sample(sample, in_flight)

    outcome, failure = None, None
    counters = metrics_text(endpoint.metrics_url)
    try:
        outcome = run_trial_load(
            trial,
            endpoint.base_url,
            driver_factory(endpoint.protocol),
            endpoint.driver_options,
            on_sample,
            stop=lambda: interrupt.asked() or endpoint.fault() is not None,
        )
        interrupt.check()
    except LoadgenError as error:
        failure = Failure(error=type(error).__name__, message=str(error), phase="load")
    except BaseException:
        if writer is not None:
            writer.abandon()
        raise
    if writer is not None:
        writer.close()

    in_flight = (outcome.in_flight_mean, outcome.in_flight_max) if outcome is not None else (None, None)
    summary = accumulator.summary(*in_flight)
    fault = endpoint.fault()
    if fault is not None:
        failure = Failure(error=type(fault).__name__, message=str(fault), phase="load")
    elif failure is None and summary.requests_ok == 0:
        failure = no_memory[0] if no_memory else all_failed(summary.errors)
    elif failure is None and unserved(warmup_error):
        words = f"the last request of both warm-ups was not served: {warmup_error}"
        failure = Failure(error="ColdServer", message=words, phase="warmup")
    return TrialResult(
        trial=trial,
        environment=environment,
        engine=engine_of(endpoint, counters) if fault is None else {},
        started=started.isoformat(timespec="milliseconds"),
        wall_s=time.monotonic() - start,
        summary=None if failure is not None else summary,
        client=outcome.quality if outcome is not None else None,
        caveats=tuple(checks.caveats(trial, accumulator, summary, outcome)) if failure is None else (),
        failure=failure,
    )


def all_failed(errors: Mapping[str, int]) -> Failure:
    """The failure of a trial in which no request succeeded, under its most frequent error."""
    if not errors:
        return Failure(error="NoSamples", message="no measured request ended", phase="load")
    worst = max(errors, key=lambda name: errors[name])
    listed = ", ".join(f"{name} × {count}" for name, count in sorted(errors.items()))
    return Failure(error=worst, message=f"no request succeeded: {listed}", phase="load")
