"""What a finished capacity search found, and the doubts about it. Pure."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import combinations
from statistics import median
from typing import Literal, cast

from loadgen.labels import again_label, caveat_marks, lengths_text, place_label
from loadgen.plan.capacity import VOID, WINDOW_E2E, Step, ended, replay
from loadgen.plan.capacity_estimate import Done, Estimate, about_goal, deciding, estimate, of_role, windows_of
from loadgen.plan.capacity_fit import CLIFF_NATS, TAIL
from loadgen.plan.kept_up import judged, unbound
from loadgen.records import Caveat, TrialResult
from loadgen.search_records import Capacity, CapacitySearch, GoalCapacity
from loadgen.slo_records import Attained
from loadgen.units import show_number, show_s, show_share

PASSED = 0.05
NEAR_SATURATION, FEW_SLOTS = 0.9, 16.0  # of the most that any trial did; requests at work
ALMOST = 0.9  # of the window that is wanted: the first ones cannot know yet how long it must be
WORSE_Z = 2.58  # of a lower load's attainment against a higher one's: 1 % by chance
APART = 1.02  # loads that are the same within it do not contradict each other


def settle(
    search: CapacitySearch,
    stored: Mapping[str, TrialResult],
    environment: str,
    attempt: Callable[[Step], TrialResult | None],
    note: Callable[[str], None],
) -> Capacity | None:
    """Search until it is over, from the results that are stored on. ``None`` when ``attempt`` declines a step: there is
    no time for it."""
    known = dict(stored)
    while True:
        done, step = replay(search, known)
        if step is None:
            return outcome(search, done, environment)
        result = attempt(step)
        if result is None:
            return None
        known[result.trial.id] = result
        note(f"{title(search)}: {step_words(Done(role=step.role, result=result))}")


def outcome(search: CapacitySearch, done: Sequence[Done], environment: str) -> Capacity:
    """The outcome of a search that is over."""
    trials = tuple((each.role, each.result.trial.id) for each in done)
    seen = judged(done)
    stop = ended(search, seen)
    if stop is None and not windows_of(done):
        stop = (
            "client" if any(each.limited for each in done) else "failed",
            "no trial with a window tells anything",
        )
    if stop is not None:
        kind = cast(Literal["none", "failed", "client"], stop[0])
        return Capacity(search=search, environment=environment, ended=kind, why=stop[1], trials=trials)
    found = estimate(search, seen)
    low, high = found.interval
    p_confirm = _p_confirm(seen, found)
    return Capacity(
        search=search,
        environment=environment,
        ended="found",
        capacity=found.capacity,
        low=low,
        high=high,
        binding=binding(done),
        goals=tuple(_goals(found)),
        confirmed=None if p_confirm is None else p_confirm <= PASSED,
        p_confirm=p_confirm,
        caveats=tuple(doubts(search, done, found)),
        trials=trials,
    )


def _goals(found: Estimate) -> Iterator[GoalCapacity]:
    for goal, each, ceiling, effect in zip(
        found.goals, found.fits, found.ceilings, found.effects, strict=True
    ):
        alone = Estimate(goals=(goal,), fits=(each,), ceilings=(ceiling,), effects=(effect,))
        low, high = alone.interval
        yield GoalCapacity(
            goal=goal, capacity=alone.capacity, low=low, high=high, ceiling=ceiling, effect=effect
        )


def binding(done: Sequence[Done]) -> str | None:
    """The objective that most windows say binds, by all their misses."""
    windows = [found for _, found in windows_of(done)]
    allowed = {name: 1 - goal.share for goal in windows[0].slo.goals for name in goal.objectives}
    missed = {name: sum(each.due - each.kept[name] for each in windows) / allowed[name] for name in allowed}
    worst = max(missed, key=lambda name: missed[name])
    return worst if missed[worst] else None


def _p_confirm(done: Sequence[Done], found: Estimate) -> float | None:
    """The largest over the goals of I_g(h/D, 1 + t/D): MLPerf's early stopping, on counts of independent requests."""
    from scipy.special import betainc

    trial = next((each.counted for each in of_role(done, "confirm")), None)
    if trial is None:
        return None
    tests = [
        float(betainc(kept.kept / effect, 1 + (trial.due - kept.kept) / effect, goal.share))
        for goal, kept, effect in zip(found.goals, trial.goals, found.effects, strict=True)
    ]
    return max(tests)


def doubts(search: CapacitySearch, done: Sequence[Done], found: Estimate) -> Iterator[Caveat]:
    """Doubts about a capacity that was found."""
    windows = of_role(done, "window")
    near = about_goal(done) or deciding(done)
    e2e_s = median(each.e2e_s or 0.0 for each in near)
    usual = median(each.result.trial.load.duration_s or math.inf for each in near)
    if usual < ALMOST * WINDOW_E2E * e2e_s:
        yield Caveat(
            kind="slo-window",
            message=f"a window of {show_s(usual)} is under {WINDOW_E2E} × the median E2E latency, {show_s(e2e_s)}: "
            "queues that relax slowly are not seen, and capacity may be too high",
            remedy=f"search with a window of {math.ceil(WINDOW_E2E * e2e_s)} s or more",
        )
    for goal, each in zip(found.goals, found.fits, strict=True):
        if each.misfit > CLIFF_NATS or each.at_border:
            why = (
                f"a trial misses the fitted curve by {show_number(each.misfit)} nats"
                if each.misfit > CLIFF_NATS
                else "the curve is steeper or flatter than any that is looked at"
            )
            yield Caveat(
                kind="slo-cliff",
                message=f"at {show_share(goal.share)}: {why}; near saturation of few slots attainment falls as from a "
                "cliff, and the interval is then too narrow",
                remedy="take the interval's lower end, and confirm it with a long trial (confirm = true)",
            )
            break
    yield from _unbound(done)
    yield from _few_slots(search, done, found)
    yield from _not_monotone(windows_of(done), found)
    low, high = found.interval
    places = found.fits[0].places
    if low < math.exp(places[0]) * (1 + TAIL) or high > math.exp(places[-1]) * (1 - TAIL):
        yield Caveat(
            kind="slo-bracket",
            message="the interval reaches an end of what was looked at: no load clearly passes, or none clearly fails",
            remedy="look at the trials; search again with a larger saturating load or longer windows",
        )
    limited = sum(each.limited for each in windows)
    if limited:
        yield Caveat(
            kind="slo-client",
            message=f"{limited} of {len(windows)} windows are void: the load generator was the limit there",
            remedy=f"more workers or a machine of its own; {VOID} void windows end a search",
        )


