"""Work that another program asks for: in turn, away from its loop, and ended by its Ctrl-C."""

from __future__ import annotations

import asyncio
import os
import signal
import threading

import pytest

from loadgen.api.alone import alone
from loadgen.system import interrupt


def test_without_a_loop_it_is_the_callers_thread() -> None:
    assert alone(threading.current_thread) is threading.current_thread()


def test_within_a_loop_it_is_another_one_that_can_run_its_own() -> None:
    async def sleep() -> str:
        await asyncio.sleep(0)
        return threading.current_thread().name

    async def main() -> str:
        return alone(lambda: asyncio.run(sleep()))

    assert asyncio.run(main()) == "loadgen"


def test_what_it_raises_is_raised_and_the_turn_given_back() -> None:
    async def main() -> None:
        alone(lambda: [][0])

    for _ in range(2):
        with pytest.raises(IndexError):
            asyncio.run(main())
        with pytest.raises(ZeroDivisionError):
            alone(lambda: 1 // 0)


def test_two_threads_take_turns() -> None:
    inside, most = 0, []
    lock = threading.Lock()
    meet = threading.Barrier(4)

    def work() -> None:
        nonlocal inside
        with lock:
            inside += 1
            most.append(inside)
        threading.Event().wait(0.01)
        with lock:
            inside -= 1

    def caller() -> None:
        meet.wait()
        alone(work)

    threads = [threading.Thread(target=caller) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1] * 4


def test_ctrl_c_of_who_waits_ends_the_work_and_no_later_one() -> None:
    begun, ended = threading.Event(), threading.Event()

    def work() -> None:
        begun.set()
        os.kill(os.getpid(), signal.SIGINT)
        while not interrupt.asked():
            ended.wait(0.01)
        ended.set()
        interrupt.check()

    async def main() -> None:
        alone(work)

    with pytest.raises(KeyboardInterrupt):
        asyncio.run(main())
    assert begun.is_set()
    assert ended.is_set()
    assert not interrupt.asked()
