"""What a result says of its load beyond the load's own spec: what was taken of a trace, what prompts share."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import islice

from loadgen.load.lengths import lengths
from loadgen.load_records import LoadSpec
from loadgen.records import Caveat
from loadgen.traces.datasets import measure_texts
from loadgen.traces.files import PLAIN, measure_trace
from loadgen.units import show_s
from loadgen.workload_records import SessionFigures

DRAWS = 4096  # lengths behind the share of tokens that prefixes are


def workload_of(load: LoadSpec) -> Mapping[str, object] | None:
    """The facts; ``None`` where the spec says all. ``hit_share`` is what an endless cache of prefixes would have, of
    all blocks of a trace's prompts or, where prompts begin alike, of all input tokens: no server's own is above it.

    Raises BadInput for a trace that cannot be read.
    """
    if load.kind == "trace" and load.trace is not None:
        return measure_trace(load.trace, load.replay or PLAIN).facts()
    if load.dataset is not None:
        return measure_texts(load.dataset, load.requests or None).facts()
    if load.prefixes is None or load.sessions is not None:  # of which samples say what could be had
        return None
    drawn = list(islice(lengths(load, "input"), DRAWS))
    shared = sum(min(length, load.prefixes.tokens) for length in drawn)
    return {"hit_share": load.prefixes.share * shared / sum(drawn)}


def of_workload(load: LoadSpec, facts: Mapping[str, object] | None, sent: int = 0) -> Iterator[Caveat]:
    """Doubts about what was sent; ``sent`` requests in all."""
    prompts = (facts or {}).get("prompts")
    if isinstance(prompts, int) and sent - load.warmup > prompts:
        yield Caveat(
            kind="dataset-repeats",
            message=f"{sent - load.warmup} requests were made of {prompts} prompts: those sent again may be in the "
            "server's cache",
            remedy="a larger data set, or a shorter load",
        )
    grid_s = (facts or {}).get("grid_s")
    if isinstance(grid_s, float) and not (load.replay and load.replay.spread_s):
        yield Caveat(
            kind="trace-grid",
            message=f"the trace's clock has steps of {show_s(grid_s)}: many of its requests are due at one instant, "
            "which they never were",
            remedy=f"replay it with spread = '{grid_s:g}s'",
        )


def of_sessions(told: SessionFigures | None) -> Iterator[Caveat]:
    """Doubts about the conversations of a load."""
    if told is None:
        return
    if told.failed:
        yield Caveat(
            kind="sessions-failed",
            message=f"{told.failed} sessions ended with a turn that failed; {told.not_sent} turns behind such ones "
            "were not sent, and the load was that much lighter",
            remedy="see to the failed requests first",
        )
    if told.filled:
        yield Caveat(
            kind="session-filler",
            message=f"{told.filled} replies are not in the prompts behind them, since prompts go out as text or the "
            "server does not tell its token ids: other tokens, as many, stand for them, and a cache of prefixes "
            "holds what was sent and no reply",
            remedy="completions by token ids, with return_token_ids, from a server that sends them",
        )