def _unbound(done: Sequence[Done]) -> Iterator[Caveat]:
    """A capacity that the server sets, and none of the objectives."""
    if over := unbound(done):
        most = max(over, key=lambda each: each.level)
        summary = most.result.summary
        did = summary.requests_per_s if summary else None
        yield Caveat(
            kind="slo-unbound",
            message=f"at {show_number(most.level)} req/s every objective was kept while {show_number(did)} ended per "
            "second and the queue grew: capacity is what the server can do, whatever its users wait",
            remedy="add an objective that waiting misses: ttft or e2e",
        )


def _few_slots(search: CapacitySearch, done: Sequence[Done], found: Estimate) -> Iterator[Caveat]:
    """Near saturation a queue before few places relaxes over minutes: no window of this length is long enough."""
    # Of any trial: the saturating one is short, and where requests take long few end in it. A search without one knows
    # what the server can do at most by trials whose queue grew alone.
    saturated = bool(of_role(done, "saturated"))
    did = [
        (each.requests_per_s, each.requests_ok)
        for each in (step.result.summary for step in done if saturated or step.grew)
        if each is not None and each.requests_per_s
    ]
    if search.variable != "rate" or not did:
        return
    most = max(rate for rate, _ in did)
    # what so many requests can tell
    least = max(rate * (1 - 2 / math.sqrt(max(4, count))) for rate, count in did)
    at_work = most * (done[0].e2e_s or 0.0)  # Little's law, with what one request takes alone
    if found.interval[1] > NEAR_SATURATION * least and at_work < FEW_SLOTS:
        yield Caveat(
            kind="few-slots",
            message=f"capacity lies close to all that the server can do, {show_number(most)} req/s, with about "
            f"{show_number(at_work)} at work: a queue relaxes over minutes there, and no interval is wide enough",
            remedy="take the interval's lower end, and confirm it with a long trial (confirm = true)",
        )


def _not_monotone(windows: Sequence[tuple[float, Attained]], found: Estimate) -> Iterator[Caveat]:
    for place, effect in enumerate(found.effects):
        for (low, at_low), (high, at_high) in combinations(sorted(windows, key=lambda each: each[0]), 2):
            n_low, n_high = at_low.due / effect, at_high.due / effect
            a_low, a_high = at_low.goals[place].kept / at_low.due, at_high.goals[place].kept / at_high.due
            pooled = (a_low * n_low + a_high * n_high) / (n_low + n_high)
            error = math.sqrt(pooled * (1 - pooled) * (1 / n_low + 1 / n_high))
            if high > APART * low and error and (a_high - a_low) / error > WORSE_Z:
                yield Caveat(
                    kind="not-monotone",
                    message=f"{show_number(low)} attained {show_share(a_low)}, and {show_number(high)} more: "
                    f"{show_share(a_high)}",
                    remedy="look for other work on the server or a change of its speed between the trials, and repeat",
                )
                return


def unit_of(search: CapacitySearch) -> str:
    """What a capacity counts."""
    return "req/s" if search.variable == "rate" else "in flight"


def step_words(done: Done) -> str:
    """A step's result in a few words: ``window at 18.3: 96.2 % of 1,647 kept``."""
    result, found = done.result, done.result.attained
    where = f"{done.role} at {show_number(done.level)}"
    if result.failure is not None:
        return f"{where}: failed: {result.failure.error}"
    doubts = "".join(f" [{kind}]" for kind in (caveat_marks(result)))
    kept = "nothing to judge" if found is None else f"{show_share(found.share)} of {found.due:,} kept"
    return f"{where}: {kept}{doubts}"


def plan_words(step: Step) -> str:
    """A step that is about to run, in a few words: ``window at 18.3, 30 s + 90 s``."""
    load = step.trial.load
    level = load.concurrency if load.rate is None else load.rate
    lasts = (
        f"{show_s(load.lead_in_s)} + {show_s(load.duration_s)}" if load.lead_in_s else show_s(load.duration_s)
    )
    return f"{step.role} at {show_number(level)}, {lasts} …"


def title(search: CapacitySearch) -> str:
    """A search in one line."""
    point = search.point
    return f"capacity of {place_label(point)}, {lengths_text(point.load)}{again_label(point.start, 0)}"


def words(found: Capacity) -> str:
    """An outcome in one line."""
    return f"{title(found.search)}: {found_words(found)}"


def found_words(found: Capacity) -> str:
    """What was found, of a search that is named already."""
    if found.capacity is None:
        # What broke or was the client's own says nothing of the server.
        return f"{'none' if found.ended == 'none' else 'not found'}: {found.why}"
    unit = unit_of(found.search)
    binds = f", {found.binding} binds" if found.binding else ""
    confirmed = {None: "", True: ", confirmed", False: ", not confirmed"}[found.confirmed]
    return (
        f"{show_number(found.capacity)} {unit} "
        f"[{show_number(found.low)}, {show_number(found.high)}]{binds}{confirmed}"
    )
