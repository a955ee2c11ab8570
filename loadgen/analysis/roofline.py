"""Each trial against the ceilings: floor, utilisation, regime with its evidence, and whether it is possible at all."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import median

from loadgen.analysis.table import Key, Row
from loadgen.engine_facts import is_eager
from loadgen.records import ModelSpec
from loadgen.theory import physics
from loadgen.theory.ceilings import Ceilings
from loadgen.units import show_number, show_s, show_share

# Floors that explain this share of the time set the regime, the largest of them; below it the host (launches,
# scheduling) does.
EXPLAINS = 0.4
MORE_EFFICIENT = 1.05  # times the MBU of tp 1
HIGH_MBU, LOW_MBU, HIGH_EAGER_MBU, HIGH_MFU = (
    0.85,
    0.25,
    0.60,
    0.85,
)  # shared experience: outside is suspicious


@dataclass(frozen=True, slots=True, kw_only=True)
class Physics:
    """One trial on the roofline. Times in seconds; ``None`` where the trial or the ceilings cannot say.

    ``sequences`` take part in a decode step; ``estimated`` marks those of a closed loop (mean in flight).
    ``ideal_s`` is the floor without communication, ``floor_s`` with it where it was measured.
    ``split`` says where prefill and decode times come from: ``streamed``, ``derived`` from a twin trial of one
    output token, or empty.
    """

    source: str
    sequences: float
    estimated: bool
    total_input_tokens: float
    ridge_tokens: float | None
    flops: float
    bytes: float
    intensity: float
    flops_per_s: float
    bytes_per_s: float
    mfu: float | None
    mbu: float
    ideal_s: float | None
    floor_s: float | None
    floor_share: float | None
    communication_share: float | None
    prefill_s: float | None
    decode_step_s: float | None
    split: str
    prefill_mfu: float | None
    decode_mbu: float | None
    regime: str | None
    evidence: str
    impossible: tuple[str, ...] = ()
    suspicious: tuple[str, ...] = ()


def examine(rows: Sequence[Row], ceilings: Mapping[str, Ceilings]) -> dict[str, Physics]:
    """Physics by ``Row.run``, of the rows whose model and machine's ceilings are known."""
    twins = _twins(rows)
    found = {}
    for row in rows:
        ceiling = ceilings.get(row.key.machine)
        model = row.model
        alike = not row.trial.load.varies  # one floor holds for all its requests
        if ceiling is not None and model is not None and "e2e_s" in row.values and alike:
            found[row.run] = _examine(row, model, ceiling, twins)
    return found | _too_efficient(rows, found)


def _too_efficient(rows: Sequence[Row], found: Mapping[str, Physics]) -> dict[str, Physics]:
    """Trials whose decode uses the bandwidth of several GPUs better than the same trial uses one: suspicious.

    Splitting adds communication and leaves smaller matrices, so efficiency should fall.
    """
    by_cell: dict[Key, list[float]] = defaultdict(list)
    for row in rows:
        if row.run in found and (mbu := found[row.run].decode_mbu) is not None:
            by_cell[row.key].append(mbu)
    doubtful = {}
    for row in rows:
        alone = by_cell.get(replace(row.key, tp=1))
        if row.key.tp == 1 or row.run not in found or not alone or row.key not in by_cell:
            continue
        split, whole = median(by_cell[row.key]), median(alone)
        if split > whole * MORE_EFFICIENT:
            note = (
                f"decode MBU {show_share(split)} at tp {row.key.tp} is above the {show_share(whole)} at tp 1"
            )
            physics = found[row.run]
            doubtful[row.run] = replace(physics, suspicious=(*physics.suspicious, note))
    return doubtful


def _twins(rows: Sequence[Row]) -> dict[Key, float]:
    """E2E of trials with one output token, by their key without the output tokens: a prefill's time."""
    singles: dict[Key, list[float]] = defaultdict(list)
    for row in rows:
        if row.key.output_tokens == 1 and "e2e_s" in row.values and not row.client_limited:
            singles[_twin_key(row.key)].append(row.values["e2e_s"])
    return {key: median(times) for key, times in singles.items()}


def _twin_key(key: Key) -> Key:
    return replace(key, output_tokens=-1, stream=False)


