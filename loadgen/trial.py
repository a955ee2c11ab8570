"""One trial against an endpoint that takes work: load it, keep its samples, sum it up, doubt it."""

from __future__ import annotations

import datetime
import re
import time
from collections.abc import Mapping

from loadgen.drivers.find import driver_factory
from loadgen.errors import LoadgenError, ServerOutOfMemory, unserved
from loadgen.launch.endpoint import Endpoint, engine_of, metrics_text
from loadgen.load.run import run_trial_load
from loadgen.metrics import caveats as checks
from loadgen.metrics.summary import Accumulator
from loadgen.protocols import Watcher
from loadgen.records import Failure, Sample, Trial, TrialResult
from loadgen.results.store import SampleWriter
from loadgen.system import interrupt

# The words of torch, CUDA, DeepSpeed and the kernel; a server that answers them to a request is still alive.
NO_MEMORY = re.compile(
    r"out of (?:\w+ )?memory|OutOfMemory|insufficient memory|can(?:no|')t allocate memory", re.I
)
OUT_OF_MEMORY = ServerOutOfMemory.__name__


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
    quality = outcome.quality if outcome is not None else None
    return TrialResult(
        trial=trial,
        environment=environment,
        engine=engine_of(endpoint, counters) if fault is None else {},
        start=endpoint.start,
        started=started.isoformat(timespec="milliseconds"),
        wall_s=time.monotonic() - start,
        summary=None if failure is not None else summary,
        client=quality,
        caveats=tuple(checks.caveats(trial, accumulator, summary, quality)) if failure is None else (),
        failure=failure,
    )


def all_failed(errors: Mapping[str, int]) -> Failure:
    """The failure of a trial in which no request succeeded, under its most frequent error."""
    if not errors:
        return Failure(error="NoSamples", message="no measured request ended", phase="load")
    worst = max(errors, key=lambda name: errors[name])
    listed = ", ".join(f"{name} × {count}" for name, count in sorted(errors.items()))
    return Failure(error=worst, message=f"no request succeeded: {listed}", phase="load")
