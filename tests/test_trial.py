"""One trial against servers that fall silent: it ends within its own limit, and says what to try."""

from __future__ import annotations

import errno
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from fake_engine import fake_engine
from synthetic import Point, dist, result, roofline_world

from loadgen.launch.endpoint import Endpoint
from loadgen.launch.process import free_ports, serving
from loadgen.launch.running import endpoint_of
from loadgen.load_records import Timeouts
from loadgen.protocols import Command
from loadgen.records import Trial
from loadgen.results.record_json import impossible
from loadgen.trial import possible, run_trial

LIMITS = Timeouts(connect_s=5, first_byte_s=0.2, between_bytes_s=0.2, total_s=0.2)


class Quiet:
    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *_args: None


def trial(build: Any, batch: int = 2, **more: Any) -> Trial:
    load = {
        "input_tokens": 4,
        "output_tokens": 3,
        "requests": 50,
        "warmup": 3,
        "stream": False,
        "timeouts": LIMITS,
    }
    return build.trial(batch=batch, **load, **more)  # type: ignore[no-any-return]


def test_a_server_that_never_answers_costs_one_request_and_a_smallest_one(build: Any) -> None:
    asked: list[int] = []
    with fake_engine(None, asked=asked) as url:
        endpoint = Endpoint(base_url=url, if_silent="another number of ranks")
        result = run_trial(trial(build), endpoint, Quiet(), environment="e")  # type: ignore[arg-type]
    assert asked[-1] == 1
    assert set(asked[:-1]) == {2}
    assert len(asked) < 10  # the load is stopped some moments later, not 53 limits later
    assert result.failure is not None
    assert result.failure.error == "ServerHung"
    assert "the smallest one, too" in result.failure.message
    assert result.failure.message.endswith("to try: another number of ranks")


def test_an_endpoint_that_never_answers_is_left_after_its_first_request(build: Any) -> None:
    asked: list[int] = []
    with fake_engine(None, asked=asked) as url:
        sent = build.endpoint_trial(
            batch=2, input_tokens=4, output_tokens=3, requests=50, warmup=3, stream=False, timeouts=LIMITS
        )
        result = run_trial(sent, Endpoint(base_url=url), Quiet(), environment="e")  # type: ignore[arg-type]
    assert set(asked) == {2}
    assert len(asked) < 10
    assert result.failure is not None
    assert result.failure.error == "TimedOut"
    assert "no request was answered" in result.failure.message
    assert "to try: longer limits" in result.failure.message


@contextmanager
def standin(mode: str, tmp_path: Path, build: Any) -> Iterator[Endpoint]:
    """The stand-in for a real FasterTransformer server, up and ready."""
    (port,) = free_ports(1)
    url = f"http://127.0.0.1:{port}"
    command = Command(
        argv=(sys.executable, str(Path(__file__).parent / "aids" / "standin_ft.py"), str(port), mode),
        ready_url=f"{url}/health",
        base_url=url,
        stop_timeout_s=1.0,
        if_silent="one rank",
    )
    framework: Any = SimpleNamespace(protocol="openai", driver_options=lambda _spec: {})
    with serving(command, tmp_path, tmp_path / "log", ready_timeout_s=60) as server:
        yield endpoint_of(framework, trial(build).server, server)  # type: ignore[arg-type]


def test_a_server_whose_sockets_close_long_before_it_ends_has_died(build: Any, tmp_path: Path) -> None:
    with standin("dies", tmp_path, build) as endpoint:
        result = run_trial(trial(build), endpoint, Quiet(), environment="e")  # type: ignore[arg-type]
    assert result.failure is not None
    assert result.failure.error == "ServerDied"
    assert "ended by itself (signal SIGABRT)" in result.failure.message
    assert "unspecified launch failure" in result.failure.message


def test_two_ranks_that_wait_for_each_other_are_a_hang_though_pages_live(build: Any, tmp_path: Path) -> None:
    with standin("hangs", tmp_path, build) as endpoint:
        result = run_trial(trial(build), endpoint, Quiet(), environment="e")  # type: ignore[arg-type]
    assert result.failure is not None
    assert result.failure.error == "ServerHung"
    assert result.failure.message.endswith("to try: one rank")


@pytest.mark.parametrize("error", [OSError(errno.EMFILE, "Too many open files"), MemoryError()])
def test_what_this_machine_lacks_costs_the_trial_alone(
    error: Exception, build: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lacks(*_given: object, **_named: object) -> None:
        raise error

    monkeypatch.setattr("loadgen.trial.run_trial_load", lacks)
    sent = build.endpoint_trial(requests=1)
    result = run_trial(sent, Endpoint(base_url="http://127.0.0.1:9"), Quiet(), environment="e")  # type: ignore[arg-type]
    assert result.failure is not None
    assert (result.failure.error, result.failure.phase) == (type(error).__name__, "load")
    assert "the client lacks something" in result.failure.message


def test_another_error_of_the_system_ends_the_sweep(build: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(*_given: object, **_named: object) -> None:
        raise OSError(errno.EIO, "Input/output error")  # such as a terminal that is gone

    monkeypatch.setattr("loadgen.trial.run_trial_load", gone)
    with pytest.raises(OSError, match="Input/output"):
        run_trial(
            build.endpoint_trial(requests=1),
            Endpoint(base_url="http://127.0.0.1:9"),
            Quiet(),
            environment="e",
        )  # type: ignore[arg-type]


def test_figures_that_no_trial_can_have_are_not_told() -> None:
    """A node's clock that ran off in mid-trial: tokens before they were asked for."""
    good = result(Point(), roofline_world(plateau_s=30e-3))
    assert possible(good) is good
    assert good.summary is not None
    early = replace(good.summary, ttft_s=replace(dist(0.05), min=-0.2))
    told = possible(replace(good, summary=early))
    assert told.summary is None
    assert told.failure is not None
    assert told.failure.error == "ImpossibleFigures"
    assert "summary holds values that do not go together" in told.failure.message
    assert impossible(told) is None
