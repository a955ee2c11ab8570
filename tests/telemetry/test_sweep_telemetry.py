"""A sweep's results hold what its server did: stored, summed, and honestly empty where there is no GPU."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from loadgen.errors import ProfileError
from loadgen.profile.read import build_profile, load_profile
from loadgen.results.store import open_results, read_samples
from loadgen.system.environment import visible_gpus
from loadgen.telemetry.scrapes import read_scrapes
from loadgen.telemetry_records import TelemetrySpec

PROFILE = """
name = "t"
[server]
framework = "hf"
model = "tiny"
dtype = "float32"
gpus = []
[load]
mode = "static"
batch_size = 2
input_tokens = 8
output_tokens = 16
requests = 10
warmup = 2
[telemetry]
period_s = 0.05
"""


def test_a_servers_memory_is_in_its_results(tmp_path: Path) -> None:
    (tmp_path / "t.toml").write_text(PROFILE)
    command = [sys.executable, "-m", "loadgen.cli", "sweep", "t.toml"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stdout + done.stderr
    results = open_results(tmp_path / "results/t")
    (result,) = results.results()
    telemetry = result.telemetry
    assert telemetry is not None
    assert telemetry.cpu_memory_bytes is not None
    assert 100 << 20 < telemetry.cpu_memory_bytes < 8 << 30  # torch alone is some hundred MiB
    assert telemetry.phases["load"].cpu_cores is not None
    assert telemetry.phases["load"].cpu_cores > 0.1
    assert telemetry.cpu_memory_from == "pss after the load"
    host = telemetry.host
    assert host is not None
    assert host.others_cores is not None
    assert host.spin_before_s is not None
    assert host.spin_after_s is not None
    assert host.spin_best_s == min(host.spin_before_s, host.spin_after_s)
    assert (telemetry.gpus, telemetry.ledger, telemetry.power_w, telemetry.gpu_memory_bytes) == (
        (),
        None,
        None,
        None,
    )
    assert [source.failed for source in telemetry.sources] == [
        0,
        0,
    ]  # the server's own page, and the exporter
    samples = list(read_samples(results.samples(result.trial.id)))
    scrapes = read_scrapes(results.telemetry(result.trial.id))
    assert min(s.at_ns for s in scrapes) < samples[0].reply.sent_ns
    assert max(s.at_ns for s in scrapes) > samples[-1].reply.end_ns
    tokens = [value for s in scrapes for metric, _, value in s.readings if metric == "engine_output_tokens"]
    assert tokens[0] == 0
    assert tokens[-1] == 2 * 16 * 12


@pytest.mark.parametrize("name", ["exp4", "exp5"])
def test_the_memory_experiments_sweep_batch_lengths_and_gpus(name: str) -> None:
    cells = load_profile(name).cells
    assert len(cells) == 135
    assert {c.server.framework for c in cells if c.server} == {"ds" if name == "exp4" else "hf"}
    for axis in ("batch_size", "input_tokens", "output_tokens"):
        assert len({getattr(c.load, axis) for c in cells}) >= 3


def test_the_telemetry_table() -> None:
    server = {"framework": "hf", "model": "tiny", "gpus": []}
    load = {"input_tokens": 4, "output_tokens": 4}
    tables = {"server": server, "load": load}
    assert build_profile(tables).telemetry == TelemetrySpec()
    named = {
        "sources": "http://127.0.0.1:9400/metrics",
        "period_s": 1,
        "exporter": False,
        "selector": 'job="a"',
    }
    profile = build_profile(
        {**tables, "telemetry": named}, sets=("telemetry.prometheus=http://127.0.0.1:9090",)
    )
    assert profile.telemetry == TelemetrySpec(
        sources=("http://127.0.0.1:9400/metrics",),
        period_s=1.0,
        exporter=False,
        selector='job="a"',
        prometheus="http://127.0.0.1:9090",
    )
    assert [cell.load for cell in profile.cells] == [cell.load for cell in build_profile(tables).cells]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("period_s", 0),
        ("sources", ["127.0.0.1:9400"]),
        ("exporter", "yes"),
        ("exporter_port", -1),
        ("exporter_port", 65536),
        ("prom", "x"),
    ],
)
def test_a_telemetry_table_that_cannot_be(key: str, value: object) -> None:
    tables = {"server": {"framework": "hf", "model": "tiny", "gpus": []}, "telemetry": {key: value}}
    with pytest.raises(ProfileError, match=f"telemetry.{key}"):
        build_profile({**tables, "load": {"input_tokens": 4, "output_tokens": 4}})


def test_a_prometheus_that_does_not_answer_is_told_before_anything_starts(tmp_path: Path) -> None:
    (tmp_path / "t.toml").write_text(PROFILE + 'prometheus = "http://127.0.0.1:1"\n')
    command = [sys.executable, "-m", "loadgen.cli", "sweep", "t.toml"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert "http://127.0.0.1:1" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "results").exists()


@pytest.mark.gpu
def test_on_a_gpu_needed_memory_is_weights_kv_and_a_named_rest(tmp_path: Path) -> None:
    assert visible_gpus()
    text = PROFILE.replace('"tiny"', '"llama-7b"').replace("gpus = []\n", "").replace("float32", "bfloat16")
    text = text.replace("batch_size = 2", "batch_size = 16").replace("input_tokens = 8", "input_tokens = 512")
    (tmp_path / "t.toml").write_text(text)
    command = [sys.executable, "-m", "loadgen.cli", "sweep", "t.toml"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stdout + done.stderr
    (result,) = open_results(tmp_path / "results/t").results()
    telemetry = result.telemetry
    assert telemetry is not None
    ledger = telemetry.ledger
    assert ledger is not None
    assert ledger.predicted_weight_bytes is not None
    assert ledger.idle_bytes == pytest.approx(ledger.predicted_weight_bytes, rel=0.05)
    assert ledger.needed_from == "allocator's peak"
    assert ledger.predicted_kv_bytes is not None
    assert ledger.rest_bytes is not None
    assert 0 < ledger.rest_bytes < ledger.predicted_weight_bytes
    assert telemetry.gpu_memory_reserved_bytes is not None
    assert telemetry.gpu_memory_bytes is not None
    assert telemetry.gpu_memory_bytes <= telemetry.gpu_memory_reserved_bytes
    assert telemetry.energy_from == "counter"
    load = telemetry.phases["load"]
    assert load.energy_j is not None
    assert load.power_mean_w is not None
    assert load.energy_j == pytest.approx(load.power_mean_w * load.seconds, rel=0.25)
