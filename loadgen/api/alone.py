"""A measurement called from another program: alone in its process, and away from an event loop that already runs."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future, wait
from typing import TypeVar

from loadgen.system import interrupt

T = TypeVar("T")
_TURN = threading.Lock()  # two loads from one interpreter would measure each other


def alone(work: Callable[[], T]) -> T:
    """What ``work`` returns or raises, when nothing else of ours measures in this process.

    The load has an event loop of its own, and a thread can run only one. Where one runs already (a notebook, a
    coroutine), the work gets a thread of its own, for which this one waits; Ctrl-C there ends it as elsewhere.
    """
    with _TURN:
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            return work()
        return _in_a_thread(work)


def _in_a_thread(work: Callable[[], T]) -> T:
    outcome: Future[T] = Future()

    def run() -> None:
        try:
            outcome.set_result(work())
        except BaseException as error:  # noqa: BLE001  # KeyboardInterrupt, too: who waits gets it raised
            outcome.set_exception(error)

    thread = threading.Thread(target=run, name="loadgen")
    with interrupt.raised():
        try:
            thread.start()
            wait([outcome])
        except KeyboardInterrupt:
            with interrupt.asked_for():
                wait([outcome])
            raise
    return outcome.result()
