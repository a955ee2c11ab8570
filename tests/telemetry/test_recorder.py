"""Telemetry around real children: sources that hang, lie, change and vanish cost a caveat and nothing else."""

from __future__ import annotations

import http.server
import os
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest

from loadgen.records import Environment, Trial, TrialResult
from loadgen.results.rows import Rows
from loadgen.results.store import SampleWriter
from loadgen.telemetry.nvml import Gpu
from loadgen.telemetry.recorder import Recorder
from loadgen.telemetry.scrapes import read_scrapes
from loadgen.telemetry_records import TelemetrySpec

POWER = 'DCGM_FI_DEV_POWER_USAGE{gpu="0",UUID="GPU-a"} %s\n'
GPU = {"index": 0, "uuid": "GPU-a", "name": "H200"}
Answer = Callable[[http.server.BaseHTTPRequestHandler, int], None]


def environment(*gpus: dict[str, object]) -> Environment:
    return Environment(
        id="e", host="h", os="o", cpu="c", cpus=1, memory_bytes=1, gpus=gpus, driver=None, cuda=None, packages={},
        commit=None, argv=(), started="",
    )  # fmt: skip


def page(handler: http.server.BaseHTTPRequestHandler, text: str, status: int = 200) -> None:
    body = text.encode()
    handler.send_response(status)
    handler.send_header("Content-Length", str(len(body)))
    handler.end_headers()
    handler.wfile.write(body)


@contextmanager
def endpoint(answer: Answer) -> Iterator[str]:
    """A real server whose ``answer`` is given each request and its number."""
    count = iter(range(1 << 30))

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            try:
                answer(self, next(count))
            except OSError:
                self.close_connection = True  # the sampler has hung up, as it should

        def log_message(self, format: str, *args: object) -> None:
            return

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/metrics"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def record(
    build: Any,
    tmp_path: Path,
    *urls: str,
    trials: int = 1,
    during: Callable[[], None] = lambda: time.sleep(0.3),
    exporter: bool = False,
    gpus: tuple[dict[str, object], ...] = (GPU,),
    before: tuple[Gpu, ...] = (),
    pid: int | None = None,
) -> list[TrialResult]:
    """Trials of which each holds one real sample of what ``during`` takes."""
    spec = TelemetrySpec(sources=urls, period_s=0.05, exporter=exporter)
    trial = build.trial()
    tmp_path.mkdir(exist_ok=True)
    results = []
    with Recorder(
        spec,
        server=trial.server,
        environment=environment(*gpus),
        pid=pid,
        metrics_url=None,
        before=before,
        page=lambda: {},
    ) as recorder:
        for number in range(trials):
            recorder.begin()
            writer = SampleWriter(tmp_path / f"{number}.parquet")
            sent_ms = time.monotonic_ns() / 1e6
            during()
            took_ms = time.monotonic_ns() / 1e6 - sent_ms
            writer.add(build.sample(0, sent_ms=sent_ms, e2e_ms=took_ms, ttft_ms=took_ms / 2))
            writer.close()
            into = tmp_path / "telemetry" / f"{number}.parquet"
            results.append(recorder.finish(build.result(trial), tmp_path / f"{number}.parquet", into))
    return results


def test_a_server_whose_first_page_is_zeros_is_not_blind(build: Any, tmp_path: Path) -> None:
    """Triton's first pages, before its own look at the GPUs; the same page throughout is a source that is blind."""
    text = (Path(__file__).parents[1] / "data" / "scrapes" / "triton-blind.txt").read_text()
    seen = re.sub(r"(nv_gpu_memory_total_bytes\{.*\}) 0", r"\1 150754820096", text)
    looked = threading.Event()

    def during() -> None:
        time.sleep(0.2)
        looked.set()
        time.sleep(0.3)

    with endpoint(lambda handler, _number: page(handler, seen if looked.is_set() else text)) as url:
        (result,) = record(build, tmp_path / "late", url, during=during)
    assert "telemetry-blind" not in messages(result)
    with endpoint(lambda handler, _number: page(handler, text)) as url:
        (result,) = record(build, tmp_path / "never", url)
    assert "telemetry-blind" in messages(result)


