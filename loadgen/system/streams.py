"""Standard streams that the shell closed."""

from __future__ import annotations

import os
import sys

STREAMS = ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w"))


def open_closed_ones() -> None:
    """Make a standard stream that was closed (``2>&-``) one of ``/dev/null``.

    Without it a message to nobody ends a trial; and the next file opened, of results, say, gets its number, and with
    that whatever a child or a library writes there.
    """
    for (
        number,
        _,
        _,
    ) in STREAMS:  # in order, and before anything else is opened: the lowest free number is this one
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
    for _, name, mode in STREAMS:
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115 as long as the process
