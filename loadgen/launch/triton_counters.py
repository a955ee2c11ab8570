"""Triton's own counters as evidence from the other side: queue and compute time per request, batches, failures. Pure.

A trap: of a decoupled model Triton notes success and duration when ``execute`` returns, which need not be when the
stream ends: compute times are then ``None``, unless the model is known to return at the end.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from loadgen.telemetry.prometheus_text import MOST, Series, series_of

Scrape = Mapping[str, Sequence[Series]]  # by name


def _read(text: str) -> Scrape:
    found: dict[str, list[Series]] = {}
    for name, labels, value in series_of(text):
        if name.startswith("nv_inference_") and 0 <= value <= MOST:
            found.setdefault(name, []).append((name, labels, value))
    return found


def total(scrape: Scrape, name: str) -> float | None:
    """Sum of a family over its series (a launcher starts one model per server); None when it is absent."""
    series = scrape.get(name)
    return None if series is None else sum(value for _, _, value in series)


def server_side_times(before: str, after: str, info: Mapping[str, object]) -> dict[str, object]:
    """What the server did between two scrapes, warm-up included; empty when they are not Triton's.

    ``info`` is what the server says of itself: ``decoupled``, and ``execute_spans_stream`` when its durations can be
    trusted all the same. Times in seconds per request; ``None`` is not measured. A counter that went back means
    another server: empty.
    """
    first, last = _read(before), _read(after)

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


def _failures(first: Scrape, last: Scrape) -> dict[str, int]:
    """Failed requests by Triton's own reason, those that occurred."""
    name = "nv_inference_request_failure"
    grown: Counter[str] = Counter()
    for sign, scrape in ((1, last), (-1, first)):
        for _, labels, value in scrape.get(name, []):  # of every model
            grown[labels.get("reason", "")] += sign * int(value)
    return dict(+grown)
