"""Which trials of a search asked for more than the server can do, whatever their objectives say of it. Pure.

An objective that waiting does not miss (a pace alone, on an engine that admits so many at once) is kept at any rate:
the queue grows, and each request that is served at last is as quick as ever. Such a rate is beyond capacity.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from loadgen.plan.capacity_estimate import Done, of_role

FELL_SHORT, ERRORS = 0.9, 3.0  # of what was due in a window; standard errors of a Poisson count
SHORT_OF_MOST = 0.95  # the same of a window whose rate is above the most that was ever done
ABOVE_MOST = 1.05
NEVER = 2.0  # times the most that any trial did: a short trial, whose ends say little, is beyond it
WORTH = 20.0  # independent requests that a window beyond it counts for, as misses


def judged(done: Sequence[Done]) -> list[Done]:
    """The trials, with those that the server did not keep up with as missed by all; what is judged is left so."""
    most = max(map(_did, done), default=0.0)
    windows = of_role(done, "window", "confirm")
    saturated = any(_fell_short(each, FELL_SHORT) for each in windows)
    return [_missed(each) if _beyond(each, most, saturated=saturated) else each for each in done]


def unbound(done: Sequence[Done]) -> list[Done]:
    """The windows that kept their objectives although the server did not keep up: nothing that was asked binds."""
    return [
        each
        for each, after in zip(done, judged(done), strict=True)
        if each.role in ("window", "confirm") and after is not each and each.counted and each.counted.met
    ]


def _beyond(each: Done, most: float, *, saturated: bool) -> bool:
    rate = each.result.trial.load.rate
    if rate is None or each.counted is None:
        return False
    if each.role == "bracket":
        return rate > NEVER * most or (saturated and rate > ABOVE_MOST * most)
    return _fell_short(each, FELL_SHORT) or (
        saturated and rate > ABOVE_MOST * most and _fell_short(each, SHORT_OF_MOST, errors=0.0)
    )


def _fell_short(each: Done, share: float, *, errors: float = ERRORS) -> bool:
    """Whether fewer requests ended in a window than were due in it, by more than chance. One that was refused ended."""
    found, summary, load = each.counted, each.result.summary, each.result.trial.load
    if found is None or load.duration_s is None or load.rate is None:
        return False
    ended = _did(each) * load.duration_s + (summary.requests_failed if summary is not None else 0)
    return ended < share * found.due and found.due - ended > errors * math.sqrt(found.due)


def _did(each: Done) -> float:
    """Requests that were served within the counted time, per second."""
    summary = each.result.summary
    return (summary.requests_per_s or 0.0) if summary is not None else 0.0


def _missed(each: Done) -> Done:
    found = each.counted
    assert found is not None, "nothing is beyond that tells nothing"
    if not found.good:
        return each
    worth = min(WORTH, float(found.due))
    goals = tuple(replace(goal, kept=0, independent=worth, low=0.0, high=0.0) for goal in found.goals)
    none = replace(found, good=0, kept=dict.fromkeys(found.kept, 0), goals=goals)
    return replace(each, result=replace(each.result, attained=none))
