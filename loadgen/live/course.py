"""The running trial's latency over time, in bins that stay few however long it goes on. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from loadgen.units import nanoseconds, seconds

BINS = 96
FIRST_WIDTH_S = 0.25
BLOCKS = "▁▂▃▄▅▆▇█"


class Course:
    """Means of a quantity by when it was told; the bins' width doubles whenever there would be more than ``BINS``."""

    def __init__(self) -> None:
        self._width_ns = nanoseconds(FIRST_WIDTH_S)
        self._began_ns: int | None = None
        self._counts: list[int] = []
        self._sums: list[float] = []

    def add(self, at_ns: int, value_s: float) -> None:
        """Take in a value. One from before the first (replies end out of order) falls into the first bin."""
        if self._began_ns is None:
            self._began_ns = at_ns
        since_ns = max(0, at_ns - self._began_ns)
        while since_ns >= BINS * self._width_ns:
            self._width_ns *= 2
            self._counts = [sum(self._counts[at : at + 2]) for at in range(0, len(self._counts), 2)]
            self._sums = [sum(self._sums[at : at + 2]) for at in range(0, len(self._sums), 2)]
        place = since_ns // self._width_ns
        missing = place + 1 - len(self._counts)
        if missing > 0:
            self._counts += [0] * missing
            self._sums += [0.0] * missing
        self._counts[place] += 1
        self._sums[place] += value_s

    @property
    def means(self) -> tuple[float | None, ...]:
        """The mean of each bin, ``None`` of an empty one."""
        return tuple(
            total / count if count else None for total, count in zip(self._sums, self._counts, strict=True)
        )

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
            filled = 0 if value is None or top <= 0 else max(1, round(value / top * rows * 8)) - 8 * row
            marks.append((" " if filled <= 0 else BLOCKS[min(8, filled) - 1]) * each)
        lines.append("".join(marks)[:columns])
    return lines
