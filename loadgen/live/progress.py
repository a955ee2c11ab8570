"""What a watcher knows of a sweep: rows of trials and results, the running trial at a moment, and the time left.

Pure: no clock, no terminal. Both consoles read from here, so that they cannot disagree. Rows hold plain values only,
since the live view runs in a process of its own and is sent them as JSON.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from loadgen.labels import CLIENT_MARK, IN_LABEL, again_label, caveat_marks, clean, load_label, place_label
from loadgen.metrics.percentiles import percentile
from loadgen.records import Caveat, Dist, ServerSpec, Trial, TrialResult
from loadgen.theory.duration import Durations, Work, total, work_of
from loadgen.units import show_number, show_rate, show_s, show_share


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialRow:
    """What is shown of a trial. ``work`` feeds the estimate of the time left. ``lasts_s``: how long it goes on, where
    that bounds it and not ``requests``; ``predicted_s``: how long it is predicted to take, before any was measured."""

    id: str
    framework: str
    model: str
    engine: str
    tp: int | None
    pp: int | None
    load: str
    input_tokens: int
    output_tokens: int
    start: int
    repeat: int
    requests: int
    warmup: int
    server: str
    work: Work
    options: str = ""
    lasts_s: float | None = None
    predicted_s: float | None = None

    @property
    def title(self) -> str:
        """One line that tells this trial from the others."""
        again = again_label(self.start, self.repeat)
        own = f", {self.options}" if self.options else ""
        return f"{self.server}, {self.load}, {self.input_tokens} in, {self.output_tokens} out{own}{again}"

    def done_text(self, requests: int) -> str:
        """How far it is: ``12/64 requests``, or ``12 requests in 120s`` of a load that a duration bounds."""
        if self.lasts_s is not None:
            return f"{requests} requests in {show_number(self.lasts_s)}s"
        return f"{requests}/{self.requests} requests"


@dataclass(frozen=True, slots=True, kw_only=True)
class ResultRow:
    """What is shown of a finished trial. ``marks`` are its caveats' kinds, ``meanings`` what was seen of each mark;
    ``failure`` is the error's class; ``kept`` is the share of requests that kept all objectives, where it has some."""

    trial: TrialRow
    wall_s: float
    e2e_p50_s: float | None
    e2e_p99_s: float | None
    ttft_p50_s: float | None
    tpot_p50_s: float | None
    output_tokens_per_s: float | None
    total_tokens_per_s: float | None
    requests_per_s: float | None
    ok: int | None
    failed: int | None
    marks: tuple[str, ...]
    meanings: tuple[tuple[str, str], ...] = ()
    client_limited: bool
    failure: str | None
    message: str
    kept: float | None = None
    goodput_per_s: float | None = None

    @property
    def figures(self) -> str:
        """The result in one line."""
        if self.failure is not None:
            return f"FAILED {self.failure}: {self.message}"
        parts = [
            f"E2E p50 {show_s(self.e2e_p50_s)}",
            f"TTFT {show_s(self.ttft_p50_s)}",
            f"TPOT {show_s(self.tpot_p50_s)}",
            show_rate(self.output_tokens_per_s, "tok/s out"),
        ]
        if self.kept is not None:
            parts.append(f"{show_share(self.kept)} kept the objectives")
        if self.failed:
            parts.append(f"{self.failed} requests failed")
        return ", ".join(parts + [f"[{mark}]" for mark in self.marks])


def trial_row(trial: Trial, predicted_s: float | None = None) -> TrialRow:
    """The row of a trial, with what the plan predicts that it takes."""
    load, server = trial.load, trial.server
    return TrialRow(
        id=trial.id,
        framework=server.framework if server else "endpoint",
        model=clean(server.model.name if server else trial.model_name or ""),
        engine=clean(str(server.options.get("engine", "")) if server else ""),
        tp=server.tp if server else None,
        pp=server.pp if server else None,
        load=load_label(trial),
        input_tokens=load.input_tokens,
        output_tokens=load.output_tokens,
        start=trial.start,
        repeat=trial.repeat,
        requests=load.requests,
        warmup=load.warmup,
        server=clean(place_label(trial)),
        work=work_of(trial),
        options=clean(_options(server)) if server else "",
        lasts_s=None if load.duration_s is None else load.lead_in_s + load.duration_s,
        predicted_s=predicted_s,
    )


def _options(server: ServerSpec) -> str:
    """What its options set a server apart by, the engine aside."""
    return ", ".join(
        f"{name}={value}" for name, value in sorted(server.options.items()) if name not in IN_LABEL
    )


