"""What a result says of its load beyond the load's own spec: what was taken of a trace, what prompts share."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import islice

from loadgen.load.lengths import lengths
from loadgen.records import Caveat, LoadSpec
from loadgen.traces.files import PLAIN, measure_trace
from loadgen.units import show_s

DRAWS = 4096  # lengths behind the share of tokens that prefixes are


def workload_of(load: LoadSpec) -> Mapping[str, object] | None:
    """The facts; ``None`` where the spec says all. ``hit_share`` is what an endless cache of prefixes would have, of
    all blocks of a trace's prompts or, where prompts begin alike, of all input tokens: no server's own is above it.

    Raises BadInput for a trace that cannot be read.
    """
    if load.kind == "trace" and load.trace is not None:
        return measure_trace(load.trace, load.replay or PLAIN).facts()
    if load.prefixes is None:
        return None
    drawn = list(islice(lengths(load, "input"), DRAWS))
    shared = sum(min(length, load.prefixes.tokens) for length in drawn)
    return {"hit_share": load.prefixes.share * shared / sum(drawn)}


def of_workload(load: LoadSpec, facts: Mapping[str, object] | None) -> Iterator[Caveat]:
    """Doubts about what was sent."""
    grid_s = (facts or {}).get("grid_s")
    if isinstance(grid_s, float) and not (load.replay and load.replay.spread_s):
        yield Caveat(
            kind="trace-grid",
            message=f"the trace's clock has steps of {show_s(grid_s)}: many of its requests are due at one instant, "
            "which they never were",
            remedy=f"replay it with spread = '{grid_s:g}s'",
        )
