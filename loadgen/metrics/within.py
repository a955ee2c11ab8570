"""What came within the counted window of a load, whichever of its requests asked for it.

A request that began in the lead-in gives the window the tokens that it has left, and one that ends in the drain those
that it had by then: so a rate over the window has no edges, where counting whole requests would add or lose some.
"""

from __future__ import annotations

from bisect import bisect_left

from loadgen.load_records import Window
from loadgen.request_records import Sample


class Within:
    """Takes samples of lead-in, window and drain one by one. A failed one gives nothing but its time in flight.

    Output tokens count by their arrival: of a reply that was counted as a whole (usage), by the share of its arrivals,
    and of one that was not streamed, at its end. Input tokens count with the first output token. ``uncounted`` are
    replies, ended or begun within the window, whose tokens nobody counted.
    """

    def __init__(self, window: Window) -> None:
        self.window = window
        self.served = 0  # requests that ended well within the window
        self.input_tokens = 0
        self.uncounted = 0
        self._output_tokens = 0.0
        self._busy_ns = 0

    def add(self, sample: Sample, input_tokens: int) -> None:
        """Take a sample with the input tokens of all its sequences."""
        reply, window = sample.reply, self.window
        self._busy_ns += max(0, min(reply.end_ns, window.end_ns) - max(reply.sent_ns, window.start_ns))
        if reply.error is not None:
            return
        self.served += window.holds(reply.end_ns)
        first_ns = reply.token_ns[0] if reply.token_ns else reply.end_ns
        if window.holds(first_ns):
            self.input_tokens += input_tokens
        share = self._share(sample)
        if reply.output_tokens is None:
            self.uncounted += share > 0
        else:
            self._output_tokens += share * sum(reply.output_tokens)

    @property
    def output_tokens(self) -> int:
        """Output tokens that arrived within the window."""
        return round(self._output_tokens)

    @property
    def in_flight_mean(self) -> float:
        """Requests in flight over the window: the mean, weighted by time."""
        return self._busy_ns / (self.window.end_ns - self.window.start_ns)

    def _share(self, sample: Sample) -> float:
        stamps, counts, window = sample.reply.token_ns, sample.reply.tokens_per_arrival, self.window
        if not stamps:
            return float(window.holds(sample.reply.end_ns))
        first, last = bisect_left(stamps, window.start_ns), bisect_left(stamps, window.end_ns)
        if last - first in (0, len(stamps)):
            return float(last > first)
        return sum(counts[first:last]) / sum(counts)
