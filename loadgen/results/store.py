"""The results folder: every finished trial is on disk before the next begins.

::

    results/NAME/
        sweep.json                 schema, profile text and overrides, environments by id, plan
        trials.jsonl               one TrialResult a line, flushed and fsynced
        samples/TRIAL_ID.parquet   one row per request, token times lossless (ns)
        telemetry/TRIAL_ID.parquet what was scraped meanwhile, on the same clock
        logs/                      one log per server start

A kept copy has ``samples.parquet`` and ``telemetry.parquet`` in place of the two folders: see rows.py.
One sweep writes at a time (an advisory lock); any number may read.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from types import TracebackType
from typing import IO, Any, TypeVar

import orjson

from loadgen.errors import BadInput, NotResults, StoreError
from loadgen.input_files import MARK, open_input, read_input
from loadgen.records import DEFINITIONS, SCHEMA_VERSION, Environment, Trial, TrialResult
from loadgen.results.older import mended
from loadgen.results.record_json import from_json, plain
from loadgen.results.rows import Kind, Rows, shared_rows
from loadgen.results.samples import SampleWriter as SampleWriter
from loadgen.results.samples import read_samples as read_samples
from loadgen.results.writing import append_line, cut_torn_line, write_whole

T = TypeVar("T")
# What sweep.json may hold that is read again, and of which type.
COLUMNS = {"samples": ("phase", "sent_ns", "end_ns", "token_ns"), "telemetry": ("at_ns", "metric", "value")}
LOCK = ".lock"
MOST_SWEEP = 1 << 30  # bytes of sweep.json, which holds the whole plan
SWEEP: dict[str, type] = {"environments": dict, "plan": list, "trials": list, "kept": dict}


class Results:
    """A results folder, opened for reading."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._shared: dict[str, dict[str, Rows]] = {}
        self._looked_at: dict[Path, Rows | None] = {}
        self.broken: list[str] = []
        try:
            self.sweep: dict[str, Any] = orjson.loads(
                read_input(path / "sweep.json", MOST_SWEEP).removeprefix(MARK)
            )
        except FileNotFoundError:
            raise NotResults(f"{path}: not a results folder (it has no sweep.json)") from None
        except ValueError as error:
            raise NotResults(f"{path / 'sweep.json'}: not valid JSON: {error}") from None
        except OSError as error:
            raise StoreError(f"{path / 'sweep.json'}: cannot be read: {error.strerror}") from None
        if not isinstance(self.sweep, dict):
            raise NotResults(f"{path / 'sweep.json'}: not an object of JSON, so no results of loadgen's")
        version = self.sweep.get("schema_version")
        if version != SCHEMA_VERSION:
            raise NotResults(
                f"{path}: schema version {version!r}; this loadgen reads version {SCHEMA_VERSION}"
            )
        for key, kind in SWEEP.items():
            if not isinstance(self.sweep.get(key, kind()), kind):
                raise NotResults(f"{path / 'sweep.json'}: {key} is no {kind.__name__}")

    @property
    def trials_path(self) -> Path:
        """The file of results, one JSON object a line."""
        return self.path / "trials.jsonl"

    @property
    def left_out(self) -> str:
        """What `loadgen keep` left out of these results, in words; empty for results as a sweep wrote them."""
        kept = self.sweep.get("kept")
        return f"{kept.get('rule')} {kept.get('redacted')}" if kept else ""

    def samples(self, trial_id: str) -> Rows | None:
        """The samples of a trial, one row a request; ``None`` without any, or in a broken file."""
        return self._rows("samples", trial_id)

    def telemetry(self, trial_id: str) -> Rows | None:
        """What was scraped during a trial; ``None`` without any, or in a broken file."""
        return self._rows("telemetry", trial_id)

    def has_samples(self, trial_id: str) -> bool:
        """Whether a trial's samples are there and can be read: its figures stand, but nothing can be derived anew."""
        return self.samples(trial_id) is not None

    def _rows(self, kind: Kind, trial_id: str) -> Rows | None:
        own = self.path / kind / f"{trial_id}.parquet"
        if own.exists():
            return self._own(own)
        if kind not in self._shared:
            path = self.path / f"{kind}.parquet"
            try:
                self._shared[kind] = shared_rows(path, COLUMNS[kind]) if path.exists() else {}
            except StoreError as error:
                self.broken.append(str(error))
                self._shared[kind] = {}
        return self._shared[kind].get(trial_id)

    def _own(self, path: Path) -> Rows | None:
        """A trial's own file, looked at once; ``broken`` holds what is wrong with one that cannot be used."""
        if path not in self._looked_at:
            rows = Rows(path)
            try:
                self._looked_at[path] = rows if rows.whole(COLUMNS[path.parent.name], path.stem) else None
            except StoreError as error:
                self.broken.append(str(error))
                self._looked_at[path] = None
        return self._looked_at[path]

    def samples_path(self, trial_id: str) -> Path:
        """Where a sweep writes a trial's samples."""
        return self.path / "samples" / f"{trial_id}.parquet"

    def telemetry_path(self, trial_id: str) -> Path:
        """Where a sweep writes a trial's telemetry."""
        return self.path / "telemetry" / f"{trial_id}.parquet"

    def environments(self) -> dict[str, Environment]:
        """The machines that results name, by id. Raises StoreError for one that is none."""
        known = self.sweep.get("environments", {})
        return {key: self._planned(Environment, value, f"environment {key}") for key, value in known.items()}

    def plan(self) -> list[Trial]:
        """The trials that the sweep was to run. Raises StoreError for one that is none."""
        told = self.sweep.get("plan", [])
        return [
            self._planned(Trial, one, f"trial {number} of the plan") for number, one in enumerate(told, 1)
        ]

    def _planned(self, kind: type[T], value: object, what: str) -> T:
        try:
            return from_json(kind, orjson.dumps(value))
        except ValueError as error:
            raise NotResults(f"{self.path / 'sweep.json'}: {what} is none: {error}") from None

    def results(self) -> list[TrialResult]:
        """The newest result of every trial, in the order they finished. A torn last line is left out.

        Raises StoreError for a line that is broken otherwise.
        """
        newest: dict[str, TrialResult] = {}
        for number, line, whole in _lines(self.trials_path):
            try:
                result = from_json(TrialResult, line)
            except ValueError as error:
                if not whole:
                    break
                raise NotResults(
                    f"{self.trials_path}: line {number} is not a trial result: {error}"
                ) from None
            if result.schema_version != SCHEMA_VERSION:
                raise NotResults(
                    f"{self.trials_path}: line {number} is of schema version {result.schema_version}; this loadgen "
                    f"reads version {SCHEMA_VERSION}"
                )
            newest.pop(result.trial.id, None)
            newest[result.trial.id] = result
        return [self._mended(result) for result in newest.values()]

    def _mended(self, result: TrialResult) -> TrialResult:
        if result.summary is None or result.summary.definitions >= DEFINITIONS:
            return result
        samples = self.samples(result.trial.id) if result.summary.requests_failed else None
        return replace(result, summary=mended(result.summary, samples))


