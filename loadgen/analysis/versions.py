"""Whether starts that count as one server's ran the same code."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Iterable
from dataclasses import dataclass

from loadgen.analysis.starts import Server, start_of
from loadgen.analysis.table import Key
from loadgen.engine_facts import CODE, OF_OURS, versions_of
from loadgen.records import Environment, TrialResult

COMMIT = "loadgen's commit, for code not stored"
NO_COMMIT = "not known"
UNCLEAN = "+changes"  # of a commit that names no code (``system/environment.py``)
SHOWN = 12  # digits of a commit


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """One trial, and the start and the results folder that it is of."""

    start: Hashable
    folder: str
    result: TrialResult
    environment: Environment | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """A fact that starts of one server differ in: each value with its number of starts and of folders."""

    what: str
    values: tuple[tuple[str, int, int], ...]

    @property
    def words(self) -> str:
        """``2.10 (1 start), 2.11 (2 starts in 2 folders)``."""
        return ", ".join(f"{value} ({_count(starts, folders)})" for value, starts, folders in self.values)


def mixed(servers: Iterable[Server]) -> dict[Key, list[Difference]]:
    """The servers whose starts did not run the same code, as far as is known, and what differs."""
    found = {}
    for server in servers:
        if len(server.starts) > 1:
            trials = [
                Served(start=start_of(row), folder=row.source, result=row.result, environment=row.environment)
                for row in server.rows
            ]
            if differs := differences(trials):
                found[server.key] = differs
    return found


def differences(trials: Iterable[Served]) -> list[Difference]:
    """In what the code behind trials of one server differs: its versions, our own source, the GPUs' driver.

    Of servers of ours that do not tell their code, the commit of loadgen stands in for it. One of a changed checkout,
    and none at all, tell of no other folder than their own.
    """
    trials = list(trials)
    lacking = any(_ours(each) and CODE not in each.result.engine for each in trials)
    values: dict[str, dict[str, set[tuple[str, Hashable]]]] = defaultdict(lambda: defaultdict(set))
    apart: dict[str, set[tuple[str, str]]] = defaultdict(set)
    for each in trials:
        facts = {name: (value, "") for name, value in _facts(each).items()}
        if lacking and _ours(each):
            facts[COMMIT] = _commit(each)
        for name, (value, folder) in facts.items():
            values[name][value].add((each.folder, each.start))
            apart[name].add((value, folder))
    return [
        Difference(
            what=name,
            values=tuple(
                (value, len({start for _, start in seen}), len({folder for folder, _ in seen}))
                for value, seen in sorted(found.items())
            ),
        )
        for name, found in values.items()
        if len(apart[name]) > 1
    ]


def _facts(each: Served) -> dict[str, str]:
    found = versions_of(each.result.engine)
    if "python" in found:
        found["python"] = ".".join(found["python"].split(".")[:2])  # what patches of it change is not speed
    server, environment = each.result.trial.server, each.environment
    if server is not None and server.gpus and environment is not None and environment.driver:
        found["driver"] = environment.driver
    return found


def _ours(each: Served) -> bool:
    server = each.result.trial.server
    return server is not None and server.framework in OF_OURS


def _commit(each: Served) -> tuple[str, str]:
    """The commit, and the folder beyond which it does not tell the code; empty for one that does everywhere."""
    commit = each.environment.commit if each.environment else None
    if commit is None:
        return NO_COMMIT, each.folder
    head, changes, _ = commit.partition(UNCLEAN)
    return head[:SHOWN] + changes, each.folder if changes else ""


def _count(starts: int, folders: int) -> str:
    told = f"{starts} start{'s' * (starts != 1)}"
    return told if folders == 1 else f"{told} in {folders} folders"
