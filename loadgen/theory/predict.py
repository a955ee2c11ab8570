"""What a plan will need before anything runs: memory per GPU, and time by the ceilings of the device.

Communication between GPUs is left out of the times, so every floor is a true floor.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from loadgen.records import OPEN_LOOP, LoadSpec, ServerSpec, Trial
from loadgen.theory.ceilings import Ceilings, datasheet
from loadgen.theory.models import PRESETS, kv_bytes_per_token, weight_bytes
from loadgen.theory.physics import request_floor
from loadgen.units import show_bytes

REACHED = 0.5  # of the ceilings, what serving engines commonly reach
# The time that launching one layer's kernels takes the CPU without CUDA graphs: transformers' generate takes
# 52–87 ms for a step over the 40 layers of llama-13b on an H200, whatever the batch.
LAUNCH_S_PER_LAYER = 1.5e-3
SERVER_START_S = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """A trial's needs. Bytes are those of the fullest GPU, at the full length of all sequences at once.

    ``floor_s`` is the least that one wire call can take; ``at_least_s`` the same for the whole trial, warm-up
    included; ``estimate_s`` a rough guess for an engine without CUDA graphs. ``None`` is *not known*: no server of
    ours, an unknown device or the CPU, a load whose batch or length the server decides.
    """

    trial_id: str
    weight_bytes: int | None = None
    kv_bytes: int | None = None
    floor_s: float | None = None
    at_least_s: float | None = None
    estimate_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Outlook:
    """A whole plan's needs. ``device`` names whose ceilings were used, and whether they are datasheet or measured."""

    predictions: tuple[Prediction, ...]
    server_starts: int
    device: str | None
    at_least_s: float | None
    estimate_s: float | None


def outlook(trials: Sequence[Trial], server_starts: int, ceilings: Ceilings | None) -> Outlook:
    """Predictions for every trial, and their sums; a sum is ``None`` when any part of it is."""
    predictions = tuple(predict(trial, ceilings) for trial in trials)
    estimate = _sum([p.estimate_s for p in predictions])
    return Outlook(
        predictions=predictions,
        server_starts=server_starts,
        device=f"{ceilings.device}, {ceilings.source}" if ceilings else None,
        at_least_s=_sum([p.at_least_s for p in predictions]),
        estimate_s=None if estimate is None else estimate + server_starts * SERVER_START_S,
    )


def predict(trial: Trial, ceilings: Ceilings | None) -> Prediction:
    """What one trial needs; ``ceilings`` are those of one of the server's devices, ``None`` when unknown."""
    server, load = trial.server, trial.load
    if server is None:
        return Prediction(trial_id=trial.id)
    batch = _sequences(load)
    length = load.input_tokens + load.output_tokens
    per_token = kv_bytes_per_token(server.model, server.dtype, server.tp, server.pp)
    # A GPU's ceilings say nothing of a server on the CPU.
    here = ceilings is not None and ceilings.shared != bool(server.gpus)
    floor, guess = _call_s(server, load, batch or 1, ceilings) if here and ceilings else (None, None)
    return Prediction(
        trial_id=trial.id,
        weight_bytes=weight_bytes(server.model, server.dtype, server.tp, server.pp),
        kv_bytes=None if batch is None else batch * length * per_token,
        floor_s=floor,
        at_least_s=_trial_s(load, floor),
        estimate_s=_trial_s(load, guess),
    )


def largest_batch(server: ServerSpec, load: LoadSpec, memory_bytes: int) -> int:
    """How many sequences' KV cache fits beside the weights into ``memory_bytes`` of each GPU; nothing else counted."""
    weights = weight_bytes(server.model, server.dtype, server.tp, server.pp)
    per_token = kv_bytes_per_token(server.model, server.dtype, server.tp, server.pp)
    return max(0, (memory_bytes - weights) // (per_token * (load.input_tokens + load.output_tokens)))


def check_fit(trials: Sequence[Trial], memory_bytes: int) -> list[str]:
    """A warning for each server of which some trials are predicted not to fit into a GPU of ``memory_bytes``."""
    needs: dict[str, list[tuple[int, LoadSpec]]] = {}
    for trial in trials:
        server, found = trial.server, predict(trial, None)
        if server is not None and server.gpus:
            label = f"{server.framework} {server.model.name} tp={server.tp} pp={server.pp}"
            need = (found.weight_bytes or 0) + (found.kv_bytes or 0)
            needs.setdefault(label, []).append((need, trial.load))
    warnings = []
    for label, every in needs.items():
        misfits = [(need, load) for need, load in every if need > memory_bytes]
        if not misfits:
            continue
        need, load = min(misfits, key=lambda misfit: misfit[0])
        warnings.append(
            f"{label}: {len(misfits)} of {len(every)} trials are predicted not to fit; the smallest of them "
            f"(batch {_sequences(load) or 1}, {load.input_tokens} in, {load.output_tokens} out) needs "
            f"{show_bytes(need)} for weights and KV cache, a GPU has {show_bytes(memory_bytes)}"
        )
    return warnings


def relative_cost(trial: Trial) -> float:
    """A number that is larger for trials that take longer, comparable among trials of one server."""
    nominal = datasheet("H200")
    model = trial.server.model if trial.server else PRESETS["llama-7b"]
    server = ServerSpec(framework="", model=model, tp=trial.server.tp if trial.server else 1)
    floor, _ = _call_s(server, trial.load, _sequences(trial.load) or 1, nominal) if nominal else (None, None)
    return _trial_s(trial.load, floor) or 0.0


def _sequences(load: LoadSpec) -> int | None:
    """How many sequences the load keeps in the server; in open loop the server's speed decides."""
    if load.kind in OPEN_LOOP:
        return None
    return load.batch_size if load.kind == "static" else load.concurrency


def _call_s(
    server: ServerSpec, load: LoadSpec, batch: int, ceilings: Ceilings
) -> tuple[float | None, float | None]:
    """The floor of one wire call, and a guess for an engine; both ``None`` where the dtype has no ceiling."""
    floor = request_floor(
        server.model, server.dtype, batch, load.input_tokens, load.output_tokens, ceilings, tp=server.tp
    )
    if floor is None:
        return None, None
    prefill, decode = (phase.ideal_s / REACHED for phase in floor.phases)
    launches = LAUNCH_S_PER_LAYER * server.model.layers
    steps = load.output_tokens - 1
    return floor.ideal_s, max(prefill, launches) + max(decode, steps * launches)


def _trial_s(load: LoadSpec, call_s: float | None) -> float | None:
    if call_s is None:
        return None
    calls = load.warmup + load.requests
    if load.kind == "static":
        return calls * call_s
    if load.kind == "closed":
        paced = calls / load.max_rate if load.max_rate else 0.0
        return max(math.ceil(calls / load.concurrency) * call_s, paced)
    if load.rate is None:  # a trace keeps its own time
        return None
    mean_rate = load.rate if load.rate_end is None else (load.rate + load.rate_end) / 2
    return load.requests / mean_rate + call_s


def _sum(parts: Sequence[float | None]) -> float | None:
    return None if any(part is None for part in parts) else math.fsum(part or 0.0 for part in parts)