def open_results(path: str | Path) -> Results:
    """Open a results folder for reading. Raises StoreError when it is none."""
    return Results(Path(path))


def open_to_go_on(path: Path) -> Results:
    """Open a folder that is to get more trials. Raises StoreError when it is none, BadInput for a kept copy.

    A copy's samples are thinned and its names redacted; with fresh trials in it nothing could say which are which.
    """
    results = open_results(path)
    if results.left_out:
        raise BadInput(
            f"{path}: a kept copy, to which no trial is added (accepted: the original results folder, carried here, or "
            "another --out)"
        )
    return results


def refuse_busy(path: Path) -> None:
    """Raise BadInput for a folder that another process writes to now."""
    if (path / LOCK).exists():
        _locked(path).close()


def _locked(path: Path) -> IO[bytes]:
    """The folder's lock, held until it is closed or this process ends, however that may be."""
    try:
        lock = (path / LOCK).open("ab+")
    except OSError as error:
        raise StoreError(f"{path}: cannot be written: {error.strerror}") from None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        with lock:
            lock.seek(0)
            holder = lock.read(20).decode("ascii", "replace").strip()
        who = f"process {holder} is writing to it" if holder.isdigit() else "another process is writing to it"
        raise BadInput(f"{path}: {who} (accepted: another --out, or wait until that has ended)") from None
    except OSError as error:
        lock.close()
        raise StoreError(f"{path / LOCK}: cannot be locked: {error.strerror}") from None
    with contextlib.suppress(OSError):  # of a full disk: the id is for people alone
        lock.truncate(0)
        lock.write(b"%d\n" % os.getpid())
        lock.flush()
    return lock


