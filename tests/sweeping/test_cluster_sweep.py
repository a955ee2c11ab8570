"""A sweep over nodes as its driver sees it: scripted nodes in place of Ray's; real ones: test_over_ray.py."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from loadgen.cluster import agreement
from loadgen.cluster.places import Node, Place
from loadgen.errors import BadInput, LoadgenError, WorkerDied
from loadgen.plan.bisection import Unseen, begin
from loadgen.plan.plan import Plan, make_plan
from loadgen.profile.read import build_profile
from loadgen.records import TrialResult
from loadgen.results import max_batch_log
from loadgen.results.record_json import to_json
from loadgen.results.store import Store
from loadgen.search_records import MaxBatch, Search
from loadgen.sweeping import cluster_sweep
from loadgen.sweeping.cluster_sweep import ClusterSweep
from loadgen.sweeping.given_gpus import on_gpus
from loadgen.sweeping.group import TRIALS, Line, News
from loadgen.sweeping.spool import Group
from loadgen.system import interrupt
from loadgen.system.environment import capture

FACTS = agreement.facts()
HERE = capture(("here",))
NODES = [Node(id=name, address=name, cpus=4, gpus=2) for name in ("a", "b")]
Script = Callable[[str, Group], Iterator[Any]]


def news(*lines: Line, events: tuple[Any, ...] = (), code: int | None = None, words: str = "") -> News:
    told = b"".join(to_json(each) + b"\n" for each in events)
    return News(events=told, lines=lines, logs=(), folder="/there/logs", code=code, words=words)


def result(trial: Any) -> TrialResult:
    return TrialResult(trial=trial, environment=HERE.id, engine={}, started="", wall_s=1.0)


def served(trial: Any) -> Line:
    samples = np.frombuffer(trial.id.encode(), np.uint8)
    return Line(file=TRIALS, record=to_json(result(trial)), samples=samples)


def runs(_address: str, group: Group) -> Iterator[Any]:
    """A group in which all goes well."""
    yield news(events=(("environment", HERE),))
    for trial in group.plan.trials:
        yield news(events=(("trial", trial.id),))
        yield news(served(trial))
    yield news(code=0)


class Scripted:
    """Stands for a cluster: each node's answers come from a script, one a call; those that are raised are raised."""

    def __init__(self, script: Script = runs) -> None:
        self.name, self.script = "scripted", script
        self.begun: list[tuple[str, list[str]]] = []
        self.known: list[Any] = []
        self.ended = self.started = 0
        self.stopped = False

    def nodes(self) -> list[Node]:
        return NODES

    def free(self) -> dict[str, tuple[float, float]]:
        return {node.id: (4.0, 2.0) for node in NODES}

    def start(self, _kind: type, place: Place) -> Any:
        self.started += 1
        script: list[Iterator[Any]] = []

        def call(method: str, *arguments: Any) -> Any:
            if method == "facts":
                return lambda: FACTS
            if method == "stop":
                self.stopped = True
                script[:] = [iter([news(code=130)])]
                return None
            if method == "begin":
                group, known, _ = arguments
                gpus = tuple(range(5, 5 + place.gpus))
                self.begun.append((place.node.address, [trial.id for trial in group.plan.trials]))
                self.known.append(known)
                there = replace(group, plan=on_gpus(group.plan, gpus))
                script.append(self.script(place.node.address, there))
                return lambda: gpus
            return lambda: next(script[0])

        return SimpleNamespace(address=place.node.address, call=call)

    def end(self, _member: Any) -> None:
        self.ended += 1

    def ready(self, calls: list[Any], _seconds: float) -> list[Any]:
        return calls[:1]

    def answer(self, _member: Any, call: Any) -> Any:
        found = call()
        if isinstance(found, Exception):
            raise found
        return found


