"""What a trial's telemetry says of it, by the rules of now, whatever version stored it."""

from __future__ import annotations

from loadgen.records import TrialResult
from loadgen.telemetry.ledger import mended_need
from loadgen.telemetry.needed import is_bound
from loadgen.telemetry.summary import SHORT_POWER_S, SHORTEST_GAPS, mean_power_w


def telemetry_of(result: TrialResult) -> dict[str, float]:
    """Memory and power of a trial, under the names in METRICS.

    ``gpu_memory_bytes`` is what the fullest GPU *needed*, never what an engine reserved. Results without telemetry
    have none of them: findings about memory then read "not tested".
    """
    telemetry = result.telemetry
    if telemetry is None:
        return {}
    names = ("gpu_memory_bytes", "gpu_memory_reserved_bytes", "cpu_memory_bytes")
    found = {name: getattr(telemetry, name, None) for name in names}
    ledger = mended_need(result)
    if ledger is not None and found["gpu_memory_bytes"]:  # a lower bound is no need
        found["gpu_memory_bytes"] = None if is_bound(ledger.needed_from) else ledger.needed_bytes
    # Older results lack the rules by which energy and power of a short or an uncounted load are left out.
    load = telemetry.phases.get("load")
    found["power_w"] = mean_power_w(load, telemetry.energy_from)
    least_s = (
        SHORTEST_GAPS * (telemetry.period_s or 0.0) if telemetry.energy_from == "counter" else SHORT_POWER_S
    )
    counted = result.summary is None or result.summary.output_tokens is not None
    if load is not None and load.seconds >= least_s and counted:
        found["joules_per_output_token"] = telemetry.joules_per_output_token
    return {name: float(value) for name, value in found.items() if value}
