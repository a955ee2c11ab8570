"""The largest batch that fits: the search itself, with a fake engine that runs out, and with the real one's limit."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from fake_engine import fake_engine
from hypothesis import given
from hypothesis import strategies as st

from loadgen.errors import ProfileError, StoreError
from loadgen.identity import point_of
from loadgen.launch import running
from loadgen.launch.endpoint import Endpoint
from loadgen.load_records import LoadSpec
from loadgen.metrics.engine_caveats import APART
from loadgen.plan.bisection import (
    Bisection,
    apart,
    begin,
    known_results,
    memory_of,
    probe,
    verdict_of,
    words,
)
from loadgen.plan.plan import Plan, make_plan
from loadgen.profile.read import build_profile
from loadgen.records import Caveat, Environment, Failure, ServerSpec
from loadgen.report.archive import keep
from loadgen.report.html import write_html
from loadgen.report.markdown import write_report
from loadgen.results import max_batch_log
from loadgen.results.store import Store, open_results
from loadgen.search_records import Search
from loadgen.sweeping.sweep import Sweep
from loadgen.telemetry_records import TelemetrySpec
from loadgen.theory.models import PRESETS, kv_bytes_per_token, weight_bytes

LOAD = LoadSpec(kind="static", input_tokens=4, output_tokens=3, requests=1, warmup=0, stream=False)
TINY = ServerSpec(framework="hf", model=PRESETS["tiny"], dtype="float32")
ENVIRONMENT = Environment(
    id="e", host="h", os="o", cpu="c", cpus=1, memory_bytes=16 << 30, gpus=(), driver=None, cuda=None, packages={},
    commit=None, argv=(), started="",
)  # fmt: skip


@given(
    truth=st.integers(0, 5000),
    most=st.integers(1, 4096),
    start=st.integers(1, 4096),
    predicted=st.none() | st.integers(0, 9000),
    within=st.sampled_from([0.001, 0.01, 0.05, 0.5]),
)
def test_a_search_brackets_the_truth_and_ends(
    truth: int, most: int, start: int, predicted: int | None, within: float
) -> None:
    state = Bisection(most=most, within=within, start=start, predicted=predicted)
    tried = []
    while (batch := state.next()) is not None:
        assert 1 <= batch <= most
        assert batch not in tried
        tried.append(batch)
        state.learn(batch, "fits" if batch <= truth else "out of memory")
    assert len(tried) <= 2 * math.ceil(math.log2(most + 1)) + 3
    if truth >= most:
        assert (state.fits, state.limit) == (most, None)
        return
    assert state.limit is not None
    assert state.fits <= truth < state.limit
    assert state.limit - state.fits <= max(1, within * state.fits)
    assert set(tried) >= {state.limit} | ({state.fits} if state.fits else set())  # both were really tried


def test_what_is_known_is_not_tried_again() -> None:
    state = Bisection(most=4096, within=0.05)
    state.learn(64, "fits")
    state.learn(67, "out of memory")
    assert state.next() is None
    state = Bisection(most=4096, within=0.05)
    state.learn(64, "fits")
    state.learn(128, "out of memory")
    assert 64 < (state.next() or 0) < 128


def test_the_start_is_below_what_weights_and_cache_alone_would_fill() -> None:
    server = ServerSpec(framework="hf", model=PRESETS["llama-13b"], tp=2, gpus=(0, 1))
    search = Search(server=server, load=replace(LOAD, input_tokens=500, output_tokens=12))
    gpus = [{"index": at, "memory_bytes": 80 << 30} for at in range(2)]
    memory = memory_of(search, gpus, 1 << 40)
    assert memory == 80 << 30
    state = begin(search, memory)
    room = (80 << 30) - weight_bytes(server.model, "bfloat16", 2)
    assert state.predicted == room // (512 * kv_bytes_per_token(server.model, "bfloat16", 2))
    assert state.start == int(0.8 * state.predicted)
    assert memory_of(search, gpus[:1], 1 << 40) is None
    assert begin(search, None).start == 1


def test_on_the_cpu_the_host_is_not_driven_out_of_memory() -> None:
    server = replace(TINY, model=PRESETS["llama-7b"])
    search = Search(server=server, load=replace(LOAD, input_tokens=1000, output_tokens=24))
    state = begin(search, memory_of(search, (), 64 << 30))
    room = (32 << 30) - weight_bytes(server.model, "float32")
    assert state.most == room // (1024 * kv_bytes_per_token(server.model, "float32"))
    assert (state.start, begin(search, 1 << 30).most) == (1, 1)


def profile(**tables: Any) -> Any:
    given = {
        "server": {"framework": "hf", "model": "tiny", "gpus": [], "max_batch": "auto"},
        "load": {"input_tokens": 4, "output_tokens": 4},
    }
    return build_profile(given | tables, file="p.toml")


def test_one_search_for_every_server_and_pair_of_lengths() -> None:
    found = profile(
        sweep={"input_tokens": [4, 8], "batch_size": [1, 2], "options": {"engine": ["generate", "compiled"]}},
        load={"output_tokens": 4, "repeat": 2},
        bisection={"most": 100, "within": 0.01},
    )
    searches = make_plan(found).searches
    assert [(s.load.input_tokens, s.server.options["engine"]) for s in searches] == [
        (4, "generate"), (4, "compiled"), (8, "generate"), (8, "compiled")
    ]  # fmt: skip
    assert {(s.most, s.within, s.load.requests, s.load.warmup) for s in searches} == {(100, 0.01, 1, 0)}
    assert {s.server.max_batch for s in searches} == {None}
    plain = profile(
        server={"framework": "hf", "model": "tiny", "gpus": []}, load={"input_tokens": 4, "output_tokens": 4}
    )
    assert make_plan(plain).searches == ()
    assert [t.id for t in make_plan(plain).trials] == [t.id for t in make_plan(profile()).trials]


def test_one_framework_alone_can_be_searched() -> None:
    found = profile(
        server={"model": "tiny", "gpus": [], "max_batch": 64},
        frameworks={"hf": {"max_batch": "auto"}},
        sweep={"framework": ["hf", "triton"]},
    )
    assert [search.server.framework for search in found.searches] == ["hf"]
    assert {cell.server.framework: cell.server.max_batch for cell in found.cells} == {
        "hf": None,
        "triton": 64,
    }


@pytest.mark.parametrize(
    ("tables", "said"),
    [
        ({"server": {"framework": "hf", "model": "tiny", "gpus": [], "max_batch": "most"}},
         r"server.max_batch = 'most': is neither a number nor 'auto' (accepted: whole numbers from 1, auto)"),
        ({"load": {"input_tokens": 4, "output_tokens": 4, "mode": "closed"}},
         "server.max_batch = 'auto': has no static batch to find the largest of (accepted: mode = 'static')"),
        ({"bisection": {"within": 1.5}}, "bisection.within = 1.5: is more than all of it"),
        ({"bisection": {"least": 1}}, "bisection.least: is not a key here"),
        ({"bisection": {"most": 8}, "server": {"framework": "hf", "model": "tiny", "gpus": []}},
         'bisection: has no effect without max_batch = "auto"'),
    ],
)  # fmt: skip
def test_mistakes_are_told(tables: dict[str, Any], said: str) -> None:
    with pytest.raises(ProfileError) as caught:
        profile(**tables)
    assert said in str(caught.value)


def test_what_speaks_of_a_point(build: Any) -> None:
    search = Search(server=TINY, load=LOAD)

    def result(batch: int, failure: Failure | None = None, **load: Any) -> Any:
        trial = probe(search, batch)
        return build.result(replace(trial, load=replace(trial.load, **load)), failure=failure)

    refused = Failure(error="Refused", message="400", phase="load")
    lost = Failure(error="ServerDied", message="", phase="start")
    found = known_results(
        search,
        [
            result(1),
            result(2, requests=5, warmup=1),  # a trial of the plan says so too
            result(3, input_tokens=5),  # another point
            result(4, build.out_of_memory),
            result(5, refused, requests=5),  # a plan's trial may have failed for a reason of its own
            result(6, refused),
            result(7, lost),
            build.result(replace(probe(search, 8), server=replace(TINY, tp=2))),
            build.result(probe(search, 9), requests_failed=1),
        ],
    )
    assert sorted(found) == [1, 2, 4, 6]
    again = known_results(search, [result(4, build.out_of_memory), result(4, requests=5)])
    assert again[4].failure is not None, "what ran out once does not fit"
    assert point_of(probe(search, 9).load) == search.load


def test_a_batch_that_was_served_in_parts_does_not_fit(build: Any) -> None:
    whole = build.result(probe(Search(server=TINY, load=LOAD), 8))
    assert verdict_of(whole) == "fits"
    for kind in sorted(APART):
        doubted = replace(whole, caveats=(Caveat(kind=kind, message="not together", remedy="less"),))
        assert verdict_of(doubted) == "not served"
        assert apart(doubted) == "not together"
    few = replace(whole, caveats=(Caveat(kind="few-samples", message="", remedy=""),))
    assert verdict_of(few) == "fits"


@pytest.fixture
def starts(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Iterator[list[str]]:
    """Every start of a fake engine, which stands in for the server that a sweep starts; it holds 37 sequences."""
    counted: list[str] = []
    with fake_engine(getattr(request, "param", 37)) as url:

        def start(spec: ServerSpec, *_: object) -> tuple[Any, Endpoint]:
            counted.append("start")
            fake = SimpleNamespace(stop=lambda: None, pid=None, command=SimpleNamespace(argv=("x",)))
            return fake, Endpoint(base_url=url)

        monkeypatch.setattr(running, "start_server", start)
        yield counted


class Notes:
    """A watcher that keeps what it is told."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.results: list[Any] = []

    def note(self, message: str) -> None:
        self.notes.append(message)

    def result(self, result: Any) -> None:
        self.results.append(result)

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *_args: None


