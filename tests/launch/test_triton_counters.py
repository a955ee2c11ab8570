"""Triton's counters, from scrapes that a real server gave."""

import pytest

from loadgen.launch.triton_counters import server_side_times

LABELS = 'model="fastertransformer",version="1"'


def scrape(
    requests: int, *, sequences: int = 0, executions: int = 0, queue_us: int = 0, canceled: int = 0
) -> str:
    return f"""# HELP nv_inference_request_success Number of successful inference requests, all batch sizes
# TYPE nv_inference_request_success counter
nv_inference_request_success{{{LABELS}}} {requests}
nv_inference_request_failure{{model="fastertransformer",reason="OTHER",version="1"}} 0
nv_inference_request_failure{{model="fastertransformer",reason="CANCELED",version="1"}} {canceled}
nv_inference_count{{{LABELS}}} {sequences}
nv_inference_exec_count{{{LABELS}}} {executions}
nv_inference_request_duration_us{{{LABELS}}} {requests * 1_500_000 + queue_us}
nv_inference_queue_duration_us{{{LABELS}}} {queue_us}
nv_inference_compute_infer_duration_us{{{LABELS}}} {requests * 1_400_000}
nv_cpu_utilization 0.005025125628140704
hf_cuda_allocated_bytes{{rank="0"}} 12
"""


BEFORE = scrape(3, sequences=9, executions=3, queue_us=1000)
AFTER = scrape(13, sequences=49, executions=8, queue_us=5_001_000, canceled=2)


def test_what_the_server_did_between_two_scrapes() -> None:
    assert server_side_times(BEFORE, AFTER, {"decoupled": False}) == {
        "source": "tritonserver",
        "covers": "warm-up and measured requests",
        "requests": 10,
        "failures": {"CANCELED": 2},
        "sequences": 40,
        "executions": 5,
        "sequences_per_execution": 8.0,
        "queue_s": pytest.approx(0.5),
        "compute_s": pytest.approx(1.4),
        "request_s": pytest.approx(2.0),
    }


def test_durations_of_a_decoupled_model_are_not_believed() -> None:
    doubtful = server_side_times(BEFORE, AFTER, {"decoupled": True})
    assert (doubtful["compute_s"], doubtful["request_s"]) == (None, None)
    assert doubtful["queue_s"] == pytest.approx(0.5)
    known = server_side_times(BEFORE, AFTER, {"decoupled": True, "execute_spans_stream": True})
    assert known["compute_s"] == pytest.approx(1.4)


def test_nothing_is_made_of_what_is_not_there() -> None:
    assert server_side_times("", "", {}) == {}
    assert server_side_times("up 1\n", "up 1\n", {}) == {}
    assert server_side_times(AFTER, BEFORE, {}) == {}  # the counters of another server
    idle = server_side_times(BEFORE, BEFORE, {})
    assert (idle["requests"], idle["queue_s"], idle["sequences_per_execution"]) == (0, None, None)


def test_failures_are_those_of_this_trial_whichever_model_had_them() -> None:
    before, after = (
        scrape(n) + f'nv_inference_request_failure{{model="other",reason="OTHER",version="1"}} {failed}\n'
        for n, failed in ((1, 5), (2, 6))
    )
    before = before.replace('model="fastertransformer",reason="OTHER"', 'model="z",reason="OTHER"')
    assert server_side_times(before, after, {})["failures"] == {"OTHER": 1}
