"""Ctrl-C and SIGTERM that cannot get lost.

Python raises KeyboardInterrupt wherever it happens to be, and drops it when that is a destructor or a callback of C
code. So the handler also leaves a mark, which the sweep looks at between its steps. A time limit leaves no signal,
only its mark: it ends what runs at the same places.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Iterator

# After a signal that raised, the next ones do nothing for so long: they would tear what it began to clear.
AGAIN_S = 1.0

_asked = False
_raised_s = -AGAIN_S
_deadline_s: float | None = None
_held = 0


class TimeIsUp(KeyboardInterrupt):
    """The time limit has come: whatever ends on Ctrl-C ends on this, too."""


@contextlib.contextmanager
def limited(deadline_s: float | None) -> Iterator[None]:
    """Inside, an end counts as asked for from this moment of ``time.monotonic`` on; ``None``: as before."""
    global _deadline_s
    before = _deadline_s
    _deadline_s = before if deadline_s is None else deadline_s
    try:
        yield
    finally:
        _deadline_s = before


def end_quietly() -> None:
    """Until ``install``, while modules are still being imported: Ctrl-C ends with a line and exit code 130."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, _leave)


def _leave(_number: int, _frame: object) -> None:
    os.write(2, b"\nloadgen: interrupted; nothing had begun\n")
    os._exit(130)


def install() -> None:
    """Handle SIGINT (which a background job may have ignored), SIGTERM and a closed terminal alike from now on."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _on_signal)


def _on_signal(_number: int, _frame: object) -> None:
    global _asked, _raised_s
    before, _asked = _asked, True
    if (
        not _held or before
    ) and time.monotonic() - _raised_s >= AGAIN_S:  # who asks again does not want to wait
        _raised_s = time.monotonic()
        raise KeyboardInterrupt


@contextlib.contextmanager
def held() -> Iterator[None]:
    """Inside, a signal leaves its mark and raises nothing: for an event loop that looks at ``asked`` itself.

    KeyboardInterrupt would come up wherever the loop is, and in a callback of gRPC's C code that ends the process.
    """
    global _held
    _held += 1
    try:
        yield
    finally:
        _held -= 1


@contextlib.contextmanager
def raised() -> Iterator[None]:
    """Inside, Ctrl-C raises KeyboardInterrupt in the main thread: ``asyncio.run`` would first cancel a task, which does
    nothing for a loop that stands still."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


@contextlib.contextmanager
def asked_for() -> Iterator[None]:
    """Inside, an end counts as asked for: by a caller whose measurement runs in another thread, which no signal
    reaches."""
    global _asked
    before, _asked = _asked, True
    try:
        yield
    finally:
        _asked = before


def asked() -> bool:
    """Whether the user has asked for an end, or the time limit has come."""
    return _asked or (_deadline_s is not None and time.monotonic() >= _deadline_s)


def check() -> None:
    """Raise KeyboardInterrupt when the user has asked for an end, TimeIsUp when the time limit has come."""
    if _asked:
        raise KeyboardInterrupt
    if asked():
        raise TimeIsUp