def run(folder: Path, plan: Plan, environment: Environment = ENVIRONMENT) -> Notes:
    watcher = Notes()
    with Store.create(folder, {"name": "r"}) as store:
        Sweep(
            plan=plan, store=store, watcher=watcher, environment=environment,  # type: ignore[arg-type]
            telemetry=TelemetrySpec(enabled=False),
        ).run()  # fmt: skip
    return watcher


def searching(**load: Any) -> Plan:
    """Two trials that fit, and the search for more."""
    search = Search(server=TINY, load=replace(LOAD, **load), most=4096, within=0.01)
    trials = tuple(probe(replace(search, load=replace(search.load, requests=3)), batch) for batch in (1, 4))
    return Plan(trials=trials, searches=(search,))


def test_a_sweep_finds_and_stores_the_largest_batch(starts: list[str], tmp_path: Path) -> None:
    watcher = run(tmp_path / "r", searching())
    (found,) = max_batch_log.outcomes(tmp_path / "r")
    assert (found.fits, found.out_of_memory, found.ended) == (37, 38, "out of memory")
    assert watcher.notes[-1] == words(found)
    assert "37 fits, 38 runs out of memory" in watcher.notes[-1]
    probes = {result.trial.load.batch_size: result for result in max_batch_log.probes(tmp_path / "r")}
    assert 1 not in probes, "the plan's own trials had told"
    assert [probes[37].trial.id, probes[38].trial.id] == [found.fits_trial, found.out_of_memory_trial]
    assert probes[37].summary is not None
    assert probes[37].summary.requests_ok == 1
    failures = {batch: result.failure and result.failure.error for batch, result in probes.items()}
    assert failures == {batch: None if batch <= 37 else "ServerOutOfMemory" for batch in probes}
    *earlier, _ = probes
    assert len(starts) == 1 + sum(batch > 37 for batch in earlier), "a new server after each that ran out"
    assert [r.trial.load.batch_size for r in watcher.results] == [1, 4], "probes are no trials of the plan"
    assert len(open_results(tmp_path / "r").results()) == 2
    before = len(starts)
    assert run(tmp_path / "r", searching()).notes == [words(found)]
    assert len(starts) == before
    assert max_batch_log.outcomes(tmp_path / "r") == [found]


