"""One trial against an endpoint that takes work: load it, keep its samples, sum it up, doubt it."""

from __future__ import annotations

import datetime
import errno
import re
import time
from collections.abc import Mapping
from dataclasses import replace

from loadgen.drivers.find import driver_factory
from loadgen.errors import (
    LoadgenError,
    Refused,
    ServerHung,
    ServerOutOfMemory,
    TimedOut,
    WarmupRefused,
    unserved,
)
from loadgen.hang_watch import HangWatch
from loadgen.launch import restarts
from loadgen.launch.endpoint import Endpoint, engine_of, metrics_text, server_cores
from loadgen.launch.smallest import gone_on, probed
from loadgen.load.run import run_trial_load
from loadgen.load.workload import of_sessions, of_workload, workload_of
from loadgen.load_records import Window
from loadgen.metrics import caveats as checks
from loadgen.metrics.engine_caveats import of_engine
from loadgen.metrics.slo_watch import SloWatch
from loadgen.metrics.summary import Accumulator
from loadgen.metrics.why import explained, remedy
from loadgen.protocols import Watcher
from loadgen.records import NONE_ENDED, Failure, Trial, TrialResult
from loadgen.request_records import Sample
from loadgen.results.record_json import impossible
from loadgen.results.store import SampleWriter
from loadgen.system import interrupt
from loadgen.telemetry.caveats import of_cores

# The words of torch, CUDA, DeepSpeed and the kernel; a server that answers them to a request is still alive.
NO_MEMORY = re.compile(
    r"out of (?:\w+ )?memory|OutOfMemory|insufficient memory|can(?:no|')t allocate memory", re.I
)
OUT_OF_MEMORY = ServerOutOfMemory.__name__
# What this machine, or a limit of ours, has no more of: another trial may need less.
SCARCE = {errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS, errno.EAGAIN}


def run_trial(
    trial: Trial,
    endpoint: Endpoint,
    watcher: Watcher,
    *,
    environment: str,
    writer: SampleWriter | None = None,
    may_end: bool = False,
) -> TrialResult:
    """Run one trial to its end; every fault but an interrupt is part of the result.

    ``may_end``: it need not go on once its queue is seen to grow.
    """
    watcher.trial(trial)
    started, start = datetime.datetime.now(datetime.UTC), time.monotonic()
    accumulator = accumulator_of(trial, text=endpoint.text)
    no_memory: list[Failure] = []
    warmup_error: str | None = None
    lost = served = 0
    silent: str | None = None
    before = endpoint.family()
    losses = restarts.Losses()
    watch = HangWatch(endpoint.hung)
    objectives = SloWatch(trial, may_end=may_end)

    window: Window | None = None

    def on_start(start_ns: int) -> None:
        nonlocal window
        window = trial.load.window(start_ns)
        if window is not None:
            accumulator.count_within(window)

    def on_sample(sample: Sample, in_flight: int) -> None:
        nonlocal warmup_error, lost, served, silent
        error = sample.reply.error
        accumulator.add(sample)
        objectives.heard(sample, in_flight)
        losses.heard(sample.reply)
        if sample.phase == "warmup":
            warmup_error = error
        if error is None:
            served += 1
            watch.heard(timed_out=False)
        else:
            gone = unserved(error)
            lost += gone
            served += not gone
            timed_out = error.startswith(TimedOut.__name__)
            if timed_out and not served:
                silent = error
            watch.heard(timed_out=timed_out)
            if not no_memory and NO_MEMORY.search(error):
                phase = "load" if sample.phase != "warmup" else sample.phase
                no_memory.append(Failure(error=OUT_OF_MEMORY, message=error, phase=phase))
        if writer is not None:
            writer.add(sample)
        watcher.sample(sample, in_flight)

    outcome, failure = None, None
    counters = metrics_text(endpoint.metrics_url)
    looked = restarts.look(endpoint, counters or "") if trial.server is None else None
    try:
        outcome = run_trial_load(
            trial,
            endpoint.base_url,
            driver_factory(endpoint.protocol),
            endpoint.driver_options,
            on_sample,
            on_start=on_start,
            # Without one answer the others need not all be waited for.
            stop=lambda: (
                interrupt.asked()
                or watch.hung
                or bool(silent)
                or objectives.over
                or endpoint.fault() is not None
            ),
        )
        interrupt.check()
    except WarmupRefused as error:
        failure = no_memory[0] if no_memory else refused_at_once(str(error))
    except LoadgenError as error:
        failure = Failure(error=type(error).__name__, message=str(error), phase="load")
    except (OSError, MemoryError) as error:
        if isinstance(error, OSError) and error.errno not in SCARCE:
            raise
        words = f"the client lacks something: {error}"
        failure = Failure(error=type(error).__name__, message=words, phase="load")
    except BaseException:
        if writer is not None:
            writer.abandon()
        raise
    if writer is not None:
        writer.close()

    in_flight = (outcome.in_flight_mean, outcome.in_flight_max) if outcome is not None else (None, None)
    summary = accumulator.summary(*in_flight)
    fault = endpoint.fault()
    # Before anything else is asked of the server, so that its counters hold this trial's requests and no probe.
    after = metrics_text(endpoint.metrics_url) if fault is None else None
    engine = engine_of(endpoint, counters, after) if fault is None else {}
    if trial.share is not None:
        engine.pop("server_side", None)  # its counters hold the requests of all hosts
    if fault is None and looked is not None and not no_memory:
        fault = restarts.restarted(looked, restarts.look(endpoint, after or ""), losses)
    stopped = outcome is None and not objectives.over
    if fault is None and not no_memory and (lost or watch.hung or stopped):
        fault = endpoint.judge(before)
        if fault is None and watch.timed_out_last and (served or trial.server is not None):
            fault = probed(trial, endpoint)
        if fault is None and watch.hung:
            fault = ServerHung(
                "for a while it answered nothing, and no page; the rest of the load was not sent"
            )
    if fault is None and failure is None and summary.requests_cancelled:
        failure = gone_on(trial, endpoint)
    if fault is not None:
        failure = Failure(error=type(fault).__name__, message=str(fault), phase="load")
    elif failure is None and silent is not None and not served:
        words = f"no request was answered, the first within its limit or ever: {silent.partition(': ')[2]}"
        failure = Failure(
            error=TimedOut.__name__, message=f"{words}; {to_try(trial, endpoint)}", phase="load"
        )
    elif failure is None and summary.requests_ok == 0:
        failure = no_memory[0] if no_memory else all_failed(summary.errors, accumulator.firsts)
    elif failure is None and unserved(warmup_error):
        words = f"the last request of both warm-ups was not served: {warmup_error}"
        failure = Failure(error="ColdServer", message=words, phase="warmup")
    sent = outcome.requests_sent + outcome.warmup_sent if outcome is not None else 0
    result = TrialResult(
        trial=trial,
        environment=environment,
        engine=engine if fault is None else {},
        start=endpoint.start,
        started=started.isoformat(timespec="milliseconds"),
        wall_s=time.monotonic() - start,
        summary=None if failure is not None else summary,
        client=outcome.quality if outcome is not None else None,
        attained=objectives.attained(trial.load.duration_s or summary.duration_s),
        failure=failure,
        cores=None if fault is not None else server_cores(endpoint, trial.server),
        window=window,
        workload=workload_of(trial.load),
        sessions=outcome.sessions if outcome is not None else None,
    )
    return possible(doubted(result, accumulator, objectives, sent))


