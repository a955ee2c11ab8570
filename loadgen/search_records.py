"""What is searched for by trials, and what was found: largest static batches, capacity under objectives."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from loadgen.load_records import LoadSpec
from loadgen.records import Caveat, ServerSpec, Trial
from loadgen.slo_records import Goal

Variable = Literal["rate", "concurrency"]
Role = Literal["alone", "saturated", "bracket", "window", "confirm"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Search:
    """A point whose largest static batch is to be found: ``load`` with one wire call, no warm-up, batch 1.

    ``most`` is the largest batch to try; ``within`` how exactly to find it, relative to it.
    """

    server: ServerSpec
    load: LoadSpec
    most: int = 4096
    within: float = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class MaxBatch:
    """The outcome of a Search: ``fits`` is the largest batch that was served, ``out_of_memory`` the smallest above it
    that ran out of memory; both were tried, by the trials named.

    ``None`` where there is none: nothing fitted; or something else ended the search (``ended``, ``why``): all batches
    up to ``most`` fitted, the server refused more, or did not start. ``predicted`` is the batch whose weights and KV
    cache would fill a GPU. ``trials`` are the ids behind it all, by batch.
    """

    search: Search
    environment: str
    predicted: int | None
    most: int
    fits: int | None
    fits_trial: str | None
    out_of_memory: int | None
    out_of_memory_trial: str | None
    ended: Literal["most", "out of memory", "not served", "not started"]
    why: str | None = None
    trials: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class CapacitySearch:
    """A server or an endpoint whose highest load within its objectives is to be found.

    ``point`` is a trial with its objectives: its load gives lengths, arrivals and seed, while rate (or concurrency),
    duration and repeat are the search's. ``window_s`` and ``lead_in_s`` are of the trials that decide, ``None``: by
    rule. ``within``: done when the interval is no wider, relative to the capacity. ``confirm``: a long trial at its
    lower end follows. ``saturating``: requests in flight of the trial that measures what the server can do at most.
    ``near``: where the capacity is expected, as by another start of the server; it says where to look, not what for.
    """

    point: Trial
    variable: Variable = "rate"
    window_s: float | None = None
    lead_in_s: float | None = None
    within: float = 0.05
    confirm: bool = False
    saturating: int = 256
    near: float | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class GoalCapacity:
    """The highest load that keeps one goal, with its 90 % interval; ``ceiling`` is what one request alone attains,
    ``effect`` how many correlated requests are worth one independent one."""

    goal: Goal
    capacity: float
    low: float
    high: float
    ceiling: float
    effect: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Capacity:
    """The outcome of a CapacitySearch: the highest rate (or concurrency) that keeps every goal, with its 90 % interval.

    Without one ``ended`` and ``why`` say what ended the search: "none" where one request alone misses. ``binding`` is
    the objective that most requests miss there. ``p_confirm`` is how likely a server that is not up to the goals would
    have passed the confirming trial as it did; it ``confirmed`` them when that is at most 5 %. ``trials`` are what was
    tried and why, in order.
    """

    search: CapacitySearch
    environment: str
    ended: Literal["found", "none", "failed", "client"]
    why: str | None = None
    capacity: float | None = None
    low: float | None = None
    high: float | None = None
    binding: str | None = None
    goals: tuple[GoalCapacity, ...] = ()
    confirmed: bool | None = None
    p_confirm: float | None = None
    caveats: tuple[Caveat, ...] = ()
    trials: tuple[tuple[Role, str], ...] = ()
