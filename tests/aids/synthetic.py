"""Results from a known world with noise, for tests that must recover what was put in."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np

from loadgen.load_records import LoadSpec
from loadgen.records import (
    Caveat,
    ClientQuality,
    Dist,
    Environment,
    Failure,
    ServerSpec,
    Summary,
    Trial,
    TrialResult,
)
from loadgen.request_records import Reply, Sample
from loadgen.results.store import Store
from loadgen.theory.models import PRESETS

START = datetime(2026, 1, 1, tzinfo=UTC)
H200, A100 = "NVIDIA H200", "NVIDIA A100-SXM4-80GB"


@dataclass(frozen=True, kw_only=True)
class Point:
    """One cell of the world's grid."""

    framework: str = "hf"
    engine: str = "generate"
    tp: int = 1
    pp: int = 1
    batch: int = 1
    input_tokens: int = 20
    output_tokens: int = 20
    machine: str = H200
    model: str = "llama-13b"
    kind: str = "static"
    stream: bool = True
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def tokens(self) -> int:
        return self.batch * self.input_tokens


@dataclass(frozen=True, kw_only=True)
class World:
    """Seconds of a prefill and of one decode step at a point, without noise."""

    prefill: Callable[[Point], float]
    step: Callable[[Point], float]
    noise: float = 0.01
    drift_per_hour: float = 0.0

    def e2e(self, point: Point) -> float:
        return self.prefill(point) + (point.output_tokens - 1) * self.step(point)


def environment(machine: str = H200, gpus: int = 8, **changes: Any) -> Environment:
    facts: dict[str, Any] = {
        "host": "box", "os": "Debian", "cpu": "Test CPU", "cpus": 8, "memory_bytes": 2**36,
        "gpus": tuple({"index": at, "name": machine} for at in range(gpus)), "driver": "580", "cuda": "13.0",
        "packages": {"torch": "2.11"}, "commit": "abc", "argv": ("loadgen",), "started": START.isoformat(),
    }  # fmt: skip
    return Environment(id=f"env-{machine}"[:20], **(facts | changes))


def dist(centre: float, spread: float = 0.01, n: int = 8) -> Dist:
    stdev = centre * spread
    return Dist(
        n=n, mean=centre, stdev=stdev, min=centre - stdev, p50=centre, p90=centre + stdev,
        p95=centre + stdev, p99=centre + 2 * stdev, max=centre + 2 * stdev,
    )  # fmt: skip


def trial_of(point: Point, repeat: int = 0) -> Trial:
    name = repr((point, repeat))
    closed = point.kind == "closed"
    return Trial(
        id=hashlib.sha256(name.encode()).hexdigest()[:16],
        load=LoadSpec(
            kind=point.kind,  # type: ignore[arg-type]
            input_tokens=point.input_tokens,
            output_tokens=point.output_tokens,
            batch_size=1 if closed else point.batch,
            concurrency=point.batch if closed else 1,
            requests=8,
            stream=point.stream,
            seed=int(hashlib.sha256(repr((point.batch, point.tokens, repeat)).encode()).hexdigest()[:8], 16),
        ),
        server=ServerSpec(
            framework=point.framework,
            model=PRESETS[point.model],
            tp=point.tp,
            pp=point.pp,
            gpus=tuple(range(point.tp * point.pp)),
            options={"engine": point.engine, **point.options},
        ),
        vocab=32000,
        repeat=repeat,
    )


def result(
    point: Point,
    world: World,
    *,
    repeat: int = 0,
    hours: float = 0.0,
    rng: np.random.Generator | None = None,
    start: str | None = None,
) -> TrialResult:
    """One trial of the world: one factor of noise on all its times, as runs differ as a whole."""
    factor = float(np.exp(rng.normal(0, world.noise))) if rng is not None else 1.0
    factor *= 1 + world.drift_per_hour * hours
    e2e, prefill, step = world.e2e(point) * factor, world.prefill(point) * factor, world.step(point) * factor
    rate = point.batch * point.output_tokens / e2e
    streamed = point.stream
    summary = Summary(
        requests_ok=8,
        requests_failed=0,
        errors={},
        duration_s=8 * e2e,
        e2e_s=dist(e2e),
        ttft_s=dist(prefill) if streamed else None,
        tpot_s=dist(step) if streamed and point.output_tokens > 1 else None,
        itl_s=dist(step) if streamed and point.output_tokens > 1 else None,
        latency_per_output_token_s=dist(e2e / point.output_tokens),
        send_lag_s=None,
        output_tokens=8 * point.batch * point.output_tokens,
        input_tokens=8 * point.tokens,
        output_tokens_per_s=rate,
        total_tokens_per_s=rate * (1 + point.input_tokens / point.output_tokens),
        requests_per_s=1 / e2e,
        in_flight_mean=1.0 if point.kind == "static" else float(point.batch),
        in_flight_max=1 if point.kind == "static" else point.batch,
    )
    return TrialResult(
        trial=trial_of(point, repeat),
        environment=environment(point.machine).id,
        engine={"engine": f"{point.framework}/{point.engine}", "versions": {"torch": "2.11"}},
        started=(START + timedelta(hours=hours)).isoformat(),
        wall_s=10 * e2e,
        summary=summary,
        client=ClientQuality(driver="openai-raw", stamps="kernel", cpu_share=0.05, loop_lag_s=dist(1e-4)),
        start=start,
    )


