"""A real Prometheus server scrapes the exporter and a sweep's live figures, and a trial reads it back."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import httpx
import pytest

from loadgen.errors import BadInput
from loadgen.launch.process import free_ports
from loadgen.live.console import PlainConsole
from loadgen.live.prometheus import LiveMetrics, MetricsPort
from loadgen.metrics.summary import Accumulator
from loadgen.results.store import Results, open_results
from loadgen.system.environment import read_gpus
from loadgen.telemetry.promql import Prometheus
from loadgen.telemetry.scrapes import read_scrapes

DASHBOARD = json.loads((Path(__file__).parents[2] / "docs" / "grafana.json").read_text())
PROGRAM = shutil.which("prometheus")
needs_prometheus = pytest.mark.skipif(
    PROGRAM is None, reason="no prometheus here (apt-get install prometheus)"
)
CONFIG = """
global: {{ scrape_interval: 200ms, scrape_timeout: 200ms }}
scrape_configs:
  - job_name: exporter
    static_configs: [{{ targets: ["127.0.0.1:{exporter}"] }}]
  - job_name: sweep
    static_configs: [{{ targets: ["127.0.0.1:{sweep}"] }}]
"""
PROFILE = """
name = "p"
[server]
framework = "null"
model = "tiny"
dtype = "float32"
gpus = []
[server.options]
ttft_ms = 20
itl_ms = 20
[sweep]
mode = "closed"
concurrency = [2, 3]
input_tokens = 8
output_tokens = 20
requests = 12
warmup = 1
[telemetry]
prometheus = "http://127.0.0.1:{prometheus}"
selector = 'job="exporter"'
exporter_port = {exporter}
"""


class Ports:
    def __init__(self) -> None:
        self.prometheus, self.exporter, self.sweep = free_ports(3)
        self.url = f"http://127.0.0.1:{self.prometheus}"
        self.began_s = time.time()


def query(ports: Ports, words: str) -> list[Any]:
    reply = httpx.get(f"{ports.url}/api/v1/query", params={"query": words}, trust_env=False)
    found: list[Any] = reply.json()["data"]["result"]
    return found


@pytest.fixture(scope="module")
def ports(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ports]:
    assert PROGRAM is not None
    ports, folder = Ports(), tmp_path_factory.mktemp("prometheus")
    (folder / "p.yml").write_text(CONFIG.format(exporter=ports.exporter, sweep=ports.sweep))
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [
                PROGRAM,
                f"--config.file={folder / 'p.yml'}",
                f"--storage.tsdb.path={folder / 'data'}",
                f"--web.listen-address=127.0.0.1:{ports.prometheus}",
            ],
            stdout=log,
            stderr=log,
        )
    try:
        deadline = time.monotonic() + 60
        while not ready(ports):
            assert process.poll() is None, (folder / "log").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.05)
        yield ports
    finally:
        process.terminate()
        process.wait(30)


def ready(ports: Ports) -> bool:
    """Whether it scrapes both targets, which nobody serves yet; it begins some seconds after it answers."""
    try:
        reply = httpx.get(f"{ports.url}/-/ready", trust_env=False)
        return reply.is_success and len(query(ports, "up")) == 2
    except httpx.TransportError:
        return False


@pytest.fixture(scope="module")
def swept(ports: Ports, tmp_path_factory: pytest.TempPathFactory) -> Results:
    """A sweep of two trials that Prometheus watched."""
    folder = tmp_path_factory.mktemp("swept")
    profile = PROFILE.format(prometheus=ports.prometheus, exporter=ports.exporter)
    (folder / "p.toml").write_text(profile)
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "loadgen.cli",
            "sweep",
            "p.toml",
            "--no-report",
            "--metrics-port",
            str(ports.sweep),
        ],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"live figures for Prometheus: http://127.0.0.1:{ports.sweep}/metrics" in done.stderr
    assert f"while a server is up: http://127.0.0.1:{ports.exporter}/metrics" in done.stderr
    return open_results(folder / "results/p")


@needs_prometheus
def test_a_sweep_is_scraped_and_reads_itself_back(ports: Ports, swept: Results) -> None:
    """The exporter feeds Prometheus and no one else; what the trial knows of its server came back through PromQL."""
    results = swept
    for result in results.results():
        telemetry = result.telemetry
        assert telemetry is not None
        assert {source.url: source.failed for source in telemetry.sources}[ports.url] == 0
        stored = [s for s in read_scrapes(results.telemetry(result.trial.id)) if s.source == ports.url]
        metrics = {metric for scrape in stored for metric, _, _ in scrape.readings}
        assert {"server_rss_bytes", "server_cpu_s", "host_memory_used_bytes"} <= metrics
        # The same figures, read by the sampler at about the same times: the clocks were made one.
        direct = [s for s in read_scrapes(results.telemetry(result.trial.id)) if s.source != ports.url]
        assert direct[0].at_ns - 1e9 < stored[0].at_ns < stored[-1].at_ns < direct[-1].at_ns + 1e9
        assert len(stored) >= 3
        assert result.caveats == () or all(c.kind != "telemetry-gap" for c in result.caveats)

    # And what Prometheus kept of the sweep itself.
    def last(words: str) -> float:
        return max(float(series["value"][1]) for series in query(ports, f"max_over_time({words}[5m])"))

    assert last("loadgen_trials_planned") == 2
    assert 0 < last('loadgen_requests_total{phase="measured",outcome="ok"}') <= 24
    assert last("loadgen_in_flight_requests") in (2, 3)
    assert last("loadgen_output_tokens_total") % 20 == 0
    trials = {s["metric"]["trial"] for s in query(ports, "max_over_time(loadgen_trial_info[5m])")}
    assert trials == {result.trial.id for result in results.results()}


def drawn(ports: Ports, words: str, since_s: float) -> list[tuple[dict[str, str], list[float]]]:
    """What a panel draws: each line's labels and points."""
    asked = {
        "query": words.replace("$__rate_interval", "1s"),
        "start": since_s,
        "end": time.time(),
        "step": 0.2,
    }
    reply = httpx.get(f"{ports.url}/api/v1/query_range", params=asked, trust_env=False, timeout=60)
    assert reply.is_success, reply.text
    return [
        (each["metric"], [float(y) for _, y in each["values"]]) for each in reply.json()["data"]["result"]
    ]


