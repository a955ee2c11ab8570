"""What ``sweep`` settles before it starts."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from synthetic import Point, World, failed, result, write

import loadgen
from loadgen.api.sweeps import SweepOptions
from loadgen.cli import main
from loadgen.commands.sweep import missing, scraped
from loadgen.errors import BadInput
from loadgen.launch.process import free_ports
from loadgen.plan.plan import Plan
from loadgen.profile.profile import Profile
from loadgen.telemetry_records import TelemetrySpec


def test_the_exporter_has_the_port_after_that_of_the_live_figures() -> None:
    (port,) = free_ports(1)
    assert scraped(TelemetrySpec(), port - 1).exporter_port == port


@pytest.mark.parametrize(
    ("telemetry", "metrics_port"),
    [
        (TelemetrySpec(), None),
        (TelemetrySpec(), 0),
        (TelemetrySpec(exporter_port=9835), 9464),
        (TelemetrySpec(exporter=False), 9464),
        (TelemetrySpec(enabled=False), 9464),
    ],
)
def test_the_exporters_port_is_the_profiles_where_it_names_one(
    telemetry: TelemetrySpec, metrics_port: int | None
) -> None:
    assert scraped(telemetry, metrics_port) == telemetry


def test_a_taken_port_of_the_exporter_is_bad_input() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(BadInput, match=f"--metrics-port {port - 1}: .*{port}"):
            scraped(TelemetrySpec(), port - 1)


def test_a_plan_leaves_out_what_is_stored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """--dry-run with --have, --resume and --retry-failed: what it shows is what would run."""
    results = [
        result(Point(batch=1), World(prefill=lambda _: 0.1, step=lambda _: 0.01)),
        failed(Point(batch=2)),
    ]
    write(tmp_path / "out [1]", results, samples=False)
    plan = Plan(trials=tuple(each.trial for each in results))
    profile = Profile(name="out [1]", description="", file="", text="", sets=(), cells=())

    def left(**given: Any) -> int:
        return len(missing(profile, plan, SweepOptions(**given)).trials)

    monkeypatch.chdir(tmp_path)
    out = tmp_path / "out [1]"
    assert left() == left(out=out) == left(out=tmp_path / "none", resume=True) == 2
    assert left(out=out, resume=True) == left(have=[str(tmp_path)]) == 0
    assert left(out=out, resume=True, retry_failed=True) == 1
    with pytest.raises(BadInput, match="no results there"):
        left(have=["nothing"])


@pytest.mark.parametrize("text", ["nan", "inf", "1e400", "0", "-1", "x"])
def test_a_time_limit_is_a_finite_number(text: str) -> None:
    for command in ("sweep", "reproduce"):
        done = CliRunner().invoke(
            main, [command, "--time-limit", text, *(["quick"] if command == "sweep" else [])]
        )
        assert done.exit_code == 2
        assert "--time-limit" in done.output


@pytest.mark.parametrize("seconds", [float("nan"), float("inf"), 0, -1])
def test_a_time_limit_of_the_api_is_one_too(seconds: float, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="time_limit_s = "):
        loadgen.sweep("quick", out=tmp_path / "out", time_limit_s=seconds)
    assert not (tmp_path / "out").exists()
