"""The highest load that keeps its objectives: which trial comes next, from those that are stored. Pure.

In order: one request at a time (``alone``: what is attained at best); a saturating closed loop (``saturated``: the
throughput there is); short trials up or down from 0.7 of it until one passes and one fails (``bracket``); up to six
with a lead-in and a counted window (``window``), each where the fit so far wants it; and, when asked for, one long
trial at the lower end of the interval (``confirm``). Twelve at most. A search that knows where to look (``near``) takes
one request at a time for a short while, and goes straight to the windows; where those show that it was told a wrong
place, the rest follows from the saturating loop on. Each step is a function of the results before it, so a search that
was stopped asks for the same trials again, and finds them stored.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import median

from loadgen.load_records import LoadSpec
from loadgen.plan.capacity_estimate import Done, about_goal, bracket, deciding, estimate, of_role
from loadgen.plan.kept_up import judged
from loadgen.plan.plan import trial_of
from loadgen.profile.profile import Cell, Target
from loadgen.records import NONE_ENDED, Trial, TrialResult
from loadgen.search_records import CapacitySearch, Role
from loadgen.slo_records import Goal
from loadgen.units import show_number

MOST_TRIALS = 12
WINDOWS, BEFORE_ENOUGH = 6, 3
LEAST_BUSY = 0.01  # of the time that one request takes: a rate that gives less passes, or none does
TOLD_WRONG = 3  # windows on one side of the capacity, by which the load that was named is taken for wrong
SHORT_S, WINDOW_S, LEAD_IN_S, CONFIRM_S = 20.0, 90.0, 30.0, 600.0
SHORT_E2E, WINDOW_E2E, LEAD_IN_E2E = 4, 40, 5  # medians of E2E latency that each takes at least
MISSES = 20  # that a window holds at its goal, on average
START, FACTOR = 0.7, 1.6
NEAR_STEP = 1.15  # the first one beyond a load that was named, squared each time
QUANTILES, WITHIN_MEDIAN = (0.5, 0.15, 0.85), 0.08  # of the posterior, where windows are laid in turn
VOID = 2  # windows that the load generator limited end a search


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """A trial of a search, and what it is for."""

    role: Role
    trial: Trial


def replay(search: CapacitySearch, stored: Mapping[str, TrialResult]) -> tuple[list[Done], Step | None]:
    """The search as far as results are stored, by trial id: what was done, and the step to do now (``None``: over)."""
    done: list[Done] = []
    while (step := next_step(search, done)) is not None:
        result = stored.get(step.trial.id)
        if result is None or result.trial.slo != search.point.slo:  # no objective is part of an id
            return done, step
        done.append(Done(role=step.role, result=result))
    return done, None


def next_step(search: CapacitySearch, done: Sequence[Done]) -> Step | None:
    """What to try after these results; ``None`` when the search is over."""
    done = judged(done)
    if not done:
        length_s = _short_s(search, done) if search.near else search.window_s or WINDOW_S
        return _closed(search, done, "alone", 1, length_s)
    if ended(search, done) is not None:
        return None
    if not of_role(done, "saturated") and (not search.near or _misled(search, done)):
        return _closed(search, done, "saturated", search.saturating, _short_s(search, done))
    if (level := _bracket_level(search, done)) is not None:
        return _at(search, done, "bracket", level, _short_s(search, done), 0.0)
    if of_role(done, "confirm"):
        return None
    if not _enough(search, done):
        level = _window_level(search, done, len(deciding(done)))
        return _at(search, done, "window", level, *_window_s(search, done, level))
    if not search.confirm:
        return None
    low, _ = estimate(search, done).interval
    window_s, lead_in_s = _window_s(search, done, low)
    long_s = CONFIRM_S if search.window_s is None else search.window_s * CONFIRM_S / WINDOW_S
    return _at(search, done, "confirm", _rounded(search, low), max(long_s, window_s), lead_in_s)


def ended(search: CapacitySearch, done: Sequence[Done]) -> tuple[str, str] | None:
    """Why a search cannot go on, as its outcome says: ("none" | "failed" | "client", words). ``None``: it can."""
    for each in done:
        failure = each.result.failure
        saturated = each.role == "saturated"
        if failure is None or (saturated and failure.error == NONE_ENDED):  # too much at once for any to end
            continue
        if failure.phase == "start" or saturated or each.role == "alone":
            return "failed", f"{failure.error}: {failure.message}".partition("\n")[0]
    alone = done[0].result.attained
    if alone is None or alone.share is None:
        unknown = alone.unknown if alone else 0
        return "failed", f"{unknown} replies came in one piece: their objectives cannot be told (stream them)"
    for goal, kept in zip(alone.slo.goals, alone.goals, strict=True):
        if kept.high < goal.share:
            missed = min(goal.objectives, key=lambda name: alone.kept[name])
            return "none", f"one request alone misses {missed}"
    windows = of_role(done, "window")
    limited = [each for each in windows if each.limited]
    if len(limited) >= VOID:
        return "client", "the load generator was the limit; more workers, or a machine of its own"
    if (why := _one_sided(search, done)) is not None:
        return "failed", why
    return None


def _one_sided(search: CapacitySearch, done: Sequence[Done]) -> str | None:
    """Why a whole search has no capacity: nothing that it tried failed, or passed. A fit tells there how far it looked.

    A closed loop asks for no more than it gets: a pace alone may be kept with any number in flight. Above the most that
    a server does a rate fails (``kept_up.py``), and one in flight passes.
    """
    tried = [each for each in of_role(done, "bracket", "window") if not each.limited]
    if not (of_role(done, "saturated") and deciding(done) and _enough(search, done)):
        return None
    levels = [each.level for each in tried]
    if search.variable == "concurrency" and all(each.passed for each in tried):
        return (
            f"all was kept up to {show_number(max(levels))} in flight, the most that was tried: no objective binds "
            "there (add one that waiting misses, ttft or e2e, or look higher: near)"
        )
    if search.variable == "rate" and not any(each.passed for each in tried):
        return f"none was kept down to {show_number(min(levels))} req/s, the least that was tried (look lower: near)"
    return None


def _misled(search: CapacitySearch, done: Sequence[Done]) -> bool:
    """Whether a search was told a wrong place: windows that all passed, or all failed, and a capacity beyond them; or
    a rate so low that a window there would take hours, and tell nothing."""
    if search.variable == "rate" and (search.near or 0.0) * (done[0].e2e_s or 0.0) < LEAST_BUSY:
        return True
    tried = [each for each in of_role(done, "window") if not each.limited]
    if len(tried) < TOLD_WRONG or len({each.passed for each in tried}) > 1:
        return False
    levels, found = [each.level for each in tried], estimate(search, done).capacity
    return not min(levels) * (1 - WITHIN_MEDIAN) <= found <= max(levels) * (1 + WITHIN_MEDIAN)


def _enough(search: CapacitySearch, done: Sequence[Done]) -> bool:
    windows = deciding(done)
    if len(windows) >= WINDOWS or len(done) >= MOST_TRIALS - search.confirm:
        return True
    if len(windows) < BEFORE_ENOUGH:
        return False
    found = estimate(search, done)
    low, high = found.interval
    return high - low <= search.within * found.capacity


def _bracket_level(search: CapacitySearch, done: Sequence[Done]) -> float | None:
    """The next load of the bracket; ``None`` when it is closed, or has had its trials."""
    tried = of_role(done, "bracket")
    if search.near and not of_role(done, "saturated"):
        return None
    low, high = bracket(done)
    if not tried and not deciding(done):
        level = START * _saturation(search, done)
        level = level if low is None else max(level, low * FACTOR)
        return _rounded(search, level if high is None else min(level, high / FACTOR))
    left = MOST_TRIALS - search.confirm - WINDOWS - 2 - len(tried)
    if left <= 0 or deciding(done):
        return None
    # A load that was named far below passed: that closes no bracket.
    wide = FACTOR**2 if search.near else math.inf
    if low is not None and high is not None and high <= low * wide:
        return None
    return _rounded(search, (low or 0) * FACTOR if high is None else high / FACTOR)


def _saturation(search: CapacitySearch, done: Sequence[Done]) -> float:
    """Throughput of the saturating trial; for concurrency the requests that are at work at that (Little's law)."""
    result = of_role(done, "saturated")[0].result
    rate = result.summary.requests_per_s if result.summary is not None and result.failure is None else None
    rate = rate or 1.0 / (done[0].e2e_s or 1.0)  # what one at a time gives, where nothing of it ended
    return rate if search.variable == "rate" else max(1.0, rate * (done[0].e2e_s or 1.0)) / START


def _window_level(search: CapacitySearch, done: Sequence[Done], number: int) -> float:
    found = estimate(search, done)
    middle, wanted = found.capacity, found.quantile(QUANTILES[number % len(QUANTILES)])
    lowest, highest = _reach(search, done)
    middle = min(max(middle, lowest), highest)
    level = min(max(wanted, middle * (1 - WITHIN_MEDIAN)), middle * (1 + WITHIN_MEDIAN))
    if search.variable == "concurrency" and number % len(QUANTILES):
        side = -1 if number % len(QUANTILES) == 1 else 1
        return max(
            1.0, min(round(level), round(middle) - 1) if side < 0 else max(round(level), round(middle) + 1)
        )
    return _rounded(search, level)


def _reach(search: CapacitySearch, done: Sequence[Done]) -> tuple[float, float]:
    """Between which loads the next window lies: what passed and what failed, a step beyond where either is missing.

    The fit alone runs far: it knows no bracket, and windows that all passed tell it no upper end.
    """
    tried = [each for each in of_role(done, "bracket", "window") if not each.limited]
    passed = [each.level for each in tried if each.passed]
    failed = [each.level for each in tried if not each.passed]
    windows = len(of_role(done, "window"))
    step = (
        min(FACTOR, NEAR_STEP ** (2 ** max(0, windows - 1)))
        if search.near and not of_role(done, "saturated")
        else FACTOR
    )
    top, bottom = max(passed, default=0.0), min(failed, default=math.inf)
    highest = min((each for each in failed if each > top), default=top * step if passed else math.inf)
    lowest = max((each for each in passed if each < bottom), default=bottom / step if failed else 0.0)
    return lowest, highest


def _short_s(search: CapacitySearch, done: Sequence[Done]) -> float:
    given = search.window_s
    least = SHORT_S if given is None else given * SHORT_S / WINDOW_S
    alone_s = done[0].e2e_s if done else None
    return round(max(least, SHORT_E2E * (alone_s or 0.0)), 3)


def _window_s(search: CapacitySearch, done: Sequence[Done], level: float) -> tuple[float, float]:
    """Seconds of a counted window, and of its lead-in."""
    near = [each.e2e_s or 0.0 for each in about_goal(done)]
    least = [each.e2e_s or 0.0 for each in done if each.role in ("alone", "bracket") and each.passed]
    e2e_s = max([done[0].e2e_s or 0.0, *least, *([median(near)] if near else [])])
    goals: tuple[Goal, ...] = search.point.slo.goals if search.point.slo else ()
    rate = level if search.variable == "rate" else _rate_of(done)
    missing = max(MISSES / (1 - goal.share) / rate for goal in goals)
    window_s = search.window_s or max(WINDOW_S, WINDOW_E2E * e2e_s, missing)
    lead_in_s = search.lead_in_s if search.lead_in_s is not None else max(LEAD_IN_S, LEAD_IN_E2E * e2e_s)
    return round(window_s, 3), round(lead_in_s, 3)


def _rate_of(done: Sequence[Done]) -> float:
    """Requests per second that a closed loop ends with: the saturating trial's, else the most so far."""
    told = [each.result.summary for each in of_role(done, "saturated") or done]
    return max((each.requests_per_s or 0.0 for each in told if each), default=0.0) or 1.0


def _rounded(search: CapacitySearch, level: float) -> float:
    """Three digits of a rate, a whole number of requests in flight: what is asked for again is then the same trial."""
    return float(f"{level:.3g}") if search.variable == "rate" else float(max(1, round(level)))


def _closed(search: CapacitySearch, done: Sequence[Done], role: Role, places: int, length_s: float) -> Step:
    base = search.point.load
    load = replace(base, kind="closed", concurrency=places, rate=None, burstiness=1.0, warmup=1)
    return _step(search, done, role, _bounded(load, length_s, 0.0 if role == "alone" else length_s / 4))


def _at(
    search: CapacitySearch, done: Sequence[Done], role: Role, level: float, length_s: float, lead_in_s: float
) -> Step:
    base = search.point.load
    if search.variable == "concurrency":
        load = replace(base, kind="closed", concurrency=int(level), rate=None, burstiness=1.0, warmup=1)
    else:
        kind = base.kind if base.kind in ("poisson", "gamma", "constant") else "poisson"
        load = replace(base, kind=kind, rate=level, concurrency=1, warmup=1)
    return _step(search, done, role, _bounded(load, length_s, lead_in_s))


def _bounded(load: LoadSpec, length_s: float, lead_in_s: float) -> LoadSpec:
    """A load for so long; from one process where there is not a request in flight for each."""
    if load.in_flight is not None and load.in_flight < load.workers * load.nodes:
        load = replace(load, workers=1, nodes=1)
    return replace(load, requests=0, duration_s=length_s, lead_in_s=round(lead_in_s, 3))


def _step(search: CapacitySearch, done: Sequence[Done], role: Role, load: LoadSpec) -> Step:
    """The trial of a load, with the step's number as its repeat: no two have the same prompts and arrivals.

    Nor do two starts: the chance in their arrivals is in a capacity, and would look like what starts have in common.
    """
    point = search.point
    load = replace(load, seed=load.seed + point.start)
    target = None
    if point.server is None:
        target = Target(
            url=point.url or "",
            model_name=point.model_name,
            vocab=point.vocab,
            driver=point.driver,
            exact=point.exact,
        )
    cell = Cell(
        load=load, server=point.server, target=target, repeat=len(done), start=point.start, slo=point.slo
    )
    return Step(role=role, trial=trial_of(cell))
