"""Where a claim is decided: at the report's own lengths, or the nearest measured; and the steps of GPUs there."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from loadgen.analysis.starts import Cell, Pair
from loadgen.analysis.study import Study
from loadgen.analysis.table import Key

REPORT = (20, 100)  # input and output tokens of the report's experiment 3
REPORT_INPUTS = (20, 128)  # its charts begin at 20; a step that any grid has
REPORT_OUTPUT = 20  # of its experiment 1


def nearest(found: Iterable[tuple[int, ...]], wanted: Sequence[int]) -> tuple[int, ...]:
    """The lengths that differ least from ``wanted``, by factors; of equals the smaller. ``found`` is not empty."""

    def distance(lengths: tuple[int, ...]) -> tuple[float, tuple[int, ...]]:
        return sum(abs(math.log(one / other)) for one, other in zip(lengths, wanted, strict=True)), lengths

    return min(found, key=distance)


def lengths_of(key: Key) -> tuple[int, int]:
    """Input and output tokens."""
    return key.input_tokens, key.output_tokens


def lengths_text(key: Key) -> str:
    """``20/100``."""
    return f"{key.input_tokens}/{key.output_tokens}"


def batch_series(study: Study, least: int = 2) -> dict[Key, list[Cell]]:
    """By server: its batches at the report's own lengths, or at the nearest that have ``least`` of them."""
    by_server: dict[Key, dict[Key, list[Cell]]] = defaultdict(dict)
    for key, cells in study.series("batch").items():
        if len(cells) >= least:
            by_server[replace(key, input_tokens=-1, output_tokens=-1)][key] = cells
    return {key: here for series in by_server.values() for key, here in [_report_s(series)]}


def other_series(study: Study, taken: Key, least: int = 2) -> dict[Key, list[Cell]]:
    """The same server's batches at all other lengths."""
    server = replace(taken, input_tokens=-1, output_tokens=-1)
    return {
        key: cells
        for key, cells in study.series("batch").items()
        if len(cells) >= least and key != taken and replace(key, input_tokens=-1, output_tokens=-1) == server
    }


def _report_s(series: dict[Key, list[Cell]]) -> tuple[Key, list[Cell]]:
    chosen = nearest([lengths_of(key) for key in series], REPORT)
    return next((key, cells) for key, cells in series.items() if lengths_of(key) == chosen)


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """From ``fewer`` GPUs to ``more``: pairs of (more, fewer) cells, one for each batch that both have."""

    fewer: int
    more: int
    pairs: tuple[Pair, ...]


def gpu_steps(study: Study, axis: str) -> dict[tuple[int, int], list[Step]]:
    """By lengths, the report's own (or nearest) first: the steps between neighbouring numbers of ``tp`` or ``pp``."""
    other = "pp" if axis == "tp" else "tp"
    by_lengths: dict[tuple[int, int], dict[int, dict[Key, Cell]]] = defaultdict(lambda: defaultdict(dict))
    for key, cell in study.cells.items():
        if getattr(key, other) == 1:
            point = replace(key, tp=1, pp=1)
            by_lengths[lengths_of(key)][getattr(key, axis)][point] = cell
    found: dict[tuple[int, int], list[Step]] = {}
    for lengths, by_count in by_lengths.items():
        steps = []
        for fewer, more in pairwise(sorted(by_count)):
            shared = [point for point in by_count[more] if point in by_count[fewer]]
            pairs = tuple((by_count[more][point], by_count[fewer][point]) for point in shared)
            steps += [Step(fewer=fewer, more=more, pairs=pairs)] if pairs else []
        if steps:
            found[lengths] = steps
    order = sorted(found, key=lambda lengths: (lengths != nearest(found, REPORT), lengths))
    return {lengths: found[lengths] for lengths in order}
