"""What a profile's tables may hold: pydantic at the edge, and its findings in our words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import ErrorDetails

from loadgen.errors import ProfileError
from loadgen.profile.told import told_set, told_value
from loadgen.profile.values import (
    Amount,
    AtOnce,
    Attainment,
    Bound,
    Cancelling,
    Capacity,
    Combine,
    Count,
    Devices,
    Dtype,
    Duration,
    Flag,
    Index,
    Length,
    Load,
    Mode,
    Option,
    Ordering,
    Port,
    Repeats,
    Searched,
    Several,
    Share,
    SharedPrefixes,
    Slug,
    Span,
    Text,
    Think,
    TraceReplay,
    Turns,
    Url,
    Workers,
    did_you_mean,
)
from loadgen.profile.workloads import NO_THINK
from loadgen.telemetry_records import TelemetrySpec

Path = tuple[str | int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Origins:
    """Where values came from: the file, or the ``--set`` that was laid over it.

    Paths hold the number of the sweep block; ``single_sweep`` says that the file has one, which needs no number.
    """

    file: str
    single_sweep: bool = True
    sets: dict[Path, str] = field(default_factory=dict)

    def problem(
        self, path: Sequence[str | int], value: object, why: str, accepted: str | None
    ) -> ProfileError:
        """The error for the value at ``path``, which names the ``--set`` that gave it where one did."""
        laid = next((text for place, text in self.sets.items() if tuple(path[: len(place)]) == place), None)
        file = self.file if laid is None else f"{self.file} (--set {told_set(laid)})"
        value = told_value([str(part) for part in path], value)
        numbered = laid is None and not self.single_sweep  # a --set is laid over every block alike
        return ProfileError(file, _shown(path, numbered=numbered), value, why, accepted)


def _shown(path: Sequence[str | int], *, numbered: bool) -> str:
    """A path as a user writes it: blocks are counted from one, places in a list of values are left out."""
    parts = [str(part) for part in path if isinstance(part, str)]
    if numbered and path[0] == "sweep" and len(path) > 1 and isinstance(path[1], int):
        parts[0] = f"sweep#{path[1] + 1}"
    return ".".join(parts)


class Table(BaseModel):
    """A table of a profile: frozen, and a key it does not know is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class ServerTable(Table):
    """[server]: what to start. ``extend_context`` multiplies a preset's context; ``gpus = []`` is the CPU, and so is
    ``"auto"`` where there are no GPUs. Without a ``dtype`` it is what the framework computes in on GPUs."""

    framework: Text | None = None
    model: Text | None = None
    extend_context: Count | None = None
    dtype: Dtype | None = None
    tp: Count = 1
    pp: Count = 1
    gpus: Devices | None = None
    max_batch: Capacity | None = None
    dummy_weights: Flag | None = None
    python: Text | None = None
    ready_timeout_s: Amount = 600.0
    options: dict[str, Option] = {}


class FrameworkTable(Table):
    """[frameworks.NAME]: what one framework has otherwise than [server]; ``None`` takes that table's."""

    dtype: Dtype | None = None
    gpus: Devices | None = None
    max_batch: Capacity | None = None
    python: Text | None = None
    ready_timeout_s: Amount | None = None
    options: dict[str, Option] = {}


class TimeoutsTable(Table):
    """[load.timeouts], in seconds: to connect, to the first byte, between two bytes, of a whole request."""

    connect_s: Amount = 10.0
    first_byte_s: Amount = 600.0
    between_bytes_s: Amount = 120.0
    total_s: Amount = 1800.0


