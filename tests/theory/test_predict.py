"""Predictions: the formulas against published figures, and honesty where nothing can be known."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from loadgen.load_records import LoadSpec
from loadgen.plan.plan import endpoint_trial, trial_of
from loadgen.profile.profile import Cell
from loadgen.records import ServerSpec, Trial
from loadgen.theory.ceilings import datasheet
from loadgen.theory.duration import START_S, relative_cost, start_s
from loadgen.theory.models import resolve
from loadgen.theory.predict import check_fit, outlook, predict

H200 = datasheet("NVIDIA H200")
A100 = datasheet("NVIDIA A100-SXM4-80GB")


def trial(model: str = "llama-13b", *, tp: int = 1, pp: int = 1, cpu: bool = False, **load: Any) -> Trial:
    spec = {"kind": "static", "input_tokens": 20, "output_tokens": 20, "requests": 4, "warmup": 1} | load
    gpus = () if cpu else tuple(range(tp * pp))
    server = ServerSpec(framework="hf", model=resolve(model), tp=tp, pp=pp, gpus=gpus)
    return trial_of(Cell(load=LoadSpec(**spec), server=server))


@pytest.mark.parametrize(
    ("model", "device", "tp", "published_ms"),
    [
        ("llama-13b", A100, 1, 12.8),
        ("llama-13b", A100, 8, 1.6),
        ("llama-13b", H200, 1, 5.4),
        ("llama-13b", H200, 4, 1.4),
        ("llama-65b", A100, 1, 64.0),
        ("llama-65b", H200, 2, 13.6),
    ],
)
def test_decode_floors_are_the_published_ones(model: str, device: Any, tp: int, published_ms: float) -> None:
    short = predict(trial(model, tp=tp, input_tokens=1, output_tokens=1), device).floor_s
    longer = predict(trial(model, tp=tp, input_tokens=1, output_tokens=11), device).floor_s
    assert short is not None
    assert longer is not None
    assert (longer - short) / 10 * 1e3 == pytest.approx(published_ms, rel=0.05)


def test_prefill_is_bound_by_compute_when_it_is_long() -> None:
    """llama-2-13B shape, 2048 tokens on an A100: published 0.242 s at an MFU of 73 %."""
    load = {"input_tokens": 2047, "output_tokens": 1}
    floor = predict(trial(**load), A100).floor_s
    assert floor is not None
    assert floor / 0.242 == pytest.approx(0.73, abs=0.02)


def test_memory_of_a_trial() -> None:
    found = predict(trial(tp=2, batch_size=64, input_tokens=500, output_tokens=12), None)
    assert found.kv_bytes == 64 * 512 * 819200 // 2
    assert found.weight_bytes == pytest.approx(26.03e9 / 2, rel=0.02)
    assert predict(trial(kind="closed", concurrency=8), None).kv_bytes == 8 * 40 * 819200
    assert predict(trial(kind="poisson", rate=3.0), None).kv_bytes is None


def test_unknown_devices_have_no_times() -> None:
    for found in (predict(trial(), None), predict(trial(cpu=True), H200)):
        assert (found.floor_s, found.at_least_s, found.estimate_s) == (None, None, None)
        assert found.weight_bytes
    bf16_on_t4 = predict(trial(), datasheet("Tesla T4"))
    assert bf16_on_t4.floor_s is None
    endpoint = predict(endpoint_trial(trial().load, "http://a:1"), H200)
    assert (endpoint.weight_bytes, endpoint.kv_bytes, endpoint.floor_s) == (None, None, None)


def test_trial_times() -> None:
    static = predict(trial(), H200)
    assert static.floor_s is not None
    assert static.estimate_s is not None
    assert static.at_least_s == pytest.approx(5 * static.floor_s)
    assert static.estimate_s > static.at_least_s
    closed = predict(trial(kind="closed", concurrency=4, requests=8, warmup=4), H200)
    assert closed.floor_s is not None
    assert closed.at_least_s == pytest.approx(3 * closed.floor_s)
    capped = predict(trial(kind="closed", concurrency=4, requests=8, warmup=4, max_rate=0.1), H200)
    assert capped.at_least_s == pytest.approx(120)
    open_loop = predict(trial(kind="poisson", rate=2.0, requests=60), H200)
    assert open_loop.at_least_s == pytest.approx(30 + (open_loop.floor_s or 0))
    ramp = predict(trial(kind="ramp", rate=1.0, rate_end=5.0, requests=60), H200)
    assert ramp.at_least_s == pytest.approx(20 + (ramp.floor_s or 0))
    assert predict(trial(kind="trace", trace="t.jsonl"), H200).at_least_s is None


def test_eager_decode_estimate_is_near_what_was_measured() -> None:
    """transformers' generate, llama-13B on one H200: 52–87 ms a token at batch 1."""
    found = predict(trial(output_tokens=100, requests=1, warmup=0), H200)
    assert found.estimate_s is not None
    assert 0.052 < found.estimate_s / 100 < 0.087


def test_outlook_sums_or_says_that_it_cannot() -> None:
    trials = [trial(), trial(batch_size=8)]
    whole = outlook(trials, 2, H200)
    server = trials[0].server
    assert server is not None
    assert start_s(server) > START_S
    assert whole.device == "H200, datasheet"
    assert whole.at_least_s == pytest.approx(sum(p.at_least_s or 0 for p in whole.predictions))
    assert whole.estimate_s == pytest.approx(
        sum(p.estimate_s or 0 for p in whole.predictions) + 2 * start_s(server)
    )
    unknown = outlook([*trials, trial(cpu=True)], 2, H200)
    assert (unknown.at_least_s, unknown.estimate_s) == (None, None)
    assert outlook(trials, 1, None).device is None


def test_fit_warnings_name_the_smallest_that_does_not_fit() -> None:
    trials = [trial(tp=tp, batch_size=b, input_tokens=2000) for tp in (1, 2) for b in (1, 64, 128, 256)]
    (one, two) = check_fit(trials, 139 * 2**30)
    assert one.startswith(
        "hf llama-13b tp=1 pp=1: 2 of 4 trials are predicted not to fit; the smallest of them (batch 128,"
    )
    assert two.startswith("hf llama-13b tp=2 pp=1: 1 of 4 trials")
    assert check_fit(trials, 2**50) == []
    assert check_fit([trial(cpu=True, batch_size=10**6)], 1) == []


def test_cost_orders_trials_without_knowing_the_device() -> None:
    costs = [
        relative_cost(t)
        for t in (
            trial(),
            trial(output_tokens=40),
            trial(output_tokens=40, batch_size=256),
            trial(output_tokens=512, batch_size=256),
            trial(output_tokens=512, batch_size=256, requests=50),
        )
    ]
    assert costs == sorted(costs)
    assert len(set(costs)) == len(costs)
    endpoint = [
        relative_cost(endpoint_trial(dataclasses.replace(trial().load, batch_size=b), "http://a:1"))
        for b in (1, 512)
    ]
    assert 0 < endpoint[0] < endpoint[1]
