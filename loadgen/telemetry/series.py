"""Scrapes → time series, and what is asked of them over stretches of time. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from loadgen.telemetry.scrapes import Scrape
from loadgen.telemetry.spans import Span
from loadgen.units import NS_PER_S

Floats = npt.NDArray[np.float64]
COMPLETE = 0.8  # of the readings of the source that has the most
MOVES = 0.5  # of the changes from reading to reading of the source that has the most
Ints = npt.NDArray[np.int64]


def inside(at_ns: Ints, spans: Sequence[Span]) -> npt.NDArray[np.bool_]:
    """Which instants lie in any of the stretches, which are disjoint; their ends count."""
    if not spans:
        return np.zeros(len(at_ns), dtype=bool)
    starts, ends = np.array(sorted(spans), dtype=np.int64).T
    last = np.searchsorted(starts, at_ns, side="right") - 1
    return np.asarray((last >= 0) & (at_ns <= ends[last]))


@dataclass(frozen=True, slots=True, eq=False)
class Series:
    """One metric of one subject, from one source, in order of time."""

    at_ns: Ints
    values: Floats

    def within(self, spans: Sequence[Span]) -> Floats:
        """The values read in any of the stretches, ends included."""
        return self.values[inside(self.at_ns, spans)]

    def at(self, instant_ns: int) -> float | None:
        """The value at an instant between two readings, linearly; ``None`` outside them: nothing is extrapolated."""
        if not len(self.at_ns) or not self.at_ns[0] <= instant_ns <= self.at_ns[-1]:
            return None
        origin = self.at_ns[0]  # ns since boot do not fit a double's mantissa for ever
        return float(np.interp(float(instant_ns - origin), (self.at_ns - origin).astype(float), self.values))

    def grown(self, spans: Sequence[Span]) -> float | None:
        """How much a counter grew over the stretches; ``None`` when it is not known at their ends, or was reset."""
        total = 0.0
        for start, end in spans:
            first, last = self.at(start), self.at(end)
            if first is None or last is None:
                return None
            between = self.within([(start, end)])
            if np.any(np.diff(np.concatenate(([first], between, [last]))) < 0):
                return None  # what it counted before it began anew is lost
            total += last - first
        return total if spans else None

    def gap_s(self) -> float | None:
        """The median time between readings; ``None`` when there are fewer than two."""
        return float(np.median(np.diff(self.at_ns))) / NS_PER_S if len(self.at_ns) > 1 else None

    def repeats_s(self, spans: Sequence[Span]) -> float:
        """The longest that the same value was read again and again, in readings from before the stretches to after."""
        if not spans or not len(self.at_ns):
            return 0.0
        first = max(0, int(np.searchsorted(self.at_ns, spans[0][0], side="right")) - 1)
        last = int(np.searchsorted(self.at_ns, spans[-1][1], side="left")) + 1
        times, values = self.at_ns[first:last], self.values[first:last]
        starts = np.flatnonzero(np.concatenate(([True], np.diff(values) != 0)))
        ends = np.concatenate((starts[1:], [len(values)])) - 1
        return float((times[ends] - times[starts]).max()) / NS_PER_S

    def integral(self, spans: Sequence[Span]) -> float | None:
        """∫ value dt in value·seconds by the trapezoid rule; ``None`` where the stretches are not covered."""
        total = 0.0
        for start, end in spans:
            first, last = self.at(start), self.at(end)
            if first is None or last is None:
                return None
            between = (self.at_ns > start) & (self.at_ns < end)
            times = (np.concatenate(([start], self.at_ns[between], [end])) - start) / NS_PER_S
            values = np.concatenate(([first], self.values[between], [last]))
            total += float(np.sum(np.diff(times) * (values[1:] + values[:-1]) / 2))
        return total if spans else None


@dataclass(frozen=True, slots=True, eq=False)
class Readings:
    """All series of a trial, by metric and subject, each from one source."""

    series: Mapping[tuple[str, str], Series]

    def get(self, metric: str, subject: str) -> Series | None:
        """The series of one subject; ``None`` where no source has it."""
        return self.series.get((metric, subject))

    def subjects(self, metric: str) -> list[str]:
        """Who has this metric: GPUs, processes, in the order of the scrapes."""
        return [subject for name, subject in self.series if name == metric]

    def all_of(self, metric: str, subjects: Sequence[str]) -> list[Series] | None:
        """The series of every subject; ``None`` when any of them has none, since a sum would then be too small."""
        found = [self.series.get((metric, subject)) for subject in subjects]
        return [one for one in found if one is not None] if subjects and None not in found else None


def readings_of(scrapes: Iterable[Scrape], sources: Sequence[str]) -> Readings:
    """Series from scrapes; ``sources`` in order of preference.

    One that fell silent, is sparse, or repeats old figures while another moves loses its place: dcgm-exporter by
    default reads its GPUs every 30 s, however often it is scraped.

    A reading's time is the middle of its scrape: the source took it somewhere within.
    """
    columns: dict[tuple[str, str], dict[str, tuple[list[int], list[float]]]] = {}
    for scrape in scrapes:
        middle_ns = scrape.at_ns + scrape.took_ns // 2
        for metric, subject, value in scrape.readings:
            column = columns.setdefault((metric, subject), {}).setdefault(scrape.source, ([], []))
            column[0].append(middle_ns)
            column[1].append(value)
    chosen: dict[tuple[str, str], Series] = {}
    for key, by_source in columns.items():
        source = _chosen(by_source, sources)
        if source is not None:
            at_ns = np.array(by_source[source][0], dtype=np.int64)
            values = np.array(by_source[source][1], dtype=np.float64)
            order = np.argsort(at_ns, kind="stable")
            chosen[key] = Series(at_ns[order], values[order])
    return Readings(chosen)


def _chosen(by_source: Mapping[str, tuple[list[int], list[float]]], sources: Sequence[str]) -> str | None:
    """The first named source that tells about as much as the one that tells most."""
    counts = {name: len(values) for name, (_, values) in by_source.items()}
    moves = {name: sum(a != b for a, b in pairwise(values)) for name, (_, values) in by_source.items()}
    for name in sources:
        if (
            name in by_source
            and counts[name] >= COMPLETE * max(counts.values())
            and moves[name] >= MOVES * max(moves.values())
        ):
            return name
    # One has the most readings, another moves the most: the livelier one is at least no repetition.
    known = [name for name in sources if name in by_source]
    return max(known, key=lambda name: moves[name], default=None)


def peak(every: Sequence[Series] | None, spans: Sequence[Span]) -> float | None:
    """The highest value of any series in the stretches."""
    highest = [float(values.max()) for one in every or () if len(values := one.within(spans))]
    return max(highest, default=None)


def mean(every: Sequence[Series] | None, spans: Sequence[Span]) -> float | None:
    """The mean over series of their means; ``None`` unless each has a reading in the stretches."""
    means = [float(values.mean()) for one in every or () if len(values := one.within(spans))]
    return float(np.mean(means)) if every and len(means) == len(every) else None


def peak_of_sum(every: Sequence[Series] | None, spans: Sequence[Span]) -> float | None:
    """The highest sum of all series at one time; ``None`` where they were not read together."""
    if not every or any(not np.array_equal(one.at_ns, every[0].at_ns) for one in every):
        return None
    summed = Series(every[0].at_ns, np.sum([one.values for one in every], axis=0))
    return peak([summed], spans)
