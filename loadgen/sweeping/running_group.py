"""A group as the driver sees it: where it runs, what is left of it, what it is called there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from loadgen.cluster.connection import Member
from loadgen.cluster.places import Place
from loadgen.labels import again_label, load_label
from loadgen.plan.plan import Plan
from loadgen.records import Trial
from loadgen.search_records import CapacitySearch, Search
from loadgen.sweeping.given_gpus import on_gpus


@dataclass(eq=False, slots=True, kw_only=True)
class RunningGroup:
    """A group on its node; ``call`` is what it is to answer next, ``in_flight`` the trial that runs there, ``part``
    what is left of it."""

    part: Plan
    place: Place
    member: Member
    call: Any
    heard_s: float
    name: str
    begun: bool = False
    in_flight: str | None = None
    environment: str | None = None
    label: str = ""
    searches: Sequence[tuple[Search | CapacitySearch, Search | CapacitySearch]] = ()

    def begin(self, gpus: Sequence[int]) -> None:
        """It has begun on these GPUs, under which its searches are called there."""
        self.begun = True
        if gpus:
            self.name += f" GPU {', '.join(map(str, gpus))}"
        there, here = on_gpus(self.part, gpus), self.part
        self.searches = [
            *zip(there.searches, here.searches, strict=True),
            *zip(there.capacities, here.capacities, strict=True),
        ]

    def planned(self, search: Any) -> Any:
        """A search of the plan, by what it is called there."""
        return next(here for there, here in self.searches if there == search)


def has_work(part: Plan) -> bool:
    """Whether anything of it is left to run."""
    return bool(part.trials or part.searches or part.capacities)


def urls_of(part: Plan) -> set[str]:
    """Where its endpoints are that run already; an empty one of servers that are started."""
    return {trial.url or "" for trial in (*part.trials, *(search.point for search in part.capacities))}


def shape_of(trial: Trial) -> str:
    """A trial beside the name of its server."""
    load = trial.load
    again = again_label(trial.start, trial.repeat)
    return f"{load_label(trial)}, {load.input_tokens} in, {load.output_tokens} out{again}"
