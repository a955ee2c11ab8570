"""A trial's load, from its spec to its samples: connections, warm-up, the measured phase, the client's own figures."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import math
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Mapping
from dataclasses import dataclass
from itertools import cycle, islice
from typing import Any, cast

from loadgen.errors import BadInput, LoadgenError, WarmupRefused, unserved
from loadgen.load.arrival import Arrival
from loadgen.load.arrivals import schedule, share_of_sessions
from loadgen.load.arrivals import share as stride
from loadgen.load.dispatch import GUARD_S, Dispatcher, OnSample, PromptMaker
from loadgen.load.fan_out import FanOut
from loadgen.load.quality import Figures, ReplyFigures, SelfWatch, client_quality
from loadgen.load.sending import Sending
from loadgen.load.session_dispatch import Filler, SessionDispatcher
from loadgen.load.shared import for_warmup
from loadgen.load_records import LoadSpec
from loadgen.protocols import Clock, Driver, DriverFactory
from loadgen.records import ClientQuality, Trial
from loadgen.request_records import Reply
from loadgen.system import interrupt
from loadgen.system.timer import TimerFactory, make_timer
from loadgen.traces.datasets import measure_texts
from loadgen.traces.files import PLAIN, measure_trace, open_rows
from loadgen.units import nanoseconds
from loadgen.workload_records import SessionFigures

CLOSE_S = 10.0
START_LEAD_S = 0.01  # the loop is awake and its alarm set half of this before the first due time
OPEN_AHEAD = 256  # connections opened before an open loop starts; a driver opens more when it needs them
STOP_PERIOD_S = 0.25
WARM_TOKENS = 64
Agree = Callable[[], Awaitable[int]]
Stop = Callable[[], bool]
OnStart = Callable[[int], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadOutcome:
    """What a load did, besides its samples. All but ``warmup_*`` is of the measured phase, with its lead-in and drain;
    those are of the last warm-up, of which there are two where the first one's last request was not served.

    ``in_flight_mean`` runs from the first send to the last, by the stamps of each request; ``in_flight_target`` is
    None in open loop. ``start_ns`` is the instant that due times count from. ``sessions`` is of loads that have some.
    """

    quality: ClientQuality
    in_flight_mean: float | None
    in_flight_max: int | None
    in_flight_target: int | None
    start_ns: int
    requests_sent: int
    requests_failed: int
    warmup_sent: int
    warmup_failed: int
    processes: tuple[Figures, ...] = ()
    sessions: SessionFigures | None = None


async def run_load(
    load: LoadSpec,
    driver: Driver,
    prompts: PromptMaker,
    on_sample: OnSample,
    *,
    share: tuple[int, int] = (0, 1),
    clock: Clock = time.monotonic_ns,
    timers: TimerFactory = make_timer,
    agree_start: Agree | None = None,
    on_start: OnStart = lambda start_ns: None,
    exact: bool = False,
    filler: Filler = lambda seq, tokens: (0,) * tokens,
) -> LoadOutcome:
    """Send ``load`` through ``driver`` and hand every sample to ``on_sample(sample, in_flight)`` as it comes.

    ``prompts(seq, input_tokens)`` makes a request's prompts, of its blocks as a third argument where it shares any:
    warm-up requests are numbered from 0, measured ones on from there. ``share`` is (worker, workers): this process
    sends every workers-th request. ``agree_start`` is awaited between warm-up and measurement and gives the start
    instant, which ``on_start`` is told before the first sample behind the warm-up. ``exact``: a prompt that the server
    counts otherwise is an error. ``filler(seq, tokens)`` stands for a reply in the prompts of its session that follow.

    Raises BadInput for a load that cannot be sent, WarmupRefused where the server refused all of the warm-up,
    LoadgenError for a driver that hangs. When cancelled it stops
    sending, hands out what has come, and closes the driver.
    """
    worker, workers = share
    places = places_of(load, share)
    batch_calls = load.batch_size == 1 or driver.batches
    wire: Driver = driver if batch_calls else FanOut(driver, load.batch_size)
    connections = places or _open_ahead(load, workers)
    replies = ReplyFigures()
    # A load that is bound by its duration has no last number: a second warm-up's come before its first.
    first_measured = load.warmup if load.duration_s is None else 2 * load.warmup

    in_sessions = has_sessions(load)
    among_workers = share_of_sessions if in_sessions and load.sessions is None else stride

    def dispatcher(phase: Any, arrivals: Iterator[Arrival], **more: Any) -> Dispatcher:
        return (SessionDispatcher if "users" in more else Dispatcher)(
            phase=phase,
            load=load,
            driver=wire,
            arrivals=(among_workers if "users" in more else stride)(arrivals, worker, workers),
            prompts=prompts,
            on_sample=on_sample,
            clock=clock,
            exact=exact,
            **more,
        )

    def ignore(reply: Reply, due_ns: int | None) -> None:
        """Warm-up says nothing of the client's quality."""

    check_texts(load, driver)
    if load.cancel is not None and "cancel" not in driver.can:
        raise BadInput(f"cancel: {driver.name} cannot give a request up (accepted: HTTP routes)")
    try:
        await _open(wire, connections, load.timeouts.connect_s + GUARD_S)
        # Once more where its last request was not served: a server that ran out of memory has made room, and is cold.
        for first_seq in (0, load.warmup + load.requests):
            warmup = dispatcher(
                "warmup", _warmup(load), first_seq=first_seq, places=connections, on_reply=ignore
            )
            warmup.prepare()
            await warmup.run(timers)
            if not unserved(warmup.last_error):
                break
        if warmup.sent and warmup.refused == warmup.sent:
            raise WarmupRefused(warmup.last_error)
        if isinstance(wire, FanOut):
            del wire.skews_ns[:]

        kind: dict[str, Any] = {"places": places, "max_rate": load.max_rate and load.max_rate / workers}
        if in_sessions:
            kind = {
                "users": places,
                "filler": filler,
                "window": lambda: load.window(measured.start_ns),
            }
        measured: Dispatcher = dispatcher(
            "measured",
            _schedule(load),
            first_seq=first_measured,
            on_reply=replies.add,
            sending=None if load.duration_s is None else Sending(load),
            **kind,
        )
        measured.prepare()
        measured.start_ns = (
            clock() + nanoseconds(START_LEAD_S) if agree_start is None else await agree_start()
        )
        on_start(measured.start_ns)
        await _until(measured.start_ns, clock, timers)
        watch = SelfWatch(timers, clock)
        figures = Figures(driver=wire.name, stamps=wire.stamps, loop=_loop_name(timers))
        try:
            await measured.run(timers)
        finally:
            watch.stop(figures)
        if isinstance(wire, FanOut):
            figures.skews_ns = wire.skews_ns.tolist()
    finally:
        await _close(wire)
    target = None if load.in_flight is None else places
    return LoadOutcome(
        quality=client_quality([figures], replies, target),
        in_flight_mean=measured.time.mean(),
        in_flight_max=measured.in_flight_max or None,
        in_flight_target=target,
        start_ns=measured.start_ns,
        requests_sent=measured.sent,
        requests_failed=measured.failed,
        warmup_sent=warmup.sent,
        warmup_failed=warmup.failed,
        processes=(figures,),
        sessions=measured.figures() if isinstance(measured, SessionDispatcher) else None,
    )


