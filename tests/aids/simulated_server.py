"""Servers that are simulated event by event, and trials on them: a capacity search is tried on them in no time."""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from loadgen.load.arrivals import offset_chunks
from loadgen.load_records import LoadSpec
from loadgen.metrics.distribution import dist
from loadgen.metrics.effective import Growth, grew, in_flight_at_ends
from loadgen.metrics.objectives import attained
from loadgen.metrics.slo_watch import GROWING
from loadgen.metrics.summary import summarise
from loadgen.records import Caveat, Trial, TrialResult
from loadgen.servers._null.queue import Queue
from loadgen.slo_records import Slo

S = 1_000_000_000
LENGTHS = 4096


@dataclass(frozen=True, kw_only=True)
class Engine:
    """An engine's iterations, of lengths that are lognormal around a trial's own (``spread`` 0: the same)."""

    slots: int = 256
    step_ns: int = 7_500_000
    sequence_ns: int = 70_000
    prompt_ns: int = 45_000
    spread: float = 0.6

    def run(self, load: LoadSpec, seed: int, stop_growing: bool) -> Served:
        return _serve(_Iterations(self, load, seed), load, stop_growing)


@dataclass(frozen=True, kw_only=True)
class Servers:
    """M/G/k: so many servers, each with one request at a time, exponential around ``service_s``."""

    servers: int = 8
    service_s: float = 2.0

    def run(self, load: LoadSpec, seed: int, stop_growing: bool) -> Served:
        return _serve(_Places(self, seed), load, stop_growing)


Server = Engine | Servers


@dataclass(kw_only=True)
class Served:
    """Of each request: when it was due, its first and its last token (ns), and its output tokens; -1: not ended."""

    due: np.ndarray
    first: np.ndarray
    last: np.ndarray
    tokens: np.ndarray
    grew: bool


class _Iterations:
    def __init__(self, engine: Engine, load: LoadSpec, seed: int) -> None:
        self.queue: Queue[int] = Queue(
            slots=engine.slots,
            step_ns=engine.step_ns,
            sequence_ns=engine.sequence_ns,
            prompt_ns=engine.prompt_ns,
        )
        self._lengths = _lengths(load, engine.spread, seed)
        self.tokens: list[int] = []

    def add(self, key: int, now: int) -> None:
        prompt, tokens = next(self._lengths)
        self.tokens.append(tokens)
        self.queue.add(key, now, tokens=tokens, prompt_tokens=prompt)

    @property
    def at(self) -> int | None:
        return self.queue.ends_ns

    def step(self) -> tuple[list[int], list[int]]:
        return self.queue.end_step()


class _Places:
    def __init__(self, servers: Servers, seed: int) -> None:
        self._random, self._free, self._service_s = (
            np.random.default_rng(seed),
            servers.servers,
            servers.service_s,
        )
        self._waiting: list[int] = []
        self._busy: list[tuple[int, int]] = []
        self.tokens: list[int] = []

    def add(self, key: int, now: int) -> None:
        self.tokens.append(2)
        if self._free:
            self._free -= 1
            self._begin(key, now)
        else:
            self._waiting.append(key)

    def _begin(self, key: int, now: int) -> None:
        heapq.heappush(self._busy, (now + int(self._random.exponential(self._service_s) * S), key))

    @property
    def at(self) -> int | None:
        return self._busy[0][0] if self._busy else None

    def step(self) -> tuple[list[int], list[int]]:
        at, key = heapq.heappop(self._busy)
        if self._waiting:
            self._begin(self._waiting.pop(0), at)
        else:
            self._free += 1
        return [key], [key]


def _lengths(load: LoadSpec, spread: float, seed: int) -> Iterator[tuple[int, int]]:
    random = np.random.default_rng([seed, 1])
    while True:
        draw = np.exp(spread * random.standard_normal((2, LENGTHS)) - spread**2 / 2)
        inputs = np.maximum(1, np.rint(draw[0] * load.input_tokens)).astype(int).tolist()
        outputs = np.maximum(1, np.rint(draw[1] * load.output_tokens)).astype(int).tolist()
        yield from zip(inputs, outputs, strict=True)


