"""The memory ledger: what a trial was predicted to need on its fullest GPU, beside what was measured. Pure."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from loadgen.engine_facts import keeps_buffers, kv_dtype, replays_graphs, takes_kv_ahead
from loadgen.load_records import LoadSpec
from loadgen.records import ServerSpec, Trial, TrialResult
from loadgen.telemetry import kept_buffers
from loadgen.telemetry.held import by_driver, by_kv_counter
from loadgen.telemetry.needed import AT_LEAST, is_bound, need, need_again
from loadgen.telemetry.overhead import overhead
from loadgen.telemetry.prometheus_text import MOST
from loadgen.telemetry.series import Readings, peak
from loadgen.telemetry.spans import Spans
from loadgen.telemetry_records import MemoryLedger
from loadgen.theory.models import activation_bytes, kv_bytes_per_token, stage_layers, stage_weight_bytes

ONE_AT_A_TIME = "one call at a time"
# What the servers' pages call a figure → its name here.
PAGE = {
    "loaded_bytes": "loaded",
    "allocated_bytes": "allocated",
    "reserved_bytes": "reserved",
    "peak_allocated_bytes": "peak",
    "call_peak_allocated_bytes": "call_peak",
    "kv_needed_bytes": "kv_needed",
    "kv_reserved_bytes": "kv_reserved",
}
# The same where they were scraped: Triton has no page.
SCRAPED = {
    "engine_loaded_bytes": "loaded",
    "engine_allocated_bytes": "allocated",
    "engine_reserved_bytes": "reserved",
    "engine_peak_bytes": "peak",
    "engine_call_peak_bytes": "call_peak",
    "engine_kv_needed_bytes": "kv_needed",
    "engine_kv_reserved_bytes": "kv_reserved",
}
Pools = Mapping[str, Mapping[str, float]]  # GPU's place among the server's → the names above


@dataclass(frozen=True, slots=True, kw_only=True)
class Expected:
    """What one GPU was predicted to hold, in bytes; ``None`` where the load or the server does not tell.

    ``kv_at_most``: whether the cache of all sequences at full length is an upper bound, and no more.
    """

    weights: int
    kv: int | None
    kv_rounding: int | None
    activations: int | None
    kv_at_most: bool = False


def engine_memory(info: Mapping[str, object]) -> dict[str, dict[str, float]]:
    """Place → figures (see ``PAGE``), from a server's own page; empty when it tells none."""
    memory = info.get("memory")
    ranks: Any = memory.get("cuda") if isinstance(memory, Mapping) else None
    found: dict[str, dict[str, float]] = {}
    for rank, values in (ranks if isinstance(ranks, Mapping) else {}).items():
        told = values.items() if isinstance(values, Mapping) else ()
        known = {PAGE[key]: float(value) for key, value in told if key in PAGE and _is_bytes(value)}
        if known:
            found[str(rank)] = known
    return found


