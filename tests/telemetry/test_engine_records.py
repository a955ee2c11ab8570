"""TensorRT-LLM's records as readings; its page is emptied by reading, so one may be empty and no fault."""

from __future__ import annotations

import json
from typing import Any

import pytest

from loadgen.telemetry.engine_records import read_records


def record(step: int, running: int, used: int, **more: Any) -> dict[str, Any]:
    cache = {"usedNumBlocks": used, "maxNumBlocks": 100, "freeNumBlocks": 100 - used, "tokensPerBlock": 32}
    batching = {"numScheduledRequests": running, "numContextRequests": 0, "numGenRequests": running}
    told = {"iter": step, "iterLatencyMS": 7.5, "numQueuedRequests": 1, "numActiveRequests": running}
    return {**told, "kvCacheStats": cache, "inflightBatchingStats": batching, **more}


def test_a_reading_is_the_largest_since_the_last() -> None:
    page = read_records(json.dumps([record(6, 8, 24), record(7, 8, 25), record(8, 2, 6)]))
    assert page is not None
    assert {metric: value for metric, _, value in page.readings} == {
        "engine_steps": 8,
        "engine_running": 8,
        "engine_waiting": 1,
        "kv_usage": 0.25,
        "kv_capacity_tokens": 3200,
    }


def test_no_record_is_no_fault() -> None:
    page = read_records("[]")
    assert page is not None
    assert (page.readings, page.quiet) == ((), True)


@pytest.mark.parametrize("text", ["", "vllm:num_requests_running 1", "[1", "{}", '[{"iter": 1'])
def test_a_page_of_another_kind(text: str) -> None:
    assert read_records(text) is None


@pytest.mark.parametrize(
    "odd",
    [
        [1, None, "x"],
        [{"kvCacheStats": None, "inflightBatchingStats": 3, "iter": True}],
        [{"kvCacheStats": {"usedNumBlocks": 7, "maxNumBlocks": 0}}],
        [{"kvCacheStats": {"usedNumBlocks": 7, "maxNumBlocks": 5}, "iter": -1}],
    ],
)
def test_what_cannot_be_is_no_reading_and_no_quiet(odd: list[Any]) -> None:
    page = read_records(json.dumps(odd))
    assert page is not None
    assert (page.readings, page.quiet) == ((), False)
