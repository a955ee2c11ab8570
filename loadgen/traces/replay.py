"""The rows of a trace → the requests that are sent: what of it is taken, how long, and when. Pure."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from loadgen.errors import BadInput
from loadgen.traces.rows import TraceRow, hash_of
from loadgen.units import NS_PER_S, nanoseconds
from loadgen.workload_records import Replay

SPREAD_SEED = 0x73707264
WHOLE = 2**63


@dataclass(slots=True)
class Taken:
    """What became of a trace's rows. Left out are ``empty`` ones, without input or output, those ``outside`` the
    window, those ``not_sampled``, and ``too_long`` ones, unless they were shortened (``cut``)."""

    rows: int = 0
    empty: int = 0
    outside: int = 0
    not_sampled: int = 0
    too_long: int = 0
    cut: int = 0


def taken(
    rows: Iterable[TraceRow], replay: Replay, counts: Taken, name: str, *, origin_ns: int, block_tokens: int
) -> Iterator[TraceRow]:
    """The rows that are sent, their times from the window's beginning, at the trace's own speed.

    Raises BadInput for one that is too long, where none may be.
    """
    from_ns = nanoseconds(replay.from_s)
    to_ns = None if replay.to_s is None else nanoseconds(replay.to_s)
    below = int(replay.sample * WHOLE)
    for number, row in enumerate(rows):
        counts.rows += 1
        if not row.input_tokens or not row.output_tokens:
            counts.empty += 1
            continue
        offset_ns = row.offset_ns - origin_ns
        if offset_ns < from_ns or (to_ns is not None and offset_ns >= to_ns):
            counts.outside += 1
            continue
        if replay.sample < 1 and hash_of(b"%d" % (number if row.session is None else row.session)) >= below:
            counts.not_sampled += 1
            continue
        row = row._replace(offset_ns=offset_ns - from_ns)
        most = replay.max_context
        if most is not None and row.input_tokens + row.output_tokens > most:
            if replay.too_long == "fail":
                raise BadInput(
                    f"{name}: a request of {row.input_tokens} input + {row.output_tokens} output tokens is over the "
                    f"context of {most} (accepted: too_long = skip or cut)"
                )
            if replay.too_long == "skip":
                counts.too_long += 1
                continue
            counts.cut += 1
            row = _cut(row, most, block_tokens)
        yield row


def _cut(row: TraceRow, most: int, block_tokens: int) -> TraceRow:
    """Without the end of its prompt, so that what prompts share at their beginning stays; then of its output."""
    output = min(row.output_tokens, most - 1)
    length = most - output
    blocks = row.blocks[: -(-length // block_tokens)] if row.blocks else ()
    return row._replace(input_tokens=length, output_tokens=output, blocks=blocks)


def timed(rows: Iterable[TraceRow], *, speed: float, spread_s: float, seed: int) -> Iterator[TraceRow]:
    """Rows at ``speed`` times their own pace, each a seeded time below ``spread_s`` later; in order again."""
    if not spread_s:
        for row in rows:
            yield row if speed == 1 else _faster(row, speed)
        return
    random = np.random.default_rng([SPREAD_SEED, seed])
    waiting: list[tuple[int, int, TraceRow]] = []
    for number, row in enumerate(rows):
        at_ns = round((row.offset_ns + random.random() * spread_s * NS_PER_S) / speed)
        while (
            waiting and waiting[0][0] <= row.offset_ns / speed
        ):  # nothing that follows can come before these
            yield _at(waiting)
        heapq.heappush(waiting, (at_ns, number, row._replace(think_ns=round(row.think_ns / speed))))
    while waiting:
        yield _at(waiting)


def _faster(row: TraceRow, speed: float) -> TraceRow:
    return row._replace(offset_ns=round(row.offset_ns / speed), think_ns=round(row.think_ns / speed))


def _at(waiting: list[tuple[int, int, TraceRow]]) -> TraceRow:
    at_ns, _, row = heapq.heappop(waiting)
    return row._replace(offset_ns=at_ns)
