"""The seams between rooms: what a framework, a driver, a store and a watcher must offer."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from loadgen.load_records import Timeouts
from loadgen.records import ServerSpec, Trial, TrialResult
from loadgen.request_records import Reply, Request, Sample


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """How to start a server, as data: nothing is spawned until ``process.py`` does.

    ``env`` is laid over the parent's environment; a value of ``None`` removes a variable. ``files`` are written
    (path relative to the server's run folder → text) before the start. ``ready_url`` answers 2xx once the server
    takes work. ``base_url`` is what the driver is given. ``setup`` are commands run before the server, in order, into
    the same log (a checkpoint conversion); each must exit 0. ``setup_stays``: what they make outlives the run folder
    (compiled ops), so that they may run ahead of the first start, off its clock. ``info_url`` and ``metrics_url``
    may be ``None``; so may ``version_url``, a JSON page with the ``name`` and ``version`` of a server that holds the
    engine, and ``records_url``, a page that reading empties, so that telemetry alone reads it. ``read_back`` is asked
    once the server takes work, with its log: its facts join those of ``info_url``; it raises ServerError where what
    runs is not what was asked for. ``cleanup`` are globs of the server's own leftovers (shared memory), removed after
    its stop. ``oom_pattern`` is a regular expression that tells running out of device memory in the log, ``meanings``
    are others with what it means that they match when the server has ended. ``if_silent`` is what to try where it takes
    requests and answers none.
    """

    argv: tuple[str, ...]
    env: Mapping[str, str | None] = field(default_factory=dict)
    files: Mapping[str, str] = field(default_factory=dict)
    setup: tuple[tuple[str, ...], ...] = ()
    setup_stays: bool = False
    ready_url: str
    base_url: str
    info_url: str | None = None
    version_url: str | None = None
    metrics_url: str | None = None
    records_url: str | None = None
    stop_timeout_s: float = 15.0
    cleanup: tuple[str, ...] = ()
    oom_pattern: str = r"CUDA out of memory|OutOfMemoryError"
    meanings: tuple[tuple[str, str], ...] = ()
    read_back: Callable[[str], Mapping[str, object]] | None = None
    if_silent: str = ""
    mounts: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Need:
    """One thing that a framework needs of a machine, for ``loadgen doctor``: present or not, and the remedy."""

    name: str
    ok: bool
    found: str
    remedy: str = ""


class Framework(Protocol):
    """What a module ``servers/NAME.py`` binds to ``FRAMEWORK``.

    ``protocol`` names the driver (``openai``, ``triton-grpc``, …). ``options`` maps each ``--option`` name to one
    line of help, accepted values included. ``ports`` is how many free ports ``command`` is given. ``check`` raises
    BadInput for a spec that cannot run, here or anywhere; ``command`` is pure. ``run_dir`` is an absolute path of an
    empty folder that lives as long as the server. ``driver_options`` are what its driver must know of the spec.
    ``needs`` looks at this machine without importing heavy libraries. ``uses_gpus``: it takes GPUs where there are
    any; ``needs_gpus``: it runs on nothing else. A framework of several transports has ``for_spec(spec)`` besides: the
    one that the spec's options choose.

    What only its running engine knows stands on the page behind ``info_url``, and so in results: see engine_facts.py.
    """

    name: str
    protocol: str
    ports: int
    options: Mapping[str, str]
    uses_gpus: bool
    needs_gpus: bool

    def default_dtype(self, on_gpu: bool) -> str:
        """The dtype of its weights where nobody names one."""

    def library(self, spec: ServerSpec) -> str:
        """A hash of what the user brings to it and no version tells; empty where there is nothing, or not here."""

    def check(self, spec: ServerSpec) -> None:
        """Raise BadInput for a spec that cannot run, here or anywhere."""

    def command(self, spec: ServerSpec, run_dir: str, ports: Sequence[int]) -> Command:
        """How to start a server of this spec; pure, so that tests need no machine."""

    def driver_options(self, spec: ServerSpec) -> Mapping[str, Any]:
        """What the driver must know of the spec, such as the tokenizer's folder."""

    def needs(self) -> Sequence[Need]:
        """What this machine has and lacks for it, without importing an engine."""


class Driver(Protocol):
    """One wire protocol. All methods run on one event loop; ``start`` never raises and never blocks.

    ``prepare`` serialises a request ahead of its due time; ``start`` writes it and stamps the write; ``done`` is
    called exactly once with something that ``decode`` turns into a Reply, later, off the hot path. A failed request
    is a Reply with ``error`` set to ``ClassName: message`` of a DriverError. ``batches``: one call takes several
    sequences; else a static batch goes out as single calls, released together. ``can``: ``ids``, the server gets the
    very ids of a prompt; ``text``, a request's own text; ``messages``, those of a chat; ``cancel``: it
    ends a request as that says.
    """

    name: str
    stamps: str
    batches: bool
    can: frozenset[str]

    async def open(self, connections: int) -> None:
        """Bring up ``connections`` before the schedule starts. Raises DriverError where they cannot be."""

    def prepare(self, request: Request) -> Any:
        """Serialise a request ahead of its due time; what comes back is the driver's own."""

    def start(self, prepared: Any, done: Callable[[Any], None]) -> None:
        """Write a prepared request and stamp the write; ``done`` is called exactly once, whatever happens."""

    def decode(self, raw: Any) -> Reply:
        """The reply of what ``done`` was given, off the hot path; a failure is its ``error``."""

    async def close(self) -> None:
        """Close all connections; nothing is started after it."""


class DriverFactory(Protocol):
    """Makes a driver for one endpoint."""

    def __call__(self, base_url: str, model: str, timeouts: Timeouts, options: Mapping[str, Any]) -> Driver:
        """A driver that is not open yet; ``options`` are the framework's own. Raises BadInput for wrong ones."""


class Watcher(Protocol):
    """What observes a sweep and never changes it (the live console, a plain log, the tests)."""

    def plan(self, trials: Sequence[Trial], done: Sequence[TrialResult]) -> None:
        """All trials in order, and the results that are stored already; called once, first."""

    def server(self, label: str, state: str) -> None:
        """A server has come to a new state: starting, ready, stopped, in words."""

    def place(self, name: str, doing: str) -> None:
        """What a node of a cluster does now, in words; nothing more where they are empty. Trials there, of which
        several run at once, are told by this alone until they have ended."""

    def trial(self, trial: Trial) -> None:
        """A trial starts."""

    def sample(self, sample: Sample, in_flight: int) -> None:
        """A request of the running trial has ended; on the client's own thread, so it must return at once."""

    def result(self, result: TrialResult) -> None:
        """A trial has ended, well or not, and is stored."""

    def note(self, message: str) -> None:
        """Something that the user should read."""


class Clock(Protocol):
    """A monotonic clock in nanoseconds."""

    def __call__(self) -> int:
        """Nanoseconds since an instant that stays the same while the process lives."""
