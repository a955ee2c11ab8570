"""Results folders → one flat row per trial: the only place that knows how results are stored."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime

from loadgen.analysis.requests import was_cold
from loadgen.analysis.rounds import rounds_of
from loadgen.analysis.telemetry import telemetry_of
from loadgen.identity import deciding_options
from loadgen.labels import failed_label, varied_text
from loadgen.metrics.percentiles import percentile
from loadgen.records import Dist, Environment, ModelSpec, Summary, Trial, TrialResult
from loadgen.results.record_json import HUGE, TINY
from loadgen.results.store import Results
from loadgen.telemetry import kept_buffers
from loadgen.units import show_number

# Metric → unit. A row has only those that were measured.
METRICS = {
    "e2e_s": "s",
    "ttft_s": "s",
    "tpot_s": "s",
    "itl_s": "s",
    "latency_per_output_token_s": "s",
    "output_tokens_per_s": "tok/s",
    "total_tokens_per_s": "tok/s",
    "requests_per_s": "1/s",
    "gpu_memory_bytes": "bytes",
    "gpu_memory_reserved_bytes": "bytes",
    "cpu_memory_bytes": "bytes",
    "power_w": "W",
    "joules_per_output_token": "J/token",
    "attainment": "share",
    "goodput_per_s": "1/s",
}
OF_OBJECTIVES = ("attainment", "goodput_per_s")  # of trials that were held to objectives
DISTRIBUTIONS = ("e2e_s", "ttft_s", "tpot_s", "itl_s", "latency_per_output_token_s")
RATES = ("output_tokens_per_s", "total_tokens_per_s", "requests_per_s")
OUT_OF_MEMORY = "OutOfMemory"
POWER = "throughput_per_latency"  # of one run, since the two are two sides of one measurement
# Options that size what a server sets aside and not the work that it does. A larger split sets aside more, so they
# must not make another server of it.
RESERVATIONS = frozenset({"kv_tokens", "kv_reserve_mb"})


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class Key:
    """What makes two trials repeats of one cell.

    ``label`` is framework and engine; ``batch`` the sequences at work together (batch size, times concurrency in a
    closed loop); ``variant`` any further options that set a server apart. Those that size a reservation do so only
    where servers of one split differ in nothing else (``set_apart``).
    """

    machine: str
    label: str
    model: str
    dtype: str
    tp: int
    pp: int
    kind: str
    batch: int
    rate: float
    input_tokens: int
    output_tokens: int
    stream: bool
    variant: str = ""

    @property
    def framework(self) -> str:
        """The framework's name, without its engine."""
        return self.label.split("/")[0]

    @property
    def load(self) -> str:
        """How its load is released, and what differs between its requests: ``static batch 8``, ``sessions of 4 users``,
        ``poisson 2/s, in uniform 16–64``."""
        kind, comma, varied = self.kind.partition(", ")
        if self.rate:
            kind += f" {show_number(self.rate)}/s" + (f" × {self.batch}" if self.batch > 1 else "")
        elif kind == "closed":
            kind += f" {self.batch} in flight"
        elif kind == "trace":
            pass  # at its own pace, a request at a time
        elif kind == "sessions":
            kind += f" of {self.batch} users"
        else:
            kind += f" batch {self.batch}"
        return f"{kind}{comma}{varied}"

    @property
    def gpus(self) -> int:
        """How many devices it is spread over."""
        return self.tp * self.pp


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Row:
    """One trial, flat. ``values`` maps metrics to figures (medians of latencies); ``results`` finds its samples.

    ``round`` is equal for trials that did the same work side by side, empty for one that ran alone. ``cold``: the last
    request of its warm-up was not served, so that measured ones did what a warm-up is for. ``with_failures``: it may
    speak although requests of it failed; its latencies are then of the served ones.
    """

    key: Key
    result: TrialResult
    source: str
    results: Results | None
    started_h: float | None
    values: Mapping[str, float]
    environment: Environment | None = None
    flags: tuple[str, ...] = ()
    round: str = ""
    cold: bool = False
    with_failures: bool = False

    @property
    def trial(self) -> Trial:
        """What was asked for."""
        return self.result.trial

    @property
    def id(self) -> str:
        """The trial's id."""
        return self.result.trial.id

    @property
    def run(self) -> str:
        """What no other row has: another folder may hold the same trial, run on another machine or once more."""
        return f"{self.source}: {self.id}"

    @property
    def model(self) -> ModelSpec | None:
        """The served model; ``None`` of an endpoint, which has a name alone."""
        return self.trial.server.model if self.trial.server else None

    @property
    def summary(self) -> Summary | None:
        """The measured figures; ``None`` of a trial that failed."""
        return self.result.summary

    @property
    def client_limited(self) -> bool:
        """Whether a caveat says that the load generator set the figure, and not the server."""
        return any(caveat.client for caveat in self.result.caveats)

    @property
    def out_of_memory(self) -> bool:
        """Whether the trial failed since memory ran out, which is a result."""
        failure = self.result.failure
        errors = self.summary.errors if self.summary else {}
        return (failure is not None and OUT_OF_MEMORY in failure.error) or any(
            "out of memory" in text.lower() or OUT_OF_MEMORY in text for text in errors
        )

    @property
    def failed_share(self) -> float:
        """The share of its requests that failed, 0 to 1; 1 of a trial without figures."""
        return 1.0 if self.summary is None else self.summary.failed_share

    @property
    def usable(self) -> bool:
        """May speak in charts and findings: nothing is in the way."""
        return not self.unusable

    @property
    def unusable(self) -> str:
        """Why it may not speak: a part, impossible, the client's own, failed in part or whole, measured cold. Empty: it
        may."""
        failure, summary = self.result.failure, self.summary
        if self.trial.share is not None:
            return f"{self.trial.share.words} of a trial: no figure of it is the trial's (loadgen merge)"
        if self.flags:
            return "impossible: " + "; ".join(self.flags)
        if self.client_limited:
            return "the load generator was the limit"
        if failure is not None:
            return f"failed in {failure.phase}: {failure.error}"
        if summary is None or not self.values:
            return "no valid request"
        if summary.requests_failed and not self.with_failures:
            errors = ", ".join(f"{name} × {count}" for name, count in sorted(summary.errors.items()))
            return f"requests failed (--with-failures lets it speak): {failed_label(summary)}, {errors}"
        if self.cold:
            return "its warm-up was not served: requests that were measured met a cold server"
        return ""

    def dist(self, metric: str) -> Dist | None:
        """The distribution of one metric by its name in Summary; ``None`` where it was not measured.

        Without the percentiles that older results interpolated between their largest values.
        """
        found = getattr(self.summary, metric, None) if metric in DISTRIBUTIONS and self.summary else None
        if not isinstance(found, Dist):
            return None
        p90, p95, p99 = (percentile(found, name) for name in ("p90", "p95", "p99"))
        return replace(found, p90=p90, p95=p95, p99=p99)