def messages(result: TrialResult) -> dict[str, str]:
    return {caveat.kind: caveat.message for caveat in result.caveats}


def alone(trial: Trial, url: str) -> Recorder:
    """A recorder of one source, without exporter and processes."""
    return Recorder(
        TelemetrySpec(sources=(url,), exporter=False),
        server=trial.server,
        environment=environment(GPU),
        pid=None,
        metrics_url=None,
        before=(),
        page=lambda: {},
    )


def test_a_source_is_read_and_stored_on_the_samples_clock(build: Any, tmp_path: Path) -> None:
    began_ns = time.monotonic_ns()
    records = '[{"iter": 7, "inflightBatchingStats": {"numScheduledRequests": 3}}]'
    with (
        endpoint(lambda handler, n: page(handler, POWER % 300)) as url,
        endpoint(lambda handler, n: page(handler, "[]" if n % 2 else records)) as emptied,
    ):
        first, second = record(build, tmp_path, url, emptied, trials=2)
    assert first.telemetry is not None
    assert second.telemetry is not None
    assert (first.caveats, second.caveats) == ((), ()), "a page of records that is empty is no fault"
    assert first.telemetry.phases["load"].power_mean_w == second.telemetry.phases["load"].power_mean_w == 300
    # Of so short a load power readings tell neither mean nor energy.
    assert first.telemetry.power_w is first.telemetry.energy_from is None
    assert first.telemetry.joules_per_output_token is None
    every = [read_scrapes(Rows(tmp_path / "telemetry" / f"{number}.parquet")) for number in range(2)]
    told = {reading for scrape in every[0] if scrape.source == emptied for reading in scrape.readings}
    assert told == {("engine_steps", "engine", 7.0), ("engine_running", "engine", 3.0)}
    stored = [[scrape for scrape in scrapes if scrape.source == url] for scrapes in every]
    assert began_ns < stored[0][0].at_ns < stored[0][-1].at_ns < stored[1][0].at_ns < time.monotonic_ns()
    assert all(scrape.readings == (("gpu_power_w", "GPU-a", 300.0),) for scrape in stored[0])
    figures = {source.url: source.scrapes for source in first.telemetry.sources}
    assert figures[url] == len(stored[0]) >= 3
    assert first.telemetry.cpu_cores is not None


def hang(handler: http.server.BaseHTTPRequestHandler, number: int) -> None:
    handler.rfile.read(1)  # until the other side gives up


def drip(handler: http.server.BaseHTTPRequestHandler, number: int) -> None:
    """Promises a page, and sends it a byte at a time: no read ever times out."""
    handler.send_response(200)
    handler.end_headers()
    while True:
        handler.wfile.write(b"#")
        time.sleep(0.05)


def flood(handler: http.server.BaseHTTPRequestHandler, number: int) -> None:
    handler.send_response(200)
    handler.end_headers()
    while True:
        handler.wfile.write(b"# " + b"x" * (1 << 20) + b"\n")


def html(handler: http.server.BaseHTTPRequestHandler, number: int) -> None:
    page(handler, "<html>please log in</html>")


def fail(handler: http.server.BaseHTTPRequestHandler, number: int) -> None:
    page(handler, POWER % 999, status=503)


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (hang, "no whole answer within"),
        (drip, "no whole answer within"),
        (flood, "a page of more than|no whole answer"),
        (html, "no metric that loadgen knows"),
        (fail, "HTTP 503"),
    ],
)
def test_a_bad_source_costs_a_caveat_and_holds_up_no_other(
    build: Any, tmp_path: Path, answer: Answer, said: str
) -> None:
    with endpoint(answer) as bad, endpoint(lambda handler, n: page(handler, POWER % 300)) as good:
        (result,) = record(build, tmp_path, bad, good)
    assert result.telemetry is not None
    assert result.telemetry.phases["load"].power_mean_w == 300
    told = [caveat.message for caveat in result.caveats]
    assert len(told) == 1
    assert re.search(f"{said}|gave no scrape", told[0])
    assert bad in told[0]
    figures = {source.url: source for source in result.telemetry.sources}
    assert figures[good].failed == 0
    assert figures[good].scrapes >= 3


