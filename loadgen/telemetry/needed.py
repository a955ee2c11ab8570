"""How much of an allocator's peak one trial needed, and by what that is known. Pure.

Pools are figures of one GPU in bytes, under the names of ``ledger.PAGE``.
"""

from __future__ import annotations

from collections.abc import Mapping

from loadgen.telemetry_records import MemoryLedger

PEAK, LAST_CALL = "allocator's peak", "allocator's peak in the last call"
SINCE = "allocator's peak since the trial began"
AT_LEAST = "allocator, sampled: at least"
REPLAYED = "allocator's peak in the last call, without what its graphs hold: at least"
LESS_CACHE = ", less the cache that was held but not needed"
LESS_KEPT = ", less all that is kept between calls but this one's cache"
DROPPED = 0.99  # of what was allocated before a trial: less after it means that caches of earlier calls were given up
Pool = Mapping[str, float]
Need = tuple[float, str]  # bytes, and by what they are known


def is_bound(how: str | None) -> bool:
    """Whether a need is only known from below, or from above."""
    return bound_words(how) != ""


def bound_words(how: str | None) -> str:
    """``at least`` or ``at most``; empty for a need that is known."""
    words = (how or "").rpartition(": ")[2]
    return words if words in ("at least", "at most") else ""


def need(before: Pool, after: Pool, *, ahead: bool, graphs: bool) -> Need | None:
    """What a trial needed, from the figures around it. ``ahead``: the engine takes its whole cache at the start.
    ``graphs``: its calls are replayed CUDA graphs.

    The allocator's peak counter runs since the server's start: it is this trial's only if the trial raised it.
    Otherwise an earlier trial needed more; then an engine that counts each call's own peak tells that of the trial's
    last call (all calls of a static batch are alike), one whose calls mix that since the trial began. So it is where
    the engine gave up earlier calls' caches in the trial: the peak may hold them still, and nothing tells how much.
    """
    start, top = before.get("peak"), after.get("peak")
    raised = top is not None and start is not None and top > start
    dropped = _dropped(before.get("allocated"), after.get("allocated"))
    if top is not None and raised and not dropped:
        how = PEAK
    elif (top := after.get("call_peak")) is not None:
        how = SINCE if ahead else LAST_CALL
    else:
        return None
    if not ahead:
        return _less_kept(top, how, after, dropped=dropped, graphs=graphs)
    held, used = after.get("kv_reserved"), after.get("kv_needed")
    return None if held is None or used is None else (top - held + used, how + LESS_CACHE)


def need_again(ledger: MemoryLedger, pool: Pool, *, graphs: bool) -> Need | None:
    """The need of a ledger as stored, by these rules; ``None`` where they say nothing else. ``pool``: after the trial.

    Ledgers of before knew of the caches that are kept for other calls, and not of the graphs over them with their work
    space: 64 MiB a shape, up to some GiB in all.
    """
    top, how = ledger.needed_bytes, ledger.needed_from or ""
    if top is None or how.removesuffix(LESS_CACHE) not in (PEAK, LAST_CALL):
        return None
    if how.endswith(LESS_CACHE):
        if ledger.kv_reserved_bytes is None or ledger.kv_bytes is None:
            return None
        top, how = top + ledger.kv_reserved_bytes - ledger.kv_bytes, how.removesuffix(LESS_CACHE)
    call_peak = pool.get("call_peak")
    dropped = _dropped(ledger.idle_bytes, pool.get("allocated"))
    if how == PEAK and dropped and call_peak is not None:
        top, how = call_peak, LAST_CALL
    found = _less_kept(top, how, pool, dropped=dropped, graphs=graphs)
    return None if found == (ledger.needed_bytes, ledger.needed_from) else found


def _less_kept(top: float, how: str, pool: Pool, *, dropped: bool, graphs: bool) -> Need:
    """Without what the engine keeps beside its weights while no call runs, but with this call's cache among it."""
    value, how = _without_others(top, how, pool, dropped=dropped)
    return value, REPLAYED if graphs and how.startswith(LAST_CALL) else how


def _without_others(top: float, how: str, pool: Pool, *, dropped: bool) -> Need:
    reserved, used = pool.get("kv_reserved"), pool.get("kv_needed")
    if used is None or (reserved is None and not dropped):
        return top, how
    idle, loaded = pool.get("allocated"), pool.get("loaded")
    if idle is not None and loaded is not None and idle - loaded >= used:
        return top - (idle - loaded) + used, how + LESS_KEPT
    return (top, how) if reserved is None else (top - reserved + used, how + LESS_CACHE)


def _dropped(before: float | None, after: float | None) -> bool:
    return before is not None and after is not None and after < DROPPED * before