class LoadTable(Table):
    """[load]: rates in requests per second, lengths in tokens. Absent counts follow from the mode."""

    mode: Mode = "static"
    batch_size: AtOnce = 1
    concurrency: AtOnce = 1
    max_rate: Amount | None = None
    rate: Amount | None = None
    rate_end: Amount | None = None
    burstiness: Amount = 1.0
    trace: Text | None = None
    replay: TraceReplay | None = None
    prefixes: SharedPrefixes | None = None
    dataset: Text | None = None
    cancel: Cancelling | None = None
    users: AtOnce | None = None
    turns: Turns | None = None
    think: Think = NO_THINK
    input_tokens: Length | None = None
    output_tokens: Length | None = None
    requests: Index | None = None
    duration: Duration | None = None
    lead_in: Span | None = None
    warmup: Index | None = None
    repeat: Repeats = [0]
    stream: Flag = True
    seed: Index = 0
    workers: Workers = 1
    nodes: Workers = 1
    timeouts: TimeoutsTable = TimeoutsTable()


class Axes(Table):
    """The keys that a sweep can list."""

    framework: Annotated[list[Text] | None, Several] = None
    model: Annotated[list[Text] | None, Several] = None
    dtype: Annotated[list[Dtype] | None, Several] = None
    tp: Annotated[list[Count] | None, Several] = None
    pp: Annotated[list[Count] | None, Several] = None
    batch_size: Annotated[list[AtOnce] | None, Several] = None
    concurrency: Annotated[list[AtOnce] | None, Several] = None
    rate: Annotated[list[Amount] | None, Several] = None
    users: Annotated[list[AtOnce] | None, Several] = None
    input_tokens: Annotated[list[Length] | None, Several] = None
    output_tokens: Annotated[list[Length] | None, Several] = None
    stream: Annotated[list[Flag] | None, Several] = None
    options: dict[str, Annotated[list[Option], Several]] = {}


class SweepTable(Axes):
    """[sweep] or one of several: axes, how they combine, what is left out, and what [load] has otherwise here."""

    mode: Mode | None = None
    requests: Index | None = None
    duration: Duration | None = None
    lead_in: Span | None = None
    warmup: Index | None = None
    repeat: Repeats | None = None
    starts: Repeats | None = None
    combine: Combine = "product"
    exclude: list[Axes] = []


class SloTable(Table):
    """[slo]: what a request must keep, as ``500ms`` or ``500ms@99%``; ``share`` of those without one of their own."""

    ttft: Bound | None = None
    tpot: Bound | None = None
    e2e: Bound | None = None
    itl_max: Bound | None = None
    share: Attainment | None = None


class CapacityTable(Table):
    """[capacity]: how to search for the highest load that keeps [slo]; lengths of time ``None``: by rule."""

    variable: Searched = "rate"
    window: Duration | None = None
    lead_in: Span | None = None
    within: Share = 0.05
    confirm: Flag = False
    saturating: AtOnce = 256
    near: Load | None = None


class BisectionTable(Table):
    """[bisection]: the largest batch tried, and how close (as a share) the bracket must come."""

    most: Count = 4096
    within: Share = 0.05


class TargetTable(Table):
    """[target]: an endpoint that already runs, in place of [server]; ``options`` are the driver's own."""

    url: Url | None = None
    model: Text | None = None
    vocab: Count | None = None
    protocol: Text | None = None
    endpoint: Text | None = None
    prompt: Text | None = None
    tokenizer: Text | None = None
    exact: Flag = False
    extra_body: dict[str, Any] = {}
    headers: dict[str, Text] = {}
    options: dict[str, Any] = {}

    def driver(self) -> dict[str, Any]:
        """The driver's options that were set, and the tokenizer's folder."""
        named = {
            "protocol": self.protocol,
            "endpoint": self.endpoint,
            "prompt": self.prompt,
            "tokenizer": self.tokenizer,
            "extra_body": self.extra_body or None,
            "headers": self.headers or None,
        }
        return {**self.options, **{key: value for key, value in named.items() if value is not None}}


