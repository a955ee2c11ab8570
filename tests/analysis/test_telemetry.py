"""Older telemetry read by the rules of now: power and energy of short and of uncounted loads."""

from __future__ import annotations

from dataclasses import replace

import pytest
from synthetic import Point, result, roofline_world

from loadgen.analysis.table import values_of
from loadgen.analysis.telemetry import telemetry_of
from loadgen.records import Summary, TrialResult
from loadgen.telemetry_records import PhaseFigures, TelemetrySummary


def with_telemetry(
    found: TrialResult, seconds: float, energy_from: str | None, **summary: object
) -> TrialResult:
    assert found.summary is not None
    load = PhaseFigures(seconds=seconds, readings=9, power_mean_w=630.0, energy_j=700.0 * seconds)
    telemetry = TelemetrySummary(
        power_w=630.0, joules_per_output_token=0.5, energy_from=energy_from, period_s=0.2, phases={"load": load},  # type: ignore[arg-type]
    )  # fmt: skip
    changed: Summary = replace(found.summary, **summary)  # type: ignore[arg-type]
    return replace(found, telemetry=telemetry, summary=changed)


def test_older_power_and_energy_of_short_and_uncounted_loads() -> None:
    good = result(Point(), roofline_world(plateau_s=30e-3))
    assert telemetry_of(with_telemetry(good, 1.0, "counter")) == {
        "power_w": pytest.approx(700.0),  # not 630: the counter's
        "joules_per_output_token": 0.5,
    }
    assert telemetry_of(with_telemetry(good, 1.0, "power")) == {}
    assert telemetry_of(with_telemetry(good, 3.0, "power")) == {
        "power_w": 630.0,
        "joules_per_output_token": 0.5,
    }
    assert "joules_per_output_token" not in telemetry_of(
        with_telemetry(good, 3.0, "counter", output_tokens=None)
    )


@pytest.mark.parametrize("told", [-3.0, 5e-324, 1e308])
def test_what_a_source_told_that_is_no_figure_is_none(told: float) -> None:
    """A ratio is a difference of logarithms: of these it would be nothing, or beyond what a float holds."""
    found = with_telemetry(result(Point(), roofline_world(plateau_s=30e-3)), 3.0, "counter")
    assert found.telemetry is not None
    odd = replace(found, telemetry=replace(found.telemetry, cpu_memory_bytes=told))
    assert "cpu_memory_bytes" not in values_of(odd)
    assert values_of(odd) == values_of(found)
