"""Alarms on the real clock: never early, replaced by a later call, silent once closed."""

from __future__ import annotations

import asyncio
import ctypes
import time
from collections.abc import Callable
from typing import Any

import pytest

from loadgen.system.timer import FdTimer, LoopTimer, make_timer

MS = 1_000_000
KINDS = pytest.mark.parametrize("kind", [FdTimer, LoopTimer])


def play(kind: Callable[[Callable[[], None]], Any], script: Callable[[Any, list[int]], int]) -> list[int]:
    """Arm by ``script``, wait for as many alarms as it says, and one alarm more of another timer. The times of them."""

    async def main() -> list[int]:
        fired: list[int] = []
        enough, last = asyncio.Event(), asyncio.Event()

        def alarm() -> None:
            fired.append(time.monotonic_ns())
            if len(fired) >= wanted:
                enough.set()

        wanted = 1_000
        timer = kind(alarm)
        wanted = script(timer, fired)
        if wanted:
            async with asyncio.timeout(20):
                await enough.wait()
        end = kind(last.set)
        end.arm(time.monotonic_ns() + 30 * MS)
        await last.wait()
        end.close()
        timer.close()
        timer.close()
        return fired

    return asyncio.run(main())


@KINDS
def test_an_alarm_comes_once_and_not_early(kind: Any) -> None:
    due = 0

    def script(timer: Any, fired: list[int]) -> int:
        nonlocal due
        due = time.monotonic_ns() + 5 * MS
        timer.arm(due)
        return 1

    fired = play(kind, script)
    assert len(fired) == 1
    # A loop's own timer works to the resolution of its clock.
    assert fired[0] >= due - (0 if kind is FdTimer else MS)


@KINDS
def test_arming_again_replaces_the_instant(kind: Any) -> None:
    def script(timer: Any, fired: list[int]) -> int:
        timer.arm(time.monotonic_ns() + 3_600_000 * MS)
        timer.arm(time.monotonic_ns() + MS)
        timer.arm(time.monotonic_ns() + 2 * MS)
        return 1

    assert len(play(kind, script)) == 1


@KINDS
def test_the_past_is_at_once(kind: Any) -> None:
    def script(timer: Any, fired: list[int]) -> int:
        timer.arm(1)
        return 1

    assert len(play(kind, script)) == 1


@KINDS
def test_a_closed_timer_is_silent(kind: Any) -> None:
    def script(timer: Any, fired: list[int]) -> int:
        timer.arm(time.monotonic_ns() + MS)
        timer.close()
        return 0

    assert play(kind, script) == []


def test_an_alarm_may_set_the_next() -> None:
    async def main() -> int:
        count, done = 0, asyncio.Event()

        def alarm() -> None:
            nonlocal count
            count += 1
            if count == 50:
                done.set()
            else:
                timer.arm(time.monotonic_ns() + MS // 10)

        timer = make_timer(alarm)
        timer.arm(time.monotonic_ns())
        async with asyncio.timeout(20):
            await done.wait()
        timer.close()
        return count

    assert asyncio.run(main()) == 50


def test_without_timerfd_the_loops_own_timer_serves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda *args, **more: object())

    async def main() -> str:
        return make_timer(lambda: None).name

    assert asyncio.run(main()) == "loop timer"
