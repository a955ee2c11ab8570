"""Service level objectives of requests, and how many of a trial's requests kept them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

ObjectiveName = Literal["ttft", "tpot", "e2e", "itl_max"]
OBJECTIVES: tuple[str, ...] = get_args(ObjectiveName)
SHARE = 0.95
MOST_UNKNOWN = 0.05  # of requests: a late reader gets a few streams in one piece, some servers all of them


@dataclass(frozen=True, slots=True, kw_only=True)
class Objective:
    """A bound on one latency of a request, from its due time; ``share``: of requests that must keep it, if its own."""

    name: ObjectiveName
    limit_s: float
    share: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Goal:
    """``share`` of all requests must keep all of these objectives at once."""

    objectives: tuple[str, ...]
    share: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Slo:
    """What a request must keep to be good, and how many must. ``share`` is of those that keep all objectives without a
    share of their own."""

    objectives: tuple[Objective, ...]
    share: float = SHARE

    @property
    def goals(self) -> tuple[Goal, ...]:
        """What a load must come to: one goal for the objectives without a share, one for each that has its own."""
        together = tuple(each.name for each in self.objectives if each.share is None)
        alone = [Goal(objectives=(each.name,), share=each.share) for each in self.objectives if each.share]
        return (*([Goal(objectives=together, share=self.share)] if together else []), *alone)


@dataclass(frozen=True, slots=True, kw_only=True)
class GoalKept:
    """How many requests kept a goal's objectives. ``independent`` is how many uncorrelated requests those due are
    worth, ``low`` and ``high`` the share's 95 % interval (Wilson, on so many)."""

    kept: int
    independent: float
    low: float
    high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Attained:
    """Of ``due`` requests ``good`` kept all objectives; ``kept`` counts by objective, ``goals`` in the order of the
    objectives' ``goals``. One that failed, was refused, timed out or did not end kept none.

    ``window_s`` is the time in which they were due. ``unknown`` are served requests of which an objective cannot be
    told (a stream that came in one piece has no pace): they count as misses, and over 5 % of them no share is known.
    """

    slo: Slo
    due: int
    good: int
    kept: Mapping[str, int]
    goals: tuple[GoalKept, ...]
    window_s: float | None
    unknown: int = 0

    @property
    def share(self) -> float | None:
        """Attainment: good / due."""
        return self.good / self.due if self.known else None

    @property
    def known(self) -> bool:
        """Whether nearly all requests tell of all objectives."""
        return bool(self.due) and self.unknown <= MOST_UNKNOWN * self.due

    @property
    def goodput_per_s(self) -> float | None:
        """Good requests per second of the window."""
        return self.good / self.window_s if self.known and self.window_s else None

    @property
    def met(self) -> bool | None:
        """Whether every goal's share was kept, by the counts alone."""
        if self.share is None:
            return None
        pairs = zip(self.slo.goals, self.goals, strict=True)
        return all(each.kept >= goal.share * self.due for goal, each in pairs)

    @property
    def binding(self) -> str | None:
        """The objective that most requests missed, by the misses that it allows; ``None`` when none was missed."""
        if self.share is None or not self.kept:
            return None
        allowed = {name: 1 - goal.share for goal in self.slo.goals for name in goal.objectives}
        missed = {name: (self.due - count) / allowed[name] for name, count in self.kept.items()}
        worst = max(missed, key=lambda name: missed[name])
        return worst if missed[worst] else None
