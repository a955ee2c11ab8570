"""Every record that crosses a module.

Stored times are integer nanoseconds of one monotonic clock (``time.monotonic_ns`` of the host); computed
times are float seconds. ``None`` means *not measured*; a zero is a measured zero.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, TypeAlias

from loadgen.slo_records import Attained, Slo
from loadgen.telemetry_records import ServerCores, TelemetrySummary
from loadgen.units import nanoseconds
from loadgen.workload_records import (
    Cancel,
    Dataset,
    Prefixes,
    Replay,
    SessionFigures,
    Sessions,
    Share,
    Spread,
)

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Ids: TypeAlias = (
    "Sequence[int] | NDArray[np.int32]"  # token ids; many are an array: no object for each of them
)
SCHEMA_VERSION = 1
DEFINITIONS = 2  # of a summary's figures
FIRST_TOKENS = 16  # of a reply, kept with its sample
NONE_ENDED = "NoSamples"  # the error of a trial in which no measured request ended

LoadKind = Literal["static", "closed", "constant", "poisson", "gamma", "ramp", "trace", "sessions"]
Phase = Literal["warmup", "lead_in", "measured", "drain"]
Order = Literal["grouped", "interleaved"]
OptionValue = str | int | float | bool
OPEN_LOOP: frozenset[str] = frozenset({"constant", "poisson", "gamma", "ramp", "trace"})


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSpec:
    """The shape of a llama model.

    ``checkpoint`` is a folder with ``config.json`` and safetensors, or ``None`` for a preset (random weights).
    ``fingerprint`` identifies a checkpoint's content for trial ids; empty for presets.
    """

    name: str
    layers: int
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab: int
    max_context: int
    rope_theta: float = 10000.0
    rms_eps: float = 1e-5
    tied: bool = False
    checkpoint: str | None = None
    fingerprint: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerSpec:
    """What to stand up. ``gpus`` are device indices (empty: CPU); ``port`` 0 means pick a free one.

    ``python`` is the interpreter of the server's own installation, ``None`` for loadgen's.
    ``options`` belong to the framework, which names and checks them. ``library`` is a hash of what the user brings to
    it and no version tells, empty where there is nothing, or not here.
    """

    framework: str
    model: ModelSpec
    tp: int = 1
    pp: int = 1
    gpus: tuple[int, ...] = ()
    dtype: str = "bfloat16"
    max_batch: int | None = None
    dummy_weights: bool = True
    host: str = "127.0.0.1"
    port: int = 0
    python: str | None = None
    ready_timeout_s: float = 600.0
    options: Mapping[str, OptionValue] = field(default_factory=dict)
    library: str = ""


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """One cell of a sweep and one repeat of it. ``id`` is a hash of all that decides its result.

    ``server`` is ``None`` when an endpoint that already runs is loaded; then ``url`` and ``model_name`` say which,
    ``driver`` what of the driver's options was asked for (a credential as the variable that holds it), and ``exact``
    that an output of another length is an error whatever the server can.
    ``start`` numbers the fresh servers of a plan that asks for several, from 0. ``slo`` is what its requests are held
    to, which decides nothing of how it runs. ``share``: only this part of the load is sent, by one host of several; its
    figures are no trial's until all shares are merged.
    """

    id: str
    load: LoadSpec
    server: ServerSpec | None = None
    url: str | None = None
    model_name: str | None = None
    vocab: int | None = None
    driver: Mapping[str, object] = field(default_factory=dict)
    exact: bool = False
    repeat: int = 0
    start: int = 0
    slo: Slo | None = None
    share: Share | None = None


# Not frozen, as Reply and Sample are not: one of each is made for every request, and takes thrice the time frozen.
@dataclass(slots=True, kw_only=True)
class Request:
    """One wire call: ``prompts`` holds the token ids of ``batch_size`` prompts, which ask for ``output_tokens`` each.
    What a text route sends in place of words for these is ``content``, a text or a chat's messages, whose ids nobody
    knows.
    ``keep_ids``: how many token ids of the reply are kept, where the server tells them."""

    seq: int
    phase: Phase
    prompts: tuple[Ids, ...]
    output_tokens: int
    stream: bool = True
    keep_ids: int = FIRST_TOKENS
    content: str | Sequence[Mapping[str, str]] | None = None
    cancel: Cancel | None = None


@dataclass(slots=True, kw_only=True)
class Reply:
    """What a driver stamped of one request.

    ``token_ns`` and ``tokens_per_arrival`` run in parallel: when output tokens came, and how many (over all
    sequences). Without streaming both are empty. ``output_tokens`` counts per sequence, by token ids where the
    server sends them (``counted_by`` = ``ids``), else by its usage figures, else ``None``: chunks are never counted
    as tokens. ``begun_ns`` is when the last of several sequences had its first token, since an engine may begin a batch
    in several steps; ``None`` of one sequence, and where arrivals are not told apart by sequence.
    ``first_answer_ns`` is when a chat's answer itself began, behind any reasoning; ``None`` elsewhere.
    ``cached_tokens`` are those input tokens that the server says it took from a cache of prefixes; ``None``: it says
    nothing. ``coalesced`` counts reads that held more than one chunk, whose earlier arrival times are lost;
    ``lag_ns`` is the largest gap between the kernel's stamp and the read, ``None`` with user-space stamps.
    """

    seq: int
    sent_ns: int
    end_ns: int
    token_ns: tuple[int, ...] = ()
    tokens_per_arrival: tuple[int, ...] = ()
    begun_ns: int | None = None
    first_answer_ns: int | None = None
    output_tokens: tuple[int, ...] | None = None
    counted_by: Literal["ids", "usage"] | None = None
    usage_prompt_tokens: int | None = None
    usage_output_tokens: int | None = None
    cached_tokens: int | None = None
    first_tokens: tuple[int, ...] = ()
    finish: str | None = None
    reads: int = 0
    coalesced: int = 0
    lag_ns: int | None = None
    error: str | None = None


@dataclass(slots=True, kw_only=True)
class Sample:
    """The measured record of one request: what was asked, and what its driver stamped.

    ``session`` is equal for the turns of one conversation. ``offset_ns`` is when its trace had it, on the samples'
    clock: a turn is due then, or when the reply before it has come and its user has thought, whichever is later.
    ``known_tokens`` of the input an endless cache would hold: what the session has sent and received before.
    """

    phase: Phase
    batch_size: int
    input_tokens: int
    output_tokens_asked: int
    due_ns: int | None
    reply: Reply
    session: int | None = None
    offset_ns: int | None = None
    known_tokens: int | None = None

    @property
    def seq(self) -> int:
        """The request's number within its trial, the warm-up counted."""
        return self.reply.seq

    @property
    def error(self) -> str | None:
        """``ClassName: message`` of a failed request; ``None`` of one that came back right."""
        return self.reply.error


