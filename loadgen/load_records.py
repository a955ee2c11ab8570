"""Records of a load: what is sent, when, and what of it counts."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from loadgen.units import nanoseconds
from loadgen.workload_records import Cancel, Dataset, Prefixes, Replay, Sessions, Spread

LoadKind = Literal["static", "closed", "constant", "poisson", "gamma", "ramp", "trace", "sessions"]
OPEN_LOOP: frozenset[str] = frozenset({"constant", "poisson", "gamma", "ramp", "trace"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeouts:
    """Limits of one request, in seconds."""

    connect_s: float = 10.0
    first_byte_s: float = 600.0
    between_bytes_s: float = 120.0
    total_s: float = 1800.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """What of a duration-bound load counts: from ``start_ns`` on and before ``end_ns``, on the samples' clock."""

    start_ns: int
    end_ns: int

    def holds(self, at_ns: int) -> bool:
        """Whether an instant belongs to it."""
        return self.start_ns <= at_ns < self.end_ns


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadSpec:
    """What to send.

    ``static``: one wire call holds ``batch_size`` sequences, the next follows its completion.
    ``closed``: ``concurrency`` requests in flight. The open-loop kinds send at seeded due times at ``rate``
    requests per second: ``constant``, ``poisson``, ``gamma`` (``burstiness`` 1 is Poisson, smaller is burstier),
    ``ramp`` (linear from ``rate`` to ``rate_end``), ``trace`` (a file: see traces/formats.py). ``sessions``: turns of
    conversations, where ``input_tokens`` are those that a turn adds and ``requests`` counts turns.
    ``warmup`` requests of the same shape are drained before ``requests`` are measured.
    ``duration_s`` bounds a load by time in place of ``requests``, which is 0 then: the load runs for ``lead_in_s``,
    uncounted (phase ``lead_in``), and on through a counted window of ``duration_s``. A request belongs to the phase in
    which it was due, or sent where it had no due time. Sending goes on behind the window (``drain``) until every
    counted request has ended, for one median E2E latency at most, so that the last ones meet the load that those before
    them met. A static load and a ramp, whose length this is, stop sending at the window's end and have no lead-in.
    ``max_rate`` caps the request rate of a closed loop. ``workers`` is the number of load generator processes, on each
    of ``nodes`` nodes of a cluster where there are several.
    ``replay`` is how a trace is taken. ``input_spread`` and ``output_spread`` draw a length for each request:
    ``input_tokens`` and ``output_tokens`` are the largest that they give, as they are of a trace. ``prefixes`` are
    beginnings that prompts share. ``dataset`` has prompts of its own, and output lengths where it tells some: behind
    its last a load goes on with its first. ``sessions`` says what conversations of that kind are like, ``cancel`` which
    requests the client gives up. ``at_most``: an output may end before ``output_tokens``, as where a server
    cannot be made to go on; it counts with the length that it has.
    """

    kind: LoadKind
    input_tokens: int
    output_tokens: int
    batch_size: int = 1
    concurrency: int = 1
    rate: float | None = None
    rate_end: float | None = None
    burstiness: float = 1.0
    trace: str | None = None
    requests: int = 1
    warmup: int = 1
    duration_s: float | None = None
    lead_in_s: float = 0.0
    max_rate: float | None = None
    stream: bool = True
    seed: int = 0
    workers: int = 1
    nodes: int = 1
    at_most: bool = False
    replay: Replay | None = None
    input_spread: Spread | None = None
    output_spread: Spread | None = None
    prefixes: Prefixes | None = None
    sessions: Sessions | None = None
    dataset: Dataset | None = None
    cancel: Cancel | None = None
    timeouts: Timeouts = field(default_factory=Timeouts)

    @property
    def open_loop(self) -> bool:
        """Whether requests are sent by due times, whatever the server does."""
        return self.kind in OPEN_LOOP

    @property
    def due_rate(self) -> float | None:
        """Requests due per second on average (of a ramp: at first), where the load sets it: a trace by its replay."""
        if self.kind == "trace":
            return None if self.replay is None else self.replay.rate
        return self.rate

    @property
    def varies(self) -> bool:
        """Whether its requests have other lengths than each other."""
        told = (self.input_spread, self.output_spread, self.sessions, self.dataset)
        return self.kind == "trace" or any(each is not None for each in told)

    @property
    def longest(self) -> int:
        """Input and output tokens of its longest request; of a session, of its first turn."""
        shared = self.prefixes.tokens if self.sessions is not None and self.prefixes is not None else 0
        return shared + self.input_tokens + self.output_tokens

    def window(self, start_ns: int) -> Window | None:
        """The counted window of a load that began at ``start_ns``; ``None`` of one that is bound by its requests, and
        of a static one, whose calls count whole."""
        if self.duration_s is None or self.kind == "static":
            return None
        first_ns = start_ns + nanoseconds(self.lead_in_s)
        return Window(start_ns=first_ns, end_ns=first_ns + nanoseconds(self.duration_s))

    @property
    def in_flight(self) -> int | None:
        """Wire calls that are kept in flight; ``None`` in open loop, where the server's speed decides, and of sessions,
        whose users think between them."""
        if self.open_loop or self.sessions is not None:
            return None
        return 1 if self.kind == "static" else self.concurrency

    @property
    def sequences(self) -> int | None:
        """Sequences that are kept in the server, at most so many of sessions; ``None`` in open loop."""
        if self.sessions is not None:
            return self.sessions.users
        return None if (calls := self.in_flight) is None else calls * self.batch_size