def sweep(
    points: Iterable[Point],
    world: World,
    *,
    repeats: int = 3,
    seed: int = 1,
    minutes: float = 1.0,
    starts: int | None = None,
) -> list[TrialResult]:
    """All points, pass after pass, each trial ``minutes`` after the last; each pass on a fresh server, or on ``starts``
    servers that take turns.
    """
    rng = np.random.default_rng(seed)
    listed = list(points)
    return [
        result(
            point,
            world,
            repeat=repeat,
            hours=(repeat * len(listed) + at) * minutes / 60,
            rng=rng,
            start=f"{point.machine} {seed} {repeat % (starts or repeats)}",
        )
        for repeat in range(repeats)
        for at, point in enumerate(listed)
    ]


def failed(point: Point, error: str = "ServerOutOfMemory", repeat: int = 0) -> TrialResult:
    return TrialResult(
        trial=trial_of(point, repeat),
        environment=environment(point.machine).id,
        engine={"engine": f"{point.framework}/{point.engine}"},
        started=START.isoformat(),
        wall_s=3.0,
        failure=Failure(error=error, message="CUDA out of memory", phase="measured"),
    )


def limited() -> Caveat:
    return Caveat(
        kind="client-cpu",
        message="the load generator used 98 % of its core",
        remedy="--workers 2",
        client=True,
    )


def samples_of(found: TrialResult, requests: int = 8, tokens_kept: int | None = None) -> list[Sample]:
    """Samples that agree with the trial's summary."""
    assert found.summary is not None
    assert found.summary.e2e_s is not None
    load = found.trial.load
    e2e = found.summary.e2e_s.p50
    first = found.summary.ttft_s.p50 if found.summary.ttft_s else e2e / load.output_tokens
    count = min(load.output_tokens, tokens_kept or load.output_tokens)
    rng = np.random.default_rng(len(found.trial.id))
    kept = []
    for seq in range(requests):
        start = round(seq * e2e * 1.01e9)
        scale = float(np.exp(rng.normal(0, 0.01)))
        marks = np.linspace(first * scale, e2e * scale, count) if load.stream else []
        kept.append(
            Sample(
                phase="warmup" if seq == 0 else "measured",
                batch_size=load.batch_size,
                input_tokens=load.input_tokens,
                output_tokens_asked=load.output_tokens,
                due_ns=None,
                reply=Reply(
                    seq=seq,
                    sent_ns=start,
                    end_ns=start + round(e2e * scale * 1e9),
                    token_ns=tuple(start + round(mark * 1e9) for mark in marks),
                    tokens_per_arrival=tuple(load.batch_size for _ in marks),
                    output_tokens=(load.output_tokens,) * load.batch_size,
                    counted_by="ids",
                    first_tokens=tuple(1000 + seq for _ in range(load.batch_size)),
                ),
            )
        )
    return kept


def write(
    path: Path,
    results: Sequence[TrialResult],
    *,
    environments: Sequence[Environment] | None = None,
    samples: bool = True,
    requests: int = 8,
    **sweep_fields: Any,
) -> Path:
    """A results folder on disk, as a sweep writes it."""
    with Store.create(
        path, {"name": path.name, "trials": [each.trial.id for each in results], **sweep_fields}
    ) as store:
        for each in environments or [environment(machine) for machine in sorted({H200, A100})]:
            store.add_environment(each)
        for each in results:
            store.append(each)
            if samples and each.summary is not None:
                writer = store.sample_writer(each.trial.id)
                for sample in samples_of(each, requests):
                    writer.add(sample)
                writer.close()
    return path


def grid(**axes: Sequence[Any]) -> list[Point]:
    """The product of the axes as points."""
    points: list[dict[str, Any]] = [{}]
    for name, values in axes.items():
        points = [{**point, name: value} for point in points for value in values]
    return [Point(**point) for point in points]


BATCHES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)


def roofline_world(
    *, ridge: float = 300.0, plateau_s: float = 6e-3, batch_knee: float = 40.0, noise: float = 0.01
) -> World:
    """Prefill: a plateau up to ``ridge`` tokens, then linear. Step: a constant plus as much again by ``batch_knee``.

    Both limits grow with TP, which divides all but a fifth of the constants.
    """

    def scale(point: Point) -> float:
        return 0.2 + 0.8 / point.tp

    def prefill(point: Point) -> float:
        return plateau_s * scale(point) * max(1.0, point.tokens / (ridge * point.tp))

    def step(point: Point) -> float:
        return plateau_s * scale(point) * (1 + point.batch / (batch_knee * point.tp))

    return World(prefill=prefill, step=step, noise=noise)