def test_a_source_that_lies_or_changes_its_mind(build: Any, tmp_path: Path) -> None:
    """Every other page says something that cannot be, under another type."""

    def answer(handler: http.server.BaseHTTPRequestHandler, number: int) -> None:
        kind, value = ("gauge", 300) if number % 2 else ("counter", "NaN")
        page(handler, f"# TYPE DCGM_FI_DEV_POWER_USAGE {kind}\n" + POWER % value)

    with endpoint(answer) as url:
        (result,) = record(build, tmp_path, url)
    assert result.telemetry is not None
    assert result.telemetry.phases["load"].power_mean_w == 300
    assert list(messages(result)) == ["telemetry-refused"]
    assert "DCGM_FI_DEV_POWER_USAGE = nan" in messages(result)["telemetry-refused"]


def test_a_source_that_vanishes_in_mid_trial(build: Any, tmp_path: Path) -> None:

    def answer(handler: http.server.BaseHTTPRequestHandler, number: int) -> None:
        page(handler, POWER % 300)

    with endpoint(answer) as url, ExitStack() as leave:
        other = leave.enter_context(endpoint(lambda handler, n: page(handler, POWER % 200)))

        def during() -> None:
            leave.close()
            time.sleep(0.3)

        (result,) = record(build, tmp_path, other, url, during=during)
    assert result.telemetry is not None
    figures = {source.url: source for source in result.telemetry.sources}
    assert figures[other].failed >= 1
    assert figures[url].failed == 0
    assert "ConnectError" in messages(result)["telemetry-gap"]
    assert (
        result.telemetry.phases["load"].power_mean_w == 300
    )  # by the one that spoke throughout, though the other was named first


def test_the_exporter_tells_the_servers_tree(build: Any, tmp_path: Path) -> None:
    (result,) = record(build, tmp_path, exporter=True, gpus=(), pid=os.getpid())
    assert result.telemetry is not None
    assert result.caveats == ()
    assert result.telemetry.cpu_memory_from == "pss after the load"
    assert result.telemetry.cpu_memory_bytes is not None
    assert 10 << 20 < result.telemetry.cpu_memory_bytes < 64 << 30
    assert result.telemetry.power_w is None
    assert result.telemetry.gpu_memory_bytes is None
    assert result.telemetry.gpus == ()


def test_a_gpu_that_was_in_use_before_is_a_caveat_of_every_trial(build: Any, tmp_path: Path) -> None:
    busy = Gpu(index=0, uuid="GPU-a", name="H200", memory_total_bytes=140 << 30, memory_used_bytes=9 << 30)
    with endpoint(lambda handler, n: page(handler, POWER % 300)) as url:
        results = record(build, tmp_path, url, trials=2, before=(busy,))
    assert [list(messages(result)) for result in results] == [["gpu-not-idle"]] * 2


def children() -> list[psutil.Process]:
    return psutil.Process().children(recursive=True)


def test_children_that_die_cost_a_caveat_and_none_outlives_the_recorder(build: Any, tmp_path: Path) -> None:
    others = children()  # servers that tests of other files share

    def kill() -> None:
        killed = [child for child in children() if child not in others]
        for child in killed:
            child.kill()
        while any(child.status() != psutil.STATUS_ZOMBIE for child in killed):  # the recorder reaps them
            time.sleep(0.01)

    (result,) = record(build, tmp_path, exporter=True, during=kill, pid=os.getpid())
    told = [caveat.message for caveat in result.caveats if caveat.kind == "telemetry-gap"]
    assert any("sampler ended" in message for message in told)
    assert any("exporter ended" in message for message in told)
    assert [child for child in children() if child not in others] == []


