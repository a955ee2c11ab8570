"""What changed around two results folders: machines, versions, and what else decides an engine's figures."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

from loadgen.analysis.finding import server_text
from loadgen.analysis.side import Side
from loadgen.analysis.starts import servers
from loadgen.analysis.versions import mixed
from loadgen.engine_facts import CODE, versions_of, weights_of
from loadgen.records import DEFINITIONS, TrialResult

ALIKE = "alike"


def changes(left: Side, right: Side) -> dict[str, tuple[str, str]]:
    """What differs between where the two ran, engines' own versions included; and between starts of one server within a
    side, since their figures are pooled."""
    facts = [_facts(side) for side in (left, right)]
    names = dict.fromkeys([*facts[0], *facts[1]])
    found = {name: (facts[0].get(name, "–"), facts[1].get(name, "–")) for name in names}
    changed = {name: (one, other) for name, (one, other) in found.items() if one != other}
    inside = [_between_starts(side) for side in (left, right)]
    return changed | {
        name: (inside[0].get(name, ALIKE), inside[1].get(name, ALIKE))
        for name in dict.fromkeys([*inside[0], *inside[1]])
    }


def _between_starts(side: Side) -> dict[str, str]:
    found = mixed(servers(row for row in side.rows if row.usable).values())
    return {
        f"{server_text(key)}: {each.what}, between starts": each.words
        for key, differences in found.items()
        for each in differences
    }


def _facts(side: Side) -> dict[str, str]:
    values: dict[str, set[str]] = defaultdict(set)
    for row in side.rows:
        environment = row.environment
        if environment is not None:
            for name in ("host", "os", "cpu", "cpus", "driver", "cuda", "commit"):
                values[name].add(str(getattr(environment, name)))
            values["gpus"].add(", ".join(str(gpu.get("name")) for gpu in environment.gpus) or "none")
            for name, version in environment.packages.items():
                values[f"version of {name}"].add(version)
        if row.summary is not None:
            older = row.summary.definitions < DEFINITIONS
            values["percentiles"].add("interpolated" if older else "nearest ranks")
        for name, told in (*versions_of(row.result.engine).items(), *_engine_facts(row.result)):
            # Which of our files run depends on engine and options.
            whose = server_text(row.key) if name == CODE else row.key.framework
            values[f"{whose}'s {name}"].add(told)
    return {name: " / ".join(sorted(found)) for name, found in values.items()}


def _engine_facts(result: TrialResult) -> Iterator[tuple[str, str]]:
    """What decides an engine's figures beside its versions: its weights, how it was started, on which cores."""
    engine, cores = result.engine, result.cores
    if (weights := weights_of(engine, result.trial.server)) is not None:
        yield "weights", weights.text
    for name in ("variant", "stream_step", "launcher"):
        if name in engine:
            yield name, str(engine[name])
    if cores is not None:
        quota = "" if cores.limit_cores is None else f", at most {cores.limit_cores:g} at a time"
        yield "cores", cores.affinity + quota
