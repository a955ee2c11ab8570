"""What parts of a plan need of nodes, and a plan on other GPUs than it was made for: those that Ray gave to its group.

Which GPUs they are decides no trial's id.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace

from loadgen.cluster.places import Node, check_room, of_one_type
from loadgen.errors import LoadgenError
from loadgen.identity import server_key, spec_key
from loadgen.plan.plan import Plan
from loadgen.records import ServerSpec, Trial, TrialResult
from loadgen.system.environment import visible_gpus


def gpus_needed(part: Plan) -> int:
    """GPUs of one node that a part's servers use together."""
    return len({gpu for spec in servers_of(part) for gpu in spec.gpus})


def nodes_for(parts: Sequence[Plan], nodes: Sequence[Node], wanted: str | None) -> list[Node]:
    """The nodes that may run parts of a plan. Raises BadInput where one fits on none, or GPUs are of several types."""
    needs = [gpus_needed(part) for part in parts]
    found = of_one_type(nodes, wanted, on_gpus=any(needs))
    check_room(needs, found)
    return found


def given_gpus(environ: Mapping[str, str]) -> tuple[int, ...]:
    """The GPUs that Ray gave to this process, by its variable; no others may be used."""
    names = [name.strip() for name in environ.get("CUDA_VISIBLE_DEVICES", "").split(",")]
    if all(name.isdecimal() for name in names):
        return tuple(map(int, names))
    return visible_gpus() if any(names) else ()


def on_gpus(plan: Plan, gpus: Sequence[int]) -> Plan:
    """A plan whose servers use these GPUs in place of those that it was made for.

    Raises LoadgenError where it needs more.
    """
    planned = sorted({gpu for spec in servers_of(plan) for gpu in spec.gpus})
    if len(planned) > len(gpus):
        raise LoadgenError(f"Ray gave {len(gpus)} GPUs of {len(planned)}: {', '.join(map(str, gpus))}")
    by_planned = dict(zip(planned, gpus, strict=False))

    def moved(spec: ServerSpec) -> ServerSpec:
        return replace(spec, gpus=tuple(by_planned[gpu] for gpu in spec.gpus))

    return with_servers(plan, moved)


def with_servers(plan: Plan, change: Callable[[ServerSpec], ServerSpec]) -> Plan:
    """A plan with each of its servers changed."""

    def of(trial: Trial) -> Trial:
        return trial if trial.server is None else replace(trial, server=change(trial.server))

    return replace(
        plan,
        trials=tuple(map(of, plan.trials)),
        searches=tuple(replace(each, server=change(each.server)) for each in plan.searches),
        capacities=tuple(replace(each, point=of(each.point)) for each in plan.capacities),
    )


def servers_of(plan: Plan) -> list[ServerSpec]:
    """The servers of its trials and searches."""
    points = [*plan.trials, *(search.point for search in plan.capacities)]
    specs = [trial.server for trial in points if trial.server is not None]
    return specs + [search.server for search in plan.searches]


def anywhere(point: Trial | ServerSpec) -> str:
    """Equal for servers that are one, whatever their GPUs; of a trial, for those of its server or endpoint."""
    if isinstance(point, Trial):
        return server_key(point) if point.server is None else anywhere(point.server)
    return spec_key(replace(point, gpus=(-1,) * len(point.gpus)))


def known_here(known: Iterable[TrialResult], plan: Plan) -> list[TrialResult]:
    """Those results that are of a plan's servers, on whichever GPUs they were, as of the servers that they are now."""
    now: dict[str, ServerSpec | None] = {anywhere(spec): spec for spec in servers_of(plan)}
    now.update({anywhere(each.point): each.point.server for each in plan.capacities})
    return [
        replace(each, trial=replace(each.trial, server=now[key]))
        for each in known
        if (key := anywhere(each.trial)) in now
    ]