def test_an_exporter_that_cannot_start_is_told(build: Any, tmp_path: Path) -> None:
    with endpoint(lambda handler, n: page(handler, POWER % 300)) as url:
        spec = TelemetrySpec(sources=(url,), exporter_port=int(url.split(":")[2].split("/")[0]))
        trial = build.trial()
        with Recorder(
            spec,
            server=trial.server,
            environment=environment(GPU),
            pid=None,
            metrics_url=None,
            before=(),
            page=lambda: {},
        ) as recorder:
            recorder.begin()
            result = recorder.finish(build.result(trial), tmp_path / "none", tmp_path / "t.parquet")
    assert "cannot listen" in messages(result)["telemetry-gap"]
    assert read_scrapes(Rows(tmp_path / "t.parquet"))


def test_a_trial_that_failed_keeps_its_failure_and_its_telemetry(build: Any, tmp_path: Path) -> None:
    trial = build.trial()
    with (
        endpoint(lambda handler, n: page(handler, POWER % 300)) as url,
        alone(trial, url) as recorder,
    ):
        recorder.begin()
        failed = build.result(trial, failure=build.out_of_memory)
        result = recorder.finish(failed, tmp_path / "none", tmp_path / "t.parquet")
    assert result.failure == build.out_of_memory
    assert result.telemetry is None  # no sample says when its load was
    assert read_scrapes(Rows(tmp_path / "t.parquet"))


def test_a_torn_samples_file_costs_the_telemetry_and_not_the_result(build: Any, tmp_path: Path) -> None:
    trial = build.trial()
    (tmp_path / "torn.parquet").write_bytes(b"PAR1 and no more")
    with (
        endpoint(lambda handler, n: page(handler, POWER % 300)) as url,
        alone(trial, url) as recorder,
    ):
        recorder.begin()
        result = recorder.finish(build.result(trial), tmp_path / "torn.parquet", tmp_path / "t.parquet")
    assert result.summary is not None
    assert result.telemetry is None
    assert "could not be summed up" in messages(result)["telemetry-gap"]


class TestPeaks:
    """An engine whose calls mix: FastGen's page around a trial, over a real server."""

    def ledger(self, build: Any, tmp_path: Path, status: int) -> tuple[TrialResult, list[str]]:
        posted: list[str] = []
        figures = {"allocated_bytes": 5, "peak_allocated_bytes": 90, "reserved_bytes": 95}
        figures |= {"call_peak_allocated_bytes": 50, "kv_needed_bytes": 3, "kv_reserved_bytes": 30}

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                posted.append(self.path)
                page(self, "{}", status)

            def log_message(self, format: str, *args: object) -> None:
                return

        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        told = {
            "engine": "mii-fastgen",
            "reset_peaks_url": f"http://127.0.0.1:{server.server_port}/memory/reset",
            "memory": {"cuda": {"0": figures}},
        }
        trial = build.trial()
        samples = tmp_path / "0.parquet"
        try:
            with Recorder(
                TelemetrySpec(exporter=False),
                server=trial.server,
                environment=environment(GPU),
                pid=None,
                metrics_url=None,
                before=(),
                page=lambda: told,
            ) as recorder:
                recorder.begin()
                writer = SampleWriter(samples)
                writer.add(build.sample(0, sent_ms=time.monotonic_ns() / 1e6, e2e_ms=1, ttft_ms=0.5))
                writer.close()
                result = replace(build.result(trial), engine=told)
                return recorder.finish(result, samples, tmp_path / "t.parquet"), posted
        finally:
            server.shutdown()
            server.server_close()
            thread.join()

    def test_they_are_begun_anew_before_a_trial(self, build: Any, tmp_path: Path) -> None:
        result, posted = self.ledger(build, tmp_path, 200)
        assert posted == ["/memory/reset"]
        assert result.telemetry is not None
        assert result.telemetry.ledger is not None
        assert (result.telemetry.ledger.needed_bytes, result.telemetry.ledger.kv_bytes) == (23, 3)
        assert "memory peaks" not in str(messages(result))

    def test_those_of_an_unknown_time_are_not_used(self, build: Any, tmp_path: Path) -> None:
        result, _ = self.ledger(build, tmp_path, 500)
        assert result.telemetry is not None
        assert result.telemetry.ledger is not None
        assert (result.telemetry.ledger.needed_bytes, result.telemetry.ledger.kv_bytes) == (None, None)
        assert "memory peaks" in messages(result)["telemetry-gap"]