def test_an_interrupted_search_goes_on_from_its_probes(starts: list[str], tmp_path: Path) -> None:
    run(tmp_path / "whole", searching())
    whole = (tmp_path / "whole" / max_batch_log.PROBES).read_bytes().split(b"\n")
    run(tmp_path / "part", Plan(trials=searching().trials))
    (tmp_path / "part" / max_batch_log.PROBES).write_bytes(b"\n".join(whole[:3]) + b"\n" + whole[3][:50])
    run(tmp_path / "part", searching())
    ids = [
        [json.loads(line)["trial"]["id"] for line in path.read_bytes().splitlines()]
        for path in (tmp_path / "part" / max_batch_log.PROBES, tmp_path / "whole" / max_batch_log.PROBES)
    ]
    assert ids[0] == ids[1]
    assert max_batch_log.outcomes(tmp_path / "part") == max_batch_log.outcomes(tmp_path / "whole")


def test_another_machines_probes_do_not_count(starts: list[str], tmp_path: Path) -> None:
    run(tmp_path / "r", searching())
    tried = len(max_batch_log.probes(tmp_path / "r"))
    lines = (tmp_path / "r" / max_batch_log.PROBES).read_bytes().count(b"\n")
    run(tmp_path / "r", searching(), replace(ENVIRONMENT, id="other", memory_bytes=8 << 30))
    assert len(max_batch_log.probes(tmp_path / "r")) >= tried
    assert (tmp_path / "r" / max_batch_log.PROBES).read_bytes().count(b"\n") > lines


