"""Triton's counters, from scrapes that a real server gave."""

import pytest

from loadgen.triton_metrics import evidence, gpu_readings, read

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
    assert evidence(BEFORE, AFTER, {"decoupled": False}) == {
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
    doubtful = evidence(BEFORE, AFTER, {"decoupled": True})
    assert (doubtful["compute_s"], doubtful["request_s"]) == (None, None)
    assert doubtful["queue_s"] == pytest.approx(0.5)
    known = evidence(BEFORE, AFTER, {"decoupled": True, "execute_spans_stream": True})
    assert known["compute_s"] == pytest.approx(1.4)


def test_nothing_is_made_of_what_is_not_there() -> None:
    assert evidence("", "", {}) == {}
    assert evidence("up 1\n", "up 1\n", {}) == {}
    assert evidence(AFTER, BEFORE, {}) == {}  # the counters of another server
    idle = evidence(BEFORE, BEFORE, {})
    assert (idle["requests"], idle["queue_s"], idle["sequences_per_execution"]) == (0, None, None)


def test_a_gpu_whose_total_memory_is_zero_has_no_reading() -> None:
    def card(uuid: str, total: float, used: float) -> str:
        return (
            f'nv_gpu_utilization{{gpu_uuid="{uuid}"}} {used / total if total else 0}\n'
            f'nv_gpu_memory_total_bytes{{gpu_uuid="{uuid}"}} {total}\n'
            f'nv_gpu_memory_used_bytes{{gpu_uuid="{uuid}"}} {used}\n'
            f'nv_energy_consumption{{gpu_uuid="{uuid}"}} 0.000000\n'
        )

    text = card("GPU-unread", 0, 0) + card("GPU-read", 100.0, 50.0)
    assert gpu_readings(text) == {
        "GPU-read": {
            "utilization": 0.5,
            "memory_total_bytes": 100.0,
            "memory_used_bytes": 50.0,
            "energy_j": 0.0,
        }
    }
    assert gpu_readings(BEFORE) == {}


def test_lines_that_lie_are_passed_over() -> None:
    assert read('nv_inference_count{model="a"} many\nnv_inference_count\n# nv_x 1\n') == {}
    assert read('nv_x{a="b"} 1e3\n') == {"nv_x": [({"a": "b"}, 1000.0)]}
    assert read("nv_x 2 1700000000\n") == {"nv_x": [({}, 2.0)]}