@dataclass(slots=True, kw_only=True)
class Source:
    """One results folder as read."""

    name: str
    results: Results
    environments: Mapping[str, Environment]
    rows: list[Row] = field(default_factory=list)


def read(results: Results, name: str | None = None) -> Source:
    """All trials of a folder. Raises StoreError for one that cannot be read."""
    environments = results.environments()
    source = Source(name=name or results.path.resolve().name, results=results, environments=environments)
    source.rows = rows_of(results.results(), environments, source.name, results)
    return source


def rows_of(
    found: Iterable[TrialResult],
    environments: Mapping[str, Environment],
    source: str = "",
    results: Results | None = None,
) -> list[Row]:
    """One row per result, in order, which is that in which they finished."""
    found = kept_buffers.mended(found)
    rounds = rounds_of(found)
    rows = [
        Row(
            key=key_of(result, environments.get(result.environment)),
            result=result,
            source=source,
            results=results,
            started_h=_hours(result.started),
            values=values_of(result),
            environment=environments.get(result.environment),
            round=rounds.get(result.trial.id, ""),
            cold=was_cold(result, results),
        )
        for result in found
    ]
    return set_apart(rows)


def set_apart(rows: Sequence[Row]) -> list[Row]:
    """The rows, with reservations told in the keys of servers that came with several at one split.

    Those are kept apart, since one may have queued or evicted what the other held. Where each split has one, more GPUs
    simply hold more, and the splits stay comparable.
    """
    seen: dict[Key, set[str]] = defaultdict(set)
    for row in rows:
        seen[_split(row)].add(_options(row.trial, RESERVATIONS))
    several = {replace(key, tp=-1, pp=-1) for key, found in seen.items() if len(found) > 1}
    return [
        replace(row, key=replace(row.key, variant=variant))
        if (variant := _told(row, several)) != row.key.variant
        else row
        for row in rows
    ]


