"""The live figures of a sweep, as Prometheus' own parser reads them."""

from __future__ import annotations

import json
import re
import threading
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from loadgen.errors import BadInput
from loadgen.live import prometheus
from loadgen.live.prometheus import LiveMetrics, MetricsPort
from loadgen.telemetry import exporter


class Heard:
    """A watcher that remembers which events reached it."""

    def __init__(self) -> None:
        self.events: list[str] = []

    def __getattr__(self, name: str) -> Any:
        return lambda *_args: self.events.append(name)


def read(text: str) -> dict[str, float]:
    found = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels = ",".join(f"{key}={value}" for key, value in sorted(sample.labels.items()))
            found[f"{sample.name}{{{labels}}}" if labels else sample.name] = sample.value
    return found


def test_the_page_counts_what_the_console_is_told(build: Any) -> None:
    heard = Heard()
    metrics = LiveMetrics(heard)  # type: ignore[arg-type]
    trial = build.trial(batch=2)
    metrics.plan([trial], [])
    metrics.trial(trial)
    metrics.sample(build.sample(0, phase="warmup", tokens=(20, 20)), 1)
    metrics.sample(build.sample(1, tokens=(20, 20), e2e_ms=100, ttft_ms=10), 2)
    metrics.sample(build.sample(2, tokens=(20, 20), e2e_ms=700, ttft_ms=None), 3)
    metrics.sample(build.sample(3, error="TimedOut: total"), 2)
    found = read(metrics.text())
    assert found["loadgen_trials_planned"] == 1
    assert found["loadgen_in_flight_requests"] == 2
    assert found["loadgen_requests_total{outcome=ok,phase=measured}"] == 2
    assert found["loadgen_requests_total{outcome=ok,phase=warmup}"] == 1
    assert found["loadgen_requests_total{outcome=failed,phase=measured}"] == 1
    assert (found["loadgen_output_tokens_total"], found["loadgen_input_tokens_total"]) == (80, 80)
    assert found["loadgen_e2e_latency_seconds_count"] == 2
    assert found["loadgen_e2e_latency_seconds_sum"] == pytest.approx(0.8)
    assert found["loadgen_e2e_latency_seconds_bucket{le=0.1}"] == 1
    assert found["loadgen_e2e_latency_seconds_bucket{le=0.5}"] == 1
    assert found["loadgen_e2e_latency_seconds_bucket{le=1.0}"] == 2
    assert found["loadgen_time_to_first_token_seconds_count"] == 1
    (info,) = [name for name in found if name.startswith("loadgen_trial_info")]
    assert f"trial={trial.id}" in info
    assert "framework=hf" in info
    metrics.result(build.result(trial, failure=build.out_of_memory))
    later = read(metrics.text())
    assert later["loadgen_trials_total{outcome=failed}"] == 1
    assert later["loadgen_in_flight_requests"] == 0
    assert not [name for name in later if name.startswith("loadgen_trial_info")]
    assert heard.events == ["plan", "trial", *["sample"] * 4, "result"]


def test_a_sweep_that_nobody_scrapes_does_not_grow(build: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prometheus, "BACKLOG", 8)
    metrics = LiveMetrics(Heard())  # type: ignore[arg-type]
    for seq in range(100):
        metrics.sample(build.sample(seq), 1)
        assert len(metrics._fresh) <= 8
    assert read(metrics.text())["loadgen_requests_total{outcome=ok,phase=measured}"] == 100


def test_scrapes_side_by_side_count_nothing_twice(build: Any) -> None:
    metrics = LiveMetrics(Heard())  # type: ignore[arg-type]
    with MetricsPort(metrics, 0) as place:
        scrapers = [
            threading.Thread(target=httpx.get, args=(place.url,), kwargs={"trust_env": False})
            for _ in range(6)
        ]
        for scraper in scrapers:
            scraper.start()
        for seq in range(500):
            metrics.sample(build.sample(seq), 1)
        for scraper in scrapers:
            scraper.join()
        reply = httpx.get(place.url, trust_env=False)
        assert read(reply.text)["loadgen_e2e_latency_seconds_count"] == 500
        assert reply.headers["content-type"] == prometheus.CONTENT_TYPE
        assert httpx.get(place.url.removesuffix("metrics"), trust_env=False).status_code == 404
        with pytest.raises(BadInput, match="--metrics-port"):
            MetricsPort(metrics, int(place.url.split(":")[2].split("/")[0]))
    with pytest.raises(httpx.TransportError):
        httpx.get(place.url, trust_env=False)


def test_labels_are_escaped() -> None:
    assert prometheus.shown_labels({"model": 'a "b"\\\n'}) == '{model="a \\"b\\"\\\\\\n"}'


def test_every_query_of_the_dashboard_asks_for_a_metric_that_somebody_exports(build: Any) -> None:
    dashboard = json.loads((Path(__file__).parents[2] / "docs" / "grafana.json").read_text())
    asked = {
        name
        for panel in dashboard["panels"]
        for target in panel["targets"]
        for name in re.findall(r"\b(?:loadgen|DCGM)_\w+", target["expr"])
    }
    metrics = LiveMetrics(Heard())  # type: ignore[arg-type]
    metrics.trial(build.trial())
    told = set(re.findall(r"^# TYPE (\w+)", metrics.text(), flags=re.M)) | {
        row[0] for row in exporter.GPU_GAUGES
    }
    tree = {"cpu_seconds_total", "resident_memory_bytes", "proportional_memory_bytes"}
    told |= {f"loadgen_process_tree_{name}" for name in tree}
    assert len(asked) > 10
    assert {name.removesuffix("_bucket") for name in asked} <= told
