"""When two things are the same: trials, servers, rivals and points, by keys that are equal then. Pure."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from typing import Any

from loadgen.load_records import LoadSpec
from loadgen.records import OptionValue, ServerSpec, Trial

# By framework: options that name where a library lies. What lies there decides, and ``ServerSpec.library`` is its hash.
PLACES = {"ft": frozenset({"backend_dir"})}


def server_key(trial: Trial) -> str:
    """Equal for trials that share a server and a start of it (or an endpoint that already runs)."""
    if trial.server is None:
        return f"endpoint {trial.url} {trial.model_name}"
    return spec_key(trial.server) + (f" start {trial.start}" if trial.start else "")


def spec_key(spec: ServerSpec) -> str:
    """Equal for servers that are one."""
    return canonical(dataclasses.asdict(spec))


def deciding_options(spec: ServerSpec) -> dict[str, OptionValue]:
    """A server's options without those that only say where its library lies."""
    places = PLACES.get(spec.framework, frozenset())
    return {name: value for name, value in spec.options.items() if name not in places}


def canonical(value: Any) -> str:
    """JSON with sorted keys and no blanks: one text for equal values. Raises ValueError for NaN and infinity."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def digest(value: Any) -> str:
    """SHA-256 of the canonical JSON, 64 hex digits: trial ids are cut from it."""
    return hashlib.sha256(canonical(value).encode()).hexdigest()


def rivals_key(spec: ServerSpec) -> tuple[Any, ...]:
    """Equal for rivals."""
    return spec.model, bool(spec.gpus), spec.tp * spec.pp


def point_of(load: LoadSpec) -> LoadSpec:
    """What loads have in common that are probes of one point: all but the batch and how often it is sent."""
    return dataclasses.replace(
        load, batch_size=1, requests=1, warmup=0, duration_s=None, lead_in_s=0.0, seed=0
    )


def workload(load: LoadSpec) -> LoadSpec:
    """A load without what a search decides: how often and how long, but not what, is asked."""
    return LoadSpec(
        kind="poisson",
        input_tokens=load.input_tokens,
        output_tokens=load.output_tokens,
        input_spread=load.input_spread,
        output_spread=load.output_spread,
        prefixes=load.prefixes,
        dataset=load.dataset,
        cancel=load.cancel,
    )


def arrivals(load: LoadSpec) -> tuple[str, float]:
    """How the requests of a search for a rate come: evenly, or by chance with a burstiness."""
    kind = "constant" if load.kind == "constant" else "gamma"
    return kind, load.burstiness if load.kind == "gamma" else 1.0
