"""What ``sweep`` settles before it starts."""

from __future__ import annotations

import socket

import pytest

from loadgen.commands.sweep import scraped
from loadgen.errors import BadInput
from loadgen.launch.process import free_ports
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
