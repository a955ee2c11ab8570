"""Load from several hosts, where one is not enough: the workers of workers.py on the nodes of a Ray cluster.

One actor a node, which runs that host's workers; they share one schedule, and what is said is said between the phases
of a load. Every latency is a difference on one host. Only the common start and the order of samples need a common
clock: they are told by offsets that are measured right before and after, and come back as times of this host.

A node that is lost fails the trial, as a worker does: a load that silently got lower would look like a faster server.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

from loadgen.cluster import agreement
from loadgen.cluster.clock import Clock, Offset, measure
from loadgen.cluster.connection import Cluster, Member, current
from loadgen.errors import LoadgenError, WarmupRefused, WorkerDied
from loadgen.load.client import STOP_PERIOD_S, LoadOutcome, OnStart, Stop, places_of
from loadgen.load.dispatch import OnSample
from loadgen.load.merging import joined, merge, shift
from loadgen.load.node import KINDS, LoadNode
from loadgen.load.quality import FirstSend
from loadgen.load.workers import STOP_S, Stopped, job_of
from loadgen.protocols import DriverFactory
from loadgen.records import ClientNode, Trial
from loadgen.request_records import Sample
from loadgen.results.samples import read_samples
from loadgen.units import nanoseconds, seconds

START_IN_S = 0.5  # more than the slowest call takes: every node must know the instant before it comes
BEAT_S = 1.0
SILENT_S = 10.0  # Ray itself takes a minute to call a node lost that does not answer


def run_nodes(
    trial: Trial,
    base_url: str,
    make_driver: DriverFactory,
    driver_options: Mapping[str, Any],
    on_sample: OnSample,
    *,
    nodes: int,
    workers: int,
    on_start: OnStart = lambda start_ns: None,
    stop: Stop = lambda: False,
) -> LoadOutcome | None:
    """Send a trial's load from ``workers`` processes on each of ``nodes`` nodes of the current cluster.

    As ``run_workers``; times of samples are of this host's clock. Raises WorkerDied for a node that is lost, BadInput
    for one that runs another loadgen or cannot reach the endpoint.
    """
    places_of(trial.load, (0, nodes * workers))
    job = job_of(trial, base_url, make_driver, driver_options, nodes * workers)
    cluster = current()
    members = cluster.spread(LoadNode, nodes, workers)
    try:
        with _Load(cluster, members) as load:
            known = load.every("facts")
            agreement.check(
                {each.address: facts for each, facts in zip(members, known, strict=True)}, base_url
            )
            return load.run(trial, job, workers, on_sample, on_start, stop)
    except BaseException:
        cluster.drop()  # whatever still runs there ends
        raise


class _Load:
    """One load on the nodes that share it."""

    def __init__(self, cluster: Cluster, members: Sequence[Member]) -> None:
        self._cluster, self._members = cluster, members
        self._stack = ExitStack()
        self._beats: dict[Any, Member] = {}
        self._heard_s: dict[str, float] = {}

    def __enter__(self) -> _Load:
        self._folder = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="loadgen-nodes-")))
        return self

    def __exit__(self, *why: Any) -> None:
        self._stack.__exit__(*why)

    def every(self, method: str, *arguments: Any) -> list[Any]:
        """A call on every node, at once; what each gave."""
        calls = [each.call(method, *arguments) for each in self._members]
        return [self._cluster.answer(each, call) for each, call in zip(self._members, calls, strict=True)]

    def run(
        self,
        trial: Trial,
        job: Mapping[str, Any],
        workers: int,
        on_sample: OnSample,
        on_start: OnStart,
        stop: Stop,
    ) -> LoadOutcome | None:
        self.every("prepare")
        ports = [self._cluster.answer(each, each.call("clock", each.address)) for each in self._members]
        works = {
            each.call("work", job, place * workers, workers): each for place, each in enumerate(self._members)
        }
        self._beat()
        start_ns = 0
        before: list[Offset] = []
        try:
            self._wait({each.call("ready"): each for each in self._members}, stop)
            before = self._offsets(ports)
            start_ns = time.monotonic_ns() + nanoseconds(START_IN_S)
            on_start(start_ns)
            starts = {
                each.call("start", start_ns + offset.theta_ns): each
                for each, offset in zip(self._members, before, strict=True)
            }
            self._wait(starts, stop)
            told = self._wait(works, stop)
        except (KeyboardInterrupt, Stopped) as why:
            told = self._stopped(works)
            clocks = [Clock(before=offset, after=offset) for offset in before or self._offsets(ports)]
            merge(self._parts(told, clocks, [FirstSend(start_ns) for _ in self._members]), on_sample)
            if isinstance(why, Stopped):
                return None
            raise
        clocks = [
            Clock(before=first, after=last) for first, last in zip(before, self._offsets(ports), strict=True)
        ]
        firsts = [FirstSend(start_ns) for _ in self._members]
        merged = merge(self._parts(told, clocks, firsts), on_sample)
        outcomes = [outcome for each in told for outcome in each["outcomes"]]
        outcome = joined(outcomes, start_ns, merged)
        found = [
            ClientNode(
                address=each.address,
                workers=workers,
                bound_s=seconds(clock.bound_ns),
                drift_ppm=clock.drift_ppm,
                began_s=first.late_s,
            )
            for each, clock, first in zip(self._members, clocks, firsts, strict=True)
        ]
        return replace(outcome, quality=replace(outcome.quality, nodes=tuple(found)))

    def _offsets(self, ports: Sequence[int]) -> list[Offset]:
        return [measure(each.address, port) for each, port in zip(self._members, ports, strict=True)]

    def _beat(self) -> None:
        now_s = time.monotonic()
        for each in self._members:
            self._heard_s[each.address] = now_s
            self._beats[each.call("alive")] = each

    def _wait(self, calls: Mapping[Any, Member], stop: Stop) -> list[Any]:
        """What calls gave, in their order. Raises Stopped, what a node says, and WorkerDied as soon as one is lost."""
        left, given = dict(calls), {}
        while left:
            if stop():
                raise Stopped
            for call in self._cluster.ready([*left, *self._beats], STOP_PERIOD_S):
                if call in self._beats:
                    member = self._beats.pop(call)
                    self._cluster.answer(member, call)
                    self._heard_s[member.address] = time.monotonic()
                else:
                    given[call] = _said(left[call], self._cluster.answer(left.pop(call), call))
            self._listen()
        return [given[call] for call in calls]

    def _listen(self) -> None:
        """Ask those for a sign of life who gave the last one a while ago."""
        now_s = time.monotonic()
        asked = {member.address for member in self._beats.values()}
        for each in self._members:
            silent_s = now_s - self._heard_s[each.address]
            if silent_s > SILENT_S:
                raise WorkerDied(f"node {each.address} was lost: no sign of life for {SILENT_S:g} s")
            if silent_s > BEAT_S and each.address not in asked:
                self._beats[each.call("alive")] = each

    def _stopped(self, works: Mapping[Any, Member]) -> list[Any]:
        """Have all write what has come; of those that do so in time, what they have."""
        for each in self._members:
            each.call("stop")
        told = []
        for call, each in works.items():
            try:
                told.append(self._cluster.answer(each, call, STOP_S + STOP_S))
            except LoadgenError:  # it is lost, and its samples with it: the load has ended anyway
                told.append({"outcomes": None, "parts": []})
        return [each if "parts" in each else {"outcomes": None, "parts": []} for each in told]

    def _parts(
        self,
        told: Sequence[Mapping[str, Any]],
        clocks: Sequence[Clock],
        firsts: Sequence[FirstSend],
    ) -> list[Iterator[Sample]]:
        """The samples of each worker, their times on our clock."""
        found = []
        for place, (each, clock, first) in enumerate(zip(told, clocks, firsts, strict=True)):
            for number, part in enumerate(each["parts"]):
                path = self._folder / f"{place}-{number}.parquet"
                part.tofile(path)
                found.append(_on_our_clock(path, clock, first))
        return found


def _said(member: Member, answer: Any) -> Any:
    """What a node gave. Raises what it says went wrong."""
    if isinstance(answer, dict) and "error" in answer:
        kind = next(kind for kind in KINDS if kind.__name__ == answer["kind"])
        words = answer["error"] if kind is WarmupRefused else f"node {member.address}: {answer['error']}"
        raise kind(words)
    return answer


def _on_our_clock(path: Path, clock: Clock, first: FirstSend) -> Iterator[Sample]:
    for sample in read_samples(path):
        reply = sample.reply
        shift(sample, clock.theta_at(reply.sent_ns if sample.due_ns is None else sample.due_ns))
        first.note(sample)
        yield sample
