"""The hot path: the requests of one phase, from prepared body to decoded sample.

What must happen on time (sending when due, sending when a place falls free) happens in callbacks that touch a deque
and a counter. All else – making prompts, serialising bodies ahead of need, decoding replies, handing samples out –
is done by ``run`` in slices of a fraction of a millisecond that end before the next request is due. There is no task
and no future per request.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from loadgen.errors import LoadgenError, Refused, WrongLength, cancelled
from loadgen.load.arrival import Arrival
from loadgen.load.giving_up import GivingUp
from loadgen.load.sending import Sending
from loadgen.load.sound import length_error, sound
from loadgen.load_records import LoadSpec
from loadgen.metrics.in_flight import FlightTime
from loadgen.protocols import Clock, Driver
from loadgen.request_records import FIRST_TOKENS, Ids, Phase, Reply, Request, Sample
from loadgen.system.timer import TimerFactory
from loadgen.units import nanoseconds, seconds

PromptMaker = Callable[..., tuple[Ids, ...]]  # (seq, input_tokens), and its blocks where a request shares any
OnSample = Callable[[Sample, int], None]

SLICE_NS = 200_000  # the longest that background work keeps a completion or a due time waiting
DUE_GUARD_NS = 60_000  # no new piece of background work is begun this close before a due time, or …
GUARD_PIECES = 2
SLICE_GAP_S = 0.001  # rest between slices: enough gathers to be worth a turn of the loop
UNDECODED = 1024  # replies kept undecoded before decoding goes first
LOOKAHEAD = 256  # bodies prepared ahead of need, besides one for each place
LOOKAHEAD_TOKENS = 8_000_000  # about 48 MB of serialised ids
HEAVY_TOKENS = (
    1024  # of a prompt: from here on it is prepared only where that ends before the next due time …
)
PREPARE_NS = 25  # … by what a token takes …
FEW_READY = 16  # … unless so few are left
SENDS_AT_ONCE = 256  # then the sockets get a turn, however late the schedule is
GUARD_S = 30.0  # over the request's own time-outs: beyond this a driver is stuck


class Dispatcher:
    """One phase of a load. ``places`` bounds the requests in flight; None sends by due time instead.

    ``exact``: a prompt of which the server counts another number of tokens is an error, too.
    ``first_seq`` numbers the phase's requests on from the phase before it. ``start_ns`` must be set before ``run``
    when there are due times or a duration. ``sending`` ends a load that is bound by its duration, and tells the phase
    of each of its requests.
    """

    def __init__(
        self,
        *,
        phase: Phase,
        load: LoadSpec,
        driver: Driver,
        arrivals: Iterator[Arrival],
        first_seq: int,
        prompts: PromptMaker,
        on_sample: OnSample,
        on_reply: Callable[[Reply, int | None], None],
        clock: Clock,
        places: int | None,
        max_rate: float | None = None,
        exact: bool = False,
        sending: Sending | None = None,
    ) -> None:
        self._phase, self._load, self._driver, self._clock = phase, load, driver, clock
        self._arrivals, self._first_seq, self._prompts = arrivals, first_seq, prompts
        self._on_sample, self._on_reply = on_sample, on_reply
        self._places, self._max_rate, self._exact, self._sending = places, max_rate, exact, sending
        cancels = load.cancel is not None and phase != "warmup"
        self._giving_up = GivingUp(load) if cancels else None
        self._lookahead = LOOKAHEAD + (places or 0)
        self._heavy = load.input_tokens >= HEAVY_TOKENS
        self._next: Arrival | None = None  # taken from the arrivals, and not yet prepared
        self._ready: deque[tuple[int, Arrival, Any]] = deque()
        self._ready_tokens = 0
        self._more = True  # arrivals not yet prepared
        self._pending: dict[int, tuple[int | None, Arrival, Phase]] = {}
        self._raws: deque[Any] = deque()
        self._launching = self._starved = self._closed = False
        self._wake: asyncio.Event = asyncio.Event()
        self._room: asyncio.Event = asyncio.Event()
        self._launch: Callable[[], None] = self._launch_free
        self._due_ns: int | None = None
        self._piece_ns = 0  # what a piece of background work takes, of late
        self._timer: Any = None
        self.start_ns = 0
        self.in_flight = self.in_flight_max = 0
        self.time = FlightTime()
        self.sent = self.failed = self.refused = 0
        self.last_error: str | None = None  # of the request that ended last

    def prepare(self) -> None:
        """Fill the look-ahead before the clock starts."""
        while self._short_of(self._lookahead):
            self._prepare_one()

    async def run(self, make_timer: TimerFactory) -> None:
        """Send every request and hand out every sample.

        When cancelled, nothing more is sent and the samples that have come are handed out. Raises LoadgenError when
        the driver leaves requests unanswered beyond their time-outs.
        """
        feeder: asyncio.Task[None] | None = None
        watchdog = asyncio.get_running_loop().create_task(self._watch())
        if self._places is None:
            self._timer = make_timer(self._launch_due)
            self._launch = self._launch_due
        elif self._max_rate is not None:
            self._launch = self._room.set
            feeder = asyncio.get_running_loop().create_task(self._feed_throttled(self._max_rate))
        helpers = [task for task in (watchdog, feeder) if task is not None]
        for task in helpers:
            task.add_done_callback(lambda _: self._wake.set())
        try:
            self._launch()
            while not self._finished():
                await self._rest()
                for task in helpers:
                    if task.done():
                        task.result()
                self._slice()
        finally:
            self._closed = True
            if self._timer is not None:
                self._timer.close()
            for task in helpers:
                task.cancel()
            await asyncio.gather(*helpers, return_exceptions=True)
            while self._raws:
                self._decode_one()

    # Sending: the hot moments.

    def _launch_free(self) -> None:
        """Send while there is a place. A driver may answer at once, from within; the loop below goes on then."""
        if self._launching or self._closed:
            return
        assert self._places is not None
        self._launching = True
        while self.in_flight < self._places and self._ready and self._goes_on(None):
            self._start(None)
        self._launching = False
        self._note_starved()

    def _launch_due(self) -> None:
        """Send everything that is due, and set the alarm for the next."""
        if self._launching or self._closed:
            return
        self._launching = True
        for _ in range(SENDS_AT_ONCE):
            self._due_ns = self._next_due()
            if self._due_ns is None or self._due_ns > self._clock() or not self._goes_on(self._due_ns):
                break
            self._start(self._due_ns)
        self._due_ns = self._next_due()
        self._launching = False
        self._note_starved()
        if self._due_ns is not None:
            self._timer.arm(self._due_ns)

    def _next_due(self) -> int | None:
        if not self._ready:
            return None
        offset_ns = self._ready[0][1].offset_ns
        assert offset_ns is not None
        return self.start_ns + offset_ns

    def _goes_on(self, due_ns: int | None) -> bool:
        """Whether the next request may be sent; where its time is over, so is that of all behind it."""
        if self._sending is None:
            return True
        if self._sending.goes_on((self._clock() if due_ns is None else due_ns) - self.start_ns):
            return True
        self._ready.clear()
        self._ready_tokens = 0
        self._more = False
        self._room.set()
        self._wake.set()
        return False

    def _start(self, due_ns: int | None) -> None:
        """Send what is ready first."""
        seq, arrival, prepared = self._ready.popleft()
        self._ready_tokens -= arrival.input_tokens
        self._send(seq, arrival, prepared, due_ns)

    def _send(self, seq: int, arrival: Arrival, prepared: Any, due_ns: int | None) -> None:
        phase = self._phase
        if self._sending is not None:
            phase = self._sending.phase((self._clock() if due_ns is None else due_ns) - self.start_ns)
            self._sending.began(phase)
        self._pending[seq] = (due_ns, arrival, phase)
        self.sent += 1
        self.in_flight += 1
        if self.in_flight > self.in_flight_max:
            self.in_flight_max = self.in_flight
        self._driver.start(prepared, self._done)

    def _done(self, raw: Any) -> None:
        if self._closed:
            return
        self.in_flight -= 1
        self._raws.append(raw)
        if self._places is not None:
            self._launch()
        self._wake.set()

    def _note_starved(self) -> None:
        self._starved = not self._ready and self._more
        if self._starved:
            self._wake.set()

    async def _feed_throttled(self, max_rate: float) -> None:
        """A closed loop under a rate cap: a free place waits for the throttle."""
        from asyncio_throttle.throttler import Throttler

        burst = max(1, round(max_rate * 0.02))
        throttle = Throttler(rate_limit=burst, period=burst / max_rate, retry_interval=0.001)
        assert self._places is not None
        while self._ready or self._more:
            if self.in_flight >= self._places or not self._ready:
                self._note_starved()
                self._room.clear()
                await self._room.wait()
                continue
            async with throttle:
                if self._goes_on(None):
                    self._start(None)

    # Background: slices between the hot moments.

    def _finished(self) -> bool:
        return not (self.in_flight or self._raws or self._to_come())

    def _to_come(self) -> bool:
        """Whether there are requests that have not been sent."""
        return self._more or bool(self._ready)

    async def _rest(self) -> None:
        if self._starved or len(self._raws) > UNDECODED // 2:
            await asyncio.sleep(0)
        elif self._raws or self._short_of(self._lookahead):
            await asyncio.sleep(SLICE_GAP_S)
        else:
            self._wake.clear()
            await self._wake.wait()

    def _slice(self) -> None:
        now_ns = self._clock()
        end_ns, latest_ns = now_ns + SLICE_NS, now_ns + SLICE_NS * 5
        if self._due_ns is not None:
            end_ns = min(end_ns, self._due_ns - self._guard_ns())
        while now_ns < end_ns or len(self._raws) > UNDECODED or (self._starved and now_ns < latest_ns):
            if (
                self._short_of(self._lookahead // 2)
                and len(self._raws) <= UNDECODED
                and self._fits_before_due(now_ns)
            ):
                self._prepare_one()
            elif self._raws:
                self._decode_one()
            elif self._short_of(self._lookahead) and self._fits_before_due(now_ns):
                self._prepare_one()
            else:
                return
            began_ns, now_ns = now_ns, self._clock()
            self._note_piece(now_ns - began_ns)

    def _note_piece(self, took_ns: int) -> None:
        self._piece_ns += (min(took_ns, SLICE_NS) - self._piece_ns) // 8

    def _guard_ns(self) -> int:
        """How long before a due time no piece is begun."""
        return max(DUE_GUARD_NS, GUARD_PIECES * self._piece_ns)

    def _short_of(self, count: int) -> bool:
        if not self._more:
            return False
        return not self._ready or (len(self._ready) < count and self._ready_tokens < LOOKAHEAD_TOKENS)

    def _fits_before_due(self, now_ns: int) -> bool:
        """Whether the next body will be ready before something is due: a long one takes milliseconds."""
        if not self._heavy or self._due_ns is None or len(self._ready) < FEW_READY:
            return True
        if self._next is None:
            self._next = next(self._arrivals, None)
        return (
            self._next is None
            or now_ns + self._guard_ns() + PREPARE_NS * self._next.input_tokens <= self._due_ns
        )

    def _prepare_one(self) -> None:
        arrival = self._next or next(self._arrivals, None)
        self._next = None
        if arrival is None:
            self._more = self._starved = False
            self._room.set()
            return
        seq = self._first_seq + arrival.number
        self._ready.append((seq, arrival, self._made(seq, arrival)))
        self._ready_tokens += arrival.input_tokens
        if self._starved:
            self._starved = False
            self._launch()

    def _made(self, seq: int, arrival: Arrival) -> Any:
        """The request of an arrival, serialised."""
        if arrival.text is not None:
            return self._prepared(seq, arrival, (np.array(arrival.text.ids, np.int32),))
        shared = (arrival.blocks,) if arrival.blocks else ()
        return self._prepared(seq, arrival, self._prompts(seq, arrival.input_tokens, *shared))

    def _prepared(
        self, seq: int, arrival: Arrival, prompts: tuple[Ids, ...], keep_ids: int = FIRST_TOKENS
    ) -> Any:
        request = Request(
            seq=seq,
            phase=self._phase,
            prompts=prompts,
            output_tokens=arrival.output_tokens,
            stream=self._load.stream,
            keep_ids=keep_ids,
            content=None if arrival.text is None else arrival.text.content,
            cancel=self._giving_up.of(arrival.number) if self._giving_up is not None else None,
        )
        return self._driver.prepare(request)

    def _decode_one(self) -> None:
        reply = sound(self._driver.decode(self._raws.popleft()))
        due_ns, arrival, phase = self._pending.pop(reply.seq)
        if self._sending is not None:
            self._sending.ended(phase, reply.end_ns - (reply.sent_ns if due_ns is None else due_ns))
        batch = self._load.batch_size
        if reply.error is None:
            wrong = self._length_error(reply, arrival)
            reply = reply if wrong is None else replace(reply, error=wrong)
        self.last_error = reply.error
        if reply.error is not None and not cancelled(reply.error):
            self.failed += 1
            self.refused += reply.error.startswith(Refused.__name__)
        self.time.add(reply.sent_ns, reply.end_ns, more=self._to_come())
        self._on_reply(reply, due_ns)
        sample = Sample(
            phase=phase,
            batch_size=batch,
            input_tokens=arrival.input_tokens,
            output_tokens_asked=arrival.output_tokens,
            due_ns=due_ns,
            reply=reply,
        )
        self._ended(sample, arrival)

    def _ended(self, sample: Sample, arrival: Arrival) -> None:
        """Hand a sample out."""
        self._on_sample(sample, self.in_flight)

    def _length_error(self, reply: Reply, arrival: Arrival) -> str | None:
        batch, used = self._load.batch_size, reply.usage_prompt_tokens
        counted = arrival.text is None or "ids" in self._driver.can  # of a chat the template is not
        if self._exact and counted and used is not None and used != batch * arrival.input_tokens:
            return f"{WrongLength.__name__}: sent {batch} × {arrival.input_tokens} tokens, the server counted {used}"
        return length_error(reply, batch, arrival.output_tokens, at_most=self._load.at_most)

    async def _watch(self) -> None:
        """Drivers end every request by their own time-outs. One that does not must not hang the trial."""
        limits = self._load.timeouts
        limit_ns = nanoseconds(limits.connect_s + limits.total_s + GUARD_S)
        quiet_since_ns, seen = self._clock(), -1
        while True:
            await asyncio.sleep(min(1.0, seconds(limit_ns) / 4))
            ended = self.sent - self.in_flight
            if ended != seen or not self.in_flight:
                quiet_since_ns, seen = self._clock(), ended
            elif self._clock() - quiet_since_ns > limit_ns:
                raise LoadgenError(
                    f"the {self._driver.name} driver left {self.in_flight} requests unanswered for "
                    f"{seconds(limit_ns):.0f} s, beyond every time-out of theirs"
                )
