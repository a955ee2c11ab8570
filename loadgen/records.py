"""Records of a trial: its server, its figures, its doubts, its result. Loads, requests, objectives have rooms beside.

Stored times are integer nanoseconds of one monotonic clock (``time.monotonic_ns`` of the host); computed
times are float seconds. ``None`` means *not measured*; a zero is a measured zero.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from loadgen.load_records import LoadSpec, Window
from loadgen.slo_records import Attained, Slo
from loadgen.telemetry_records import ServerCores, TelemetrySummary
from loadgen.workload_records import SessionFigures, Share

SCHEMA_VERSION = 1
DEFINITIONS = 2  # of a summary's figures
NONE_ENDED = "NoSamples"  # the error of a trial in which no measured request ended

Order = Literal["grouped", "interleaved"]
OptionValue = str | int | float | bool


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
