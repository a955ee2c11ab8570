"""How long a duration-bound load goes on sending, and the phase that each of its requests belongs to.

Pure: instants are given, in ns from the start of the load.
"""

from __future__ import annotations

from array import array
from statistics import median_low

from loadgen.load_records import LoadSpec
from loadgen.request_records import Phase
from loadgen.units import nanoseconds

LATENCIES = 1024  # of counted requests, which tell how long the drain goes on sending


class Sending:
    """Counts a load's requests as they are sent and as they end.

    ``goes_on`` says whether a request that is due (or could be sent) at an instant may still be: within lead-in and
    window always; behind it while a counted request is out, for one median E2E latency of counted ones at most. Static
    loads and ramps end with their window.
    """

    __slots__ = ("_counted_from", "_drains", "_latencies_ns", "_out", "_patience_ns", "_until")

    def __init__(self, load: LoadSpec) -> None:
        assert load.duration_s is not None
        self._counted_from = nanoseconds(load.lead_in_s)
        self._until = self._counted_from + nanoseconds(load.duration_s)
        self._drains = load.kind not in ("static", "ramp")
        self._out = 0  # counted requests that have not ended
        self._latencies_ns = array("q")
        self._patience_ns: int | None = None

    def phase(self, offset_ns: int) -> Phase:
        """The phase of a request that is due, or sent, at an instant."""
        if offset_ns < self._counted_from:
            return "lead_in"
        return "measured" if offset_ns < self._until else "drain"

    def goes_on(self, offset_ns: int) -> bool:
        """Whether a request may be sent that is due at an instant."""
        if offset_ns < self._until:
            return True
        if not self._drains or self._out <= 0:
            return False
        if self._patience_ns is None:
            self._patience_ns = median_low(self._latencies_ns) if self._latencies_ns else 0
        return offset_ns < self._until + self._patience_ns

    def began(self, phase: Phase) -> None:
        """A request of a phase was sent."""
        self._out += phase == "measured"

    def ended(self, phase: Phase, took_ns: int) -> None:
        """A request of a phase ended, well or not, after so long."""
        if phase == "measured":
            self._out -= 1
            if len(self._latencies_ns) < LATENCIES:
                self._latencies_ns.append(took_ns)
