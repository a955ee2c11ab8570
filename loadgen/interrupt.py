"""Ctrl-C and SIGTERM that cannot get lost.

Python raises KeyboardInterrupt wherever it happens to be, and drops it when that is a destructor or a callback of C
code. So the handler also leaves a mark, which the sweep looks at between its steps.
"""

from __future__ import annotations

import signal

_asked = False


def install() -> None:
    """Handle SIGINT (which a background job may have ignored) and SIGTERM alike from now on."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _on_signal)


def _on_signal(_number: int, _frame: object) -> None:
    global _asked
    _asked = True
    raise KeyboardInterrupt


def asked() -> bool:
    """Whether the user has asked for an end."""
    return _asked


def check() -> None:
    """Raise KeyboardInterrupt when the user has asked for an end."""
    if _asked:
        raise KeyboardInterrupt