def _is_bytes(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= MOST


def make_ledger(
    trial: Trial,
    readings: Readings,
    spans: Spans,
    *,
    gpus: Sequence[str],
    before: Mapping[str, object],
    after: Mapping[str, object],
    used_before: Mapping[str, float] | None = None,
    peaks_known: bool = True,
    held_before: float | None = None,
) -> MemoryLedger | None:
    """The ledger of a trial on GPUs; ``before`` and ``after`` are the server's own page around it.

    ``gpus`` are the UUIDs of the server's GPUs in its order, ``used_before`` the bytes in use there before it came.
    Without ``peaks_known`` the server's figures may be of earlier trials, and none is used. ``held_before`` is the most
    that its process held on a GPU in earlier trials.
    """
    server = trial.server
    if server is None or not server.gpus:
        return None
    busy = (*spans.warmup, *spans.load)
    first = engine_memory(before) or _scraped(readings, 0)
    pools = (engine_memory(after) or _scraped(readings, -1)) if peaks_known else {}
    ahead = takes_kv_ahead(after)
    needs = {
        place: need(first.get(place, {}), pool, ahead=ahead, graphs=replays_graphs(after, server))
        for place, pool in pools.items()
    }
    known = {place: found for place, found in needs.items() if found is not None}
    place = max(known, key=lambda name: known[name][0], default=None) or _fullest(pools)
    number = int(place) if place is not None and re.fullmatch("[0-9]{1,9}", place) else None
    expected = expect(server, trial.load, after, number)
    needed, needed_from = known.get(place or "", (None, None))
    own = pools.get(place, {}) if place is not None else {}
    kv_needed, kv_reserved = own.get("kv_needed"), own.get("kv_reserved")
    if ahead and kv_needed is None:
        kv_needed, kv_reserved = by_kv_counter(server, readings, busy, after)
    if needed is None and ahead and kv_needed is not None:
        needed, needed_from = expected.weights + kv_needed, "weights as predicted, KV by the engine's counter"
    elif (
        needed is None
        and not ahead
        and (sampled := peak(_series(readings, "engine_allocated_bytes", None), busy))
    ):
        needed, needed_from = sampled, AT_LEAST
    reserved = peak(_series(readings, "engine_reserved_bytes", place), busy) or own.get("reserved")
    # A GPU that the environment does not name would shift the others' places.
    if number is not None and number < len(gpus) == len(server.gpus):
        gpus = [gpus[number]]
    process, process_from = by_driver(readings, busy, gpus, used_before or {})
    if needed is None and keeps_buffers(after):
        first_held, _ = by_driver(readings, spans.idle, gpus, used_before or {})
        held = max((each for each in (held_before, first_held) if each is not None), default=None)
        needed, needed_from = kept_buffers.need_of(held, process)
    idle = peak(_series(readings, "engine_allocated_bytes", place), spans.idle)
    if idle is None and place is not None:
        idle = first.get(place, {}).get("allocated")
    found = MemoryLedger(
        predicted_weight_bytes=expected.weights,
        predicted_kv_bytes=expected.kv,
        predicted_activation_bytes=expected.activations,
        gpu=number,
        weight_bytes=own.get("loaded"),
        kv_bytes=kv_needed,
        kv_rounding_bytes=expected.kv_rounding,
        kv_reserved_bytes=kv_reserved,
        idle_bytes=idle,
        needed_bytes=needed,
        needed_from=needed_from,
        reserved_bytes=reserved,
        process_bytes=process,
        process_from=process_from,
        overhead_bytes=overhead(readings, place, gpus, own.get("reserved"), used_before or {}),
    )
    return _differences(found, kv_at_most=expected.kv_at_most)


def expect(server: ServerSpec, load: LoadSpec, page: Mapping[str, object], place: int | None) -> Expected:
    """The prediction for the GPU at ``place``, else for the fullest; ``page`` tells how the engine batches.

    An engine that runs one call at a time holds that call's sequences; any other all that are in flight, at their
    full length. Rounding is to the whole blocks that the page tells of.
    """
    layers = stage_layers(server.model.layers, server.pp)
    stages = range(server.pp) if server.pp > 1 else (0,)
    weights = [stage_weight_bytes(server.model, server.dtype, s, server.tp, server.pp) for s in stages]
    stage = place if place is not None and place in stages and server.pp > 1 else weights.index(max(weights))
    one_at_a_time = str(page.get("scheduling", "")).startswith(ONE_AT_A_TIME)
    sequences = _sequences(load, one_at_a_time=one_at_a_time)
    if sequences is None:
        return Expected(weights=weights[stage], kv=None, kv_rounding=None, activations=None)
    # Per token the cache of a stage is that of its layers.
    per_token = (
        kv_bytes_per_token(server.model, kv_dtype(page, server), server.tp) * layers[stage] // sum(layers)
    )
    length = load.input_tokens + load.output_tokens
    block = page.get("kv_block_tokens")
    tokens = sequences * load.input_tokens
    if not one_at_a_time:
        limit = page.get("max_ragged_batch_size")
        tokens = min(tokens, limit) if isinstance(limit, int) else 0
    return Expected(
        weights=weights[stage],
        kv=sequences * length * per_token,
        kv_rounding=sequences * (-length % block) * per_token if isinstance(block, int) and block else None,
        activations=activation_bytes(server.model, server.dtype, tokens, sequences, server.tp)
        if tokens
        else None,
        kv_at_most=kv_at_most(load, page),
    )


def kv_at_most(load: LoadSpec, page: Mapping[str, object]) -> bool:
    """Whether the sequences of a load need never all be in the cache at once, at their full length.

    An engine that reads prompts in pieces of so many tokens per forward needs B·S/R forwards for all of them; where the
    first sequence has its n tokens before the last has begun, its cache is free again. Callers that send one after the
    other are never at their ends together, save in engines that run one call at a time.
    """
    if str(page.get("scheduling", "")).startswith(ONE_AT_A_TIME):
        return False
    if load.kind != "static":
        return True
    limit = page.get("max_ragged_batch_size")
    if not isinstance(limit, int) or not limit:
        return False
    last = math.ceil(load.batch_size * load.input_tokens / limit)
    return last >= math.ceil(load.input_tokens / limit) + load.output_tokens


def _sequences(load: LoadSpec, *, one_at_a_time: bool) -> int | None:
    if load.kind == "static" or (one_at_a_time and load.kind != "trace"):
        return load.batch_size
    return load.sequences


def _differences(found: MemoryLedger, *, kv_at_most: bool) -> MemoryLedger:
    """The ledger with what follows from its other lines. Nothing is left over from an upper bound."""
    needed, predicted_kv = found.needed_bytes, found.predicted_kv_bytes
    rest = activations = None
    known = found.predicted_weight_bytes is not None and predicted_kv is not None and not kv_at_most
    if needed is not None and found.predicted_weight_bytes is not None and predicted_kv is not None and known:
        rest = needed - found.predicted_weight_bytes - predicted_kv
    exact = not is_bound(found.needed_from)
    if needed is not None and found.weight_bytes is not None and found.kv_bytes is not None and exact:
        activations = needed - found.weight_bytes - found.kv_bytes
    blocks = None if predicted_kv is None else predicted_kv + (found.kv_rounding_bytes or 0)
    return replace(
        found,
        rest_bytes=rest,
        activation_bytes=activations,
        weight_ratio=_ratio(found.weight_bytes, found.predicted_weight_bytes),
        kv_ratio=_ratio(found.kv_bytes, blocks),
    )


def _ratio(measured: float | None, predicted: float | None) -> float | None:
    return measured / predicted if measured is not None and predicted else None


def mended_need(result: TrialResult) -> MemoryLedger | None:
    """The ledger of a result with its need by the rules of now: older ones took other calls' graphs for this one's."""
    ledger = result.telemetry.ledger if result.telemetry is not None else None
    if ledger is None or ledger.gpu is None or takes_kv_ahead(result.engine):
        return ledger
    pool = engine_memory(result.engine).get(str(ledger.gpu), {})
    found = need_again(ledger, pool, graphs=replays_graphs(result.engine, result.trial.server))
    if found is None:
        return ledger
    return _differences(
        replace(ledger, needed_bytes=found[0], needed_from=found[1]),
        kv_at_most=kv_at_most(result.trial.load, result.engine),
    )


def _fullest(pools: Pools) -> str | None:
    return max(pools, key=lambda place: pools[place].get("loaded", -math.inf), default=None)


def _scraped(readings: Readings, at: int) -> Pools:
    """The figures by the first (0) or last (-1) scrape, for servers whose own page has none."""
    found: dict[str, dict[str, float]] = {}
    for metric, name in SCRAPED.items():
        for place in readings.subjects(metric):
            if (series := readings.get(metric, place)) is not None:
                found.setdefault(place, {})[name] = float(series.values[at])
    return found


def _series(readings: Readings, metric: str, place: str | None) -> list[Any]:
    """A metric's series of one GPU, or of all."""
    places = readings.subjects(metric) if place is None else [place]
    return [one for name in places if (one := readings.get(metric, name)) is not None]