@pytest.mark.parametrize("starts", [0], indirect=True)
def test_nothing_fits(starts: list[str], tmp_path: Path) -> None:
    run(tmp_path / "r", Plan(trials=searching().trials[:1], searches=searching().searches))
    (found,) = max_batch_log.outcomes(tmp_path / "r")
    assert (found.fits, found.fits_trial, found.out_of_memory, found.ended) == (
        None,
        None,
        1,
        "out of memory",
    )
    assert "no batch fits, 1 runs out of memory" in words(found)


def test_it_is_in_the_reports_and_in_what_is_kept(starts: list[str], tmp_path: Path) -> None:
    run(tmp_path / "r", searching())
    for text in (write_report(tmp_path / "r").read_text(), write_html([tmp_path / "r"]).read_text()):
        assert "Largest batch that fits" in text
        assert "memory, to within" in text
    keep([tmp_path / "r"], tmp_path / "kept")
    assert max_batch_log.outcomes(tmp_path / "kept") == max_batch_log.outcomes(tmp_path / "r")
    assert "Largest batch that fits" in write_report(tmp_path / "kept").read_text()


def test_a_broken_file_is_told(starts: list[str], tmp_path: Path) -> None:
    run(tmp_path / "r", searching())
    (tmp_path / "r" / max_batch_log.OUTCOMES).write_bytes(b"{}\n")
    with pytest.raises(StoreError, match=r"max_batch.jsonl: line 1 is not a MaxBatch"):
        write_report(tmp_path / "r")


def test_a_real_servers_own_limit_ends_the_search_in_its_words(tmp_path: Path) -> None:
    """The hf server with a capacity of 6 sequences refuses 7, and its memory has nothing to do with it."""
    server = replace(TINY, max_batch=6)
    search = Search(server=server, load=LOAD, most=64, within=0.01)
    run(tmp_path / "r", Plan(trials=(probe(search, 1),), searches=(search,)))
    (found,) = max_batch_log.outcomes(tmp_path / "r")
    assert (found.fits, found.out_of_memory, found.ended) == (6, None, "not served")
    assert found.why is not None
    assert "at most 6 (max_batch)" in found.why


PROFILE = """
name = "t"
[server]
framework = "null"
model = "tiny"
gpus = []
max_batch = "auto"
[load]
input_tokens = 8
output_tokens = 4
requests = 2
[bisection]
most = 8
[telemetry]
enabled = false
"""


def test_a_profile_from_end_to_end(tmp_path: Path) -> None:
    (tmp_path / "t.toml").write_text(PROFILE)
    command = [sys.executable, "-m", "loadgen.cli", "sweep", "t.toml"]
    shown = subprocess.run([*command, "--dry-run"], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert shown.returncode == 0, shown.stderr
    assert 'max_batch = "auto": largest batches' in shown.stdout
    assert "at most" in shown.stdout
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stdout + done.stderr
    (found,) = max_batch_log.outcomes(tmp_path / "results/t")
    assert (found.fits, found.out_of_memory, found.ended, found.most) == (8, None, "most", 8)
    assert [r.trial.load.batch_size for r in max_batch_log.probes(tmp_path / "results/t")] == [2, 4, 8]
    assert "8 fits, nothing above 8 was tried" in done.stderr
    assert done.stderr.count("null tiny tp1: ready") == 1
    assert "Largest batch that fits" in (tmp_path / "results/t/report.html").read_text()
