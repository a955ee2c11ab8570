"""What a capacity search comes to so far: one fit for each goal, and the smallest capacity of them. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from loadgen.errors import LoadgenError, WorkerDied
from loadgen.metrics.slo_watch import GROWING
from loadgen.plan.capacity_fit import TAIL, Fit, Grid, Point, ceiling_above, fit, quantile, smallest
from loadgen.records import TrialResult
from loadgen.search_records import CapacitySearch, Role
from loadgen.slo_records import Attained, Goal

OVERLOAD = 5.0  # × the misses that a goal allows: above, a trial tells of another load than the one that is looked for
TELLING_MISSES = 8  # a trial with fewer tells little of how misses hang together, and that too well
UNTOLD_EFFECT = (
    10.0  # the design effect where no trial tells one: between those seen at goals of 99 % and of 90 %
)
CLIENT_ERRORS = frozenset({WorkerDied.__name__, LoadgenError.__name__})


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """A step of a search and its result."""

    role: Role
    result: TrialResult

    @property
    def level(self) -> float:
        """The rate of an open loop, the requests in flight of a closed one."""
        load = self.result.trial.load
        return float(load.concurrency) if load.rate is None else load.rate

    @property
    def limited(self) -> bool:
        """Whether the load generator was the limit, or broke, which voids it."""
        failure = self.result.failure
        broke = failure is not None and failure.error in CLIENT_ERRORS
        return broke or any(caveat.client for caveat in self.result.caveats)

    @property
    def counted(self) -> Attained | None:
        """How many requests kept their objectives, where that says something of the server; ``None`` of a void one."""
        found = self.result.attained
        return None if self.limited or found is None or found.share is None else found

    @property
    def passed(self) -> bool:
        """Whether a short trial kept its goals; one whose queue grew did not. No lag of the client makes one pass."""
        found = self.result.attained
        return self.result.failure is None and found is not None and bool(found.met) and not self.grew

    @property
    def grew(self) -> bool:
        """Whether its queue grew: it asked for more than the server can do."""
        return any(caveat.kind == GROWING for caveat in self.result.caveats)

    @property
    def e2e_s(self) -> float | None:
        """The median E2E latency."""
        summary = self.result.summary
        return summary.e2e_s.p50 if summary is not None and summary.e2e_s is not None else None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Estimate:
    """Capacity by the windows so far: a fit for each goal, in their order, with its ceiling and design effect."""

    goals: tuple[Goal, ...]
    fits: tuple[Fit, ...]
    ceilings: tuple[float, ...]
    effects: tuple[float, ...]

    def quantile(self, share: float) -> float:
        """Capacity at a quantile of the posterior, over all goals."""
        return quantile(self._places, smallest(self.fits, widened=False), share)

    @property
    def capacity(self) -> float:
        """The posterior's median."""
        return self.quantile(0.5)

    @property
    def interval(self) -> tuple[float, float]:
        """The 90 % interval, by the widened posterior."""
        share = smallest(self.fits, widened=True)
        return quantile(self._places, share, TAIL), quantile(self._places, share, 1 - TAIL)

    @property
    def _places(self) -> Grid:
        return self.fits[0].places


def of_role(done: Sequence[Done], *roles: Role) -> list[Done]:
    """Those of some roles, in order."""
    return [each for each in done if each.role in roles]


def deciding(done: Sequence[Done]) -> list[Done]:
    """The windows that a capacity is fitted to: not those of a search that was told a wrong place, and then measured
    what the server can do. They are part of its bracket."""
    return of_role(done[_saturated_at(done) :], "window")


def _saturated_at(done: Sequence[Done]) -> int:
    return next((at for at, each in enumerate(done) if each.role == "saturated"), 0)


def middle_of(search: CapacitySearch, done: Sequence[Done]) -> float:
    """Where the search was told to look; else the bracket's geometric middle; beyond its last trial where that did not
    close it."""
    if search.near and not of_role(done, "saturated"):
        return search.near
    low, high = bracket(done)
    if low is None or high is None:
        return low * math.sqrt(1.6) if low is not None else (high or 1.0) / math.sqrt(1.6)
    return math.sqrt(low * high)


def bracket(done: Sequence[Done]) -> tuple[float | None, float | None]:
    """The largest load that passed below the smallest that failed, and that one. A closed loop of one request at a time
    is known to pass."""
    tried = of_role(done, "bracket") + of_role(done[: _saturated_at(done)], "window")
    closed = [1.0] if tried and tried[0].result.trial.load.rate is None else []
    high = min((each.level for each in tried if not each.passed), default=None)
    low = max((each.level for each in tried if each.passed), default=max(closed, default=None))
    return low, high


def design_effect(windows: Sequence[Attained], place: int) -> float:
    """D: the median over trials about the goal with enough misses of n / n_eff, for the goal at ``place``."""
    told = [
        own_effect(found, place)
        for found in windows
        if found.due - found.goals[place].kept >= TELLING_MISSES and not overloaded(found, place)
    ]
    return median(told) if told else UNTOLD_EFFECT


def own_effect(found: Attained, place: int) -> float:
    """The design effect of one trial alone."""
    return found.due / found.goals[place].independent


def overloaded(found: Attained, place: int) -> bool:
    """Whether a trial missed so much that its queue grew: its misses hang together as those near the goal do not."""
    return found.due - found.goals[place].kept > OVERLOAD * (1 - found.slo.goals[place].share) * found.due


def ceiling_of(done: Sequence[Done], place: int) -> float:
    """What one request alone attains of the goal at ``place``: (kept + 1)/(n + 1) of the first trial."""
    alone = of_role(done, "alone")[0].result.attained
    assert alone is not None, "a search ends where its first trial tells nothing"
    return (alone.goals[place].kept + 1) / (alone.due + 1)


def about_goal(done: Sequence[Done]) -> list[Done]:
    """The windows that tell of loads near the capacity: neither void nor overloaded."""
    return [
        each
        for each in deciding(done)
        if (found := each.counted) is not None
        and not any(overloaded(found, place) for place in range(len(found.goals)))
    ]


def windows_of(done: Sequence[Done]) -> list[tuple[float, Attained]]:
    """The trials that decide, by level; void ones left out."""
    return [(each.level, found) for each in deciding(done) if (found := each.counted) is not None]


def estimate(search: CapacitySearch, done: Sequence[Done]) -> Estimate:
    """The fits of all goals to the windows so far; without any they say what the bracket does."""
    slo = search.point.slo
    assert slo is not None, "a search has objectives"
    windows, middle = windows_of(done), middle_of(search, done)
    fits, ceilings, effects = [], [], []
    for place, goal in enumerate(slo.goals):
        effects.append(design_effect([found for _, found in windows], place))
        points = [
            Point(
                level=level,
                due=found.due,
                kept=found.goals[place].kept,
                effect=max(effects[-1], own_effect(found, place))
                if overloaded(found, place)
                else effects[-1],
            )
            for level, found in windows
        ]
        ceilings.append(ceiling_above(ceiling_of(done, place), goal.share))
        fits.append(fit(points, middle=middle, goal=goal.share, ceiling=ceilings[-1]))
    return Estimate(goals=slo.goals, fits=tuple(fits), ceilings=tuple(ceilings), effects=tuple(effects))