def run_here(
    trial: Trial,
    base_url: str,
    make_driver: DriverFactory,
    driver_options: Mapping[str, Any],
    on_sample: OnSample,
    *,
    share: tuple[int, int] = (0, 1),
    agree_start: Agree | None = None,
    on_start: OnStart = lambda start_ns: None,
    stop: Stop = lambda: False,
) -> LoadOutcome | None:
    """Send one share of a trial's load from this process. KeyboardInterrupt where an end was asked for."""
    from loadgen.load.prompts import PromptSource

    load = trial.load
    vocab = trial.vocab
    if vocab is None and trial.server is not None:
        vocab = trial.server.model.vocab
    source = PromptSource(load.seed, vocab, load.input_tokens, load.batch_size, block_tokens_of(load))
    model = trial.model_name or (trial.server.model.name if trial.server else "")

    async def main() -> LoadOutcome | None:
        driver = make_driver(base_url, model, load.timeouts, driver_options)
        work = run_load(
            load,
            driver,
            source.prompts,
            on_sample,
            share=share,
            agree_start=agree_start,
            on_start=on_start,
            exact=trial.exact,
            filler=source.filler,
        )
        return await _unless_stopped(work, lambda: stop() or interrupt.asked())

    gc.collect()
    gc.freeze()  # what lives already need not be looked at while requests are timed
    try:
        with interrupt.held(), asyncio.Runner(loop_factory=_loop_factory()) as runner:
            outcome = runner.run(main())
    finally:
        gc.unfreeze()
    interrupt.check()
    return outcome


def has_sessions(load: LoadSpec) -> bool:
    """Whether its requests, or some of them, are turns of conversations. Raises BadInput for a trace that is none."""
    if load.kind == "trace" and load.trace is not None:
        return measure_trace(load.trace, load.replay or PLAIN).in_sessions is not None
    return load.sessions is not None


def check_texts(load: LoadSpec, driver: Driver) -> None:
    """Raise BadInput for a data set that a route cannot take, or that has too few prompts."""
    if load.dataset is None:
        return
    found = measure_texts(load.dataset, texts_wanted(load))
    if load.duration_s is None and len(found.rows) < load.requests:
        raise BadInput(
            f"{load.dataset.path}: requests = {load.requests}: it has {len(found.rows)} prompts (accepted: up to them)"
        )
    chats = any(not isinstance(text.content, str) for text in found.rows)
    if chats and "messages" not in driver.can:
        raise BadInput(
            f"{load.dataset.path}: has messages, which {driver.name} does not send here (accepted: a chat route, or "
            "rows with prompt)"
        )
    if not chats and not driver.can & {"ids", "text"}:
        raise BadInput(
            f"{load.dataset.path}: {driver.name} sends neither texts nor their ids (accepted: other routes)"
        )


