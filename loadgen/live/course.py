"""The running trial over time, in bins that stay few however long it goes on. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from loadgen.units import nanoseconds, seconds

BINS = 96
FIRST_WIDTH_S = 0.25
BLOCKS = "▁▂▃▄▅▆▇█"


class Course:
    """Latency and token rate by the time since the first send; bins double in width when there would be over ``BINS``.

    A reply's latency counts where it ended; its tokens are spread evenly from its first to its last, since one by one
    they would cost the load generator too much. So the newest bins lack the tokens of what is still in flight.
    """

    def __init__(self) -> None:
        self._width_ns = nanoseconds(FIRST_WIDTH_S)
        self._began_ns: int | None = None
        self._counts: list[int] = []
        self._sums: list[float] = []
        self._tokens: list[float] = []
        self._counted = True

    def add(self, sent_ns: int, begun_ns: int, end_ns: int, took_s: float, tokens: int | None) -> None:
        """Take in a reply: when it was sent, when its tokens began and ended, its latency, and how many they were
        (``None``: nobody counted). One sent before the first (replies end out of order) falls into the first bin."""
        if self._began_ns is None:
            self._began_ns = sent_ns
        end = max(0, end_ns - self._began_ns)
        while end >= BINS * self._width_ns:
            self._width_ns *= 2
            self._counts = [sum(self._counts[at : at + 2]) for at in range(0, len(self._counts), 2)]
            self._sums = [sum(self._sums[at : at + 2]) for at in range(0, len(self._sums), 2)]
            self._tokens = [sum(self._tokens[at : at + 2]) for at in range(0, len(self._tokens), 2)]
        place = end // self._width_ns
        missing = place + 1 - len(self._counts)
        if missing > 0:
            self._counts += [0] * missing
            self._sums += [0.0] * missing
            self._tokens += [0.0] * missing
        self._counts[place] += 1
        self._sums[place] += took_s
        if tokens is None:
            self._counted = False
        else:
            self._spread(max(0, min(begun_ns - self._began_ns, end)), end, tokens)

    def _spread(self, start: int, end: int, tokens: int) -> None:
        first, last, width = start // self._width_ns, end // self._width_ns, self._width_ns
        if first == last:
            self._tokens[last] += tokens
            return
        each = tokens / (end - start)
        self._tokens[first] += each * ((first + 1) * width - start)
        for place in range(first + 1, last):
            self._tokens[place] += each * width
        self._tokens[last] += each * (end - last * width)

    @property
    def latencies_s(self) -> tuple[float | None, ...]:
        """The mean latency of each bin's replies, ``None`` of a bin in which none ended."""
        return tuple(
            total / count if count else None for total, count in zip(self._sums, self._counts, strict=True)
        )

    @property
    def tokens_per_s(self) -> tuple[float, ...]:
        """Output tokens per second in each bin that is over; none once a reply's were counted by nobody."""
        return tuple(tokens / self.width_s for tokens in self._tokens[:-1]) if self._counted else ()

    @property
    def width_s(self) -> float:
        """How long one bin is."""
        return seconds(self._width_ns)


def bars(values: Sequence[float | None], rows: int, columns: int) -> list[str]:
    """Bars from zero to the largest value, ``rows`` lines from the top down; what was not measured is blank.

    Each is as wide as ``columns`` allow, four at most.
    """
    top = max((value for value in values if value is not None), default=0.0)
    each = max(1, min(4, columns // max(1, len(values))))
    lines = []
    for row in range(rows - 1, -1, -1):
        marks = []
        for value in values:
            filled = 0 if not value or top <= 0 else max(1, round(value / top * rows * 8)) - 8 * row
            marks.append((" " if filled <= 0 else BLOCKS[min(8, filled) - 1]) * each)
        lines.append("".join(marks)[:columns])
    return lines
