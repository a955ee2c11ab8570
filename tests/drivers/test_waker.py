from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from loadgen.drivers import waker as subject
from loadgen.drivers.openai import make_driver
from loadgen.drivers.waker import GATHER_NS, Waker, worth_gathering
from loadgen.load_records import Timeouts
from loadgen.request_records import Request


@pytest.mark.parametrize(
    ("streams", "ended", "events", "span_s", "worth"),
    [
        (1024, 120, 12_800, 0.25, True),  # 1,024 streams × 50 tok/s, each 2.2 s long
        (1024, 120, 1_000, 0.25, False),  # too few events to gather any
        (16, 0, 12_800, 0.25, False),  # each stream's chunks are too close to be kept apart
        (64, 20_000, 20_000, 0.25, False),  # a closed loop of short answers would be slowed down
        (1024, 2_600, 12_800, 0.25, False),  # the same: a tenth of a second each
        (0, 0, 12_800, 0.25, False),
        (1024, 0, 12_800, 0.0, False),
    ],
)
def test_when_it_is_worth_it(streams: int, ended: int, events: int, span_s: float, worth: bool) -> None:
    assert worth_gathering(streams, ended, events, span_s) is worth


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    near, far = os.pipe()
    os.set_blocking(near, False)
    yield near, far
    os.close(near)
    os.close(far)


class Reader:
    """Reads what is there; each byte counts as many events."""

    def __init__(self, fd: int) -> None:
        self.fd, self.bytes, self.calls = fd, 0, 0
        self.fault: Exception | None = None
        self.came = asyncio.Event()

    def __call__(self) -> int:
        self.calls += 1
        if self.fault is not None:
            fault, self.fault = self.fault, None
            raise fault
        try:
            count = len(os.read(self.fd, 100))
        except BlockingIOError:
            return 0
        self.bytes += count
        self.came.set()
        return count * 100_000


async def next_byte(reader: Reader, far: int) -> None:
    reader.came.clear()
    os.write(far, b"x")
    await reader.came.wait()


def test_it_gathers_while_told_and_wakes_at_once_otherwise(pipe: tuple[int, int]) -> None:
    async def main() -> None:
        near, far = pipe
        reader = Reader(near)
        waker = Waker(asyncio.get_running_loop(), near, reader, full=10**6)
        now = waker._since_ns
        await next_byte(reader, far)
        assert not waker.gathering
        waker.consider(1000, 0, now + 10**9)
        assert waker.gathering
        await next_byte(reader, far)
        waker.consider(1000, 0, now + 2 * 10**9)
        assert waker.gathering
        await next_byte(reader, far)
        waker.consider(1000, 0, now + 3 * 10**9)
        waker.consider(1000, 0, now + 4 * 10**9)  # nothing came since
        assert not waker.gathering
        calls = reader.calls
        await next_byte(reader, far)
        assert reader.calls == calls + 1
        waker.close()

    asyncio.run(asyncio.wait_for(main(), 30))


def test_a_fault_while_gathering_does_not_end_it(pipe: tuple[int, int]) -> None:
    async def main() -> None:
        near, far = pipe
        reader = Reader(near)
        loop = asyncio.get_running_loop()
        faults: list[Any] = []
        loop.set_exception_handler(lambda _loop, context: faults.append(context["exception"]))
        waker = Waker(loop, near, reader, full=10**6)
        await next_byte(reader, far)
        waker.consider(1000, 0, waker._since_ns + 10**9)
        reader.fault = ValueError("a bug of the caller")
        await next_byte(reader, far)
        assert [str(fault) for fault in faults] == ["a bug of the caller"]
        assert waker.gathering
        waker.close()
        assert not waker.gathering

    asyncio.run(asyncio.wait_for(main(), 30))


def test_more_than_one_look_takes_in_is_looked_at_without_a_wait(
    pipe: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    armed: list[int] = []

    class Timer:
        def __init__(self, callback: Any) -> None:
            self.fire = callback
            timers.append(self)

        def arm(self, due_ns: int) -> None:
            armed.append(due_ns)

        def close(self) -> None:
            pass

    timers: list[Timer] = []
    monkeypatch.setattr(subject, "FdTimer", Timer)
    monkeypatch.setattr(subject.time, "monotonic_ns", lambda: 5)

    async def main() -> None:
        near, far = pipe
        waker = Waker(asyncio.get_running_loop(), near, Reader(near), full=100_000)
        waker._events = 10**6
        waker.consider(10_000, 0, 10**9 + 5)
        os.write(far, b"x")
        timers[0].fire()
        timers[0].fire()
        waker.close()

    asyncio.run(main())
    assert armed == [5 + GATHER_NS, 5, 5 + GATHER_NS]


def test_a_driver_that_gathers_gives_the_same_replies(serve: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subject, "WORTH_EVENTS_PER_S", 0)
    monkeypatch.setattr(subject, "CLOSEST_EVENTS_PER_S", 10**9)
    go = threading.Event()

    def answer(peer: Any, found: Any) -> None:
        peer.stream_head()
        peer.token(0)
        go.wait(30)
        for number in range(1, found["max_tokens"]):
            peer.token(number)
        peer.stream_end(found["max_tokens"])

    server = serve(answer=answer)

    async def main() -> None:
        driver = make_driver(server.url, "tiny", Timeouts(connect_s=0.1), {})
        await driver.open(3)
        if driver.stamps != "kernel":
            pytest.skip("it gathers only where the kernel stamps")
        futures: list[asyncio.Future[Any]] = []
        for seq in range(3):
            request = Request(seq=seq, phase="measured", prompts=((1,),), output_tokens=300)
            futures.append(asyncio.get_running_loop().create_future())
            driver.start(driver.prepare(request), futures[-1].set_result)
        while not driver._waker.gathering:  # type: ignore[attr-defined]
            await asyncio.sleep(0.001)
        go.set()
        replies = [driver.decode(await future) for future in futures]
        await driver.close()
        assert [(reply.error, reply.output_tokens) for reply in replies] == [(None, (300,))] * 3
        assert all(sum(reply.tokens_per_arrival) == 300 for reply in replies)

    asyncio.run(asyncio.wait_for(main(), 30))