def _split(row: Row) -> Key:
    """The server that a row is of, but for what it sets aside."""
    alone = replace(row.key, kind="", batch=-1, rate=-1.0, input_tokens=-1, output_tokens=-1, stream=False)
    return replace(alone, variant=_variant(row.trial))


def _told(row: Row, several: Container[Key]) -> str:
    variant = _variant(row.trial)
    if replace(_split(row), tp=-1, pp=-1) not in several:
        return variant
    return ", ".join(part for part in (variant, _options(row.trial, RESERVATIONS)) if part)


def key_of(result: TrialResult, environment: Environment | None) -> Key:
    """Where a result belongs: equal for repeats of one cell on one kind of machine."""
    trial, load = result.trial, result.trial.load
    server = trial.server
    width = load.sequences or load.batch_size
    return Key(
        machine=machine_of(trial, environment),
        label=label_of(result),
        model=server.model.name if server else trial.model_name or "unknown",
        dtype=server.dtype if server else "unknown",
        tp=server.tp if server else 1,
        pp=server.pp if server else 1,
        kind=_kind(trial),
        batch=width,
        rate=load.due_rate or 0.0,
        input_tokens=load.input_tokens,
        output_tokens=load.output_tokens,
        stream=load.stream,
        variant=_variant(trial),
    )


def _kind(trial: Trial) -> str:
    """How a load is released, what differs between its requests, and which share of it was sent."""
    load = trial.load
    kind = load.kind if load.kind != "closed" or load.batch_size == 1 else f"closed of {load.batch_size}"
    return ", ".join(filter(None, (kind, varied_text(load), trial.share.words if trial.share else "")))


def work_of(key: Key) -> Key:
    """What two servers must have in common to be compared: model, load and lengths, on the same machine."""
    return replace(key, label="", variant="", tp=-1, pp=-1, stream=False)


def machine_of(trial: Trial, environment: Environment | None) -> str:
    """The device that computed, in its driver's own words."""
    if environment is None:
        return "unknown"
    if trial.server is None:
        return f"endpoint {trial.url}"
    if not trial.server.gpus:
        return environment.cpu
    by_index = {gpu.get("index", at): gpu.get("name") for at, gpu in enumerate(environment.gpus)}
    return str(by_index.get(trial.server.gpus[0]) or "unknown GPU")


def label_of(result: TrialResult) -> str:
    """Framework and engine, as the server itself named it, else as it was asked for."""
    server = result.trial.server
    if server is None:
        return "endpoint"
    engine = result.engine.get("engine") or server.options.get("engine")
    if not isinstance(engine, str) or not engine or engine == server.framework:
        return server.framework
    return f"{server.framework}/{engine.removeprefix(f'{server.framework}/')}"


def _variant(trial: Trial) -> str:
    if trial.server is None:
        return ""
    parts = [_options(trial, trial.server.options.keys() - RESERVATIONS - {"engine"})]
    if not trial.server.dummy_weights:
        parts.append("real weights")
    return ", ".join(part for part in parts if part)


def _options(trial: Trial, names: Container[str]) -> str:
    options = deciding_options(trial.server) if trial.server else {}
    return ", ".join(f"{name}={value}" for name, value in sorted(options.items()) if name in names)


def values_of(result: TrialResult) -> dict[str, float]:
    """What a trial measured: medians of its latencies, its rates, and its telemetry. Absent stays absent, and so is
    what a source told that is no figure: quotients and logarithms are taken of these."""
    values: dict[str, float] = {}
    summary, attained = result.summary, result.attained
    if summary is None or summary.requests_ok == 0:
        return values
    for metric, figure in zip(
        OF_OBJECTIVES, (attained.share, attained.goodput_per_s) if attained else (), strict=False
    ):
        if figure:
            values[metric] = figure
    for metric in DISTRIBUTIONS:
        dist = getattr(summary, metric)
        if dist is not None and dist.p50 > 0:
            values[metric] = dist.p50
    for metric in RATES:
        rate = getattr(summary, metric)
        if rate:
            values[metric] = rate
    if "output_tokens_per_s" in values and "e2e_s" in values:
        values[POWER] = values["output_tokens_per_s"] / values["e2e_s"]
    found = values | telemetry_of(result)
    return {name: value for name, value in found.items() if TINY <= value <= HUGE}


def _hours(iso: str) -> float | None:
    try:
        return datetime.fromisoformat(iso).timestamp() / 3600
    except ValueError:
        return None