def possible(result: TrialResult) -> TrialResult:
    """A result as it is, or failed where its figures are none that a trial can have: a wrong number must not be told,
    and stored it could not be read again."""
    words = impossible(result)
    if words is None:
        return result
    message = f"its figures are impossible: {words} (clocks that were set meanwhile, or an error in loadgen)"
    failure = Failure(error="ImpossibleFigures", message=message, phase="load")
    return replace(
        result,
        failure=failure,
        summary=None,
        client=None,
        caveats=(),
        cores=None,
        attained=None,
        sessions=None,
    )


def accumulator_of(trial: Trial, *, text: bool) -> Accumulator:
    """What takes a trial's samples; ``text``: its prompts go out as text."""
    load = trial.load
    return Accumulator(
        at_most=load.at_most, text=text, varied=load.varies, templated=text and load.dataset is not None
    )


def doubted(result: TrialResult, seen: Accumulator, objectives: SloWatch, sent: int) -> TrialResult:
    """The result with its caveats; none of one that failed. ``seen`` and ``objectives`` took its samples, ``sent`` were
    sent in all, warm-up included."""
    trial, summary = result.trial, result.summary
    if summary is None:
        return result
    found = (
        *checks.caveats(trial, seen, summary, result.client),
        *objectives.caveats(),
        *of_engine(trial.load, sent, result.engine, result.client, summary),
        *of_cores(result.cores, result.engine),
        *of_workload(trial.load, result.workload, sent),
        *of_sessions(result.sessions),
    )
    return replace(result, caveats=found)


def refused_at_once(words: str) -> Failure:
    """The failure of a trial whose warm-up was wholly refused, in the server's words."""
    hint = remedy(words)
    told = f"every request of the warm-up was refused: {words.removeprefix('Refused: ')}"
    return Failure(
        error=Refused.__name__, message=told + (f"; remedy: {hint}" if hint else ""), phase="warmup"
    )


def all_failed(errors: Mapping[str, int], firsts: Mapping[str, str]) -> Failure:
    """The failure of a trial in which no request succeeded, under its most frequent error."""
    if not errors:
        return Failure(error=NONE_ENDED, message="no measured request ended", phase="load")
    worst = max(errors, key=lambda name: errors[name])
    return Failure(error=worst, message=f"no request succeeded: {explained(errors, firsts)}", phase="load")


def to_try(trial: Trial, endpoint: Endpoint) -> str:
    """What to do about a server that takes requests of a load and answers none."""
    words = "to try: longer limits ([load.timeouts], run --timeout), the server's log"
    if trial.server is not None:
        words = f"a smaller one is; {words}"
    return f"{words}, {endpoint.if_silent}" if endpoint.if_silent else words
