"""Turns of conversations in a world whose time stands still, and against the null server, which logs what it got."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fake_world import MS, FakeDriver, World, play

from loadgen.drivers.openai import make_driver
from loadgen.launch import null_log
from loadgen.launch.process import free_ports, serving
from loadgen.load import dispatch
from loadgen.load.client import LoadOutcome
from loadgen.load.run import run_trial_load
from loadgen.load.workload import of_sessions
from loadgen.load_records import LoadSpec
from loadgen.metrics.summary import summarise
from loadgen.records import ServerSpec, Trial
from loadgen.request_records import Request, Sample
from loadgen.servers.null import FRAMEWORK as NULL
from loadgen.theory.models import PRESETS
from loadgen.workload_records import Prefixes, SessionFigures, Sessions, Spread


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatch, "SLICE_GAP_S", 0)


def fixed(value: int) -> Spread:
    return Spread(kind="uniform", least=value, most=value)


def load(requests: int = 12, users: int = 2, turns: int = 3, think_ms: int = 50, **more: Any) -> LoadSpec:
    shape = {
        "kind": "sessions",
        "input_tokens": 4,
        "output_tokens": 3,
        "requests": requests,
        "warmup": 0,
        **more,
    }
    return LoadSpec(**shape, sessions=Sessions(users=users, turns=fixed(turns), think_ms=fixed(think_ms)))


def talk(spec: LoadSpec, driver: FakeDriver, **more: Any) -> tuple[LoadOutcome, list[Sample], SessionFigures]:
    outcome, samples = play(spec, driver, filler=lambda seq, tokens: (999,) * tokens, **more)
    assert outcome.sessions is not None
    return outcome, sorted(samples, key=lambda one: one.seq), outcome.sessions


def own_ids(request: Request) -> dict[str, Any]:
    return {"first_tokens": tuple(7000 + 10 * request.seq + k for k in range(request.output_tokens))}


def test_a_turn_holds_all_before_it_and_comes_when_its_user_has_thought() -> None:
    driver = FakeDriver(World(), service=lambda seq: (10 + seq) * MS, spoil=own_ids)
    outcome, samples, figures = talk(load(), driver)
    assert sorted(driver.requests) == list(range(12))
    prompts = {seq: tuple(request.prompts[0]) for seq, request in driver.requests.items()}
    for first in (0, 3, 6, 9):
        session = samples[first : first + 3]
        assert {one.session for one in session} == {first // 3}
        assert session[0].due_ns is None
        for before, turn in itertools.pairwise(session):
            assert turn.due_ns == before.reply.end_ns + 50 * MS == turn.reply.sent_ns
            held = prompts[before.seq] + own_ids(driver.requests[before.seq])["first_tokens"]
            assert prompts[turn.seq][: len(held)] == held
            assert prompts[turn.seq][len(held)] == turn.seq, "its own tokens follow"
            assert (turn.known_tokens, turn.input_tokens) == (len(held), len(held) + 4)
    assert [one.input_tokens for one in samples[:3]] == [4, 11, 18]
    assert samples[3].session == 1, "a place is a session's while its user thinks"
    assert [samples[k].reply.sent_ns for k in (0, 3)] == [outcome.start_ns] * 2
    assert samples[6].reply.sent_ns == samples[2].reply.end_ns, "the next begins when one ends"
    assert driver.most <= 2
    assert (figures.begun, figures.whole, figures.failed, figures.not_sent, figures.filled) == (4, 4, 0, 0, 0)
    assert figures.active_mean == pytest.approx(2, rel=0.1)
    assert outcome.in_flight_target is None
    summary = summarise(samples)
    assert (summary.known_tokens, summary.input_tokens) == (4 * (7 + 14), 4 * (4 + 11 + 18))


def test_what_the_server_did_not_tell_is_filled_in_its_length() -> None:
    spoil = lambda request: {"counted_by": "usage", "output_tokens": (2,)}  # noqa: E731
    driver = FakeDriver(World(), spoil=spoil)
    _, samples, figures = talk(load(requests=3, users=1, at_most=True), driver)
    assert tuple(driver.requests[1].prompts[0][4:6]) == (999, 999)
    assert [one.known_tokens for one in samples] == [0, 4, 10], "the cache has what was sent, and no reply"
    assert figures.filled == 3
    (doubt,) = of_sessions(figures)
    assert (doubt.kind, "3 replies" in doubt.message) == ("session-filler", True)
    assert not list(of_sessions(replace(figures, filled=0)))


def test_a_failed_turn_ends_its_session_and_the_rest_is_not_sent() -> None:
    spoil = lambda request: {"error": "Refused: no"} if request.seq == 1 else own_ids(request)  # noqa: E731
    driver = FakeDriver(World(), spoil=spoil)
    outcome, samples, figures = talk(load(), driver)
    assert sorted(driver.requests) == [0, 1, *range(3, 12)]
    assert (figures.begun, figures.whole, figures.failed, figures.not_sent) == (4, 3, 1, 1)
    assert (outcome.requests_sent, outcome.requests_failed) == (11, 1)
    assert samples[5 if samples[5].seq == 6 else 6].session == 2
    (doubt,) = of_sessions(figures)
    assert (doubt.kind, "1 turns behind" in doubt.message) == ("sessions-failed", True)


def test_a_duration_ends_sessions_that_think_and_begins_no_more() -> None:
    driver = FakeDriver(World(), service=lambda seq: 30 * MS, spoil=own_ids)
    spec = load(0, users=3, turns=4, think_ms=400, duration_s=2.0, lead_in_s=0.5, warmup=2)
    outcome, samples, figures = talk(spec, driver)
    window = spec.window(outcome.start_ns)
    assert window is not None
    measured = [one for one in samples if one.phase == "measured"]
    assert measured
    assert all(window.holds(one.due_ns or one.reply.sent_ns) for one in measured)
    assert max(one.reply.sent_ns for one in samples) < window.end_ns + 31 * MS
    assert figures.active_mean == pytest.approx(3, rel=0.01)
    assert [one.input_tokens for one in samples if one.phase == "warmup"] == [4, 11]


TRACE = (
    '{"offset_s": 0.0, "input_tokens": 4, "output_tokens": 3, "session": "a"}\n'
    '{"offset_s": 0.01, "input_tokens": 12, "output_tokens": 3, "session": "a", "think_s": 0.02}\n'
    '{"offset_s": 0.02, "input_tokens": 5, "output_tokens": 3}\n'
    '{"offset_s": 0.03, "input_tokens": 6, "output_tokens": 3, "session": "a"}\n'
    '{"offset_s": 1.0, "input_tokens": 9, "output_tokens": 3, "session": "b"}\n'
    '{"offset_s": 2.0, "input_tokens": 30, "output_tokens": 3, "session": "b"}\n'
)


@pytest.fixture
def trace(tmp_path: Path) -> LoadSpec:
    path = tmp_path / "talk.jsonl"
    path.write_text(TRACE)
    return LoadSpec(kind="trace", trace=str(path), input_tokens=30, output_tokens=3, requests=6, warmup=0)


def test_a_trace_with_sessions_is_replayed_as_such(trace: LoadSpec) -> None:
    driver = FakeDriver(World(), service=lambda seq: 100 * MS, spoil=own_ids)
    outcome, samples, figures = talk(trace, driver)
    at = [((one.due_ns or 0) - outcome.start_ns) // MS for one in samples]
    assert at == [0, 120, 20, 220, 1000, 2000]
    assert [one.offset_ns is None for one in samples] == [False, False, True, False, False, False]
    assert (figures.held, figures.begun, figures.active_mean) == (2, None, None)
    lag = summarise(samples).session_lag_s
    assert lag is not None
    assert (lag.n, lag.max) == (5, pytest.approx(0.19))
    assert [one.input_tokens for one in samples] == [4, 12, 5, 6, 9, 30], "the trace tells whole lengths"
    prompts = {seq: tuple(request.prompts[0]) for seq, request in driver.requests.items()}
    assert prompts[1][:7] == prompts[0] + own_ids(driver.requests[0])["first_tokens"]
    assert prompts[3][0] == 3, "one that is shorter than its context begins anew"
    assert prompts[5][:12] == prompts[4] + own_ids(driver.requests[4])["first_tokens"]
    assert [one.known_tokens for one in samples] == [0, 7, None, 0, 0, 12]


def test_behind_a_failed_turn_of_a_trace_none_is_sent(trace: LoadSpec) -> None:
    spoil = lambda request: {"error": "Refused: no"} if request.seq in (0, 4) else {}  # noqa: E731
    driver = FakeDriver(World(), service=lambda seq: 100 * MS, spoil=spoil)
    _, samples, figures = talk(trace, driver)
    assert [one.seq for one in samples] == [0, 2, 4]
    assert (figures.failed, figures.not_sent) == (2, 3)


def test_contexts_of_idle_sessions_are_bounded(trace: LoadSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("loadgen.load.session_dispatch.KEPT_TOKENS", 10)
    driver = FakeDriver(World(), service=lambda seq: MS, spoil=own_ids)
    _, samples, _ = talk(trace, driver)
    assert [one.known_tokens for one in samples] == [0, 7, None, 0, 0, 0]


SPEC = ServerSpec(
    framework="null", model=PRESETS["tiny"], options={"ttft_ms": 4.0, "itl_ms": 1.0, "log": "sent.log"}
)


@pytest.fixture(scope="module")
def played(
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[list[list[Sample]], dict[int, null_log.Sent]]:
    """One load from one process and from two, numbered apart, and what the server saw of both."""
    folder = tmp_path_factory.mktemp("null")
    command = NULL.command(SPEC, str(folder), free_ports(1))
    runs: list[list[Sample]] = []
    with serving(command, folder, folder / "log", ready_timeout_s=20.0):
        for workers, warmup in ((1, 2), (2, 90)):
            spec = load(
                80, users=6, turns=4, think_ms=10, warmup=warmup, prefixes=Prefixes(groups=2, tokens=16)
            )
            samples: list[Sample] = []
            run_trial_load(
                Trial(id="t", load=spec, server=SPEC),
                command.base_url,
                make_driver,
                NULL.driver_options(SPEC),
                lambda sample, _, into=samples: into.append(sample),  # type: ignore[misc]
                workers=workers,
            )
            runs.append(sorted((one for one in samples if one.phase != "warmup"), key=lambda one: one.seq))
    told = {
        int(sent.request_id.partition("-")[2]): sent
        for sent in null_log.read((folder / "sent.log").read_bytes())
        if sent.request_id.startswith("measured")
    }
    return runs, told


def test_two_turns_of_a_session_are_never_in_flight_together_at_the_server(
    played: tuple[list[list[Sample]], dict[int, null_log.Sent]],
) -> None:
    runs, told = played
    for samples in runs:
        assert [one.error for one in samples if one.error] == []
        assert len(samples) == 80
        sessions: dict[int | None, list[null_log.Sent]] = {}
        for one in samples:
            sessions.setdefault(one.session, []).append(told[one.seq])
        assert {len(turns) for turns in sessions.values()} == {4}
        for turns in sessions.values():
            for before, turn in itertools.pairwise(turns):
                assert turn.received_ns - before.writes_ns[-1] >= 10 * MS, "the thinking lies between them"


def test_any_number_of_workers_sends_the_same_sessions(
    played: tuple[list[list[Sample]], dict[int, null_log.Sent]],
) -> None:
    (alone, shared), _ = played
    assert [(one.session, one.input_tokens, one.known_tokens) for one in alone] == [
        (one.session, one.input_tokens, one.known_tokens) for one in shared
    ]
    assert all(one.reply.usage_prompt_tokens == one.input_tokens for one in [*alone, *shared])
    assert [one.input_tokens for one in alone[:4]] == [20, 27, 34, 41]
    assert [one.known_tokens for one in alone[:4]] == [16, 23, 30, 37]
    assert {len(one.reply.first_tokens) for one in alone} == {3}
