"""What a plan will need before anything runs: memory per GPU, and time by the ceilings of the device.

Communication between GPUs is left out of the times, so every floor is a true floor.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from loadgen.identity import server_key
from loadgen.load_records import LoadSpec
from loadgen.records import ServerSpec, Trial
from loadgen.theory.ceilings import Ceilings
from loadgen.theory.duration import call_s, start_s, total, trial_s
from loadgen.theory.models import kv_bytes_per_token, weight_bytes
from loadgen.units import show_bytes


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
    """Predictions for every trial, and their sums; a sum is ``None`` when any part of it is.

    Each of the ``server_starts`` is expected to take what a start of these servers takes on average.
    """
    predictions = tuple(predict(trial, ceilings) for trial in trials)
    estimate = total([p.estimate_s for p in predictions])
    starts = {server_key(trial): start_s(trial.server) if trial.server else 0.0 for trial in trials}
    one_start_s = sum(starts.values()) / max(1, len(starts))
    return Outlook(
        predictions=predictions,
        server_starts=server_starts,
        device=f"{ceilings.device}, {ceilings.source}" if ceilings else None,
        at_least_s=total([p.at_least_s for p in predictions]),
        estimate_s=None if estimate is None else estimate + server_starts * one_start_s,
    )


def predict(trial: Trial, ceilings: Ceilings | None) -> Prediction:
    """What one trial needs; ``ceilings`` are those of one of the server's devices, ``None`` when unknown."""
    server, load = trial.server, trial.load
    if server is None:
        return Prediction(trial_id=trial.id)
    batch = load.sequences
    length = load.input_tokens + load.output_tokens
    per_token = kv_bytes_per_token(server.model, server.dtype, server.tp, server.pp)
    # A GPU's ceilings say nothing of a server on the CPU.
    here = ceilings is not None and ceilings.shared != bool(server.gpus)
    floor, guess = call_s(server, load, batch or 1, ceilings) if here and ceilings else (None, None)
    return Prediction(
        trial_id=trial.id,
        weight_bytes=weight_bytes(server.model, server.dtype, server.tp, server.pp),
        kv_bytes=None if batch is None else batch * length * per_token,
        floor_s=floor,
        at_least_s=trial_s(load, floor),
        estimate_s=trial_s(load, guess),
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
            f"(batch {load.sequences or 1}, {load.input_tokens} in, {load.output_tokens} out) needs "
            f"{show_bytes(need)} for weights and KV cache, a GPU has {show_bytes(memory_bytes)}"
        )
    return warnings
