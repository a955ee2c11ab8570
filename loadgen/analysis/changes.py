"""What changed around two results folders: machines, versions, and what else decides an engine's figures."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

from loadgen.analysis.side import Side
from loadgen.engine_facts import weights_of
from loadgen.records import DEFINITIONS, TrialResult


def changes(left: Side, right: Side) -> dict[str, tuple[str, str]]:
    """What differs between where the two ran, engines' own versions included."""
    facts = [_facts(side) for side in (left, right)]
    names = dict.fromkeys([*facts[0], *facts[1]])
    found = {name: (facts[0].get(name, "–"), facts[1].get(name, "–")) for name in names}
    return {name: (one, other) for name, (one, other) in found.items() if one != other}


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
        versions = row.result.engine.get("versions")
        for name, version in versions.items() if isinstance(versions, dict) else ():
            values[f"{row.key.framework}'s {name}"].add(str(version))
        for name, told in _engine_facts(row.result):
            values[f"{row.key.framework}'s {name}"].add(told)
    return {name: " / ".join(sorted(found)) for name, found in values.items()}


def _engine_facts(result: TrialResult) -> Iterator[tuple[str, str]]:
    """What decides an engine's figures beside its versions: its library, how it was started, on which cores."""
    engine, cores = result.engine, result.cores
    if (weights := weights_of(engine, result.trial.server)) is not None:
        yield "weights", weights.text
    for name in ("server", "variant", "stream_step", "launcher"):
        if name in engine:
            yield name, str(engine[name])
    library = engine.get("library")
    for file, hashed in library.items() if isinstance(library, dict) else ():
        yield f"{file}, SHA-256", str(hashed)
    if cores is not None:
        quota = "" if cores.limit_cores is None else f", at most {cores.limit_cores:g} at a time"
        yield "cores", cores.affinity + quota