class Shown(Unseen):
    def __init__(self) -> None:
        self.notes: list[str] = []
        self.places: list[tuple[str, str]] = []

    def note(self, message: str) -> None:
        self.notes.append(message)

    def place(self, name: str, doing: str) -> None:
        self.places.append((name, doing))


def plan_of(**server: Any) -> Plan:
    profile = {
        "name": "x",
        "starts": 2,
        "server": {"framework": "null", "model": "tiny", "gpus": []} | server,
        "load": {"input_tokens": 8, "output_tokens": 8, "requests": 1},
        "sweep": {"batch_size": [1, 2]},
    }
    return make_plan(build_profile(profile))


@pytest.fixture
def swept(tmp_path: Path) -> Callable[..., tuple[list[TrialResult], Shown]]:
    def sweep(cluster: Scripted, plan: Plan, **more: Any) -> tuple[list[TrialResult], Shown]:
        shown = Shown()
        with Store.create(tmp_path / "out", {}) as store:
            found = ClusterSweep(
                plan=plan,
                store=store,
                watcher=shown,
                environment=HERE,
                cluster=cluster,
                **more,  # type: ignore[arg-type]
            )
            found.run()
            return found.stored(), shown

    return sweep


def test_each_group_runs_on_one_node_and_the_driver_stores(swept: Any, tmp_path: Path) -> None:
    cluster, plan = Scripted(), plan_of()
    found, shown = swept(cluster, plan)
    assert sorted(each.trial.id for each in found) == sorted(trial.id for trial in plan.trials)
    assert [address for address, _ in cluster.begun] == ["a", "b"]
    assert cluster.started == cluster.ended == 4, "two that were asked, two groups"
    for trial in plan.trials:
        assert (tmp_path / "out/samples" / f"{trial.id}.parquet").read_text() == trial.id
    assert ("a", "null tiny tp1: batch 2, 8 in, 8 out") in shown.places
    assert shown.places[-1][1] == ""


def test_what_is_stored_is_not_asked_for_again(swept: Any) -> None:
    plan = plan_of()
    swept(Scripted(), replace(plan, trials=plan.trials[:3]))
    cluster = Scripted()
    found, _ = swept(cluster, replace(plan, trials=plan.trials[:3]))
    assert len(found) == 3
    assert cluster.begun[0][1] == [trial.id for trial in plan.trials[:2]], (
        "their samples are no Parquet: they run again"
    )


def test_a_lost_node_costs_the_trial_in_flight_once(swept: Any) -> None:
    plan = plan_of()
    first, second = plan.trials[:2]

    def script(address: str, group: Group) -> Iterator[Any]:
        if address == "a":
            yield news(events=(("environment", HERE), ("trial", first.id)))
            yield news(served(first), events=(("trial", second.id),))
            yield WorkerDied("node a was lost: gone")
        yield from runs(address, group)

    cluster = Scripted(script)
    found, shown = swept(cluster, plan)
    assert Counter(each.trial.id for each in found) == Counter(trial.id for trial in plan.trials)
    assert [each.failure for each in found] == [None] * 4
    assert cluster.begun[2] == ("b", [second.id])
    assert "node a was lost: gone" in shown.notes


