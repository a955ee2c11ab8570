"""Running out of device memory is a stored result, and the sweep goes on with a server started anew."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from fake_engine import WORDS, fake_engine

from loadgen.launch import running
from loadgen.launch.endpoint import Endpoint
from loadgen.plan.plan import Plan
from loadgen.records import Environment, ServerSpec, Trial
from loadgen.results.store import Store
from loadgen.sweeping.sweep import Sweep
from loadgen.telemetry_records import TelemetrySpec
from loadgen.trial import NO_MEMORY, run_trial

FITS = 2  # sequences in a batch


@pytest.fixture
def url() -> Iterator[str]:
    with fake_engine(FITS) as found:
        yield found


class Quiet:
    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *_args: None


def trial(build: Any, batch: int, **load: Any) -> Trial:
    return build.trial(batch=batch, input_tokens=4, output_tokens=3, requests=3, stream=False, **load)  # type: ignore[no-any-return]


@pytest.mark.parametrize(("warmup", "phase"), [(1, "warmup"), (0, "load")])
def test_a_refusal_for_want_of_memory_is_the_trials_failure(
    build: Any, url: str, warmup: int, phase: str
) -> None:
    result = run_trial(
        trial(build, FITS + 1, warmup=warmup), Endpoint(base_url=url), Quiet(), environment="e"
    )  # type: ignore[arg-type]
    assert result.summary is None
    assert result.failure is not None
    assert (result.failure.error, result.failure.phase) == ("ServerOutOfMemory", phase)
    assert "Tried to allocate 2.00 GiB" in result.failure.message


def test_a_batch_that_fits_is_measured(build: Any, url: str) -> None:
    result = run_trial(trial(build, FITS), Endpoint(base_url=url), Quiet(), environment="e")  # type: ignore[arg-type]
    assert result.failure is None
    assert result.summary is not None
    assert result.summary.requests_ok == 3


@pytest.mark.parametrize("full", [1, 2])
def test_a_server_that_makes_room_in_the_warm_up_is_warmed_up_once_more(build: Any, full: int) -> None:
    """A measured call must not do what the warm-up is for: where the second is refused, too, the trial ends there."""
    with fake_engine(FITS, full) as url:
        result = run_trial(trial(build, FITS, warmup=1), Endpoint(base_url=url), Quiet(), environment="e")  # type: ignore[arg-type]
    if full == 1:
        assert result.failure is None
        assert result.summary is not None
        assert (result.summary.requests_ok, result.summary.requests_failed) == (3, 0)
    else:
        assert result.summary is None
        assert result.failure is not None
        assert (result.failure.error, result.failure.phase) == ("ServerOutOfMemory", "warmup")
        assert WORDS in result.failure.message


def test_the_sweep_goes_on_with_a_new_server(
    build: Any, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    starts: list[str] = []

    def start(spec: ServerSpec, *_: object) -> tuple[Any, Endpoint]:
        starts.append("start")
        stop = lambda: starts.append("stop")  # noqa: E731
        return SimpleNamespace(stop=stop, pid=None, command=SimpleNamespace(argv=("x",))), Endpoint(
            base_url=url
        )

    monkeypatch.setattr(running, "start_server", start)
    trials = [replace(trial(build, batch), id=f"t{place}") for place, batch in enumerate((1, 3, 2, 4))]
    environment = Environment(
        id="e", host="h", os="o", cpu="c", cpus=1, memory_bytes=1, gpus=(), driver=None, cuda=None, packages={},
        commit=None, argv=(), started="",
    )  # fmt: skip
    with Store.create(tmp_path / "r", {"name": "r"}) as store:
        Sweep(
            plan=Plan(trials=tuple(trials)),
            store=store,
            watcher=Quiet(),  # type: ignore[arg-type]
            environment=environment,
            telemetry=TelemetrySpec(enabled=False),
        ).run()
        found = {result.trial.id: result for result in store.results()}
    errors = {name: result.failure and result.failure.error for name, result in found.items()}
    assert errors == {"t0": None, "t1": "ServerOutOfMemory", "t2": None, "t3": "ServerOutOfMemory"}
    assert starts == ["start", "stop"] * 2


@pytest.mark.parametrize(
    "words",
    [
        f"Refused: 500 Internal Server Error: {WORDS}",
        "Refused: [StatusCode.INTERNAL] CUDA out of memory: Tried to allocate 20.00 MiB",
        "Refused: torch.OutOfMemoryError: HIP out of memory",
        "Refused: DefaultCPUAllocator: can't allocate memory: you tried to allocate 8000000000 bytes",
    ],
)
def test_engines_words_for_it(words: str) -> None:
    assert NO_MEMORY.search(words)


@pytest.mark.parametrize(
    "words",
    ["TimedOut: no first byte within 600 s", "Refused: 400: 3 prompts in one call; at most 2 (max_batch)"],
)
def test_other_words_are_not_taken_for_it(words: str) -> None:
    assert not NO_MEMORY.search(words)