class TelemetryTable(Table):
    """[telemetry]: what is scraped beside a trial, and how often in seconds."""

    enabled: Flag = True
    exporter: Flag = True
    exporter_port: Port = 0
    sources: Annotated[list[Url], Several] = []
    prometheus: Url | None = None
    selector: Text | None = None
    period_s: Amount = 0.2


class Tables(Table):
    """All tables of a profile, as read and before they are multiplied into cells."""

    name: Slug | None = None
    description: str = ""
    order: Ordering = "grouped"
    starts: Repeats = [0]
    server: ServerTable | None = None
    load: LoadTable = LoadTable()
    sweep: list[SweepTable] = [SweepTable()]
    frameworks: dict[str, FrameworkTable] = {}
    bisection: BisectionTable = BisectionTable()
    slo: SloTable = SloTable()
    capacity: CapacityTable | None = None
    target: TargetTable | None = None
    finding: list[dict[str, Any]] = []
    telemetry: TelemetryTable = TelemetryTable()


def parse(data: Mapping[str, Any], origins: Origins) -> Tables:
    """Check tables as read from TOML. Raises one ProfileError with a line for each problem."""
    try:
        return Tables.model_validate(data)
    except ValidationError as error:
        problems = [_in_our_words(detail, origins) for detail in error.errors()]
    raise together(problems)


HOMES: dict[str, type[Table]] = {
    "server": ServerTable,
    "load": LoadTable,
    "timeouts": TimeoutsTable,
    "sweep": SweepTable,
    "exclude": Axes,
    "frameworks": FrameworkTable,
    "bisection": BisectionTable,
    "slo": SloTable,
    "capacity": CapacityTable,
    "target": TargetTable,
    "telemetry": TelemetryTable,
}


def telemetry_of(table: TelemetryTable) -> TelemetrySpec:
    """The [telemetry] table as the record that the sweep takes."""
    return TelemetrySpec(
        enabled=table.enabled,
        exporter=table.exporter,
        exporter_port=table.exporter_port,
        sources=tuple(table.sources),
        prometheus=table.prometheus,
        selector=table.selector or "",
        period_s=table.period_s,
    )


def together(problems: Sequence[ProfileError]) -> ProfileError:
    """Several problems as one exception, a line for each, none twice."""
    first = problems[0]
    first.args = ("\n".join(dict.fromkeys(str(problem) for problem in problems)),)
    return first


def _in_our_words(detail: ErrorDetails, origins: Origins) -> ProfileError:
    path, value = detail["loc"], detail["input"]
    if detail["type"] == "extra_forbidden":
        known = _keys_at(path[:-1])
        why = "is not a key here" + (_elsewhere(path[-1]) or did_you_mean(path[-1], known))
        return origins.problem(path, None, why, ", ".join(known))
    ours = detail.get("ctx", {})
    why, accepted = {
        "bad": (str(ours.get("why")), ours.get("accepted")),
        "model_type": ("is not a table", "a table of keys"),
        "dict_type": ("is not a table", "a table of keys"),
        "list_type": ("is not a list", "a list"),
        "string_type": ("is not text", "text"),
    }[detail["type"]]
    if isinstance(value, list) and path[0] != "sweep" and path[-1] in Axes.model_fields:
        why = f"{why}; a list of them goes into [sweep]"
    return origins.problem(path, value, why, accepted)


def _elsewhere(key: str | int) -> str:
    """Which other tables take a key of this name, in words; empty where none does."""
    ours = {"timeouts": "load.timeouts"}
    found = [f"[{ours.get(name, name)}]" for name, table in HOMES.items() if key in table.model_fields]
    found = [name for name in found if name not in ("[exclude]", "[frameworks]")]
    return f" but of {' and '.join(found)}" if found else ""


def _keys_at(path: Sequence[str | int]) -> list[str]:
    """The keys that the table at this place takes."""
    table: type[Table] = Tables
    names = [part for part in path if isinstance(part, str)]
    for name in names:
        table = HOMES.get(name, table)
    return list(table.model_fields)