def _p50(dist: Dist | None) -> float | None:
    return None if dist is None else dist.p50


def result_row(result: TrialResult) -> ResultRow:
    """The row of a finished trial."""
    summary, failure, attained = result.summary, result.failure, result.attained
    return ResultRow(
        trial=trial_row(result.trial),
        wall_s=result.wall_s,
        e2e_p50_s=_p50(summary.e2e_s) if summary else None,
        e2e_p99_s=percentile(summary.e2e_s, "p99") if summary else None,
        ttft_p50_s=_p50(summary.ttft_s) if summary else None,
        tpot_p50_s=_p50(summary.tpot_s) if summary else None,
        output_tokens_per_s=summary.output_tokens_per_s if summary else None,
        total_tokens_per_s=summary.total_tokens_per_s if summary else None,
        requests_per_s=summary.requests_per_s if summary else None,
        ok=summary.requests_ok if summary else None,
        failed=summary.requests_failed if summary else None,
        marks=caveat_marks(result),
        meanings=tuple(dict(reversed([_meaning(caveat) for caveat in result.caveats])).items()),
        client_limited=any(caveat.client for caveat in result.caveats),
        failure=clean(failure.error) if failure else None,
        message=clean(failure.message).partition("\n")[0] if failure else "",
        kept=attained.share if attained else None,
        goodput_per_s=attained.goodput_per_s if attained else None,
    )


def _meaning(caveat: Caveat) -> tuple[str, str]:
    """A caveat's mark, and what was seen."""
    mark = CLIENT_MARK if caveat.client else clean(caveat.kind)
    return mark, clean(caveat.message).partition("\n")[0]


@dataclass(frozen=True, slots=True, kw_only=True)
class Live:
    """The running trial at one moment. ``course_s``: mean E2E of the replies of each ``bin_s`` seconds so far, and
    ``course_tokens_per_s`` its output tokens; ``kept``: the share that kept ``all`` objectives, and each by name."""

    warmup: int = 0
    ok: int = 0
    failed: int = 0
    in_flight: int | None = None
    e2e_p50_s: float | None = None
    ttft_p50_s: float | None = None
    tokens_per_s: float | None = None
    recent_e2e_s: Sequence[float] = ()
    course_s: Sequence[float | None] = ()
    course_tokens_per_s: Sequence[float] = ()
    bin_s: float = 0.0
    errors: Mapping[str, int] = field(default_factory=dict)
    words: Mapping[str, str] = field(default_factory=dict)
    kept: Mapping[str, float] = field(default_factory=dict)

    @property
    def kept_text(self) -> str:
        """``kept 93 %``, and of several objectives each; empty without any."""
        if not self.kept:
            return ""
        each = [f"{name} {show_share(share)}" for name, share in self.kept.items() if name != "all"]
        return f"kept {show_share(self.kept['all'])}" + (f" ({', '.join(each)})" if len(each) > 1 else "")

    @property
    def told(self) -> str:
        """Errors by class with how often, the first of each in its own words."""
        return ", ".join(
            f"{count} × {name}" + (f": {words}" if (words := self.words.get(name)) else "")
            for name, count in self.errors.items()
        )


def to_plain(row: TrialRow | ResultRow | Live) -> dict[str, Any]:
    """A row as JSON's own types."""
    return asdict(row)


def to_trial_row(plain: Mapping[str, Any]) -> TrialRow:
    """The row that ``to_plain`` took apart."""
    return TrialRow(**{**plain, "work": Work(**plain["work"])})


def to_result_row(plain: Mapping[str, Any]) -> ResultRow:
    """The row that ``to_plain`` took apart."""
    return ResultRow(
        **{
            **plain,
            "trial": to_trial_row(plain["trial"]),
            "marks": tuple(plain["marks"]),
            "meanings": tuple(map(tuple, plain["meanings"])),
        }
    )


def time_left_s(
    todo: Sequence[TrialRow], finished: Sequence[ResultRow], running: tuple[Work, float] | None = None
) -> float | None:
    """The wall time that ``todo`` will take, in seconds, from what finished trials took.

    Before any has: from ``running``, the first trial's work and how long it will take by what it has done so far; else
    from the plan's predictions. ``None`` where neither says it. Starting servers is not included.
    """
    durations = Durations()
    for row in finished:
        if row.failure is None and row.wall_s > 0:
            durations.learn(row.trial.work, row.wall_s)
    found = durations.total_s(row.work for row in todo)
    if found is None and running is not None:
        durations.learn(*running)
        found = durations.total_s(row.work for row in todo)
    return total(row.predicted_s for row in todo) if found is None else found
