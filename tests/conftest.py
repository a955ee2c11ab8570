"""Which tests run: of a GPU where there is one, of a cluster when asked for; records that many tests need."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from ray_cluster import Loopback, loopback

from loadgen.load_records import LoadSpec
from loadgen.records import Caveat, Dist, Failure, ServerSpec, Summary, Trial, TrialResult
from loadgen.request_records import Reply, Sample
from loadgen.system.environment import visible_gpus
from loadgen.theory.models import PRESETS

# No deadlines: tests never assert timing. The same examples every time where a red run must mean the change.
settings.register_profile("here", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") else "here")


# With several workers, each takes a whole file at a time (servers are shared within one): the longest go first, so that
# none is left alone at the end.
LONGEST_FIRST = (
    "reproduce/test_prebuild.py",
    "reproduce/test_reproduce.py",
    "reproduce/test_time_limit.py",
    "reproduce/test_have.py",
    "servers/test_ds_server.py",
    "sweeping/test_sweep.py",
    "faults/test_fault_matrix.py",
    "servers/test_hf_ranks.py",
    "servers/test_triton.py",
    "servers/test_tp8.py",
    "test_cli.py",
    "plan/test_bisection.py",
    "servers/test_hf_checkpoint.py",
    "report/test_html.py",
    "report/test_kept_results.py",
    "selfcheck/test_probe.py",
)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """The longest files first; deselect what needs a GPU on a machine that has none, and a cluster unless asked for."""
    place = {str(Path(__file__).parent / name): at for at, name in enumerate(LONGEST_FIRST)}
    items.sort(key=lambda item: place.get(str(item.path), len(place)))
    without = [] if "cluster" in config.option.markexpr else of_marker("cluster", items)
    if (gpu := of_marker("gpu", items)) and not visible_gpus():
        without += gpu
    config.hook.pytest_deselected(items=without)
    items[:] = [item for item in items if item not in without]


@pytest.fixture(scope="session")
def ray_up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Loopback]:
    """The one Ray cluster of all tests."""
    with loopback(tmp_path_factory.mktemp("ray")) as found:
        yield found


def of_marker(name: str, items: list[pytest.Item]) -> list[pytest.Item]:
    """Those that are marked so."""
    return [item for item in items if item.get_closest_marker(name)]


class Build:
    """Records with plausible values; whatever a test is about is given by name."""

    client = Caveat(
        kind="client-limited", message="event loop 12 ms late at p99", remedy="use --workers 4", client=True
    )
    spread = Caveat(kind="spread", message="stdev is 12 % of the mean", remedy="measure more requests")
    out_of_memory = Failure(
        error="ServerOutOfMemory", message="CUDA out of memory\n  | the log's tail", phase="load"
    )

    def trial(
        self,
        batch: int = 1,
        input_tokens: int = 20,
        output_tokens: int = 20,
        *,
        tp: int = 1,
        framework: str = "hf",
        repeat: int = 0,
        server: ServerSpec | None = None,
        **load: Any,
    ) -> Trial:
        spec = server or ServerSpec(
            framework=framework,
            model=PRESETS["llama-13b"],
            tp=tp,
            gpus=tuple(range(tp)),
            options={"engine": "generate"},
        )
        shape = {"kind": "static", "batch_size": batch, "requests": 20, "warmup": 2} | load
        sent = LoadSpec(input_tokens=input_tokens, output_tokens=output_tokens, **shape)  # type: ignore[arg-type]
        name = f"{spec.framework}-{spec.tp}-{shape}-{input_tokens}-{output_tokens}-{repeat}"
        return Trial(id=name, load=sent, server=spec, repeat=repeat)

    def endpoint_trial(self, **load: Any) -> Trial:
        trial = self.trial(**load)
        return replace(
            trial, id="endpoint", server=None, url="http://127.0.0.1:8000", model_name="some-llama"
        )

    def dist(self, value: float, n: int = 20) -> Dist:
        return Dist(
            n=n, mean=value, stdev=value / 100, min=value * 0.9, p50=value, p90=value * 1.1, p95=value * 1.15,
            p99=value * 1.2, max=value * 1.3,
        )  # fmt: skip

    def summary(self, trial: Trial, latency_s: float, changes: Mapping[str, Any]) -> Summary:
        load = trial.load
        out = load.batch_size * load.output_tokens
        summary = Summary(
            requests_ok=load.requests,
            requests_failed=0,
            errors={},
            duration_s=load.requests * latency_s,
            e2e_s=self.dist(latency_s),
            ttft_s=self.dist(latency_s / 10),
            tpot_s=self.dist(latency_s / load.output_tokens),
            itl_s=self.dist(latency_s / load.output_tokens),
            latency_per_output_token_s=self.dist(latency_s / load.output_tokens),
            send_lag_s=None,
            output_tokens=load.requests * out,
            input_tokens=load.requests * load.batch_size * load.input_tokens,
            output_tokens_per_s=out / latency_s,
            total_tokens_per_s=(out + load.batch_size * load.input_tokens) / latency_s,
            requests_per_s=1 / latency_s,
            in_flight_mean=0.99,
            in_flight_max=1,
        )
        return replace(summary, **changes)

    def result(
        self,
        trial: Trial,
        latency_s: float = 1.0,
        *,
        caveats: tuple[Caveat, ...] = (),
        failure: Failure | None = None,
        wall_s: float = 10.0,
        environment: str = "",
        **summary: Any,
    ) -> TrialResult:
        return TrialResult(
            trial=trial,
            environment=environment,
            engine={} if failure else {"engine": "transformers/generate", "torch": "2.13.0", "pid": 1},
            started="2024-01-01T00:00:00+00:00",
            wall_s=wall_s,
            summary=None if failure else self.summary(trial, latency_s, summary),
            caveats=caveats,
            failure=failure,
        )

    def sample(
        self,
        seq: int = 0,
        *,
        sent_ms: float = 0,
        e2e_ms: float = 100,
        ttft_ms: float | None = 10,
        due_ms: float | None = None,
        tokens: tuple[int, ...] = (20,),
        error: str | None = None,
        phase: str = "measured",
    ) -> Sample:
        sent_ns, end_ns = int(sent_ms * 1e6), int((sent_ms + e2e_ms) * 1e6)
        arrivals = () if ttft_ms is None else (int((sent_ms + ttft_ms) * 1e6), end_ns)
        reply = Reply(
            seq=seq,
            sent_ns=sent_ns,
            end_ns=end_ns,
            token_ns=arrivals,
            tokens_per_arrival=(1, sum(tokens) - 1) if arrivals else (),
            output_tokens=None if error else tokens,
            error=error,
        )
        return Sample(
            phase=phase,  # type: ignore[arg-type]
            batch_size=len(tokens),
            input_tokens=20,
            output_tokens_asked=tokens[0],
            due_ns=None if due_ms is None else int(due_ms * 1e6),
            reply=reply,
        )


@pytest.fixture(scope="session")
def build() -> Build:
    return Build()
