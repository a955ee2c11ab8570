"""The live figures of a sweep, as Prometheus' own parser reads them."""

from __future__ import annotations

import re
import threading
from dataclasses import replace
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from loadgen.errors import BadInput
from loadgen.live import prometheus
from loadgen.live.prometheus import LiveMetrics, MetricsPort


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
    found, own = read(metrics.text()), f"trial={trial.id}"
    assert found["loadgen_trials_planned"] == 1
    assert found[f"loadgen_in_flight_requests{{{own}}}"] == 2
    assert found[f"loadgen_requests_total{{outcome=ok,phase=measured,{own}}}"] == 2
    assert found[f"loadgen_requests_total{{outcome=ok,phase=warmup,{own}}}"] == 1
    assert found[f"loadgen_requests_total{{outcome=failed,phase=measured,{own}}}"] == 1
    assert (
        found[f"loadgen_output_tokens_total{{{own}}}"] == found[f"loadgen_input_tokens_total{{{own}}}"] == 80
    )
    assert found[f"loadgen_trial_duration_seconds{{{own}}}"] == pytest.approx(0.7)
    assert found[f"loadgen_e2e_latency_seconds_count{{{own}}}"] == 2
    assert found[f"loadgen_e2e_latency_seconds_sum{{{own}}}"] == pytest.approx(0.8)
    assert found[f"loadgen_e2e_latency_seconds_bucket{{le=0.1,{own}}}"] == 1
    assert found[f"loadgen_e2e_latency_seconds_bucket{{le=1,{own}}}"] == 2
    assert found[f"loadgen_time_to_first_token_seconds_count{{{own}}}"] == 1
    assert found[f"loadgen_time_per_output_token_seconds_sum{{{own}}}"] == pytest.approx(0.09 / 19)
    (info,) = [name for name in found if name.startswith("loadgen_trial_info")]
    assert own in info
    assert "framework=hf" in info
    metrics.result(build.result(trial, failure=build.out_of_memory))
    later = read(metrics.text())
    assert later["loadgen_trials_total{outcome=failed}"] == 1
    assert later[f"loadgen_in_flight_requests{{{own}}}"] == later[f"loadgen_trial_running{{{own}}}"] == 0
    assert later[f"loadgen_e2e_latency_seconds_count{{{own}}}"] == 2  # its end is told
    assert heard.events == ["plan", "trial", *["sample"] * 4, "result"]


def test_what_can_fail_is_0_before_it_does(build: Any) -> None:
    """A rate needs the point before the first failure, and a panel without a line says nothing."""
    metrics = LiveMetrics(Heard())  # type: ignore[arg-type]
    metrics.trial(build.trial())
    found = read(metrics.text())
    assert {name: value for name, value in found.items() if "outcome" in name and value} == {}
    assert len([name for name in found if "outcome=failed" in name]) == 3  # trials; requests of either phase
    assert not [name for name in found if name.startswith("loadgen_trial_duration")]  # absent, not 0


def test_tokens_that_nobody_counted_are_absent(build: Any) -> None:
    metrics = LiveMetrics(Heard())  # type: ignore[arg-type]
    metrics.trial(build.trial())
    sample = build.sample(0)
    metrics.sample(replace(sample, reply=replace(sample.reply, output_tokens=None)), 1)
    assert "\nloadgen_output_tokens_total{" not in metrics.text()


def test_a_trial_leaves_the_page_a_minute_after_its_end(build: Any) -> None:
    now_s = 0.0
    metrics = LiveMetrics(Heard(), lambda: now_s)  # type: ignore[arg-type]

    def shown() -> list[str]:
        return re.findall(r'^loadgen_trial_running{trial="(.*)"}', metrics.text(), flags=re.M)

    for name in "abc":
        metrics.trial(replace(build.trial(), id=name))
        metrics.sample(build.sample(0), 1)
        metrics.result(build.result(build.trial()))
        now_s += 1
    metrics.trial(replace(build.trial(), id="d"))
    assert shown() == ["a", "b", "c", "d"]  # shorter than a scrape's interval, and told all the same
    now_s = prometheus.KEPT_S + 1
    assert shown() == ["b", "c", "d"]
    now_s = 1e6
    assert shown() == ["d"]


def test_a_sweep_that_nobody_scrapes_does_not_grow(build: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prometheus, "BACKLOG", 8)
    metrics = LiveMetrics(Heard())  # type: ignore[arg-type]
    trial = build.trial()
    metrics.trial(trial)
    for seq in range(100):
        metrics.sample(build.sample(seq), 1)
        assert metrics._running is not None
        assert len(metrics._running.fresh) <= 8
    assert read(metrics.text())[f"loadgen_e2e_latency_seconds_count{{trial={trial.id}}}"] == 100
    for _ in range(2 * prometheus.KEPT):
        metrics.trial(trial)
        metrics.result(build.result(trial))
    assert len(metrics._ended) == prometheus.KEPT


def test_scrapes_side_by_side_count_nothing_twice(build: Any) -> None:
    metrics = LiveMetrics(Heard())  # type: ignore[arg-type]
    trial = build.trial()
    metrics.trial(trial)
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
        assert read(reply.text)[f"loadgen_e2e_latency_seconds_count{{trial={trial.id}}}"] == 500
        assert reply.headers["content-type"] == prometheus.CONTENT_TYPE
        assert httpx.get(place.url.removesuffix("metrics"), trust_env=False).status_code == 404
        with pytest.raises(BadInput, match="--metrics-port"):
            MetricsPort(metrics, int(place.url.split(":")[2].split("/")[0]))
    with pytest.raises(httpx.TransportError):
        httpx.get(place.url, trust_env=False)
