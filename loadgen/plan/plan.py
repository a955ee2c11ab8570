"""Profile → Plan: trials in the order they run, each with an id that is a hash of all that decides its result.

Pure: no clocks, no files, no global randomness. The same profile gives the same plan on any machine.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from loadgen.identity import deciding_options, digest, server_key, spec_key
from loadgen.load_records import LoadSpec
from loadgen.plan import interleave
from loadgen.profile.profile import Cell, Profile, Target
from loadgen.records import ModelSpec, Order, ServerSpec, Trial
from loadgen.search_records import CapacitySearch, Search
from loadgen.theory.duration import relative_cost

ID_SCHEME = 1  # to be raised when the same fields come to mean something else
SEED_BITS = 62
# Where a server runs and how long it may take to start do not decide what it does. ``python`` names a place too;
# the versions behind it are kept with each result.
NOT_IN_IDS = frozenset({"gpus", "host", "port", "python", "ready_timeout_s"})
NAMES_ONLY = frozenset({"name", "checkpoint"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Trials in order: whole passes (repeats) follow each other, each from the cheapest trial to the dearest, so
    that an early end leaves the most cells and drift over time strikes all cells alike.

    ``grouped``: the trials of one server stand together. ``interleaved``: see interleave.py. ``searches`` and
    ``capacities`` come after the trials of their servers. Several starts of the servers follow each other, forward and
    backward in turn: A B, B A, A B, so that drift over the session does not pass for a difference between servers.
    """

    trials: tuple[Trial, ...]
    order: Order = "grouped"
    searches: tuple[Search, ...] = ()
    capacities: tuple[CapacitySearch, ...] = ()

    def groups(self) -> list[tuple[ServerSpec | None, tuple[Trial, ...]]]:
        """Runs of trials that share a server, in order; ``None`` is an endpoint that already runs."""
        grouped: dict[str, list[Trial]] = {}
        for trial in self.trials:
            grouped.setdefault(server_key(trial), []).append(trial)
        return [(trials[0].server, tuple(trials)) for trials in grouped.values()]

    def sets(self) -> list[tuple[Trial, ...]]:
        """The trials whose servers are up together, in order."""
        if self.order == "grouped":
            return [trials for _, trials in self.groups()]
        return interleave.sets(self.trials)

    def parts(self) -> list[Plan]:
        """What can run apart from the rest, in order: servers that are up together, with their trials and searches."""
        groups = [({server_key(trial) for trial in trials}, trials) for trials in self.sets()]
        planned = {server for servers, _ in groups for server in servers}
        searched = [spec_key(each.server) for each in self.searches]
        searched += [server_key(each.point) for each in self.capacities]
        groups += [({key}, ()) for key in dict.fromkeys(searched) if key not in planned]
        return [
            replace(
                self,
                trials=trials,
                searches=tuple(each for each in self.searches if spec_key(each.server) in servers),
                capacities=tuple(each for each in self.capacities if server_key(each.point) in servers),
            )
            for servers, trials in groups
        ]

    def without(self, done: Iterable[str]) -> Plan:
        """What is left when the trials of these ids are done."""
        ids = frozenset(done)
        return replace(self, trials=tuple(trial for trial in self.trials if trial.id not in ids))


def make_plan(profile: Profile) -> Plan:
    """Every cell as a trial, once. Servers come in the order in which the profile first asks for them."""
    trials = {trial.id: trial for trial in map(trial_of, profile.cells)}
    points = [*trials.values(), *(each.point for each in profile.capacities)]
    servers = {key: place for place, key in enumerate(dict.fromkeys(map(_first_start, points)))}
    places = {id_: place for place, id_ in enumerate(trials)}

    def turn(trial: Trial) -> tuple[int, int]:
        server = servers[_first_start(trial)]
        return trial.start, server if trial.start % 2 == 0 else -server

    def order(trial: Trial) -> tuple[int, int, int, float, int]:
        return *turn(trial), trial.repeat, relative_cost(trial), places[trial.id]

    if profile.order == "interleaved":
        arranged = interleave.arrange(list(trials.values()), _first_start)
    else:
        arranged = tuple(sorted(trials.values(), key=order))
    return Plan(
        trials=arranged,
        order=profile.order,
        searches=profile.searches,
        capacities=tuple(sorted(profile.capacities, key=lambda each: turn(each.point))),
    )


def _first_start(trial: Trial) -> str:
    """Equal for trials on any start of one server."""
    return server_key(replace(trial, start=0))


def trial_of(cell: Cell) -> Trial:
    """A cell with its id, and with the seed of its own prompts.

    The seed follows from the load and the repeat but not from the server: frameworks, tp, dtypes and starts are
    compared on equal prompts, while other lengths, batches and repeats on one server never meet the same prompt.
    """
    work = _work(cell)
    again = {"start": cell.start} if cell.start else {}  # left out at 0: ids are those of one start
    seed = int(digest(work)[:16], 16) % 2**SEED_BITS
    return Trial(
        id=digest({"scheme": ID_SCHEME, "on": _engine(cell), "work": work, **again})[:16],
        load=dataclasses.replace(cell.load, seed=seed),
        server=cell.server,
        url=cell.target.url if cell.target else None,
        model_name=cell.target.model_name if cell.target else None,
        vocab=cell.server.model.vocab if cell.server else cell.target.vocab if cell.target else None,
        driver=cell.target.driver if cell.target else {},
        exact=cell.target.exact if cell.target else False,
        repeat=cell.repeat,
        start=cell.start,
        slo=cell.slo,
    )


def endpoint_trial(
    load: LoadSpec, url: str, model_name: str | None = None, vocab: int | None = None, **target: Any
) -> Trial:
    """The one trial of ``loadgen run``: an endpoint that already runs. ``target`` are further fields of Target."""
    return trial_of(Cell(load=load, target=Target(url=url, model_name=model_name, vocab=vocab, **target)))


def _work(cell: Cell) -> dict[str, Any]:
    load = _differing(cell.load)
    if cell.trace_digest:
        # The content decides, not where it lies.
        load["trace" if cell.load.dataset is None else "dataset"] = cell.trace_digest
    return {"load": load, "repeat": cell.repeat}


def _engine(cell: Cell) -> dict[str, Any]:
    if cell.server is None:
        if cell.target is None:
            return {}
        always = ("url", "model_name", "vocab")
        told = dataclasses.asdict(cell.target)
        return {key: value for key, value in told.items() if key in always or value}
    spec = replace(cell.server, options=deciding_options(cell.server))
    server = {key: value for key, value in _differing(spec).items() if key not in NOT_IN_IDS | {"model"}}
    model = {key: value for key, value in _differing(cell.server.model).items() if key not in NAMES_ONLY}
    return {"server": server, "model": model, "device": "gpu" if cell.server.gpus else "cpu"}


def _differing(record: LoadSpec | ServerSpec | ModelSpec) -> dict[str, Any]:
    """The fields that have no default or another value than it: a field added later leaves old ids alone."""
    values: dict[str, Any] = {}
    for field in dataclasses.fields(record):
        value = getattr(record, field.name)
        default = (
            field.default_factory() if field.default_factory is not dataclasses.MISSING else field.default
        )
        if value != default:
            values[field.name] = _plain(value)
    return values


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.asdict(value)
    return dict(value) if isinstance(value, Mapping) else value
