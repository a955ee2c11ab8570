"""A trial's objectives while it runs: how many requests kept them, and whether the queue grows. Pure."""

from __future__ import annotations

from array import array
from collections.abc import Iterator

import numpy as np

from loadgen.errors import cancelled
from loadgen.metrics.effective import Growth, grew, in_flight_at_ends
from loadgen.metrics.objectives import Judge
from loadgen.records import Caveat, Trial
from loadgen.request_records import Sample
from loadgen.slo_records import Attained

GROWING = "growing"  # the caveat of a trial whose queue grew


class SloWatch:
    """Takes a trial's samples as they come, with the requests then in flight. Of a trial without objectives it keeps
    nothing.

    ``may_end``: a trial whose queue grows need not go on, as where it only says which loads are too high; ``over`` says
    that it is so.
    """

    def __init__(self, trial: Trial, *, may_end: bool = False) -> None:
        self._judge = Judge(trial.slo) if trial.slo is not None else None
        self._open_loop, self._may_end = trial.load.open_loop, may_end
        self._growth = Growth()
        self._sent_ns, self._end_ns = array("q"), array("q")
        self._in_flight = 0
        self.over = False

    def heard(self, sample: Sample, in_flight: int) -> None:
        """A request has ended, well or not."""
        if self._judge is None or sample.phase == "warmup":
            return
        self._in_flight = in_flight
        if cancelled(sample.error):
            return
        if sample.phase == "measured":
            self._judge.add(sample)
        if self._open_loop:
            self._sent_ns.append(sample.reply.sent_ns)
            self._end_ns.append(sample.reply.end_ns)
            if self._may_end:
                self._growth.heard(sample.reply.sent_ns, sample.reply.end_ns, in_flight)
                self.over = self._growth.seen

    def attained(self, window_s: float | None) -> Attained | None:
        """What the objectives came to; of a trial that was ended early, with those in flight as misses."""
        return self._judge.attained(window_s, self._in_flight if self.over else 0) if self._judge else None

    def caveats(self) -> Iterator[Caveat]:
        """Doubts that only objectives raise."""
        if not self._sent_ns:
            return
        ends = np.sort(np.array(self._end_ns))
        loaded = int((ends <= max(self._sent_ns)).sum())  # behind the last send a load only drains
        counts = in_flight_at_ends(self._sent_ns, ends)
        if self.over or grew(self._sent_ns, ends[:loaded], counts[:loaded]):
            early = "; it was ended early" if self.over else ""
            yield Caveat(
                kind=GROWING,
                message="the requests in flight grew while it ran: the server did not keep up, and attainment falls "
                f"with the length of the window{early}",
                remedy="lower the rate, or read this trial as beyond capacity",
            )
