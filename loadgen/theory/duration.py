"""How long trials and server starts take: by a device's ceilings before anything ran, by what was measured afterwards.

The one model of time: a plan's order and outlook, a limited budget and the live view's time left read from here. Pure.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field

from loadgen.labels import server_label
from loadgen.load_records import LoadSpec
from loadgen.records import ServerSpec, Trial
from loadgen.theory.ceilings import Ceilings, datasheet
from loadgen.theory.models import PRESETS, weight_bytes
from loadgen.theory.physics import request_floor
from loadgen.workload_records import Spread

REACHED = 0.5  # of the ceilings, what serving engines commonly reach
# The time that launching one layer's kernels takes the CPU without CUDA graphs: transformers' generate takes
# 52–87 ms for a step over the 40 layers of llama-13b on an H200, whatever the batch.
LAUNCH_S_PER_LAYER = 1.5e-3
# A server's start before one was seen: imports and kernels, and weights made or read. A guess that errs low: what
# it lets through in vain costs time that nothing else would have fitted into.
START_S = 5.0
READ_BYTES_PER_S = 1e9  # all weights through one disk, or made by one CPU
# Each GPU makes its own random weights: on H200s, 131 GB on one within 13 s, 33 GB on each of four within 18 s.
MADE_BYTES_PER_S = 6e9


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What decides how long a trial takes, in plain values: trials of equal work are expected to take equally long.

    ``server`` is its label, ``at_once`` how many sequences are in flight (1 in open loop), ``requests`` the wire calls
    with the warm-up, ``cost`` the relative cost. ``schedule_s`` is how long the load lasts by itself: an open loop's
    schedule, a duration with its lead-in; ``None`` for other loads and for a trace, whose file is not read here.
    """

    server: str
    kind: str
    at_once: int
    input_tokens: int
    output_tokens: int
    requests: int
    cost: float
    schedule_s: float | None


def work_of(trial: Trial) -> Work:
    """The work of a trial; its repeats share it."""
    load = trial.load
    return Work(
        server=server_label(trial.server) if trial.server else str(trial.url),
        kind=load.kind,
        at_once=load.sequences or load.batch_size,
        input_tokens=load.input_tokens,
        output_tokens=load.output_tokens,
        requests=load.requests + load.warmup,
        cost=relative_cost(trial),
        schedule_s=schedule_s(load),
    )


@dataclass(slots=True)
class Durations:
    """What trials took so far, and what others will take by it."""

    _took: dict[Work, float] = field(default_factory=dict)

    def learn(self, work: Work, wall_s: float) -> None:
        """Take in the wall time of a trial that ended well, in seconds; the newest of equal work counts."""
        self._took.pop(work, None)
        self._took[work] = wall_s

    def expected_s(self, work: Work) -> float | None:
        """Seconds that a trial will take, from the measured one most like it, of its own server first.

        The same work takes what it took. An open loop lasts as long as its schedule, and as much longer as the one
        most like it lasted than its own. Any other grows by the ratio of the relative costs, but never shrinks by it:
        what a server's host does costs the same however little the devices have to do. ``None`` where nothing was
        measured yet, but for an open loop.
        """
        if work.schedule_s is not None:
            like = self._nearest(work, [w for w in self._took if w.schedule_s and w.server == work.server])
            late = self._took[like] / like.schedule_s if like and like.schedule_s else 1.0
            return work.schedule_s * max(1.0, late)
        like = self._nearest(work, [w for w in self._took if w.server == work.server] or self._took)
        if like is None:
            return None
        return self._took[like] * max(1.0, work.cost / like.cost if like.cost > 0 else 1.0)

    def total_s(self, works: Iterable[Work]) -> float | None:
        """Seconds that all of them will take one after the other; ``None`` when it is of any one."""
        found: dict[Work, float | None] = {}
        parts = []
        for work in works:
            if work not in found:
                found[work] = self.expected_s(work)
            parts.append(found[work])
        return total(parts)

    def _nearest(self, work: Work, known: Iterable[Work]) -> Work | None:
        return min(reversed(list(known)), key=lambda other: _distance(work, other), default=None)


