"""A sweep over the nodes of a Ray cluster: its parts are groups, each on one node; this process alone writes results.

A node that is lost costs the trial in flight, which is tried once more elsewhere. What came before is kept.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

import orjson

from loadgen.cluster import agreement
from loadgen.cluster.connection import Cluster
from loadgen.cluster.places import Node, Place, Places, check_room
from loadgen.errors import BadInput, LoadgenError, WorkerDied
from loadgen.labels import server_label
from loadgen.plan.plan import Plan
from loadgen.records import Environment, Failure, Trial, TrialResult
from loadgen.results import capacity_log, max_batch_log
from loadgen.results.record_json import from_json
from loadgen.search_records import Capacity, MaxBatch
from loadgen.sweeping.given_gpus import gpus_needed, nodes_for, servers_of
from loadgen.sweeping.group import STOP_S, TRIALS, GroupNode, Line, News
from loadgen.sweeping.running_group import RunningGroup, has_work, shape_of, urls_of
from loadgen.sweeping.spool import Group
from loadgen.sweeping.sweep import Sweep
from loadgen.system import interrupt

NEWS_S = 1.0  # that a node waits for something to tell: each answer is a sign of life
SILENT_S = 10.0  # Ray itself takes a minute to call a node lost that does not answer
BEGUN_S = 60.0  # for an actor to come up, which takes some seconds where its place is free
ASIDE_S = 75.0  # that a lost node gets no group: by then Ray knows whether it is there
PERIOD_S = 0.2
TRIES = 2


@dataclass(slots=True, kw_only=True)
class ClusterSweep(Sweep):
    """Runs a plan's missing trials on the nodes of ``cluster``, those of one ``gpu_type`` where that is given.

    ``environment`` is the driver's: each result names that of its node.
    """

    cluster: Cluster
    gpu_type: str | None = None
    _groups: list[RunningGroup] = field(default_factory=list)
    _waiting: list[Plan] = field(default_factory=list)
    _losses: Counter[str] = field(default_factory=Counter)
    _places: Places = field(default_factory=lambda: Places([]))

    def _run_parts(self, parts: Sequence[Plan]) -> None:
        self._waiting = [part for part in map(self._unsettled, parts) if has_work(part)]
        if not self._waiting:
            return
        nodes = nodes_for(self._waiting, self.cluster.nodes(), self.gpu_type)
        self._places = Places(self._agreeing(nodes))
        with interrupt.held():
            try:
                while (self._waiting or self._groups) and not interrupt.asked():
                    self._start_what_fits()
                    self._hear()
                if interrupt.asked():
                    self._stop()
            finally:
                for each in self._groups:
                    self.cluster.end(each.member)
                self._groups = []
        interrupt.check()

    def _unsettled(self, part: Plan) -> Plan:
        """A part without the searches that have an outcome."""
        if self.retry_failed:
            return part
        batches = [each.search for each in max_batch_log.outcomes(self.store.path)]
        loads = [each.search for each in capacity_log.outcomes(self.store.path)]
        return replace(
            part,
            searches=tuple(each for each in part.searches if each not in batches),
            capacities=tuple(each for each in part.capacities if each not in loads),
        )

    def _agreeing(self, nodes: Sequence[Node]) -> list[Node]:
        """The nodes that answer. Raises BadInput for one that runs another loadgen, or cannot reach an endpoint."""
        asked = [(node, self.cluster.start(GroupNode, Place(node=node, cpus=0, gpus=0))) for node in nodes]
        calls = [(node, member, member.call("facts")) for node, member in asked]
        facts: dict[str, agreement.NodeFacts] = {}
        found = []
        try:
            for node, member, call in calls:
                try:
                    facts[node.address] = self.cluster.answer(member, call)
                    found.append(node)
                except WorkerDied as error:
                    self.watcher.note(f"{error}; it gets no trials")
        finally:
            for _, member in asked:
                self.cluster.end(member)
        for url in sorted({url for part in self._waiting for url in urls_of(part)}):
            agreement.check(facts, url)
        check_room(map(gpus_needed, self._waiting), found)
        return found

    def _start_what_fits(self) -> None:
        """Start groups in the plan's order, later ones before one that fits nowhere yet."""
        now_s = time.monotonic()
        free = self.cluster.free()
        for part in list(self._waiting):
            place = self._places.take(gpus_needed(part), free, now_s)
            if place is not None:
                self._waiting.remove(part)
                self._start(part, place)
        alive = {node.id for node in self.cluster.nodes()}
        able = [node for node in self._places.nodes if node.id in alive]
        if self._waiting and not self._groups:
            try:
                check_room(map(gpus_needed, self._waiting), able)
            except BadInput as error:
                left = sum(len(part.trials) for part in self._waiting)
                raise LoadgenError(f"{left} trials are left, --resume goes on: {error}") from None

    def _start(self, part: Plan, place: Place) -> None:
        member = self.cluster.start(GroupNode, place)
        group = Group(
            plan=part,
            cwd=str(Path.cwd()),
            argv=self.environment.argv,
            # A port that was named is of one exporter, and groups may share a node.
            telemetry=replace(self.telemetry, exporter_port=0),
            retry_failed=self.retry_failed,
            limit_s=None if self.budget.limit_s is None else self.budget.left_s,
        )
        known: dict[str, list[TrialResult]] = {}
        if part.searches or part.capacities:
            known = {
                TRIALS: self.store.results(),
                max_batch_log.PROBES: max_batch_log.probes(self.store.path),
                capacity_log.TRIALS: capacity_log.trials(self.store.path),
            }
        running = RunningGroup(
            part=part,
            place=place,
            member=member,
            call=member.call("begin", group, known, self.store.environments()),
            heard_s=time.monotonic(),
            name=place.node.address,
            label=", ".join(dict.fromkeys(map(server_label, servers_of(part)))),
        )
        self._groups.append(running)
        self._show(running, "starting")

    def _hear(self) -> None:
        """Take in what nodes tell; those that say nothing for too long are lost."""
        if not self._groups:
            time.sleep(PERIOD_S)
            return
        by_call = {each.call: each for each in self._groups}
        for call in self.cluster.ready(list(by_call), PERIOD_S):
            running = by_call[call]
            try:
                answer = self.cluster.answer(running.member, call)
            except BadInput:
                raise
            except LoadgenError as error:
                self._lost(running, str(error))
                continue
            running.heard_s = time.monotonic()
            if running.begun:
                self._take(running, answer)
            else:
                running.begin(answer)
            if running in self._groups:
                running.call = running.member.call("news", NEWS_S)
        now_s = time.monotonic()
        for running in list(self._groups):
            silent_s = now_s - running.heard_s
            address = running.place.node.address
            if running.begun and silent_s > SILENT_S:
                self._lost(running, f"node {address} was lost: no sign of life for {silent_s:.0f} s")
            elif not running.begun and silent_s > BEGUN_S:
                self.watcher.note(f"node {address}: its place was not free for {silent_s:.0f} s")
                self._set_aside(running)
                self._waiting.insert(0, running.part)

    def _take(self, running: RunningGroup, news: News) -> None:
        address = running.place.node.address
        for kind, *what in map(orjson.loads, news.events.splitlines()):
            if kind == "environment":
                environment = from_json(Environment, orjson.dumps(what[0]))
                running.environment = environment.id
                self.store.add_environment(environment)
            elif kind == "trial":
                running.in_flight = what[0]
                trial = next((each for each in running.part.trials if each.id == what[0]), None)
                self._show(running, "searching" if trial is None else shape_of(trial))
            elif kind == "server":
                running.label = what[0]
                self._show(running, what[1])
            else:
                self.watcher.note(f"{address}: {what[0]}")
        logs = str(self.store.path / "logs" / f"{address}-")
        for name, piece in news.logs:
            with suppress(OSError), Path(logs + name).open("ab") as file:  # as results go on without
                file.write(piece)
        theirs, ours = (orjson.dumps(path)[1:-1] for path in (f"{news.folder}/", logs))
        for line in news.lines:
            self._record(running, replace(line, record=line.record.replace(theirs, ours)))
        if news.code is None:
            return
        # Where time is limited, a group leaves what does not fit.
        whole = not running.part.trials or self.budget.limit_s is not None
        if (news.code == 0 and whole) or interrupt.asked():
            self._end(running)
        else:
            self._lost(running, f"node {address}: a group broke, exit code {news.code}: {news.words}")

    def _record(self, running: RunningGroup, line: Line) -> None:
        """Keep one record, with its samples on disk before it."""
        folder, part = self.store.path, running.part
        if line.file == max_batch_log.OUTCOMES:
            batch = from_json(MaxBatch, line.record)
            batch = replace(batch, search=running.planned(batch.search))
            max_batch_log.add_outcome(folder, batch)
            left = tuple(each for each in part.searches if each != batch.search)
            running.part = replace(part, searches=left)
            return
        if line.file == capacity_log.OUTCOMES:
            found = from_json(Capacity, line.record)
            planned = replace(running.planned(found.search), near=found.search.near)
            found = replace(found, search=planned)
            capacity_log.add_outcome(folder, found)
            running.part = replace(
                part, capacities=tuple(each for each in part.capacities if each != found.search)
            )
            return
        result = from_json(TrialResult, line.record)
        if line.samples is not None:
            self.store.put("samples", result.trial.id, line.samples.data)
        if line.telemetry is not None:
            self.store.put("telemetry", result.trial.id, line.telemetry.data)
        running.in_flight = None
        if line.file == TRIALS:
            self._keep(result)
            running.part = part.without([result.trial.id])
        elif line.file == max_batch_log.PROBES:
            max_batch_log.add_probe(folder, result)
        else:
            capacity_log.add_trial(folder, result)

    def _lost(self, running: RunningGroup, words: str) -> None:
        """Go on elsewhere without the trial that was in flight, if it was lost before."""
        self._set_aside(running)
        self.watcher.note(words)
        part = running.part
        lost = running.in_flight or (part.trials[0].id if part.trials else "")
        self._losses[lost] += 1
        if self._losses[lost] >= TRIES:
            trial = next((each for each in part.trials if each.id == lost), None)
            if trial is None:
                self.watcher.note("its searches were lost twice: they are given up")
                part = replace(part, searches=(), capacities=())
            else:
                self._keep(self._given_up(trial, running.environment, words))
                part = part.without([lost])
        if has_work(part):
            self._waiting.insert(0, part)

    def _given_up(self, trial: Trial, environment: str | None, words: str) -> TrialResult:
        """The result of a trial whose node was lost, and another one, too."""
        failure = Failure(
            error=WorkerDied.__name__, message=f"lost with its node {TRIES} times: {words}", phase="load"
        )
        result = self._unstarted(trial, failure)
        if environment is None:
            self.store.add_environment(self.environment)
        return result if environment is None else replace(result, environment=environment)

    def _set_aside(self, running: RunningGroup) -> None:
        self._end(running)
        self._places.set_aside(running.place.node, time.monotonic() + ASIDE_S)

    def _end(self, running: RunningGroup) -> None:
        self._show(running, "")
        self.cluster.end(running.member)
        self._groups.remove(running)
        self._places.give_back(running.place)

    def _stop(self) -> None:
        """Have all nodes end their trials and servers, and keep what they still have."""
        self._waiting = []
        for running in self._groups:
            running.member.call("stop")
        end_s = time.monotonic() + STOP_S
        while self._groups and time.monotonic() < end_s:
            self._hear()
            self._waiting = []

    def _show(self, running: RunningGroup, doing: str) -> None:
        self.watcher.place(running.name, f"{running.label}: {doing}" if doing and running.label else doing)
