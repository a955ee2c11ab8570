"""Counters of other engines, from pages in the form that they give."""

from pathlib import Path

import pytest

from loadgen.launch.endpoint import Endpoint, engine_of
from loadgen.launch.engine_counters import server_side_counts
from loadgen.launch.triton_counters import server_side_times
from loadgen.load_records import LoadSpec
from loadgen.metrics.engine_caveats import of_engine

PAGES = Path(__file__).parents[1] / "data" / "scrapes"

LABELS = 'engine="0",model_name="m"'


def vllm(
    steps: int, output: int, prompt: int, hits: int = 0, preempted: int = 0, labels: str = LABELS
) -> str:
    """As vLLM 0.32 shows it, other lines left out."""
    return f"""# HELP vllm:iteration_tokens_total Histogram of number of tokens per engine_step.
# TYPE vllm:iteration_tokens_total histogram
vllm:iteration_tokens_total_bucket{{{labels},le="1.0"}} 3.0
vllm:iteration_tokens_total_count{{{labels}}} {steps}.0
vllm:iteration_tokens_total_sum{{{labels}}} {prompt + output}.0
vllm:prompt_tokens_total{{{labels}}} {prompt}.0
vllm:generation_tokens_total{{{labels}}} {output}.0
vllm:generation_tokens_created{{{labels}}} 1.7e+09
vllm:prefix_cache_queries_total{{{labels}}} {prompt}.0
vllm:prefix_cache_hits_total{{{labels}}} {hits}.0
vllm:num_preemptions_total{{{labels}}} {preempted}.0
"""


@pytest.mark.parametrize(
    ("name", "load", "calls", "kinds"),
    [
        (
            "waves",
            LoadSpec(kind="static", input_tokens=20, output_tokens=10, batch_size=8),
            11,
            ["batch-waves"],
        ),
        ("hits", LoadSpec(kind="closed", input_tokens=400, output_tokens=4), 4, ["prefix-cache"]),
    ],
)
def test_recorded_pages_of_vllm_tell_what_happened(
    name: str, load: LoadSpec, calls: int, kinds: list[str]
) -> None:
    """vLLM 0.32.0 on a CPU with --max-num-seqs 4: calls of 8 sequences; the same four prompts a second time."""
    before, after = ((PAGES / f"vllm-{name}-{when}.txt").read_text() for when in ("before", "after"))
    seen = server_side_counts(before, after)
    assert seen["output_tokens"] == calls * load.batch_size * load.output_tokens
    assert [caveat.kind for caveat in of_engine(load, calls, {"server_side": seen})] == kinds


def test_vllm_counts_steps_tokens_hits_and_preemptions() -> None:
    assert server_side_counts(vllm(7, 20, 100), vllm(232, 900, 1860, hits=640, preempted=2)) == {
        "source": "vllm",
        "covers": "warm-up and measured requests",
        "output_tokens": 880,
        "prompt_tokens": 1760,
        "steps": 225,
        "cached_prompt_tokens": 640,
        "preemptions": 2,
    }


def test_steps_of_engines_side_by_side_are_not_added() -> None:
    other = LABELS.replace('"0"', '"1"')
    found = server_side_counts("", vllm(7, 20, 100) + vllm(9, 30, 100, labels=other))
    assert (found["output_tokens"], found["steps"]) == (50, None)


@pytest.mark.parametrize(
    ("page", "found"),
    [
        (
            "llamacpp:prompt_tokens_total 60\nllamacpp:prompt_tokens_cached_total 5\n"
            "llamacpp:tokens_predicted_total 40\nllamacpp:n_decode_total 21\n",
            {
                "source": "llama.cpp",
                "output_tokens": 40,
                "prompt_tokens": 65,
                "steps": 21,
                "cached_prompt_tokens": 5,
            },
        ),
        (
            'sglang:generation_tokens_total{m="x"} 40\nsglang:prompt_tokens_total{m="x"} 60\n'
            'sglang:cached_tokens_total{m="x"} 6\nsglang:num_retracted_reqs{m="x"} 3\n',
            {"source": "sglang", "output_tokens": 40, "prompt_tokens": 60, "cached_prompt_tokens": 6},
        ),
        (
            'tgi_request_generated_tokens_sum 40\ntgi_batch_inference_duration_count{method="prefill"} 2\n'
            'tgi_batch_inference_duration_count{method="decode"} 38\n',
            {"source": "tgi", "output_tokens": 40, "steps": 40},
        ),
        (
            "lmdeploy:generation_tokens_total 40\nlmdeploy:iteration_tokens_total_count 20\n",
            {"source": "lmdeploy", "output_tokens": 40, "steps": 20},
        ),
    ],
)
def test_other_engines_are_read_by_their_own_names(page: str, found: dict[str, object]) -> None:
    covers = {"covers": "warm-up and measured requests"}
    assert server_side_counts("", page) == {**covers, **found}


def test_nothing_is_made_of_what_is_not_there() -> None:
    assert server_side_counts("", "") == {}
    assert server_side_counts("up 1\n", "up 1\n") == {}
    assert server_side_counts(vllm(9, 90, 90), vllm(1, 10, 10)) == {}  # another server's
    assert server_side_counts(vllm(9, 90, 90), "") == {}


def test_they_stand_in_the_engine_of_a_result() -> None:
    found = engine_of(Endpoint(base_url="http://h"), vllm(7, 20, 100), vllm(232, 900, 1860))
    assert found["server_side"]["steps"] == 225


@pytest.mark.parametrize("value", ["+Inf", "NaN", "1e300", "-1"])
def test_a_counter_that_is_no_figure_is_left_out(value: str) -> None:
    page = f"vllm:generation_tokens_total {value}\nnv_inference_request_success {value}\n"
    assert server_side_counts("", page) == {}
    assert server_side_times(page, page, {}) == {}


def test_a_page_that_did_not_come_is_no_page_of_zeros() -> None:
    later = vllm(232, 900, 1860)
    endpoint = Endpoint(base_url="http://127.0.0.1:9")
    assert engine_of(endpoint, None, later) == engine_of(endpoint, later, None) == {}
    assert engine_of(endpoint, "", later)["server_side"]["output_tokens"] == 900
    told = server_side_counts(vllm(7, 20, 100).replace(" 20.0", " NaN"), later)
    assert "output_tokens" not in told
    assert told["prompt_tokens"] == 1760