@dataclass(frozen=True, slots=True, kw_only=True)
class Dist:
    """A distribution of one quantity over the samples of a trial; ``metrics/percentiles.py`` says how to read one.

    Percentiles are nearest ranks, ``None`` where that would be the largest value; in results of earlier versions they
    are interpolated. ``intervals`` holds their 95 % intervals within this trial, ``None`` for an end that so few values
    do not have; ``independent`` is how many uncorrelated values these are worth.
    """

    n: int
    mean: float
    stdev: float | None
    min: float
    p50: float
    p90: float | None
    p95: float | None
    p99: float | None
    max: float
    intervals: Mapping[str, tuple[float | None, float | None]] = field(default_factory=dict)
    independent: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """The figures of one trial over its valid measured samples. Times in seconds, rates per second.

    Rates run over ``duration_s`` = first send → last end of all requests, failed ones too; what these were given counts
    for nothing. Of a load with a window, ``duration_s`` is that window's length. Rates and tokens are of what came
    within it, whichever phase asked for it: output tokens by their arrival, input tokens with the first of these,
    requests by their end. Latencies and counts are of the requests that were due (or sent) in it, wherever they ended.
    ``output_tokens`` is ``None`` when a reply's were counted by nobody. ``first_answer_s`` is start → first token of a
    chat's answer itself, behind any reasoning. ``definitions`` is 1 in results of earlier versions, whose window left
    failed requests out and whose percentiles are interpolated. ``cached_tokens`` of ``cached_of_tokens`` input tokens
    of the served requests came from the server's cache of prefixes, by the replies that tell; ``None`` where none does.
    ``lengths`` are tokens per sequence, asked for and had, of a load whose requests have lengths of their own.
    ``requests_cancelled`` were given up by the client, as the load says: neither served nor failed, and what they were
    given counts for nothing. ``session_lag_s`` is how much later than in its trace a turn was due, since the reply
    before it came late.
    ``known_tokens`` of the input tokens of sessions were sent or received in an earlier turn: no cache has more.
    """

    requests_ok: int
    requests_failed: int
    errors: Mapping[str, int]
    duration_s: float | None
    e2e_s: Dist | None
    ttft_s: Dist | None
    tpot_s: Dist | None
    itl_s: Dist | None
    latency_per_output_token_s: Dist | None
    send_lag_s: Dist | None
    output_tokens: int | None
    input_tokens: int
    output_tokens_per_s: float | None
    total_tokens_per_s: float | None
    requests_per_s: float | None
    in_flight_mean: float | None
    in_flight_max: int | None
    first_answer_s: Dist | None = None
    cached_tokens: int | None = None
    cached_of_tokens: int | None = None
    lengths: Mapping[str, Dist] = field(default_factory=dict)
    session_lag_s: Dist | None = None
    known_tokens: int | None = None
    requests_cancelled: int = 0
    definitions: int = 1

    @property
    def failed_share(self) -> float:
        """The share of the measured requests that failed."""
        asked = self.requests_ok + self.requests_failed
        return self.requests_failed / asked if asked else 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientNode:
    """A host of a load from several. ``bound_s`` is how far its times may be off on the driver's clock, ``drift_ppm``
    how much faster its clock ran, both ``None`` of hosts whose clocks nobody compared; ``began_s`` how long after it
    was to be its first request was sent. ``start_ns`` is where its own clock stood at the common start, of a host whose
    times are still its own."""

    address: str
    workers: int
    bound_s: float | None
    drift_ppm: float | None
    began_s: float | None
    start_ns: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientQuality:
    """The load generator's own figures during a trial: whether the client or the server was measured.

    ``cpu_share`` is CPU seconds per wall second of the busiest client process; ``loop_lag_s`` how late its event
    loop ran; ``stamp_lag_s`` kernel receive stamp → read; ``stamps`` where arrival times come from.
    ``arrival_skew_s`` is first → last send of a static batch that the protocol made go out as single calls, ``None``
    where a batch is one call. ``loop`` names the event loop and the timer that sends by. ``nodes`` are those of a load
    from several hosts; where they are no cluster, ``loop_lag_s`` is of the one where it was worst.
    """

    driver: str
    stamps: Literal["kernel", "user"]
    cpu_share: float | None = None
    cpu_s: float | None = None
    loop_lag_s: Dist | None = None
    stamp_lag_s: Dist | None = None
    send_lag_s: Dist | None = None
    reads: int | None = None
    coalesced_reads: int | None = None
    in_flight_target: int | None = None
    arrival_skew_s: Dist | None = None
    loop: str | None = None
    workers: int = 1
    rss_bytes: int | None = None
    nodes: tuple[ClientNode, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Caveat:
    """A doubt about a number, with what to do about it. ``client`` marks a trial that the client limited."""

    kind: str
    message: str
    remedy: str
    client: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """Why a trial has no summary: the error's class, its words, and at which phase it struck."""

    error: str
    message: str
    phase: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Environment:
    """Where a sweep ran. ``id`` is a hash of everything but ``argv`` and ``started``.

    ``affinity`` names the ``cpus`` cores that it was confined to, such as ``0-15,32``; empty in older results.
    """

    id: str
    host: str
    os: str
    cpu: str
    cpus: int
    memory_bytes: int
    gpus: tuple[Mapping[str, object], ...]
    driver: str | None
    cuda: str | None
    packages: Mapping[str, str]
    commit: str | None
    argv: tuple[str, ...]
    started: str
    affinity: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialResult:
    """One line of ``trials.jsonl``. ``engine`` is what really ran, in the server's own words.

    ``start`` is equal for trials that one start of a server served, and for no others; ``None`` where that is not known
    (an endpoint that already ran, results of earlier versions, a server that did not come up). ``cores`` is what CPU
    the server may use, where its processes can be seen. ``window`` is what counted of a duration-bound load;
    ``attained`` is how many requests kept the trial's objectives; ``workload`` says what was taken of a trace, and what
    its prompts share, ``sessions`` what became of them.
    """

    trial: Trial
    environment: str
    engine: Mapping[str, object]
    started: str
    wall_s: float
    summary: Summary | None = None
    client: ClientQuality | None = None
    caveats: tuple[Caveat, ...] = ()
    failure: Failure | None = None
    telemetry: TelemetrySummary | None = None
    start: str | None = None
    cores: ServerCores | None = None
    window: Window | None = None
    attained: Attained | None = None
    workload: Mapping[str, object] | None = None
    sessions: SessionFigures | None = None
    schema_version: int = SCHEMA_VERSION
