"""``order = "interleaved"``: rivals are up together and take turns, so that drift and a warm host strike all alike.

Rivals are servers of one model on equally many GPUs (or on the CPU). Each piece of work goes to all of them in turn
before the next one: a round. Rounds run forward and backward in alternation, over the work of a pass and over the
passes of a piece of work: A B, B A, A B … A trend within a round then favours neither side, and a trend over hours
strikes both sides of a round alike. With several starts, all contests are run on the first, then on the second. Pure.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

from loadgen.identity import rivals_key
from loadgen.load_records import LoadSpec
from loadgen.records import Trial
from loadgen.theory.duration import relative_cost
from loadgen.theory.predict import predict


def sets(trials: Sequence[Trial]) -> list[tuple[Trial, ...]]:
    """Trials by contest and start, in order, start after start."""
    found: dict[tuple[int, object], list[Trial]] = {}
    for trial in trials:
        key = rivals_key(trial.server) if trial.server else (trial.url, trial.model_name)
        found.setdefault((trial.start, key), []).append(trial)
    return [
        tuple(found[key]) for key in sorted(found, key=lambda key: key[0])
    ]  # stable: contests keep their order


def arrange(trials: Sequence[Trial], server_of: Callable[[Trial], str]) -> tuple[Trial, ...]:
    """Contest after contest; in each, passes of rounds, from the cheapest work to the dearest."""
    return tuple(trial for members in sets(trials) for trial in _rounds(members, server_of))


def _rounds(trials: Sequence[Trial], server_of: Callable[[Trial], str]) -> list[Trial]:
    servers = list(dict.fromkeys(map(server_of, trials)))
    costs: dict[LoadSpec, float] = {}
    for trial in trials:
        work = _work(trial)
        costs[work] = max(costs.get(work, 0.0), relative_cost(trial))
    works = sorted(costs, key=lambda work: costs[work])
    passes = sorted({trial.repeat for trial in trials})

    def place(trial: Trial) -> tuple[int, int, int]:
        turn, work, server = (
            passes.index(trial.repeat),
            works.index(_work(trial)),
            servers.index(server_of(trial)),
        )
        return turn, work, server if (turn + work + trial.start) % 2 == 0 else -server

    return sorted(trials, key=place)


def _work(trial: Trial) -> LoadSpec:
    return dataclasses.replace(trial.load, seed=0)  # each pass has a seed of its own


def host_memory_bytes(trials: Sequence[Trial]) -> int:
    """What the servers of these trials that run on the CPU are predicted to need together: weights and KV cache."""
    needs: dict[str, int] = {}
    for trial in trials:
        server = trial.server
        if server is not None and not server.gpus:
            found, key = predict(trial, None), repr(server)
            parts = (found.weight_bytes or 0) + (found.kv_bytes or 0)
            needs[key] = max(needs.get(key, 0), parts * server.tp * server.pp)
    return sum(needs.values())
