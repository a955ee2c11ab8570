"""What bounds a load: its requests, or a duration with its lead-in; and what a mode takes."""

from __future__ import annotations

from dataclasses import replace

from loadgen.errors import BadInput
from loadgen.workload_records import Replay

WITHOUT_LEAD_IN = frozenset({"static", "ramp"})
LONGEST_LEAD_IN_S = 30.0
MOST = 10**12  # of whatever is counted: beyond it a number is a slip, and overflows what stores it
MOST_REPEATS = 10_000  # which are written out
MOST_AT_ONCE = 1_000_000  # requests or rows of one call, each of which takes memory
MOST_WORKERS = 1024  # processes
MOST_CALL_TOKENS = 1 << 26  # of prompts in one wire call, which is made in memory, several GB of it

# Which of the keys that say how requests are sent a mode uses.
USED_BY: dict[str, frozenset[str]] = {
    "static": frozenset({"batch_size"}),
    "closed": frozenset({"concurrency", "max_rate", "prefixes", "dataset", "cancel"}),
    "constant": frozenset({"rate", "prefixes", "dataset", "cancel"}),
    "poisson": frozenset({"rate", "prefixes", "dataset", "cancel"}),
    "gamma": frozenset({"rate", "burstiness", "prefixes", "dataset", "cancel"}),
    "ramp": frozenset({"rate", "rate_end", "prefixes", "dataset", "cancel"}),
    "trace": frozenset({"trace", "rate", "replay", "cancel"}),
    "sessions": frozenset({"users", "turns", "think", "prefixes", "cancel"}),
}


def paced(replay: Replay, rate: float | None) -> Replay:
    """How a trace is replayed at ``rate`` requests per second (``None``: as it says). Raises BadInput where it sets its
    pace itself."""
    if rate is None:
        return replay
    if replay.rate is not None or replay.speed != 1.0:
        own = f"speed = {replay.speed:g}" if replay.rate is None else f"rate = {replay.rate:g}"
        raise BadInput(f"sets the pace of the trace, as {own} of its replay does (accepted: one of the two)")
    return replace(replay, rate=rate)


def call_problem(batch_size: int, input_tokens: int) -> str | None:
    """What is wrong with the size of one wire call, in words."""
    if (tokens := batch_size * input_tokens) <= MOST_CALL_TOKENS:
        return None
    return f"{batch_size} rows of {input_tokens} tokens are {tokens} in one call (accepted: up to {MOST_CALL_TOKENS})"


def duration_problem(
    mode: str, requests: int | None, duration_s: float | None, lead_in_s: float | None
) -> tuple[str, str, str] | None:
    """What is wrong with a load's bounds: the key, why, and what is accepted. A trace brings its own."""
    if duration_s is None:
        if requests == 0 and mode != "trace":
            accepted = "1 or more, or 0 beside a duration such as 120s"
            return "requests", "bounds nothing without a duration", accepted
        if lead_in_s is not None:
            return "lead_in", "has no effect without a duration", "it beside a duration such as 120s"
        return None
    if mode == "trace":
        return "duration", "has no effect on a trace, which has its own", "the other modes"
    if requests:
        return "requests", "cannot stand beside a duration, which bounds the load", "0, or left out"
    if lead_in_s and mode in WITHOUT_LEAD_IN:
        return "lead_in", f"has no effect in mode = {mode!r}", "0, or left out"
    return None


def default_lead_in_s(mode: str, duration_s: float | None) -> float:
    """Seconds of lead-in where none are named: a quarter of the duration, 30 s at most.

    A load that begins with an empty server meets less of a queue at first than it will in the end.
    """
    if duration_s is None or mode in WITHOUT_LEAD_IN:
        return 0.0
    return min(LONGEST_LEAD_IN_S, duration_s / 4)
