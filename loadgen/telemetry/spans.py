"""The phases of a trial as stretches of time, from its samples. Pure but for ``spans_of_file``.

A moment is *prefill* while any request waits for its first token, *decode* while all that are in flight have theirs,
*idle* before the first send. In a static batch these are the engine's own phases; under continuous batching they are
what a client can tell of them, since an engine prefills one request while it decodes others.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from loadgen.load_records import Window

Span = tuple[int, int]
Times = tuple[str, int, int, int | None]  # phase, sent, end, first token


@dataclass(frozen=True, slots=True, kw_only=True)
class Spans:
    """Disjoint stretches in ns, in order, by phase. Without streamed tokens there is no prefill and no decode."""

    idle: tuple[Span, ...] = ()
    warmup: tuple[Span, ...] = ()
    load: tuple[Span, ...] = ()
    prefill: tuple[Span, ...] = ()
    decode: tuple[Span, ...] = ()


def merged(spans: Iterable[Span]) -> list[Span]:
    """Overlapping stretches joined."""
    joined: list[Span] = []
    for start, end in sorted(spans):
        if joined and start <= joined[-1][1]:
            joined[-1] = (joined[-1][0], max(joined[-1][1], end))
        elif end > start:
            joined.append((start, end))
    return joined


def without(spans: Sequence[Span], holes: Sequence[Span]) -> list[Span]:
    """Disjoint ordered stretches less others of the same kind, in one pass over both."""
    left: list[Span] = []
    next_hole = 0
    for start, end in spans:
        at = start
        while next_hole < len(holes) and holes[next_hole][1] <= start:
            next_hole += 1
        here = next_hole  # the last hole of a stretch may reach into the next one
        while here < len(holes) and holes[here][0] < end:
            first, last = holes[here]
            if first > at:
                left.append((at, first))
            at = max(at, last)
            here += 1
        next_hole = max(next_hole, here - 1)
        if at < end:
            left.append((at, end))
    return left


def spans_of(times: Sequence[Times], began_ns: int, window: Window | None = None) -> Spans:
    """The phases of a trial that began, with nothing in flight, at ``began_ns``.

    The load of one that has a ``window`` is what lies in that, whichever requests were in flight.
    """
    measured = [one for one in times if one[0] != "warmup"]
    warmup = [one for one in times if one[0] == "warmup"]
    if not times:
        return Spans()
    first_ns = min(sent for _, sent, _, _ in times)
    streamed = bool(measured) and all(first is not None for *_, first in measured)
    busy = merged((sent, end) for _, sent, end, _ in measured)
    prefill = merged((sent, first) for _, sent, _, first in measured if first is not None) if streamed else []
    spans = Spans(
        idle=((began_ns, first_ns),) if first_ns > began_ns else (),
        warmup=_whole(warmup),
        load=_whole(measured),
        prefill=tuple(prefill),
        decode=tuple(without(busy, prefill)) if streamed else (),
    )
    if window is None:
        return spans
    clipped = {name: _inside(getattr(spans, name), window) for name in ("load", "prefill", "decode")}
    return replace(spans, **clipped)


def _inside(spans: Sequence[Span], window: Window) -> tuple[Span, ...]:
    ends = ((max(start, window.start_ns), min(end, window.end_ns)) for start, end in spans)
    return tuple((start, end) for start, end in ends if end > start)


def _whole(times: Sequence[Times]) -> tuple[Span, ...]:
    if not times:
        return ()
    return ((min(sent for _, sent, _, _ in times), max(end for _, _, end, _ in times)),)


def spans_of_file(path: Path, began_ns: int, window: Window | None = None) -> Spans:
    """The phases by the samples that a trial stored; none when it stored none.

    Failed requests are left out where they had no token: they neither prefilled nor decoded to an end.
    """
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    if not path.exists():
        return Spans()
    table = pq.read_table(path, columns=["phase", "sent_ns", "end_ns", "token_ns", "error"])
    table = table.filter(pc.is_null(table["error"]))
    tokens = table["token_ns"]
    some = pc.greater(pc.list_value_length(tokens), 0)
    first = pc.if_else(some, pc.list_element(_padded(tokens), 0), None)
    last = table["end_ns"]
    columns = (table["phase"], table["sent_ns"], last, first)
    return spans_of(list(zip(*(column.to_pylist() for column in columns), strict=True)), began_ns, window)


def _padded(tokens: object) -> object:
    """Lists that all have an element, since Arrow refuses to take the first of an empty one."""
    import pyarrow as pa
    import pyarrow.compute as pc

    chunks = tokens.chunks if hasattr(tokens, "chunks") else [tokens]
    one = pa.array([[0]], type=pa.list_(pa.int64()))
    padded = [pc.if_else(pc.greater(pc.list_value_length(chunk), 0), chunk, one[0]) for chunk in chunks]
    return pa.chunked_array(padded, type=pa.list_(pa.int64()))
