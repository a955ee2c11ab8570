"""Real load over real sockets, from one process and from several: same requests, same results, loud deaths."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from loadgen.drivers.openai import make_driver
from loadgen.errors import BadInput, LoadgenError, WorkerDied
from loadgen.launch.process import free_ports, serving
from loadgen.load import workers as team
from loadgen.load.client import LoadOutcome
from loadgen.load.run import run_trial_load
from loadgen.load_records import LoadSpec, Timeouts
from loadgen.metrics.summary import summarise
from loadgen.records import ServerSpec, Trial
from loadgen.request_records import Sample
from loadgen.servers.null import FRAMEWORK as NULL
from loadgen.theory.models import PRESETS

SPEC = ServerSpec(framework="null", model=PRESETS["tiny"], options={"ttft_ms": 20.0, "itl_ms": 5.0})


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("null")
    command = NULL.command(SPEC, str(folder), free_ports(1))
    with serving(command, folder, folder / "log", ready_timeout_s=20.0):
        yield command.base_url


def trial(kind: Any = "closed", **more: Any) -> Trial:
    load = {"kind": kind, "input_tokens": 8, "output_tokens": 5, "requests": 40, "warmup": 3, **more}
    return Trial(id="t", load=LoadSpec(**load), server=SPEC)


def play(
    of: Trial, url: str, *, workers: int = 1, stop: Callable[[], bool] = lambda: False, **options: Any
) -> tuple[LoadOutcome, list[Sample]]:
    samples: list[Sample] = []
    outcome = run_trial_load(
        of, url, make_driver, options, lambda sample, _: samples.append(sample), workers=workers, stop=stop
    )
    assert outcome is not None
    return outcome, samples


@pytest.mark.parametrize(
    ("workers", "load"),
    [
        (1, {"kind": "closed", "concurrency": 4}),
        (3, {"kind": "closed", "concurrency": 4}),
        (1, {"kind": "static", "batch_size": 6, "requests": 5}),
        (1, {"kind": "poisson", "rate": 200.0}),
        (2, {"kind": "poisson", "rate": 200.0}),
        (1, {"kind": "closed", "stream": False}),
    ],
)
def test_every_request_is_sent_once_and_measured(server: str, workers: int, load: dict[str, Any]) -> None:
    of = trial(**load)
    outcome, samples = play(of, server, workers=workers)
    assert [sample.error for sample in samples if sample.error] == []
    measured = [sample for sample in samples if sample.phase == "measured"]
    assert sorted(sample.seq for sample in samples) == list(range(3 + of.load.requests))
    assert len(measured) == of.load.requests == outcome.requests_sent
    assert outcome.warmup_sent == 3
    last_warm = max(sample.reply.end_ns for sample in samples if sample.phase == "warmup")
    assert all(sample.reply.sent_ns >= last_warm for sample in measured)
    summary = summarise(samples, outcome.in_flight_mean, outcome.in_flight_max)
    assert summary.output_tokens == of.load.requests * of.load.batch_size * 5
    assert summary.e2e_s is not None
    assert summary.e2e_s.min > 0.039  # 20 ms and four gaps of 5 ms, by the server's own schedule
    assert (summary.ttft_s is None) is not of.load.stream
    assert (summary.send_lag_s is None) is (of.load.kind != "poisson")
    quality = outcome.quality
    assert quality.workers == workers == len(outcome.processes)
    assert quality.cpu_share is not None
    assert quality.rss_bytes is not None
    assert quality.loop_lag_s is not None
    assert quality.in_flight_target == outcome.in_flight_target
    if outcome.in_flight_target is not None:
        assert outcome.in_flight_max is not None
        assert outcome.in_flight_max <= outcome.in_flight_target


def test_workers_count_one_window(server: str) -> None:
    bounds = {"requests": 0, "duration_s": 0.4, "lead_in_s": 0.2}
    of = trial("closed", concurrency=4, **bounds)
    began: list[int] = []
    samples: list[Sample] = []
    outcome = run_trial_load(
        of,
        server,
        make_driver,
        {},
        lambda sample, _: samples.append(sample),
        workers=2,
        on_start=began.append,
    )
    assert outcome is not None
    assert began == [outcome.start_ns]
    window = of.load.window(outcome.start_ns)
    assert window is not None
    phases = {sample.phase for sample in samples}
    assert phases == {"warmup", "lead_in", "measured", "drain"}
    assert outcome.requests_sent == len([sample for sample in samples if sample.phase != "warmup"])
    measured = [sample for sample in samples if sample.phase == "measured"]
    assert all(window.start_ns <= s.reply.sent_ns < window.end_ns + 10_000_000 for s in measured)
    summary = summarise(samples, window=window)
    assert summary.duration_s == pytest.approx(0.4)
    assert summary.output_tokens is not None
    inside = sum(
        count
        for s in samples
        if s.phase != "warmup"
        for at, count in zip(s.reply.token_ns, s.reply.tokens_per_arrival, strict=True)
        if window.holds(at)
    )
    assert summary.output_tokens == inside


def test_workers_send_the_schedule_of_one(server: str) -> None:
    of = trial("gamma", rate=400.0, burstiness=0.5, requests=60)
    schedules = []
    for workers in (1, 3):
        outcome, samples = play(of, server, workers=workers)
        ends = [sample.reply.end_ns for sample in samples]
        # In the order they ended, not worker by worker; what one read brings together may stand a few places off.
        assert max(ends[:20]) < min(ends[-20:])
        due = {s.seq: s.due_ns - outcome.start_ns for s in samples if s.due_ns is not None}
        assert len(due) == 60
        schedules.append(due)
    assert schedules[0] == schedules[1]


def test_no_request_is_sent_before_it_is_due(server: str) -> None:
    _, samples = play(trial("constant", rate=300.0, requests=90), server)
    assert all(s.due_ns is None or s.reply.sent_ns >= s.due_ns for s in samples)


def test_failed_requests_are_samples(server: str) -> None:
    dead = f"http://127.0.0.1:{free_ports(1)[0]}"
    with pytest.raises(LoadgenError, match="Connect call failed"):
        play(trial(), dead)
    quick = Timeouts(first_byte_s=0.005)
    _, samples = play(trial(timeouts=quick, requests=4, warmup=0), server)
    assert {sample.error.split(":")[0] for sample in samples if sample.error} == {"TimedOut"}
    assert len(samples) == 4


@pytest.mark.parametrize("workers", [1, 2])
def test_a_load_that_is_no_longer_wanted_stops(server: str, workers: int) -> None:
    started: list[int] = []  # told when the load begins, however slow its workers come up

    def stop() -> bool:
        return bool(started) and time.monotonic_ns() > started[0] + 300_000_000

    samples: list[Sample] = []
    outcome = run_trial_load(
        trial(requests=1_000_000, concurrency=2),
        server,
        make_driver,
        {},
        lambda sample, _: samples.append(sample),
        workers=workers,
        on_start=started.append,
        stop=stop,
    )
    assert outcome is None
    assert 0 < len(samples) < 1_000_000


def children() -> list[int]:
    found = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    return [
        pid for pid in map(int, found) if b"loadgen.load.worker" in Path(f"/proc/{pid}/cmdline").read_bytes()
    ]


def test_a_dead_worker_fails_the_trial_and_takes_the_others_along(server: str) -> None:
    killed: list[int] = []

    def kill_one() -> bool:
        if not killed and len(children()) == 3:
            killed.append(children()[1])
            os.kill(killed[0], signal.SIGKILL)
        return False

    with pytest.raises(WorkerDied, match=r"worker \d ended early \(signal SIGKILL\)"):
        play(trial(requests=1_000_000, concurrency=3), server, workers=3, stop=kill_one)
    assert killed
    assert children() == []


def test_samples_that_a_worker_cannot_write_are_told(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, server: str
) -> None:
    tell = team._Worker.tell

    def elsewhere(worker: Any, message: dict[str, Any]) -> None:
        tell(worker, message | ({"part": str(tmp_path / "no/folder/x.parquet")} if "part" in message else {}))

    monkeypatch.setattr(team._Worker, "tell", elsewhere)
    with pytest.raises(LoadgenError, match=r"x.parquet: cannot be written: No such file"):
        play(trial(requests=4, concurrency=2), server, workers=2)


def test_what_a_worker_finds_wrong_is_said_in_its_words(tmp_path: Path, server: str) -> None:
    short = tmp_path / "short.jsonl"
    short.write_text('{"offset_s": 0, "input_tokens": 1, "output_tokens": 1}\n')
    with pytest.raises(BadInput, match="the trace has 1"):
        play(trial("trace", trace=str(short), warmup=0), server, workers=2)
    with pytest.raises(BadInput, match="workers = 4: concurrency is 1"):
        play(trial(), server, workers=4)
    with pytest.raises(BadInput, match="cannot import it"):
        run_trial_load(trial(concurrency=2), server, lambda *_: make_driver(*_), {}, print, workers=2)


PARENT = """
import sys
from loadgen.load import workers
from loadgen.drivers.openai import make_driver
from loadgen.load.run import run_trial_load
from loadgen.load_records import (LoadSpec)
from loadgen.records import (Trial)
load = LoadSpec(kind="closed", concurrency=2, input_tokens=8, output_tokens=5, requests=1_000_000, warmup=2)
told = []
def on_sample(sample, in_flight):
    told.append(sample)
    if len(told) == 1:
        print("under way", flush=True)
