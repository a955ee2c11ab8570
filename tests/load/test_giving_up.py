"""Requests that are cancelled: the same ones on any number of workers, closed for real, and counted apart."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fake_world import FakeDriver, World, play

from loadgen.errors import BadInput
from loadgen.launch.endpoint import Endpoint
from loadgen.launch.process import free_ports, serving
from loadgen.live.console import console
from loadgen.load.giving_up import GivingUp
from loadgen.load_records import LoadSpec
from loadgen.metrics.summary import summarise
from loadgen.records import ServerSpec, Trial, TrialResult
from loadgen.request_records import Sample
from loadgen.results.samples import SampleWriter, read_samples
from loadgen.servers.null import FRAMEWORK as NULL
from loadgen.theory.models import PRESETS
from loadgen.trial import run_trial
from loadgen.workload_records import Cancel, Sessions, Spread

SPEC = ServerSpec(framework="null", model=PRESETS["tiny"], options={"ttft_ms": 5.0, "itl_ms": 2.0})


def load(**more: Any) -> LoadSpec:
    shape = {
        "kind": "closed",
        "input_tokens": 8,
        "output_tokens": 40,
        "requests": 60,
        "warmup": 2,
        "seed": 5,
        **more,
    }
    return LoadSpec(**shape)


def chosen(spec: LoadSpec, numbers: range = range(9000)) -> list[int]:
    giving_up = GivingUp(spec)
    return [number for number in numbers if giving_up.of(number) is not None]


def test_the_share_that_is_cancelled_follows_from_number_and_seed() -> None:
    cancel = Cancel(share=0.3, after_s=1.0)
    found = chosen(load(cancel=cancel))
    assert len(found) == pytest.approx(2700, rel=0.06)
    assert (
        chosen(load(cancel=cancel), range(8999, 0, -1))
        == sorted(found, reverse=True)[: len(found) - (0 in found)]
    )
    assert chosen(load(cancel=cancel, seed=6)) != found
    assert chosen(load(cancel=Cancel(share=0.3, after_tokens=4))) == found
    assert chosen(load()) == []


def test_the_warm_up_is_not_cancelled_and_a_route_that_cannot_is_refused() -> None:
    spec = load(requests=20, cancel=Cancel(share=0.9, after_tokens=3), output_tokens=3)
    with pytest.raises(BadInput, match="cancel: fake cannot give a request up"):
        play(spec, FakeDriver(World()))
    driver = FakeDriver(World())
    driver.can = frozenset({"ids", "cancel"})
    play(spec, driver)
    told = {seq: request.cancel for seq, request in driver.requests.items()}
    assert {told[0], told[1]} == {None}
    assert [seq - 2 for seq in sorted(told) if told[seq]] == chosen(spec, range(20))


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("null")
    command = NULL.command(SPEC, str(folder), free_ports(1))
    with serving(command, folder, folder / "log", ready_timeout_s=20.0):
        yield command.base_url


def measured(server: str, spec: LoadSpec, path: Path, **options: Any) -> tuple[TrialResult, list[Sample]]:
    trial = Trial(id="t", load=spec, server=SPEC)
    writer = SampleWriter(path)
    with console(live=False) as watcher:
        watcher.plan([trial], [])
        place = Endpoint(base_url=server, driver_options=options)
        result = run_trial(trial, place, watcher, environment="", writer=writer)
    assert result.failure is None
    return result, sorted(
        (one for one in read_samples(path) if one.phase == "measured"), key=lambda one: one.seq
    )


@pytest.mark.parametrize("transport", ["raw", "httpx"])
@pytest.mark.parametrize("when", [{"after_s": 0.02}, {"after_tokens": 6}])
def test_they_are_closed_at_their_time_and_counted_apart(
    server: str, tmp_path: Path, transport: str, when: dict[str, Any]
) -> None:
    spec = load(concurrency=6, cancel=Cancel(share=0.4, **when))
    result, samples = measured(server, spec, tmp_path / "s.parquet", transport=transport)
    wanted = chosen(spec, range(60))
    gave_up = [one for one in samples if one.error is not None]
    assert [one.seq - 2 for one in gave_up] == wanted
    assert {one.error.partition(":")[0] for one in gave_up if one.error} == {"Cancelled"}
    summary = result.summary
    assert summary is not None
    assert (summary.requests_cancelled, summary.requests_failed, summary.requests_ok) == (
        len(wanted),
        0,
        60 - len(wanted),
    )
    assert summary.e2e_s is not None
    assert (summary.e2e_s.n, summary.errors) == (60 - len(wanted), {})
    assert summary.output_tokens == 40 * (60 - len(wanted))
    came = [sum(one.reply.tokens_per_arrival) for one in gave_up]
    if "after_tokens" in when:
        assert {each >= 6 for each in came} == {True}
        assert min(came) < 40
    else:
        assert all(one.reply.end_ns - one.reply.sent_ns >= 20_000_000 for one in gave_up)
        assert max(came) < 40
    assert not any(caveat.kind == "failed-requests" for caveat in result.caveats)
    assert summarise(samples).requests_cancelled == len(wanted)


def test_a_cancelled_turn_ends_its_session(server: str, tmp_path: Path) -> None:
    fixed = [Spread(kind="uniform", least=value, most=value) for value in (4, 1)]
    spec = load(
        kind="sessions",
        requests=40,
        output_tokens=12,
        sessions=Sessions(users=5, turns=fixed[0], think_ms=fixed[1]),
        cancel=Cancel(share=0.2, after_tokens=2),
    )
    result, samples = measured(server, spec, tmp_path / "s.parquet")
    told = result.sessions
    assert told is not None
    assert told.cancelled == sum(one.error is not None for one in samples) > 0
    assert (told.failed, told.not_sent) == (0, 40 - len(samples))
    assert told.whole == 10 - told.cancelled
