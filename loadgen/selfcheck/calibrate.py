"""How exact this client is on this machine: replay a load against the null server and compare with what it logged.

Nothing here knows how the client works: its samples go in as any trial's do, and the server's own log is compared.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass

from loadgen.errors import BadInput
from loadgen.load_records import LoadSpec
from loadgen.metrics.percentiles import percentile_words, tail, tail_words
from loadgen.records import Dist
from loadgen.selfcheck.replay import Null, Replay, shorten
from loadgen.telemetry.cost import TelemetryCost
from loadgen.telemetry_records import TelemetrySpec
from loadgen.units import show_number, show_s, show_share

TTFT_MS, ITL_MS, BOUND_MS = 200.0, 20.0, 1.0
RATE_SHARE = 0.98  # of what the null server's schedule allows: below, the client holds the load back
REPLAY_S, PROBE_S = 20.0, 3.0  # the longest that the replay and each step of the search should take
HIGHEST_CONCURRENCY, HIGHEST_RATE = 8192, 65536.0
CLOSE_ENOUGH = 1.1  # the search ends when the highest good load and the lowest bad one are this near
VOCAB = 32000


@dataclass(frozen=True, slots=True, kw_only=True)
class Limit:
    """The highest load at which every error stayed under the bound.

    ``what`` is ``concurrency`` or ``requests/s``. ``highest`` is None when even the lowest load tried was bad.
    ``next_bad`` is the lowest bad load, and ``why`` what was wrong there; both None when the search hit its ceiling.
    ``by_server``: it was the null server that fell behind, so the client's own limit lies higher.
    """

    what: str
    highest: float | None
    next_bad: float | None
    why: str | None
    by_server: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """A replay of the load itself, and the limit that was found from there; ``None`` where there is none to find.

    ``recorded`` is the same replay with telemetry beside it, which took ``telemetry``.
    """

    replay: Replay
    recorded: Replay
    telemetry: TelemetryCost
    limit: Limit | None
    bound_s: float
    ttft_s: float
    itl_s: float


def calibrate(
    load: LoadSpec,
    *,
    ttft_ms: float = TTFT_MS,
    itl_ms: float = ITL_MS,
    bound_ms: float = BOUND_MS,
    search: bool = True,
    vocab: int = VOCAB,
    note: Callable[[str], None] = lambda _line: None,
) -> Calibration:
    """Replay ``load`` against a null server with this TTFT and ITL, then look for the highest load it can hold.

    Long loads are cut to about ``REPLAY_S`` seconds. ``note`` is told of every step. Raises BadInput for a load or a
    schedule that cannot be, ServerError when the null server does not start.
    """
    if not 0 < bound_ms < math.inf:
        raise BadInput(f"bound = {bound_ms} ms (accepted: above 0)")
    null = Null(ttft_ms=ttft_ms, itl_ms=itl_ms, vocab=vocab)
    replay = null.replay(shorten(load, null.answer_s(load), REPLAY_S))
    note(f"{shape(replay.load)}: {verdict(replay, bound_ms / 1e3)[0] or 'within the bound'}")
    telemetry = TelemetryCost(TelemetrySpec())
    recorded = null.replay(replay.load, telemetry.beside)
    note(f"with telemetry beside it: {verdict(recorded, bound_ms / 1e3)[0] or 'within the bound'}")
    limit = find_limit(null, replay, bound_ms / 1e3, note) if search and load.kind != "static" else None
    return Calibration(
        replay=replay,
        recorded=recorded,
        telemetry=telemetry,
        limit=limit,
        bound_s=bound_ms / 1e3,
        ttft_s=ttft_ms / 1e3,
        itl_s=itl_ms / 1e3,
    )


def verdict(replay: Replay, bound_s: float) -> tuple[str | None, bool]:
    """What is wrong with a replay, in words, or None; and whether the null server is to blame."""
    errors, quality = replay.errors, replay.quality
    if replay.failed:
        worst = max(replay.failed, key=lambda error: replay.failed[error])
        return f"{sum(replay.failed.values())} requests failed ({worst})", False
    for name, dist in (
        ("TTFT error", errors.ttft_s),
        ("ITL error", errors.itl_s),
        ("E2E error", errors.e2e_s),
        ("send lag", quality.send_lag_s),
    ):
        if dist is not None and tail(dist, "p99") > bound_s:
            return f"{name} {tail_words(dist, 'p99')}", False
    if replay.server_share is not None and replay.server_share < RATE_SHARE:
        return f"the null server kept {show_share(replay.server_share)} of its pace", True
    if replay.rate_share is not None and replay.rate_share < RATE_SHARE:
        return f"{show_share(replay.rate_share)} of the load kept up", False
    return None, False


def find_limit(null: Null, start: Replay, bound_s: float, note: Callable[[str], None]) -> Limit:
    """Double or halve from the start until the verdict turns, then bisect."""
    load = start.load
    is_open = load.open_loop
    ceiling = HIGHEST_RATE if is_open else float(HIGHEST_CONCURRENCY)
    now = float(load.rate or 1.0) if is_open else float(load.concurrency)
    good: float | None = None
    bad: float | None = None
    why, by_server = verdict(start, bound_s)
    result: tuple[str | None, bool] = why, by_server
    while True:
        if result[0] is None:
            good = now
        else:
            bad, (why, by_server) = now, result
        if good is not None and bad is not None and bad / good <= CLOSE_ENOUGH:
            break
        if bad is None:
            if now >= ceiling:
                break
            following = min(now * 2, ceiling)
        elif good is None:
            following = now / 2
        else:
            following = math.sqrt(good * bad)
        following = following if is_open else float(round(following))
        if following < 1 or following in (good, bad):
            break
        now = following
        replay = null.replay(at_load(load, now, null))
        result = verdict(replay, bound_s)
        note(f"{shape(replay.load)}: {result[0] or 'within the bound'}")
    what = "requests/s" if is_open else "concurrency"
    found = why if bad is not None else None
    return Limit(what=what, highest=good, next_bad=bad, why=found, by_server=by_server and bad is not None)


def at_load(load: LoadSpec, value: float, null: Null) -> LoadSpec:
    """The load at another concurrency or rate, cut to a probe."""
    if load.open_loop:
        rate_end = None if load.rate_end is None or not load.rate else value * load.rate_end / load.rate
        requests = max(2, math.ceil(value * PROBE_S))
        return dataclasses.replace(load, rate=value, rate_end=rate_end, requests=requests)
    places = round(value)
    probe = dataclasses.replace(
        load, concurrency=places, requests=2 * places, warmup=min(load.warmup, places)
    )
    return shorten(probe, null.answer_s(load), PROBE_S)


def shape(load: LoadSpec) -> str:
    """A load in a few words."""
    if load.open_loop:
        return f"{load.kind} at {show_number(load.rate)} requests/s"
    return f"batch of {load.batch_size}" if load.kind == "static" else f"{load.concurrency} in flight"


def rows(found: Calibration) -> list[tuple[str, str]]:
    """(figure, value) for a table: what a user wants to know of this client on this machine."""
    replay, quality, errors = found.replay, found.replay.quality, found.replay.errors
    shown = [("load", f"{shape(replay.load)}, {replay.requests} requests, {replay.tokens} tokens")]
    if replay.failed:
        shown.append(("failed", ", ".join(f"{count} × {error}" for error, count in replay.failed.items())))
    for name, dist in (
        ("TTFT error", errors.ttft_s),
        ("ITL error", errors.itl_s),
        ("E2E error", errors.e2e_s),
        ("send lag", quality.send_lag_s),
        ("stamp lag", quality.stamp_lag_s),
        ("null server late", errors.late_s),
    ):
        if dist is not None:
            shown.append(
                (
                    f"{name}, mean / p99 / max",
                    f"{show_s(dist.mean)} / {percentile_words(dist, 'p99')} / {show_s(dist.max)}",
                )
            )
    shown += [
        ("load kept up", show_share(replay.rate_share)),
        ("coalesced reads", show_share(replay.coalesced_share)),
        ("CPU per token", show_s(replay.cpu_s_per_token)),
        ("CPU per request", show_s(replay.cpu_s_per_request)),
        ("CPU share of the busiest process", show_share(quality.cpu_share)),
        ("driver, stamps", f"{quality.driver}, {quality.stamps}"),
    ]
    shown += telemetry_rows(found)
    if found.limit is not None:
        shown.append((f"highest {found.limit.what} within {show_s(found.bound_s)}", limit_words(found.limit)))
    return shown


def telemetry_rows(found: Calibration) -> list[tuple[str, str]]:
    """What telemetry takes at its default period, and the client's errors without and with it.

    Two single replays: a difference within their noise is none.
    """
    cores = found.telemetry.cpu_cores
    words = ", ".join(f"{name} {share * 1e3:.0f} ms per second" for name, share in sorted(cores.items()))
    shown = [(f"telemetry every {show_s(found.telemetry.period_s)}, CPU", words or "could not be started")]
    pairs: tuple[tuple[str, Dist | None, Dist | None], ...] = (
        ("send lag", found.replay.quality.send_lag_s, found.recorded.quality.send_lag_s),
        ("TTFT error", found.replay.errors.ttft_s, found.recorded.errors.ttft_s),
        ("E2E error", found.replay.errors.e2e_s, found.recorded.errors.e2e_s),
    )
    for name, without, beside in pairs:
        if without is not None and beside is not None:
            shown.append(
                (
                    f"{name} p99, without / with telemetry",
                    " / ".join(percentile_words(each, "p99") for each in (without, beside)),
                )
            )
    return shown


def limit_words(limit: Limit) -> str:
    """The limit and what stands behind it, in a sentence."""
    if limit.next_bad is None:
        return f"{show_number(limit.highest)} or more (the search ends there)"
    highest = f"below {show_number(limit.next_bad)}" if limit.highest is None else show_number(limit.highest)
    who = "; the client's own limit is higher" if limit.by_server else ""
    return f"{highest} (at {show_number(limit.next_bad)}: {limit.why}{who})"
