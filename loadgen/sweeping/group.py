"""The actor of a group of trials on its node: starts the process that runs them (spool.py), sends on what it leaves.

Results come with their samples as arrays, in the order in which they were stored there. The driver alone keeps them.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO

import numpy as np
import orjson
from numpy.typing import NDArray

from loadgen.cluster.agreement import NodeFacts, facts
from loadgen.launch.process import GUARD, log_tail
from loadgen.records import SCHEMA_VERSION, Environment, TrialResult
from loadgen.results import capacity_log, max_batch_log
from loadgen.results.record_json import to_json
from loadgen.sweeping.given_gpus import given_gpus, known_here, on_gpus
from loadgen.sweeping.spool import EVENTS, GROUP, RESULTS, WORDS, Group

TRIALS = "trials.jsonl"
OF_TRIALS = (TRIALS, max_batch_log.PROBES, capacity_log.TRIALS)
FILES = (*OF_TRIALS, max_batch_log.OUTCOMES, capacity_log.OUTCOMES)
LOOK_S = 0.1
STOP_S = 60.0  # to stop its servers
MOST_LOG = 1 << 20  # bytes of a log at once
PREFIX, LOCK = "loadgen-group-", "lock"
Array = NDArray[np.uint8]


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """A record as it stands in ``file``, and the samples and telemetry of the trial that it is of."""

    file: str
    record: bytes
    samples: Array | None = None
    telemetry: Array | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class News:
    """What came since the last: events, results, pieces of logs; ``code`` is the exit status once all has been sent.

    ``folder`` is where logs lie on the node, which messages name; ``words`` are the last ones on standard error.
    """

    events: bytes
    lines: tuple[Line, ...]
    logs: tuple[tuple[str, bytes], ...]
    folder: str
    code: int | None
    words: str = ""


class GroupNode:
    """One group on one node. Its calls run in threads of their own, and none of them takes long."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._folder = Path()
        self._lock: IO[bytes] | None = None
        self._read: dict[str, int] = {}

    def facts(self) -> NodeFacts:
        """What decides whether this node can take part."""
        return facts()

    def begin(
        self,
        group: Group,
        known: Mapping[str, Sequence[TrialResult]],
        environments: Mapping[str, Environment],
    ) -> tuple[int, ...]:
        """Start a group on the GPUs that Ray gave, which are returned; ``known`` is what its searches go on from, by
        file, and ``environments`` where that ran."""
        gpus = given_gpus(os.environ)
        group = replace(group, plan=on_gpus(group.plan, gpus))
        remove_left_over()
        self._folder = Path(tempfile.mkdtemp(prefix=PREFIX))
        self._lock = held(self._folder / "new")
        (self._folder / "new").rename(self._folder / LOCK)  # under this name it is never seen unlocked
        results = self._folder / RESULTS
        results.mkdir()
        (self._folder / GROUP).write_bytes(to_json(group))
        sweep = {"schema_version": SCHEMA_VERSION, "environments": environments}
        (results / "sweep.json").write_bytes(to_json(sweep))
        for name, of in known.items():
            lines = b"".join(to_json(each) + b"\n" for each in known_here(of, group.plan))
            (results / name).write_bytes(lines)
            self._read[str(results / name)] = len(lines)
        command = [sys.executable, "-P", "-m", "loadgen.sweeping.spool", str(self._folder)]
        with (self._folder / WORDS).open("wb") as words:
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-S", str(GUARD), str(STOP_S), *command],
                stdin=subprocess.PIPE,
                stdout=words,
                stderr=words,
                cwd=group.cwd if Path(group.cwd).is_dir() else self._folder,
                env=own_environment(os.environ),
                start_new_session=True,
            )
        return gpus

    def stop(self) -> None:
        """End the trial that runs, and the servers; what is stored is still told."""
        assert self._process is not None
        assert self._process.stdin is not None
        self._process.stdin.close()  # which its guard sees

    def news(self, seconds: float) -> News:
        """What came since the last call, as soon as there is something, or nothing after so long."""
        assert self._process is not None
        end_s = time.monotonic() + seconds
        while True:
            code = self._process.poll()  # before the look, which then sees all
            found = self._look(code)
            if found.events or found.lines or found.logs or code is not None or time.monotonic() >= end_s:
                break
            time.sleep(LOOK_S)
        if found.code is not None:
            self.stop()
            shutil.rmtree(self._folder, ignore_errors=True)
            if self._lock is not None:
                self._lock.close()
        return found

    def _look(self, code: int | None) -> News:
        results = self._folder / RESULTS
        lines = [Line(file=name, record=line) for name in FILES for line in self._lines(results / name)]
        logs = {path.name: self._new(path) for path in sorted((results / "logs").glob("*"))}
        pieces = tuple((name, piece) for name, piece in logs.items() if piece)
        words = log_tail(self._folder / WORDS, 5) if code else ""
        return News(
            events=b"".join(line + b"\n" for line in self._lines(self._folder / EVENTS)),
            lines=tuple(self._with_files(line) for line in lines),
            logs=pieces,
            folder=str(results / "logs"),
            code=None if pieces else code,
            words=words,
        )

    def _with_files(self, line: Line) -> Line:
        """A trial's line with its samples and telemetry, which no longer lie here then, unless a search may ask."""
        if line.file not in OF_TRIALS:
            return line
        id_, results = orjson.loads(line.record)["trial"]["id"], self._folder / RESULTS
        found: dict[str, Array] = {}
        for kind in ("samples", "telemetry"):
            path = results / kind / f"{id_}.parquet"
            if path.exists():
                found[kind] = np.fromfile(path, np.uint8)  # an array crosses without a copy
                if line.file == TRIALS:
                    path.unlink()
        return replace(line, samples=found.get("samples"), telemetry=found.get("telemetry"))

    def _lines(self, path: Path) -> list[bytes]:
        """Whole lines that are new."""
        piece = self._new(path, most=-1)
        whole = piece.rfind(b"\n") + 1
        self._read[str(path)] = self._read.get(str(path), 0) - len(piece) + whole
        return piece[:whole].splitlines()

    def _new(self, path: Path, most: int = MOST_LOG) -> bytes:
        begun = self._read.get(str(path), 0)
        try:
            with path.open("rb") as file:
                file.seek(begun)
                piece = file.read(most)
        except FileNotFoundError:
            return b""
        self._read[str(path)] = begun + len(piece)
        return piece


def held(path: Path) -> IO[bytes] | None:
    """A file that is locked until this process ends, however that may be; ``None`` where another one holds it."""
    file = path.open("ab")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        return None
    return file


def remove_left_over() -> None:
    """Remove the folders of groups whose actor was killed: Ray kills what is below one, and nobody cleans up then."""
    for path in Path(tempfile.gettempdir()).glob(f"{PREFIX}*/{LOCK}"):
        with suppress(OSError):  # of another user, or just removed by another actor
            if (lock := held(path)) is not None:
                shutil.rmtree(path.parent)
                lock.close()


def own_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """What `ray start` was given, and the GPUs of this group. Ray gives its workers more, which engines would obey:
    OMP_NUM_THREADS, RAY_JOB_ID."""
    raylet = environ.get("RAY_RAYLET_PID") or os.getppid()
    given = Path(f"/proc/{raylet}/environ").read_bytes().split(b"\0")
    names = {os.fsdecode(entry.partition(b"=")[0]) for entry in given} | {"CUDA_VISIBLE_DEVICES"}
    return {name: value for name, value in environ.items() if name in names}
