"""Time that only the test moves, and a driver that answers from memory."""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Callable
from itertools import count
from typing import Any

from loadgen.load.client import LoadOutcome, run_load
from loadgen.load_records import LoadSpec
from loadgen.request_records import Reply, Request, Sample

MS = 1_000_000


class World:
    """Time as a heap of events: nothing happens between them, and each takes the time that it says."""

    def __init__(self) -> None:
        self.now = 1_000 * MS
        self._events: list[tuple[int, int, Callable[[], None]]] = []
        self._order = count()
        self._turning = False

    def clock(self) -> int:
        return self.now

    def at(self, when: int, what: Callable[[], None]) -> None:
        heapq.heappush(self._events, (when, next(self._order), what))
        if not self._turning:
            self._turning = True
            asyncio.get_running_loop().call_later(0, self._turn)

    def _turn(self) -> None:
        when, _, what = heapq.heappop(self._events)
        self.now = max(self.now, when)
        self._turning = bool(self._events)
        if self._turning:
            # Behind everything that is ready now, so that the code under test has had its turn.
            asyncio.get_running_loop().call_later(0, self._turn)
        what()


class FakeTimer:
    name = "fake"

    def __init__(self, world: World, callback: Callable[[], None]) -> None:
        self._world, self._callback, self._armed = world, callback, 0

    def arm(self, due_ns: int) -> None:
        self._armed += 1
        mine = self._armed
        self._world.at(due_ns, lambda: self._callback() if mine == self._armed else None)

    def close(self) -> None:
        self._armed = -1


class FakeDriver:
    """Answers each request after ``service(seq)`` ns; ``spoil`` may change a reply."""

    name, stamps, batches, can = "fake", "kernel", True, frozenset({"ids"})

    def __init__(
        self, world: World, service: Callable[[int], int] = lambda seq: 10 * MS, **more: Any
    ) -> None:
        self.world, self.service = world, service
        self.spoil: Callable[[Request], dict[str, Any]] = more.pop("spoil", lambda request: {})
        self.at_once: bool = more.pop("at_once", False)
        self.silent: Callable[[int], bool] = more.pop("silent", lambda seq: False)
        self.opened: int | None = None
        self.closed = False
        self.prepared = 0
        self.prepared_ahead = 0
        self.started: list[tuple[int, int]] = []
        self.in_flight = self.most = 0
        self.requests: dict[int, Request] = {}

    async def open(self, connections: int) -> None:
        self.opened = connections

    def prepare(self, request: Request) -> Request:
        self.prepared += 1
        self.prepared_ahead = max(self.prepared_ahead, self.prepared - len(self.started))
        self.requests[request.seq] = request
        return request

    def start(self, prepared: Request, done: Callable[[Any], None]) -> None:
        sent = self.world.now
        self.started.append((prepared.seq, sent))
        if self.silent(prepared.seq):
            return
        self.in_flight += 1
        self.most = max(self.most, self.in_flight)
        end = sent + self.service(prepared.seq)

        def finish() -> None:
            self.in_flight -= 1
            done((prepared, sent, end))

        if self.at_once:
            finish()
        else:
            self.world.at(end, finish)

    def decode(self, raw: tuple[Request, int, int]) -> Reply:
        request, sent, end = raw
        rows = len(request.prompts)
        reply: dict[str, Any] = {
            "token_ns": (end - 1,),
            "tokens_per_arrival": (request.output_tokens * rows,),
            "output_tokens": (request.output_tokens,) * rows,
            "counted_by": "ids",
            "reads": 2,
            "coalesced": 1,
            "lag_ns": 5,
            **self.spoil(request),
        }
        return Reply(seq=request.seq, sent_ns=sent, end_ns=end, **reply)

    async def close(self) -> None:
        self.closed = True


def prompts_of(spec: LoadSpec) -> Callable[..., Any]:
    def make(seq: int, input_tokens: int, blocks: tuple[int, ...] = ()) -> tuple[tuple[int, ...], ...]:
        return tuple((seq, *range(input_tokens - 1)) for _ in range(spec.batch_size))

    return make


def play(spec: LoadSpec, driver: FakeDriver, **more: Any) -> tuple[LoadOutcome, list[Sample]]:
    samples: list[Sample] = []
    on_sample = more.pop("on_sample", lambda sample, in_flight: samples.append(sample))

    async def main() -> LoadOutcome:
        return await run_load(
            spec,
            driver,
            prompts_of(spec),
            on_sample,
            clock=driver.world.clock,
            timers=lambda callback: FakeTimer(driver.world, callback),
            **more,
        )

    return asyncio.run(main()), samples