def texts_wanted(load: LoadSpec) -> int | None:
    """How many prompts of a data set are read: as many as are sent, or all."""
    return load.requests or None


def block_tokens_of(load: LoadSpec) -> int | None:
    """How many tokens the blocks of its prompts have; ``None`` where they share nothing. Raises BadInput."""
    if load.prefixes is not None:
        return load.prefixes.tokens
    return measure_trace(load.trace, load.replay or PLAIN).block_tokens if load.trace else None


async def _unless_stopped(work: Coroutine[Any, Any, LoadOutcome], stop: Stop) -> LoadOutcome | None:
    task = asyncio.ensure_future(work)
    try:
        while not stop():
            done, _ = await asyncio.wait({task}, timeout=STOP_PERIOD_S)
            if done:
                return task.result()
    finally:
        if not task.done():
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
    return None


def places_of(load: LoadSpec, share: tuple[int, int]) -> int | None:
    """Requests that this worker keeps in flight, or sessions at once; None in open loop. Raises BadInput when there is
    not one each."""
    worker, workers = share
    total = load.in_flight if load.sessions is None else load.sessions.users
    if total is None:
        return None
    if total < workers:
        what = "users are" if load.sessions is not None else "concurrency is"
        what = "a static load has one call in flight" if load.kind == "static" else f"{what} {total}"
        raise BadInput(f"workers = {workers}: {what} (accepted: up to {total})")
    return total // workers + (worker < total % workers)


def _schedule(load: LoadSpec) -> Iterator[Arrival]:
    """The measured requests; a trace is read as it is sent."""
    if load.dataset is not None:
        texts = measure_texts(load.dataset, texts_wanted(load)).rows
        for arrival, text in zip(schedule(load), cycle(texts), strict=False):
            told = arrival.output_tokens if text.output_tokens is None else text.output_tokens
            yield arrival._replace(input_tokens=text.input_tokens, output_tokens=told, text=text)
        return
    if load.kind != "trace":
        yield from schedule(load)
        return
    with open_rows(load.trace or "", load.replay or PLAIN, load.seed) as rows:
        yield from schedule(load, rows)


def _warmup(load: LoadSpec) -> Iterator[Arrival]:
    """Requests of the trial's own shapes, due at once: an open loop is warmed up by a burst."""
    if not (load.varies or load.prefixes):
        for number in range(load.warmup):
            yield Arrival(number, None, load.input_tokens, load.output_tokens)
        return
    count = 0
    while count < load.warmup:
        before = count
        turns = (turn for arrival in _schedule(load) for turn in (arrival, *arrival.then))
        for turn in islice(turns, load.warmup - count):
            # Prompts of a data set are not sent before they count: a cache would hold them. Short ones are no words.
            least = 1 if load.dataset is None else WARM_TOKENS
            yield Arrival(
                count,
                None,
                max(least, turn.context_tokens + turn.input_tokens),
                turn.output_tokens,
                for_warmup(turn.blocks),
            )
            count += 1
        if count == before:
            return


def _open_ahead(load: LoadSpec, workers: int) -> int:
    fastest = max(load.due_rate or 0.0, load.rate_end or 0.0)
    return max(1, math.ceil(max(load.concurrency, min(OPEN_AHEAD, fastest)) / workers))


async def _until(instant_ns: int, clock: Clock, timers: TimerFactory) -> None:
    if clock() >= instant_ns:
        return
    there = asyncio.Event()
    timer = timers(there.set)
    try:
        timer.arm(instant_ns)
        await there.wait()
    finally:
        timer.close()


async def _open(driver: Driver, connections: int, limit_s: float) -> None:
    try:
        async with asyncio.timeout(limit_s):
            await driver.open(connections)
    except TimeoutError:
        raise LoadgenError(
            f"the {driver.name} driver did not open {connections} connections within {limit_s:.0f} s"
        ) from None


async def _close(driver: Driver) -> None:
    with contextlib.suppress(TimeoutError):  # the process is rid of its sockets when it ends
        async with asyncio.timeout(CLOSE_S):
            await driver.close()


def _loop_name(timers: TimerFactory) -> str:
    """The event loop and its timer: ``asyncio + timerfd``."""
    module = type(asyncio.get_running_loop()).__module__.split(".")[0]
    probe = timers(lambda: None)
    probe.close()
    return f"{module} + {probe.name}"


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """uvloop's where it is installed; None is asyncio's own."""
    try:
        import uvloop
    except ModuleNotFoundError:
        return None
    return cast(Callable[[], asyncio.AbstractEventLoop], uvloop.new_event_loop)