def _serve(server: _Iterations | _Places, load: LoadSpec, stop_growing: bool) -> Served:
    assert load.duration_s is not None
    last_due = int((load.lead_in_s + load.duration_s) * S)
    due: list[int] = []
    first: dict[int, int] = {}
    last: dict[int, int] = {}
    coming: Iterator[int] = iter(())
    closed = not load.open_loop
    if not closed:
        coming = (at for chunk in offset_chunks(load) for at in chunk.tolist())
    following = next(coming, None)
    growth = Growth()

    def send(now: int) -> None:
        due.append(now)
        server.add(len(due) - 1, now)

    if closed:
        for _ in range(load.concurrency):
            send(0)
    while True:
        at = server.at
        if following is not None and following < last_due and (at is None or following < at):
            send(following)
            following = next(coming, None)
            continue
        if at is None:
            break
        started, ended = server.step()
        first.update(dict.fromkeys(started, at))
        last.update(dict.fromkeys(ended, at))
        for key in ended:
            growth.heard(due[key], at, len(due) - len(last))
            if closed and at < last_due:
                send(at)
        if stop_growing and growth.seen:
            break
    keys = range(len(due))
    return Served(
        due=np.array(due),
        first=np.array([first.get(key, -1) for key in keys]),
        last=np.array([last.get(key, -1) for key in keys]),
        tokens=np.array(server.tokens),
        grew=growth.seen,
    )


def result_of(trial: Trial, server: Server, *, stop_growing: bool) -> TrialResult:
    """A trial as it would be stored, by the same figures that a real one's are made of."""
    load, slo = trial.load, trial.slo
    assert slo is not None
    assert load.duration_s is not None
    if load.open_loop:  # a schedule as long as the load
        load = replace(
            load, requests=max(1, int((load.rate or 0) * (load.lead_in_s + load.duration_s) * 1.5) + 64)
        )
    served = server.run(load, load.seed, stop_growing)
    begin = int(load.lead_in_s * S)
    counted = (served.due >= begin) & (served.due < begin + int(load.duration_s * S))
    bits = bits_of(served, slo)[counted]
    ended = served.last >= 0
    within = ended & (served.last >= begin) & (served.last < begin + load.duration_s * S)
    e2e = (served.last - served.due)[counted & ended] / S
    summary = replace(
        summarise(()),
        requests_ok=int(ended.sum()),
        e2e_s=dist(e2e),
        requests_per_s=float(within.sum()) / load.duration_s,
    )
    ends = np.sort(served.last[ended])
    loaded = int((ends <= served.due[-1]).sum()) if len(served.due) else 0
    counts = in_flight_at_ends(served.due[ended], ends)
    over = served.grew if stop_growing else grew(served.due, ends[:loaded], counts[:loaded])
    caveats = (Caveat(kind=GROWING, message="", remedy=""),) if over and load.open_loop else ()
    return TrialResult(
        trial=trial,
        environment="simulated",
        engine={},
        started="2026-01-01T00:00:00",
        wall_s=load.lead_in_s + load.duration_s,
        summary=summary,
        attained=attained(slo, bits, load.duration_s) if len(bits) else None,
        caveats=caveats,
    )


def bits_of(served: Served, slo: Slo) -> np.ndarray:
    """Which objectives each request kept, as ``objectives.attained`` takes it."""
    took = {
        "ttft": served.first - served.due,
        "e2e": served.last - served.due,
        "tpot": (served.last - served.first) / np.maximum(1, served.tokens - 1),
    }
    bits = np.zeros(len(served.due), np.uint8)
    for place, each in enumerate(slo.objectives):
        kept = (served.last >= 0) & (took[each.name] <= each.limit_s * S)
        bits |= (kept << place).astype(np.uint8)
    return bits