def split_times(row: Row, twins: Mapping[Key, float]) -> tuple[float | None, float | None, str]:
    """Prefill seconds, seconds per decode step, and where they come from."""
    key, values = row.key, row.values
    if "ttft_s" in values:
        return values["ttft_s"], values.get("tpot_s"), "streamed"
    if key.output_tokens == 1:
        return values["e2e_s"], None, "one output token"
    alone = twins.get(_twin_key(key))
    if alone is None or values["e2e_s"] <= alone:
        return None, None, ""
    return alone, (values["e2e_s"] - alone) / (key.output_tokens - 1), "derived"


def _examine(row: Row, model: ModelSpec, ceilings: Ceilings, twins: Mapping[Key, float]) -> Physics:
    key, load = row.key, row.trial.load
    tp, dtype, e2e = key.tp, key.dtype, row.values["e2e_s"]
    batch, steps = load.batch_size, key.output_tokens - 1
    exact = load.in_flight == 1
    sequences = batch if exact else _together(row)
    weights = physics.read_bytes(model, dtype)
    first = physics.prefill(model, dtype, batch, key.input_tokens, tp=tp)
    rest = physics.decode(model, dtype, sequences, key.input_tokens, steps, tp=tp)
    # Others' sequences share the decode steps of a closed loop; its prefills come one by one.
    work = first + rest
    floor = physics.request_floor(model, dtype, batch, key.input_tokens, key.output_tokens, ceilings, tp=tp)
    prefill_s, step_s, split = split_times(row, twins)
    context = key.input_tokens + key.output_tokens / 2
    step = physics.decode_step(model, dtype, sequences, context, tp=tp)
    regime, evidence = None, ""
    if exact and floor is not None:
        regime, evidence = _regime("a request", e2e, key.output_tokens, floor, ceilings, model)
    elif (
        step_s is not None
    ):  # a request's own time holds others' prefills: only its decode step can be judged
        alone = physics.floor(step, ceilings, dtype, tp=tp, working_set=weights)
        if alone is not None:
            phases = physics.PhasedFloor(phases=(alone,))
            regime, evidence = _regime("a decode step", step_s, 1, phases, ceilings, model)
    result = Physics(
        source=ceilings.source,
        sequences=sequences,
        estimated=not exact,
        total_input_tokens=batch * key.input_tokens,
        ridge_tokens=physics.ridge_tokens(model, dtype, ceilings, tp=tp),
        flops=work.flops,
        bytes=work.bytes,
        intensity=work.flops / work.bytes,
        flops_per_s=work.flops / e2e / ceilings.devices(key.gpus),
        bytes_per_s=work.bytes / e2e / ceilings.devices(key.gpus),
        mfu=physics.mfu(work, e2e, ceilings, dtype, devices=key.gpus),
        mbu=physics.mbu(work, e2e, ceilings, devices=key.gpus, working_set=weights),
        ideal_s=floor.ideal_s if floor else None,
        floor_s=floor.seconds if floor else None,
        floor_share=floor.ideal_s / e2e if floor else None,
        communication_share=_share(floor.communication_s if floor else None, e2e),
        prefill_s=prefill_s,
        decode_step_s=step_s,
        split=split,
        prefill_mfu=physics.mfu(first, prefill_s, ceilings, dtype, devices=key.gpus)
        if prefill_s and exact
        else None,
        decode_mbu=physics.mbu(step, step_s, ceilings, devices=key.gpus, working_set=weights)
        if step_s
        else None,
        regime=regime,
        evidence=evidence,
    )
    return replace(
        result,
        impossible=_impossible(row, model, ceilings, floor),
        suspicious=_suspicious(row, result),
    )


def _together(row: Row) -> float:
    """Sequences that share a decode step: those in flight, unless the engine says that it serves call by call."""
    batch = row.trial.load.batch_size
    flying = row.summary.in_flight_mean if row.summary else None
    if row.result.engine.get("in_flight_batching") is False or flying is None:
        return batch
    return max(batch, batch * flying)


def _share(part: float | None, whole: float) -> float | None:
    return None if part is None else part / whole


