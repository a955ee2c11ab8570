"""Triton's own counters as evidence from the other side: queue and compute time per request, batches, failures. Pure.

Two traps. Of a decoupled model Triton notes success and duration when ``execute`` returns, which need not be when the
stream ends: compute times are then ``None``, unless the model is known to return at the end. And its GPU families
appear with all values 0 where it cannot read the card: a GPU whose total memory is 0 has no reading.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

LINE = re.compile(r"^(nv_[a-z_]+)(?:\{([^}]*)\})?\s+(\S+)")
LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')
GPU = {
    "nv_gpu_power_usage": "power_w",
    "nv_gpu_power_limit": "power_limit_w",
    "nv_energy_consumption": "energy_j",
    "nv_gpu_utilization": "utilization",  # 0–1
    "nv_gpu_memory_total_bytes": "memory_total_bytes",
    "nv_gpu_memory_used_bytes": "memory_used_bytes",
}


def read(text: str) -> dict[str, list[tuple[dict[str, str], float]]]:
    """Triton's families of one scrape: name → (labels, value) of each series. Lines of others are passed over."""
    found: dict[str, list[tuple[dict[str, str], float]]] = {}
    for line in text.splitlines():
        match = LINE.match(line)
        if match is None:
            continue
        name, labels, value = match.groups()
        try:
            number = float(value)
        except ValueError:
            continue
        found.setdefault(name, []).append((dict(LABEL.findall(labels or "")), number))
    return found


def total(scrape: Mapping[str, list[tuple[dict[str, str], float]]], name: str) -> float | None:
    """Sum of a family over its series (a launcher starts one model per server); None when it is absent."""
    series = scrape.get(name)
    return None if series is None else sum(value for _, value in series)


def evidence(before: str, after: str, info: Mapping[str, object]) -> dict[str, object]:
    """What the server did between two scrapes, warm-up included; empty when they are not Triton's.

    ``info`` is what the server says of itself: ``decoupled``, and ``execute_spans_stream`` when its durations can be
    trusted all the same. Times in seconds per request; ``None`` is not measured. A counter that went back means
    another server: empty.
    """
    first, last = read(before), read(after)

    def grown(name: str) -> float | None:
        start, end = total(first, name), total(last, name)
        return None if start is None or end is None or end < start else end - start

    requests = grown("nv_inference_request_success")
    if requests is None:
        return {}
    sequences, executions = grown("nv_inference_count"), grown("nv_inference_exec_count")
    trusted = not info.get("decoupled") or bool(info.get("execute_spans_stream"))

    def per_request_s(family: str) -> float | None:
        microseconds = grown(f"nv_inference_{family}_duration_us")
        return microseconds / requests / 1e6 if requests and microseconds is not None else None

    return {
        "source": "tritonserver",
        "covers": "warm-up and measured requests",
        "requests": int(requests),
        "failures": _failures(first, last),
        "sequences": None if sequences is None else int(sequences),
        "executions": None if executions is None else int(executions),
        "sequences_per_execution": sequences / executions if sequences and executions else None,
        "queue_s": per_request_s("queue"),
        "compute_s": per_request_s("compute_infer") if trusted else None,
        "request_s": per_request_s("request") if trusted else None,
    }


def _failures(
    first: Mapping[str, list[tuple[dict[str, str], float]]],
    last: Mapping[str, list[tuple[dict[str, str], float]]],
) -> dict[str, int]:
    """Failed requests by Triton's own reason, those that occurred."""
    name = "nv_inference_request_failure"
    start = {labels.get("reason", ""): value for labels, value in first.get(name, [])}
    grown: dict[str, int] = {}
    for labels, value in last.get(name, []):
        reason = labels.get("reason", "")
        count = int(value - start.get(reason, 0))
        if count > 0:
            grown[reason] = count
    return grown


def gpu_readings(text: str) -> dict[str, dict[str, float]]:
    """GPU UUID → its readings (W, J, bytes, utilization 0–1), of the cards that Triton can read."""
    found: dict[str, dict[str, float]] = {}
    scrape = read(text)
    for name, key in GPU.items():
        for labels, value in scrape.get(name, []):
            found.setdefault(labels.get("gpu_uuid", ""), {})[key] = value
    return {uuid: values for uuid, values in found.items() if values.get("memory_total_bytes")}
