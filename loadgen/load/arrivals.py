"""When each request is due: seeded schedules of the open-loop kinds, as nanoseconds from the start.

A schedule is computed from its first request on every worker, and each worker keeps its own stride of it: so the
merged schedule of N workers is the schedule of one, to the nanosecond.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from itertools import chain, count, islice, repeat
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from loadgen.errors import BadInput
from loadgen.load.arrival import Arrival
from loadgen.load.lengths import lengths
from loadgen.load.sessions import session_arrivals
from loadgen.load.shared import groups
from loadgen.load_records import LoadSpec
from loadgen.traces.rows import TraceRow
from loadgen.units import NS_PER_S

CHUNK = 65536  # due times computed at once: a schedule of any length takes the memory of one chunk
_ARRIVALS_SEED = 0x61727276  # keeps due times independent of prompts that share the trial's seed

T = TypeVar("T")
Offsets = NDArray[np.int64]


def schedule(load: LoadSpec, trace: Iterable[TraceRow] = ()) -> Iterator[Arrival]:
    """The measured requests of a load, in order. ``trace`` are the rows of the trace, where there is one.

    Closed loops have no due times. Of sessions the first turns are given, with all others in them. A load that is bound
    by its duration never ends here, but for a ramp.

    Raises BadInput for a rate that is missing or not positive, and for a trace that is shorter than ``requests``
    (0 takes the whole trace).
    """
    if load.kind == "trace":
        yield from _trace_arrivals(load, trace)
        return
    if load.kind == "sessions":
        yield from session_arrivals(load)
        return
    offsets: Iterable[int | None]
    if load.open_loop:
        offsets = chain.from_iterable(chunk.tolist() for chunk in offset_chunks(load))
    else:
        offsets = repeat(None) if load.duration_s is not None else repeat(None, load.requests)
    if not (load.varies or load.prefixes):
        shape = (load.input_tokens, load.output_tokens)
        for index, offset_ns in enumerate(offsets):
            yield Arrival(index, offset_ns, *shape)
        return
    drawn = zip(offsets, lengths(load, "input"), lengths(load, "output"), groups(load), strict=False)
    for index, (offset_ns, input_tokens, output_tokens, blocks) in enumerate(drawn):
        yield Arrival(index, offset_ns, input_tokens, output_tokens, blocks)


def share(items: Iterable[T], worker: int, workers: int) -> Iterator[T]:
    """Worker ``worker``'s part of ``items``: every ``workers``-th, so that the load is even at every instant."""
    return islice(items, worker, None, workers)


def share_of_sessions(rows: Iterable[Arrival], worker: int, workers: int) -> Iterator[Arrival]:
    """Worker ``worker``'s part of a trace's rows: all turns of a session are one worker's."""
    if workers == 1:
        yield from rows
        return
    for row in rows:
        if (row.number if row.session is None else _mixed(row.session)) % workers == worker:
            yield row


def _mixed(session: int) -> int:
    """A number as even as a hash: sessions may be numbered in steps."""
    return (session * 0x9E3779B97F4A7C15 & 0xFFFFFFFFFFFFFFFF) >> 32


def offset_chunks(load: LoadSpec) -> Iterator[Offsets]:
    """Due times in ns from the start, never falling, a chunk at a time: ``load.requests`` in all, or without an end
    where a duration bounds the load.

    Raises BadInput for a kind without a schedule and for a rate that is not above 0.
    """
    rate = _positive("rate", load.rate)
    requests = None if load.duration_s is not None else load.requests
    if load.kind == "constant":
        return _constant(requests, rate)
    if load.kind == "ramp":
        last = _positive("rate_end", load.rate_end)
        if load.duration_s is not None:
            return _ramp(math.ceil(load.duration_s * (rate + last) / 2), load.duration_s, rate, last)
        return _ramp(load.requests, 2 * load.requests / (rate + last), rate, last)
    if load.kind == "poisson":
        return _renewal(requests, load.seed, shape=1.0, rate=rate)
    if load.kind == "gamma":
        return _renewal(requests, load.seed, shape=_positive("burstiness", load.burstiness), rate=rate)
    raise BadInput(f"load kind {load.kind!r} has no schedule (accepted: constant, poisson, gamma, ramp)")


def _constant(requests: int | None, rate: float) -> Iterator[Offsets]:
    """The i-th request is due at i/rate exactly: gaps are never added up, so no error does."""
    for index in _indices(requests):
        yield np.rint(index * (NS_PER_S / rate)).astype(np.int64)


def _ramp(requests: int, duration_s: float, first: float, last: float) -> Iterator[Offsets]:
    """A rate that grows (or falls) linearly from ``first`` to ``last`` over ``duration_s``.

    The i-th request is due when the cumulative rate r₀t + kt²/2 reaches i; solved for t in the form that does not
    cancel when k is small: t = 2i/(r₀ + √(r₀² + 2ki)).
    """
    slope = (last - first) / duration_s
    for index in _indices(requests):
        root = np.sqrt(first * first + 2 * slope * index)
        yield np.rint(2 * index / (first + root) * NS_PER_S).astype(np.int64)


def _renewal(requests: int | None, seed: int, *, shape: float, rate: float) -> Iterator[Offsets]:
    """Independent gamma-distributed gaps of mean 1/rate and coefficient of variation 1/√shape.

    Shape 1 is the exponential distribution, so a Poisson process; smaller is burstier.
    """
    random = np.random.default_rng([_ARRIVALS_SEED, seed])
    reached_s = 0.0
    for index in _indices(requests):
        gaps = random.standard_gamma(shape, len(index)) / (shape * rate)
        due_s = reached_s + np.cumsum(gaps)
        reached_s = float(due_s[-1])
        yield np.rint(due_s * NS_PER_S).astype(np.int64)


def _indices(requests: int | None) -> Iterator[NDArray[np.float64]]:
    if requests is None:
        for first in count(0, CHUNK):
            yield np.arange(first, first + CHUNK, dtype=np.float64)
        return
    for first in range(0, requests, CHUNK):
        yield np.arange(first, min(first + CHUNK, requests), dtype=np.float64)


def _positive(name: str, value: float | None) -> float:
    if value is None or not 0 < value < float("inf"):
        raise BadInput(f"{name} = {value!r}: an open-loop load needs one (accepted: a number above 0)")
    return value


def _trace_arrivals(load: LoadSpec, rows: Iterable[TraceRow]) -> Iterator[Arrival]:
    wanted = load.requests or None
    have = 0
    for have, row in enumerate(islice(rows, wanted), 1):
        yield Arrival(
            have - 1,
            row.offset_ns,
            row.input_tokens,
            row.output_tokens,
            row.blocks,
            row.session,
            row.think_ns,
        )
    if wanted is not None and have < wanted:
        raise BadInput(
            f"{load.trace}: requests = {wanted}: the trace has {have} (accepted: up to {have}; 0 takes all)"
        )
