"""Notices that a server hangs while its trial runs, so that not every request left has to time out.

One request that timed out says little. A look at the server's health follows it, beside the load, on a thread: the
look may take seconds, and the event loop has requests to send on time.
"""

from __future__ import annotations

import threading
from collections.abc import Callable


class HangWatch:
    """``look`` says whether the server hangs. ``hung`` is True once it said so of a trial whose requests time out."""

    def __init__(self, look: Callable[[], bool]) -> None:
        self._look = look
        self._looking: threading.Thread | None = None
        self.hung = False
        self.timed_out_last = False

    def heard(self, *, timed_out: bool) -> None:
        """Take note of how a request ended. Cheap: it is called for each."""
        self.timed_out_last = timed_out
        if timed_out and (self._looking is None or not self._looking.is_alive()):
            self._looking = threading.Thread(target=self._ask, name="hang-watch", daemon=True)
            self._looking.start()

    def _ask(self) -> None:
        if self._look():
            self.hung = True