@needs_prometheus
def test_every_panel_of_the_dashboard_draws_what_a_sweep_and_its_exporter_tell(
    ports: Ports, swept: Results
) -> None:
    targets = [target for panel in DASHBOARD["panels"] for target in panel["targets"]]
    assert len(targets) > 20
    for target in targets:
        lines = drawn(ports, target["expr"], ports.began_s)
        if "DCGM" in target["expr"] and not read_gpus()[0]:
            assert lines == []
        elif '"failed"' in target["expr"]:
            assert {point for _, points in lines for point in points} == {0.0}
        elif "_count >= 100" not in target["expr"]:  # these trials have 12 requests
            assert lines, target["expr"]
            shown = re.findall(r"{{(\w+)}}", target["legendFormat"])
            assert all(labels.get(name) for labels, _ in lines for name in shown), target["legendFormat"]


SCALES_S = (60e-6, 4e-3, 0.101, 7.0, 190.0)  # coarse buckets once told 175 ms for 101


@needs_prometheus
def test_quantiles_on_the_dashboard_are_the_reports(ports: Ports, build: Any) -> None:
    metrics, exact, random = LiveMetrics(PlainConsole(io.StringIO())), {}, Random(1)
    for scale in SCALES_S:
        trial = replace(build.trial(), id=f"{scale:g}")
        accumulator = Accumulator()
        metrics.trial(trial)
        for seq in range(400):
            e2e_ms = scale * 1e3 * (1 if scale == 0.101 else random.lognormvariate(0, 0.5))
            sample = build.sample(seq, e2e_ms=e2e_ms, ttft_ms=e2e_ms * random.uniform(0.05, 0.4))
            accumulator.add(sample)
            metrics.sample(sample, 1)
        metrics.result(build.result(trial))
        exact[trial.id] = accumulator.summary()
    began_s = time.time()
    with MetricsPort(metrics, ports.sweep):
        deadline = time.monotonic() + 60
        while not exact.keys() <= {each["metric"]["trial"] for each in query(ports, "loadgen_trial_info")}:
            assert time.monotonic() < deadline
            time.sleep(0.1)
    panels = {panel["title"]: panel for panel in DASHBOARD["panels"]}
    for title, name in (
        ("E2E latency", "e2e_s"),
        ("Time to first token", "ttft_s"),
        ("Time per output token", "tpot_s"),
    ):
        for target, percent in zip(panels[title]["targets"], ("p50", "p90", "p99"), strict=True):
            told = {labels["trial"]: points[-1] for labels, points in drawn(ports, target["expr"], began_s)}
            for trial_id, summary in exact.items():
                right = getattr(getattr(summary, name), percent)
                assert told[trial_id] == pytest.approx(right, rel=0.05), (title, percent, trial_id)


@needs_prometheus
def test_raw_samples_come_back_with_the_times_of_their_scrapes(ports: Ports) -> None:
    source = Prometheus(ports.url, 'job="exporter"')
    source.check()
    command = [
        sys.executable,
        "-m",
        "loadgen.cli",
        "exporter",
        "--port",
        str(ports.exporter),
        "--pid",
        str(os.getpid()),
    ]
    began_ns = time.monotonic_ns()
    with subprocess.Popen(command, stdout=subprocess.PIPE) as exporter:
        try:
            deadline = time.monotonic() + 60
            while len(found := source.read(began_ns, time.monotonic_ns())) < 5:
                assert time.monotonic() < deadline
                time.sleep(0.1)
        finally:
            exporter.terminate()
    assert {scrape.error for scrape in found} == {None}
    times = [scrape.at_ns for scrape in found]
    assert began_ns <= times[0]
    assert times == sorted(set(times))
    span_ns = times[-1] - times[0]
    assert (
        len(times) <= span_ns / 200e6 + 2
    )  # each sample once, at its own time: no grid filled up with repeats
    assert all(("server_rss_bytes", str(os.getpid())) in {r[:2] for r in scrape.readings} for scrape in found)
    empty = source.read(began_ns - 3_600_000_000_000, began_ns - 3_599_000_000_000)  # before it was up
    assert empty == []


@needs_prometheus
@pytest.mark.parametrize(
    ("selector", "said"), [('job="exporter', "parse error"), ("job=exporter", "parse error")]
)
def test_a_selector_that_is_none_is_bad_input(ports: Ports, selector: str, said: str) -> None:
    with pytest.raises(BadInput, match=said):
        Prometheus(ports.url, selector).check()


@needs_prometheus
def test_a_page_that_is_not_prometheus_is_bad_input(ports: Ports) -> None:
    with pytest.raises(BadInput, match="no JSON"):
        Prometheus(f"{ports.url}/graph").check()


def test_a_prometheus_that_is_not_there_is_bad_input_first_and_a_failed_scrape_later() -> None:
    (port,) = free_ports(1)
    source = Prometheus(f"http://127.0.0.1:{port}")
    with pytest.raises(BadInput, match="ConnectError"):
        source.check()
    (failed,) = source.read(0, time.monotonic_ns())
    assert failed.error is not None
    assert failed.readings == ()