wait = workers._wait_for_all
def wait_aloud(crew, key, stop):
    if key == "outcome":
        print("under way", flush=True)  # so every worker's warm-up has been drained
    return wait(crew, key, stop)
workers._wait_for_all = wait_aloud
try:
    run_trial_load(Trial(id="t", load=load), sys.argv[1], make_driver, {}, on_sample, workers=int(sys.argv[2]))
except KeyboardInterrupt:
    print("interrupted", len(told) > 0, len({s.seq for s in told}) == len(told), flush=True)
"""


def parent_of_workers(server: str, workers: int) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", PARENT, server, str(workers)], stdout=subprocess.PIPE, text=True
    )


def wait_for_workers(parent: int, count: int) -> list[int]:
    """The parent's workers, once they have their sockets."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline and not gone(parent):
        found = [int(pid) for pid in Path(f"/proc/{parent}/task/{parent}/children").read_text().split()]
        if len(found) == count and all(len(os.listdir(f"/proc/{pid}/fd")) > 8 for pid in found):
            return found
        time.sleep(0.05)
    raise AssertionError("no workers came up")


def gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


def test_workers_die_with_a_killed_parent(server: str) -> None:
    with parent_of_workers(server, 2) as parent:
        workers = wait_for_workers(parent.pid, 2)
        parent.kill()
    deadline = time.monotonic() + 20
    while not all(map(gone, workers)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert all(map(gone, workers))


@pytest.mark.parametrize("workers", [1, 2])
def test_interrupted_it_hands_out_what_came(server: str, workers: int) -> None:
    with parent_of_workers(server, workers) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == "under way\n"
        parent.send_signal(signal.SIGINT)
        out = parent.communicate(timeout=60)[0]
    assert out.splitlines()[-1].startswith("interrupted True True")