def test_a_trial_that_is_lost_twice_has_failed_and_the_rest_goes_on(swept: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr(cluster_sweep, "ASIDE_S", 0.0)
    plan = plan_of()
    bad = plan.trials[0].id

    def script(address: str, group: Group) -> Iterator[Any]:
        if group.plan.trials[0].id == bad:
            yield news(events=(("trial", bad),))
            yield news(code=1, words="MemoryError")
        yield from runs(address, group)

    found, _ = swept(Scripted(script), plan)
    failures = {each.trial.id: each.failure for each in found}
    assert len(failures) == 4
    failure = failures.pop(bad)
    assert failure is not None
    assert (failure.error, "lost with its node 2 times" in failure.message) == ("WorkerDied", True)
    assert "exit code 1: MemoryError" in failure.message
    assert set(failures.values()) == {None}


def test_a_silent_node_is_lost(swept: Any, monkeypatch: Any) -> None:
    plan = plan_of()
    monkeypatch.setattr(cluster_sweep, "SILENT_S", 0.3)

    class Frozen(Scripted):
        def ready(self, calls: list[Any], seconds: float) -> list[Any]:
            return [call for call in calls if getattr(call, "owner", "") != "a"][:1]

        def start(self, kind: type, place: Place) -> Any:
            member = super().start(kind, place)
            call = member.call

            def owned(method: str, *arguments: Any) -> Any:
                answer = call(method, *arguments)
                if method == "news":
                    answer.owner = place.node.address
                return answer

            return SimpleNamespace(address=member.address, call=owned)

    found, shown = swept(Frozen(), plan)
    assert len(found) == 4
    assert any("node a was lost: no sign of life" in note for note in shown.notes)


def test_searches_are_the_plans_whatever_gpus_they_had(swept: Any, tmp_path: Path) -> None:
    plan = plan_of(framework="hf", gpus=[0, 1], tp=2)
    server = plan.trials[0].server
    assert server is not None
    search = Search(server=server, load=plan.trials[0].load)
    plan = replace(plan, searches=(search,))

    def script(address: str, group: Group) -> Iterator[Any]:
        for there in group.plan.searches:
            assert there.server.gpus == (5, 6)
            told = MaxBatch(
                search=there, environment=HERE.id, predicted=None, most=begin(there, None).most,
                fits=1, fits_trial="x", out_of_memory=None, out_of_memory_trial=None, ended="most",
            )  # fmt: skip
            yield news(Line(file=max_batch_log.OUTCOMES, record=to_json(told)))
        yield from runs(address, group)

    cluster = Scripted(script)
    found, _ = swept(cluster, plan)
    assert {each.trial.server.gpus for each in found if each.trial.server} == {(5, 6)}
    assert [each.search for each in max_batch_log.outcomes(tmp_path / "out")] == [search]
    assert [bool(known) for known in cluster.known] == [True, False], "a search goes on from what is known"
    again = Scripted()
    swept(again, Plan(trials=(), searches=(search,)))
    assert again.started == 0, "its outcome is there"


def test_nothing_starts_where_a_node_is_another_or_too_small(swept: Any, monkeypatch: Any) -> None:
    cluster = Scripted()
    with pytest.raises(
        BadInput, match="needs 4 GPUs of one node, more than any has: a 2 GPUs and 4 CPUs, b 2"
    ):
        swept(cluster, plan_of(framework="hf", gpus=[0, 1, 2, 3], pp=4))
    monkeypatch.setattr(agreement, "package_hash", lambda: "another")
    with pytest.raises(BadInput, match=r"node a .*its loadgen is another one"):
        swept(cluster, plan_of())
    assert cluster.begun == []


def test_an_end_that_is_asked_for_ends_the_groups_and_keeps_what_they_have(swept: Any) -> None:
    cluster = Scripted()
    ask = interrupt.asked_for()

    def script(_address: str, group: Group) -> Iterator[Any]:
        yield news(served(group.plan.trials[0]))
        ask.__enter__()
        yield news()

    cluster.script = script
    try:
        with pytest.raises(KeyboardInterrupt):
            swept(cluster, plan_of())
    finally:
        ask.__exit__(None, None, None)
    assert cluster.stopped
    assert cluster.ended == cluster.started


def test_where_no_node_is_left_it_says_what_is(swept: Any, monkeypatch: Any) -> None:
    def script(_address: str, _group: Group) -> Iterator[Any]:
        monkeypatch.setattr(cluster, "nodes", list)
        monkeypatch.setattr(cluster, "free", dict)
        yield WorkerDied("gone")

    cluster = Scripted(script)
    with pytest.raises(
        LoadgenError, match="4 trials are left, --resume goes on: --ray: no node offers a CPU"
    ):
        swept(cluster, plan_of())