def total(parts: Iterable[float | None]) -> float | None:
    """The sum of seconds, not known when one of them is not."""
    known = list(parts)
    return None if any(part is None for part in known) else math.fsum(part or 0.0 for part in known)


def start_s(spec: ServerSpec) -> float:
    """Seconds until a server is ready, by the bytes of its weights: a guess that errs low."""
    if spec.dummy_weights and spec.gpus:
        return START_S + weight_bytes(spec.model, spec.dtype, spec.tp, spec.pp) / MADE_BYTES_PER_S
    return START_S + weight_bytes(spec.model, spec.dtype) / READ_BYTES_PER_S


def relative_cost(trial: Trial) -> float:
    """A number that is larger for trials that take longer, comparable among trials of one server."""
    nominal = datasheet("H200")
    model = trial.server.model if trial.server else PRESETS["llama-7b"]
    server = ServerSpec(framework="", model=model, tp=trial.server.tp if trial.server else 1)
    floor, _ = call_s(server, trial.load, trial.load.sequences or 1, nominal) if nominal else (None, None)
    return trial_s(trial.load, floor) or 0.0


def call_s(
    server: ServerSpec, load: LoadSpec, batch: int, ceilings: Ceilings
) -> tuple[float | None, float | None]:
    """The floor of one wire call and a guess for an engine, in seconds; ``None`` where the dtype has no ceiling."""
    floor = request_floor(
        server.model, server.dtype, batch, load.input_tokens, load.output_tokens, ceilings, tp=server.tp
    )
    if floor is None:
        return None, None
    prefill, decode = (phase.ideal_s / REACHED for phase in floor.phases)
    launches = LAUNCH_S_PER_LAYER * server.model.layers
    steps = load.output_tokens - 1
    return floor.ideal_s, max(prefill, launches) + max(decode, steps * launches)


def schedule_s(load: LoadSpec) -> float | None:
    """Seconds that a load goes on sending by itself: its lead-in and duration, or from the first due time of an open
    loop to the last; ``None`` for a trace and for other loads."""
    if load.duration_s is not None:
        return load.lead_in_s + load.duration_s
    if not load.open_loop or not load.rate:
        return None
    return load.requests / (load.rate if load.rate_end is None else (load.rate + load.rate_end) / 2)


def trial_s(load: LoadSpec, one_call_s: float | None) -> float | None:
    """Seconds of a whole trial, its warm-up included, of calls that take ``one_call_s`` each; ``None`` of a trace."""
    if one_call_s is None:
        return None
    if load.duration_s is not None:
        return load.lead_in_s + load.duration_s + 2 * one_call_s  # the warm-up, and the last ones to end
    calls = load.warmup + load.requests
    if load.kind == "static":
        return calls * one_call_s
    if load.kind == "closed":
        paced = calls / load.max_rate if load.max_rate else 0.0
        return max(math.ceil(calls / load.concurrency) * one_call_s, paced)
    if load.sessions is not None:
        return math.ceil(calls / load.sessions.users) * (one_call_s + _think_s(load.sessions.think_ms))
    lasts_s = schedule_s(load)
    return None if lasts_s is None else lasts_s + one_call_s


def _think_s(spread: Spread) -> float:
    """A typical time of thinking: the median or mean that shapes it, else the middle."""
    shape = spread.median or spread.mean or (spread.least + spread.most) / 2
    return min(max(shape, spread.least), spread.most) / 1000


def _distance(one: Work, other: Work) -> float:
    """How unlike two loads are: doublings of what is sent, received and in flight, and of an open loop's pace."""
    pairs = (
        (one.at_once, other.at_once),
        (one.input_tokens, other.input_tokens),
        (one.output_tokens, other.output_tokens),
        (one.requests, other.requests),
        (one.schedule_s or 1.0, other.schedule_s or 1.0),
    )
    return (one.kind != other.kind) + sum(abs(math.log2((x or 1) / (y or 1))) for x, y in pairs)