def _regime(
    what: str,
    seconds: float,
    forwards: int,
    floor: physics.PhasedFloor,
    ceilings: Ceilings,
    model: ModelSpec,
) -> tuple[str, str]:
    """What sets a time of so many forwards: the resource that explains most of it, else the host.

    Phases differ in what binds them, so it is all floors together that must explain enough. What they leave is told in
    launches where it is much: the host's share, or kernels that fall short of the ceilings.
    """
    parts = {
        "bandwidth": floor.bound_s("bandwidth"),
        "compute": floor.bound_s("compute"),
        "communication": floor.communication_s or 0.0,
    }
    shares = {name: part / seconds for name, part in parts.items()}
    rest = max(1 - sum(shares.values()), 0.0)
    words = ", ".join(f"{name} {show_share(share)}" for name, share in shares.items())
    evidence = f"{what} takes {show_s(seconds)}; floors explain {words}; {show_share(rest)} is not explained"
    if ceilings.launch_s and rest >= EXPLAINS:
        launches = show_number(rest * seconds / forwards / model.layers / ceilings.launch_s)
        evidence += f" (as long as {launches} launches per layer and forward at the probed {show_s(ceilings.launch_s)})"
    if 1 - rest < EXPLAINS:
        return "host", evidence
    return max(shares, key=lambda each: shares[each]), evidence


def _impossible(
    row: Row, model: ModelSpec, ceilings: Ceilings, floor: physics.PhasedFloor | None
) -> tuple[str, ...]:
    """Why the trial cannot be true: something in it ran faster than the ceilings allow."""
    if floor is None or row.summary is None:
        return ()
    key, summary, load = row.key, row.summary, row.trial.load
    reasons = []
    sheet = f"{ceilings.source} ceilings of {ceilings.device}"

    def check(what: str, measured: float | None, least: float) -> None:
        if measured is not None and measured < least:
            share = f"{show_share(least / measured)} of" if measured > 0 else "beyond any share of"
            reasons.append(
                f"{what} {show_s(measured)} is below its floor {show_s(least)}: {share} the {sheet}"
            )

    prefill, steps = floor.phases
    check("the fastest end-to-end latency", summary.e2e_s.min if summary.e2e_s else None, floor.ideal_s)
    check("the fastest TTFT", summary.ttft_s.min if summary.ttft_s else None, prefill.ideal_s)
    if key.output_tokens > 1 and summary.tpot_s is not None:
        check("the median TPOT", summary.tpot_s.p50, steps.ideal_s / (key.output_tokens - 1))
    if summary.duration_s:
        one = physics.prefill(
            model, key.dtype, load.batch_size, key.input_tokens, tp=key.tp
        ) + physics.decode(
            model, key.dtype, load.batch_size, key.input_tokens, key.output_tokens - 1, tp=key.tp
        )
        used = physics.mfu(
            replace(one, flops=one.flops * summary.requests_ok),
            summary.duration_s,
            ceilings,
            key.dtype,
            devices=key.gpus,
        )
        if used is not None and used > 1:
            reasons.append(f"all its requests together would be {show_share(used)} of the {sheet} (FLOP/s)")
    return tuple(reasons)


def _suspicious(row: Row, found: Physics) -> tuple[str, ...]:
    """Possible, but outside of what engines are known to reach."""
    key, notes, eager = row.key, [], is_eager(row.result.engine, row.trial.server)
    if found.decode_mbu is not None and not found.estimated:
        share = show_share(found.decode_mbu)
        if found.decode_mbu > HIGH_MBU:
            notes.append(
                f"decode MBU {share} is above the {show_share(HIGH_MBU)} that any known engine reaches"
            )
        elif eager and found.decode_mbu > HIGH_EAGER_MBU:
            notes.append(f"decode MBU {share} is high for eager transformers (known: 3–25 %)")
        elif eager is False and key.gpus == 1 and key.batch <= 8 and found.decode_mbu < LOW_MBU:
            notes.append(f"decode MBU {share} is low for one GPU at small batch (good engines: 50–75 %)")
    if found.prefill_mfu is not None and found.prefill_mfu > HIGH_MFU:
        notes.append(f"prefill MFU {show_share(found.prefill_mfu)} is above {show_share(HIGH_MFU)}")
    return tuple(notes)
