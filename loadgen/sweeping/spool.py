"""A part of a sweep in a process of its own on a node, into a folder there; the node's actor (group.py) sends on what
comes into it.

It is the sweep of sweep.py, into a results folder as everywhere: nothing of Ray is in the process that measures.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from loadgen.errors import LoadgenError
from loadgen.plan.budget import Budget
from loadgen.plan.plan import Plan
from loadgen.protocols import Watcher
from loadgen.records import Trial, TrialResult
from loadgen.request_records import Sample
from loadgen.results.record_json import from_json, to_json
from loadgen.results.store import Store
from loadgen.sweeping.sweep import Sweep
from loadgen.system import interrupt
from loadgen.system.environment import capture
from loadgen.telemetry_records import TelemetrySpec

GROUP, RESULTS, EVENTS, WORDS = "group.json", "results", "events.jsonl", "words"


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """What runs on a node: a part of a plan, with what its sweep was told; ``limit_s`` counts from its start on.

    ``cwd`` is the driver's folder, from which relative paths are looked for where the node has it, too.
    """

    plan: Plan
    cwd: str
    argv: tuple[str, ...]
    telemetry: TelemetrySpec
    retry_failed: bool
    limit_s: float | None


class Events:
    """A watcher that writes what it is told, a line each, for whoever reads the file; nothing of single samples."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file

    def tell(self, kind: str, *what: object) -> None:
        """Write a line."""
        self._file.write(to_json([kind, *what]) + b"\n")

    def plan(self, trials: Sequence[Trial], done: Sequence[TrialResult]) -> None:
        """The driver knows."""

    def server(self, label: str, state: str) -> None:
        """A server's new state."""
        self.tell("server", label, state)

    def place(self, name: str, doing: str) -> None:
        """There is one alone."""

    def trial(self, trial: Trial) -> None:
        """A trial starts."""
        self.tell("trial", trial.id)

    def sample(self, sample: Sample, in_flight: int) -> None:
        """Too often to be told."""

    def result(self, result: TrialResult) -> None:
        """Its line in the results folder tells."""

    def note(self, message: str) -> None:
        """Something that the user should read."""
        self.tell("note", message)


def run(folder: Path) -> None:
    """Run the group that lies in ``folder``. Raises what a sweep raises."""
    group = from_json(Group, (folder / GROUP).read_bytes())
    environment = capture(group.argv)
    deadline_s = None if group.limit_s is None else time.monotonic() + group.limit_s
    with (
        (folder / EVENTS).open("ab", buffering=0) as file,
        interrupt.limited(deadline_s),
        Store.create(folder / RESULTS, {}) as store,
    ):
        watcher = Events(file)
        watcher.tell("environment", environment)
        Sweep(
            plan=group.plan,
            store=store,
            watcher=watcher,
            environment=environment,
            retry_failed=group.retry_failed,
            telemetry=group.telemetry,
            budget=Budget(limit_s=group.limit_s, clock=time.monotonic),
        ).run()


def main() -> int:
    """Run a group in the folder that is named. Returns an exit code; words of an error are on standard error."""
    folder = Path(sys.argv[1])
    interrupt.install()
    try:
        run(folder)
    except LoadgenError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


def _conforms(events: Events) -> Watcher:
    """Never called: mypy checks here that it is a watcher."""
    return events


if __name__ == "__main__":
    sys.exit(main())
