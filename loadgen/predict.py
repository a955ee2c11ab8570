"""What a plan will need before anything runs: memory per GPU, and time by the ceilings of the device.

Formulas of the roofline, symbols as in ``models``: B sequences, S input and n output tokens of each, P' the
parameters without the embedding look-up. Communication between GPUs is left out, so every floor is a true floor.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from loadgen.devices import Device, device_named
from loadgen.models import DTYPE_BYTES, PRESETS, kv_bytes_per_token, parameters, weight_bytes
from loadgen.records import OPEN_LOOP, LoadSpec, ModelSpec, ServerSpec, Trial
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


def outlook(trials: Sequence[Trial], server_starts: int, device: Device | None) -> Outlook:
    """Predictions for every trial, and their sums; a sum is ``None`` when any part of it is."""
    predictions = tuple(predict(trial, device) for trial in trials)
    estimate = _sum([p.estimate_s for p in predictions])
    return Outlook(
        predictions=predictions,
        server_starts=server_starts,
        device=f"{device.name}, {device.source}" if device else None,
        at_least_s=_sum([p.at_least_s for p in predictions]),
        estimate_s=None if estimate is None else estimate + server_starts * SERVER_START_S,
    )


def predict(trial: Trial, device: Device | None) -> Prediction:
    """What one trial needs; ``device`` is one of the server's GPUs, ``None`` when unknown."""
    server, load = trial.server, trial.load
    if server is None:
        return Prediction(trial_id=trial.id)
    batch = _sequences(load)
    tokens = batch * (load.input_tokens + load.output_tokens) if batch is not None else None
    per_token = kv_bytes_per_token(server.model, server.dtype, server.tp, server.pp)
    known = device is not None and server.gpus and server.dtype in device.flops_per_s
    floor = _call_s(server, load, batch or 1, device) if known and device else None
    guess = _call_s(server, load, batch or 1, device, engine=True) if known and device else None
    return Prediction(
        trial_id=trial.id,
        weight_bytes=weight_bytes(server.model, server.dtype, server.tp, server.pp),
        kv_bytes=None if tokens is None else tokens * per_token,
        floor_s=floor,
        at_least_s=_trial_s(load, floor),
        estimate_s=_trial_s(load, guess),
    )


def check_fit(trials: Sequence[Trial], memory_bytes: int) -> list[str]:
    """A warning for each server of which some trials are predicted not to fit into a GPU of ``memory_bytes``."""
    over: dict[str, list[tuple[int, Trial]]] = {}
    total: dict[str, int] = {}
    for trial in trials:
        if trial.server is None or not trial.server.gpus:
            continue
        label = (
            f"{trial.server.framework} {trial.server.model.name} tp={trial.server.tp} pp={trial.server.pp}"
        )
        total[label] = total.get(label, 0) + 1
        need = predict(trial, None)
        if (need.weight_bytes or 0) + (need.kv_bytes or 0) > memory_bytes:
            over.setdefault(label, []).append(((need.weight_bytes or 0) + (need.kv_bytes or 0), trial))
    warnings = []
    for label, misfits in over.items():
        need_bytes, least = min(misfits, key=lambda misfit: misfit[0])
        load = least.load
        warnings.append(
            f"{label}: {len(misfits)} of {total[label]} trials are predicted not to fit; the smallest of them "
            f"(batch {_sequences(load) or 1}, {load.input_tokens} in, {load.output_tokens} out) needs "
            f"{show_bytes(need_bytes)} for weights and KV cache, a GPU has {show_bytes(memory_bytes)}"
        )
    return warnings


def relative_cost(trial: Trial) -> float:
    """A number that is larger for trials that take longer, comparable among trials of one server."""
    device = device_named("H200")
    assert device is not None
    model = trial.server.model if trial.server else PRESETS["llama-7b"]
    server = ServerSpec(
        framework="", model=model, tp=trial.server.tp if trial.server else 1, dtype="bfloat16", gpus=(0,)
    )
    return _trial_s(trial.load, _call_s(server, trial.load, _sequences(trial.load) or 1, device)) or 0.0


def _sequences(load: LoadSpec) -> int | None:
    """How many sequences the load keeps in the server; in open loop the server's speed decides."""
    if load.kind in OPEN_LOOP:
        return None
    return load.batch_size if load.kind == "static" else load.concurrency


def _call_s(server: ServerSpec, load: LoadSpec, batch: int, device: Device, *, engine: bool = False) -> float:
    """Prefill and the n − 1 decode steps that follow it: the floor, or a guess for an engine."""
    model, width = server.model, DTYPE_BYTES[server.dtype]
    flops_per_s = device.flops_per_s[server.dtype] * server.tp
    bytes_per_s = device.bytes_per_s * server.tp
    weights = _weights_read(model)
    steps = load.output_tokens - 1
    context = (
        load.input_tokens + (1 + steps) / 2
    )  # mean over the steps; both sides of the roof are linear in it
    kv = kv_bytes_per_token(model, server.dtype)
    prefill = max(
        _prefill_flops(model, batch, load.input_tokens) / flops_per_s, weights * width / bytes_per_s
    )
    step = max(
        _decode_flops(model, batch, context) / flops_per_s,
        (weights * width + batch * context * kv) / bytes_per_s,
    )
    if engine:
        launches = LAUNCH_S_PER_LAYER * model.layers
        prefill, step = max(prefill / REACHED, launches), max(step / REACHED, launches)
    return prefill + steps * step


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


def _weights_read(model: ModelSpec) -> int:
    """P': a step reads every parameter but the look-up table, of which it reads one row."""
    return parameters(model) - (0 if model.tied else model.vocab * model.hidden)


def _prefill_flops(model: ModelSpec, batch: int, tokens: int) -> float:
    """2·(P' − head)·B·S + 2·head·B + 2·L·B·S²·H·d: the head for the last position only, attention causal."""
    head = model.vocab * model.hidden
    body = _weights_read(model) - head
    attention = 2 * model.layers * batch * tokens**2 * model.heads * model.head_dim
    return 2 * body * batch * tokens + 2 * head * batch + attention


def _decode_flops(model: ModelSpec, batch: int, context: float) -> float:
    """2·P'·B + 4·L·B·s·H·d."""
    return (
        2 * _weights_read(model) * batch + 4 * model.layers * batch * context * model.heads * model.head_dim
    )


def _sum(parts: Sequence[float | None]) -> float | None:
    return None if any(part is None for part in parts) else math.fsum(part or 0.0 for part in parts)
