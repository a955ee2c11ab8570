"""TensorRT-LLM's page of iterations → readings: a JSON list of one record a step, which reading empties. Pure.

A page holds what happened since it was read last, so a reading is the largest of its records; ``iter`` numbers the
steps. Fields: ``tensorrt_llm`` as read (docs of trtllm-serve, "Metrics Endpoint"; executor's IterationStats).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import orjson

from loadgen.telemetry.prometheus_text import ENGINE, MOST, Page, Reading

RUNNING = ("inflightBatchingStats", "numScheduledRequests")
WAITING = ("numQueuedRequests",)
KV = "kvCacheStats"


def read_records(text: str) -> Page | None:
    """The readings of such a page; ``None`` for a page of another kind. One without a record is quiet, and no fault."""
    if not text.lstrip().startswith("["):
        return None
    try:
        listed = orjson.loads(text)
    except orjson.JSONDecodeError:
        return None
    records = [each for each in listed if isinstance(each, dict)]
    largest: dict[str, float] = {}
    for record in records:
        for metric, value in _values(record):
            largest[metric] = max(value, largest.get(metric, 0.0))
    readings: list[Reading] = [(metric, ENGINE, value) for metric, value in largest.items()]
    return Page(readings=tuple(readings), refused=(), blind=(), quiet=not listed)


def _values(record: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """Our name and the value of what a record tells."""
    steps = _number(record, ("iter",))
    if steps is not None:
        yield "engine_steps", steps
    for metric, path in (("engine_running", RUNNING), ("engine_waiting", WAITING)):
        if (value := _number(record, path)) is not None:
            yield metric, value
    used, blocks, tokens = (
        _number(record, (KV, name)) for name in ("usedNumBlocks", "maxNumBlocks", "tokensPerBlock")
    )
    if used is not None and blocks and used <= blocks:
        yield "kv_usage", used / blocks
    if blocks and tokens:
        yield "kv_capacity_tokens", blocks * tokens


def _number(record: Mapping[str, Any], path: tuple[str, ...]) -> float | None:
    found: Any = record
    for name in path:
        found = found.get(name) if isinstance(found, Mapping) else None
    known = isinstance(found, int | float) and not isinstance(found, bool) and 0 <= found <= MOST
    return float(found) if known else None
