"""Searches for capacity as they are stored: what was found, by which trials, and of which start of which server."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from loadgen.analysis.starts import server_of
from loadgen.analysis.table import key_of, machine_of
from loadgen.errors import BadInput
from loadgen.identity import arrivals, canonical, deciding_options
from loadgen.labels import again_label, place_label
from loadgen.records import Environment, TrialResult
from loadgen.results import capacity_log
from loadgen.results.store import open_results
from loadgen.search_records import Capacity, Role
from loadgen.units import show_number


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """A search's outcome with its trials, where they are stored.

    ``machine`` is that of its last trial. ``server`` is equal for starts of one server on one kind of machine;
    ``start`` tells them apart; searches of an endpoint of unknown start are of one. ``engine`` is equal for servers
    whose starts vary alike. ``variant``: options that set it apart, in words. ``environment`` and ``folder`` are where
    its last trial ran and is stored.
    """

    capacity: Capacity
    trials: tuple[tuple[Role, TrialResult], ...]
    machine: str = "unknown"
    server: Hashable = ""
    engine: Hashable = ""
    variant: str = ""
    start: Hashable = ""
    environment: Environment | None = None
    folder: str = ""


def found_in(folders: Sequence[Path]) -> list[Found]:
    """Every search of results folders. Raises StoreError, and BadInput for folders that hold the same trials."""
    found = []
    ran: dict[Hashable, Path] = {}
    for folder in folders:
        outcomes = capacity_log.outcomes(folder)
        stored = {each.trial.id: each for each in capacity_log.trials(folder)} if outcomes else {}
        for result in stored.values():
            if ran.setdefault((result.trial.id, result.started, repr(result.summary)), folder) != folder:
                other = ran[result.trial.id, result.started, repr(result.summary)]
                raise BadInput(
                    f"{other} and {folder} hold the same searches: a copy would count as more of them (accepted: each "
                    "once)"
                )
        environments = open_results(folder).environments() if outcomes else {}
        for outcome in outcomes:
            trials = tuple((role, stored[name]) for role, name in outcome.trials if name in stored)
            each, point = Found(capacity=outcome, trials=trials, machine=""), outcome.search.point
            if trials:
                last = trials[-1][1]
                environment = environments.get(last.environment)
                spec = point.server
                options = canonical([spec.max_batch, dict(deciding_options(spec))]) if spec else ""
                key = replace(server_of(key_of(last, environment)), kind="")
                each = replace(
                    each,
                    machine=machine_of(point, environment),
                    server=(key, options),
                    engine=(key.label, key.variant, key.machine),
                    variant=key.variant,
                    start=last.start or point.start,  # a folder is no start: nobody says it was started anew
                    environment=environment,
                    folder=str(folder),
                )
            found.append(each)
    return found


def server_words(found: Found) -> str:
    """The server of a search in a few words, and how requests come to it, where that is not Poisson."""
    point = found.capacity.search.point
    name = ", ".join(filter(None, (place_label(point), found.variant)))
    kind, burstiness = arrivals(point.load)
    told = "" if burstiness == 1 else f", burstiness {show_number(burstiness)}"
    return f"{name}, evenly" if kind == "constant" else name + told


def start_words(found: Found) -> str:
    """The same with the start of the server, where it is not the first."""
    return server_words(found) + again_label(found.capacity.search.point.start, 0)


def interval_words(outcome: Capacity) -> str:
    """``17.2 to 19.0``; a dash without a capacity."""
    return f"{show_number(outcome.low)} to {show_number(outcome.high)}" if outcome.capacity else "–"