class Store(Results):
    """A results folder, opened by the one sweep that writes to it."""

    def __init__(self, path: Path, lock: IO[bytes]) -> None:
        super().__init__(path)
        self._lock = lock
        self._trouble: list[str] = []
        self._rescued: Path | None = None
        self.repaired = cut_torn_line(self.trials_path)
        self._trials = self.trials_path.open("ab")

    @classmethod
    def create(cls, path: Path, sweep: Mapping[str, Any]) -> Store:
        """Make the folder, or open it again, and put ``sweep`` (profile, plan, argv) into its ``sweep.json``.

        Environments already recorded there are kept. Raises BadInput when another process writes to it, for a kept
        copy, and where no folder can be; StoreError where it cannot be written.
        """
        if (path / "sweep.json").exists():
            open_to_go_on(path)
        for folder in (path, path / "samples", path / "logs"):
            try:
                folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise BadInput(
                    f"--out {folder}: cannot be made: {error.strerror} (accepted: a place that can be written)"
                ) from None
        lock = _locked(path)
        known: dict[str, Any] = {}
        if (path / "sweep.json").exists():
            known = Results(path).sweep.get("environments", {})
        write_whole(
            path / "sweep.json",
            _indented({"schema_version": SCHEMA_VERSION, "environments": known, **sweep}),
        )
        return cls(path, lock)

    def add_environment(self, environment: Environment) -> None:
        """Record where the coming trials run; results name it by its id."""
        self.sweep["environments"][environment.id] = asdict(environment)
        write_whole(self.path / "sweep.json", _indented(self.sweep))

    def append(self, result: TrialResult) -> None:
        """Write one finished trial and wait until it is on disk.

        Raises StoreError where that failed, or its samples could not be written; what can be kept is then kept in a
        folder of its own under ``$TMPDIR``, which the message names.
        """
        try:
            append_line(self._trials, result)
            self._still_there()
            if not (self.path / "sweep.json").is_file():  # without it the folder would pass for none of ours
                write_whole(self.path / "sweep.json", _indented(self.sweep))
        except StoreError as error:
            self._trouble.append(str(error))
            try:
                with (self._rescue_folder() / "trials.jsonl").open("ab") as file:
                    append_line(file, result)
            except (OSError, StoreError) as again:
                self._trouble.append(f"nor elsewhere: {again}")
        if self._trouble:
            saved = f"; what could be saved is in {self._rescued}" if self._rescued is not None else ""
            raise StoreError(
                f"StoreError: {'; '.join(self._trouble)}{saved}\n"
                f"  remedy: make {self.path} writable, with room on its disk, and go on with --resume"
            )

    def _still_there(self) -> None:
        """Raises StoreError when the file that is written to is no longer the one of that name."""
        try:
            same = os.path.samestat(os.fstat(self._trials.fileno()), os.stat(self.trials_path))
        except OSError:
            same = False
        if not same:
            raise StoreError(f"{self.trials_path}: deleted or replaced while the sweep wrote to it")

    def _rescue_folder(self) -> Path:
        if self._rescued is None:
            self._rescued = Path(tempfile.mkdtemp(prefix="loadgen-rescued-"))
        return self._rescued

    def sample_writer(self, trial_id: str) -> SampleWriter:
        """A writer of one trial's samples, which replaces those of an earlier try."""
        self._looked_at.pop(self.samples_path(trial_id), None)
        return SampleWriter(
            self.samples_path(trial_id),
            rescue=lambda: self._rescue_folder() / f"{trial_id}.parquet",
            on_failure=self._trouble.append,
            trial=trial_id,
        )

    def put(self, kind: Kind, trial_id: str, data: memoryview) -> None:
        """Write a file of a trial's rows that was made elsewhere. Raises StoreError."""
        path = self.path / kind / f"{trial_id}.parquet"
        self._looked_at.pop(path, None)
        path.parent.mkdir(exist_ok=True)
        write_whole(path, data)

    def close(self) -> None:
        """Close the file of trials and let another sweep write here."""
        with contextlib.suppress(OSError):  # of bytes that could not be written, which append has told
            self._trials.close()
        self._lock.close()

    def __enter__(self) -> Store:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def _indented(record: Mapping[str, Any]) -> bytes:
    return orjson.dumps(record, option=orjson.OPT_INDENT_2, default=plain)


def _lines(path: Path) -> Iterator[tuple[int, bytes, bool]]:
    """Each line with its number and whether it is whole (ends in a newline)."""
    if not path.exists():
        return
    try:
        file = open_input(path)
    except OSError as error:
        raise StoreError(f"{path}: cannot be read: {error.strerror}") from None
    with file:
        for number, line in enumerate(file, 1):
            found = line.removeprefix(MARK) if number == 1 else line
            if found.strip():
                yield number, found, line.endswith(b"\n")
