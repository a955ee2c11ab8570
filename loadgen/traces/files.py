"""Trace files on disk: read alike by plan and load, a row at a time, and what a plan must know of one."""

from __future__ import annotations

import hashlib
import os
from array import array
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from itertools import chain
from typing import IO, Any

import numpy as np

from loadgen.errors import BadInput
from loadgen.input_files import open_input, unreadable
from loadgen.traces.formats import BOM, Reader, reader_of
from loadgen.traces.replay import Taken, taken, timed
from loadgen.traces.rows import LATEST_S, TraceRow
from loadgen.units import NS_PER_S
from loadgen.workload_records import Replay

PLAIN = Replay()
MOST_BLOCKS = 1_000_000  # of different ones that are told apart: about 90 MB
COARSE_S = 0.5  # of a trace's clock: from here on a replay comes in bursts that never were


@dataclass(frozen=True, slots=True, kw_only=True)
class TraceExtent:
    """How far the requests of a trace reach that are sent: their longest input and output in tokens, how many they are,
    and a hash of the file's content.

    The two lengths may be of different requests; ``longest`` is the most of both together. ``digest`` (16 hex digits)
    goes into a trial's id in place of the path, so that a moved file is the same load. ``span_s`` is from the first to
    the last at the trace's own speed, ``unsorted`` how many rows came before the one above them. Of all blocks of the
    prompts, ``hit_share`` would be in an endless cache of prefixes, and so ``hit_tokens`` of ``tokens``; ``None``
    without blocks, and where they are too many to be told apart. ``grid_s`` is the step of a coarse clock.
    ``in_sessions`` requests are turns of conversations; ``None`` of a trace that tells of none. ``longest_wait_s`` is
    the latest offset or the longest time of thought, at the trace's own speed.
    """

    format: str
    input_tokens: int
    output_tokens: int
    longest: int
    requests: int
    digest: str
    span_s: float = 0.0
    unsorted: int = 0
    taken: Taken
    block_tokens: int | None = None
    hit_share: float | None = None
    hit_tokens: int | None = None
    tokens: int = 0
    grid_s: float | None = None
    in_sessions: int | None = None
    longest_wait_s: float = 0.0

    def facts(self) -> dict[str, Any]:
        """What of it stands in a result."""
        found = asdict(self)
        del found["longest_wait_s"]
        return {key: value for key, value in {**found, **found.pop("taken")}.items() if value is not None}


@contextmanager
def open_trace(path: str) -> Iterator[IO[bytes]]:
    """The file's lines, as bytes. Raises BadInput for a file that cannot be opened or read while it is open."""
    try:
        with open_input(path) as lines:
            yield lines
    except OSError as error:
        raise BadInput(f"{path}: {unreadable(path, error)}") from None


@contextmanager
def open_rows(path: str, replay: Replay = PLAIN, seed: int = 0) -> Iterator[Iterator[TraceRow]]:
    """The requests of a trace as they are sent, a row at a time, for as long as it is open. Raises BadInput."""
    extent = measure_trace(path, replay)
    speed = _speed(extent, replay, path)
    with open_trace(path) as file:
        reader = _reader(file, path, replay)
        rows = (_sorted_rows if extent.unsorted else _rows)(file, path, reader)
        requests = _taken(reader, rows, replay, Taken(), path)
        yield timed(requests, speed=speed, spread_s=replay.spread_s, seed=seed)


def measure_trace(path: str, replay: Replay = PLAIN) -> TraceExtent:
    """Read a whole trace as it will be sent, in the memory of one row and the numbers of its blocks.

    Raises BadInput, with the file and the line, for all that would end the trial later, and for a trace without a row.
    """
    try:
        stat = os.stat(path)
    except (OSError, ValueError) as error:
        raise BadInput(f"{path}: {unreadable(path, error)}") from None
    known = replace(replay, speed=1.0, rate=None, spread_s=0.0)  # which change nothing here
    extent = _measured(path, known, (stat.st_mtime_ns, stat.st_size, stat.st_ino))
    _speed(extent, replay, path)
    return extent


def _speed(extent: TraceExtent, replay: Replay, path: str) -> float:
    """How many times as fast as in the file its requests are sent. Raises BadInput where there is no such pace, or the
    last would come so late that its time is no number of nanoseconds."""
    speed, pace = replay.speed, f"speed = {replay.speed:g}"
    if replay.rate is not None:
        pace = f"rate = {replay.rate:g}"
        if extent.requests < 2 or extent.span_s <= 0:
            raise BadInput(f"{path}: {pace}: its requests all come at once (accepted: without rate)")
        speed = replay.rate * extent.span_s / (extent.requests - 1)
    ends_s = (extent.longest_wait_s + replay.spread_s) / speed
    if ends_s > LATEST_S:
        raise BadInput(
            f"{path}: {pace}: its last request would come after {ends_s:.3g} s (accepted: up to {LATEST_S:g} s)"
        )
    return speed


@lru_cache(maxsize=16)
def _measured(path: str, replay: Replay, _version: tuple[int, ...]) -> TraceExtent:
    digest = hashlib.sha256()
    with open_trace(path) as file:
        reader = _reader(file, path, replay)
        seen = _Seen(reader)
        rows = _watched(_rows(file, path, reader, digest.update), seen)
        for row in _taken(reader, rows, replay, seen.taken, path):
            seen.add(row)
        if seen.unsorted:
            file.seek(0)
            seen = _Seen(reader, unsorted=seen.unsorted)
            for row in _taken(reader, _sorted_rows(file, path, reader), replay, seen.taken, path):
                seen.add(row)
    if not seen.requests:
        raise BadInput(f"{path}: holds no request" + (" that is taken" if seen.taken.rows else ""))
    return seen.extent(digest.hexdigest()[:16])


class _Seen:
    """What is noted of the rows that are sent."""

    def __init__(self, reader: Reader, unsorted: int = 0) -> None:
        self.reader, self.unsorted = reader, unsorted
        self.taken = Taken()
        self.requests = self.tokens = self.hit_tokens = self.in_sessions = 0
        self._input = self._output = self._longest = 0
        self._blocks: set[int] | None = set()
        self._all = self._hits = 0
        self._first_ns = self._last_ns = -1
        self._steps = 0
        self._least_ns = self._longest_wait_ns = 0

    def add(self, row: TraceRow) -> None:
        """Note one."""
        self.requests += 1
        self.tokens += row.input_tokens
        self.in_sessions += row.session is not None
        self._input, self._output = max(self._input, row.input_tokens), max(self._output, row.output_tokens)
        self._longest = max(self._longest, row.input_tokens + row.output_tokens)
        if self._first_ns < 0:
            self._first_ns = row.offset_ns
        elif row.offset_ns != self._last_ns:
            step = row.offset_ns - self._last_ns
            self._steps += 1
            self._least_ns = min(self._least_ns, step) if self._least_ns else step
        self._last_ns = row.offset_ns
        self._longest_wait_ns = max(self._longest_wait_ns, row.offset_ns, row.think_ns)
        if row.blocks and self._blocks is not None:
            known, size = self._blocks, self.reader.block_tokens or 0
            hits = next(
                (place for place, block in enumerate(row.blocks) if block not in known), len(row.blocks)
            )
            self._hits += hits
            self._all += len(row.blocks)
            self.hit_tokens += min(hits * size, row.input_tokens)
            known.update(row.blocks)
            if len(known) > MOST_BLOCKS:
                self._blocks = None

    def extent(self, digest: str) -> TraceExtent:
        """All of it."""
        told = self._blocks is not None and self._all > 0
        coarse = (
            self._steps and self._least_ns >= COARSE_S * NS_PER_S and self.requests > 2 * (self._steps + 1)
        )
        return TraceExtent(
            format=self.reader.format,
            input_tokens=self._input,
            output_tokens=self._output,
            longest=self._longest,
            requests=self.requests,
            digest=digest,
            span_s=(self._last_ns - self._first_ns) / NS_PER_S,
            unsorted=self.unsorted,
            taken=self.taken,
            block_tokens=self.reader.block_tokens,
            hit_share=self._hits / self._all if told else None,
            hit_tokens=self.hit_tokens if told else None,
            tokens=self.tokens,
            grid_s=self._least_ns / NS_PER_S if coarse else None,
            in_sessions=self.in_sessions or None,
            longest_wait_s=self._longest_wait_ns / NS_PER_S,
        )


def _watched(rows: Iterator[TraceRow], seen: _Seen) -> Iterator[TraceRow]:
    last_ns: int | None = None
    for row in rows:
        if last_ns is not None and row.offset_ns < last_ns:
            seen.unsorted += 1
        last_ns = row.offset_ns
        yield row


def _taken(
    reader: Reader, rows: Iterator[TraceRow], replay: Replay, counts: Taken, path: str
) -> Iterator[TraceRow]:
    first = next(rows, None)
    if first is None:
        return iter(())
    origin_ns = first.offset_ns if reader.rebased else 0
    return taken(
        chain([first], rows), replay, counts, path, origin_ns=origin_ns, block_tokens=reader.block_tokens or 0
    )


def _reader(file: IO[bytes], path: str, replay: Replay) -> Reader:
    """The reader of the first line that is not blank; the file is at its beginning again."""
    first = next((line for line in file if line.removeprefix(BOM).strip()), b"")
    file.seek(0)
    return reader_of(first, path, replay.format, replay.block_tokens)


def _rows(
    file: IO[bytes], path: str, reader: Reader, on_line: Callable[[bytes], object] | None = None
) -> Iterator[TraceRow]:
    """The file's rows as they stand in it; blank lines are passed over."""
    last_ns, header = 0, reader.header
    for number, line in enumerate(file, 1):
        if on_line is not None:
            on_line(line)
        if not line.strip():
            continue
        if header:
            header = False
            continue
        row = reader.parse(line, f"{path}: line {number}")
        if reader.strict and row.offset_ns < last_ns:
            raise BadInput(
                f"{path}: line {number}: offset_s = {row.offset_ns / NS_PER_S!r} is before the line above it "
                "(accepted: in order)"
            )
        last_ns = row.offset_ns
        yield row


def _sorted_rows(file: IO[bytes], path: str, reader: Reader) -> Iterator[TraceRow]:
    """The rows by time, equal ones as they stand in the file: two numbers of each are kept, and lines read again."""
    places, offsets = array("q"), array("q")
    here = after = 0

    def note(line: bytes) -> None:
        nonlocal here, after
        here, after = after, after + len(line)

    for row in _rows(file, path, reader, note):
        places.append(here)
        offsets.append(row.offset_ns)
    for place in np.argsort(np.asarray(offsets), kind="stable").tolist():
        file.seek(places[place])
        yield reader.parse(file.readline(), path)
