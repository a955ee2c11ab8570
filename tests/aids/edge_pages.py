"""Odd pages: what an endpoint says of itself, of its counters, and what Prometheus says of both."""

from __future__ import annotations

import json
from typing import Any

from edge_replies import JSON, ODD, Edges, some, spliced
from hypothesis import strategies as st

from loadgen.engine_facts import is_eager, keeps_buffers, replays_graphs, takes_kv_ahead, weights_of
from loadgen.launch.engine_counters import server_side_counts
from loadgen.launch.pages import Pages, known_facts
from loadgen.launch.triton_counters import server_side_times
from loadgen.load_records import LoadSpec
from loadgen.metrics.engine_caveats import of_engine
from loadgen.results.record_json import to_json
from loadgen.telemetry.ledger import engine_memory
from loadgen.telemetry.prometheus_text import read_page
from loadgen.telemetry.promql import PrometheusFault, result_of, scrapes_of

ENTRIES = some(
    "max_model_len", "owned_by", "context_length", meta=some(n_vocab=JSON) | JSON, id=st.just("m") | JSON
)
SITE = st.fixed_dictionaries(
    {},
    optional={
        "models": some(data=st.lists(ENTRIES | JSON, max_size=2) | JSON) | JSON,
        "version": JSON | some(version=JSON),
        "info": JSON | some("engine", "vocab", "version", "max_total_tokens"),
        "props": JSON | some(build_info=JSON, default_generation_settings=some(n_ctx=JSON) | JSON),
    },
)


def site(found: dict[str, Any]) -> None:
    pages = Pages(
        found={name: page for name, page in found.items() if isinstance(page, dict)}, fault="", reached=True
    )
    model = pages.model(None, "http://127.0.0.1:1")
    pages.ours()
    for _, value in known_facts(pages, model):
        assert not isinstance(value, str) or len(value) <= 100


MEMORY = some(
    cuda=JSON
    | st.dictionaries(
        st.sampled_from(["0", "x"]), JSON | some("loaded_bytes", "peak_allocated_bytes"), max_size=2
    )
)
INFOS = some(
    "engine",
    "kv_ahead",
    "graphs",
    "eager",
    "keeps_buffers",
    "in_flight_batching",
    "versions",
    "pid",
    weights=JSON | some("maker", "seed", "distribution"),
    memory=JSON | MEMORY,
    server_side=JSON | some("output_tokens", "steps", "cached_prompt_tokens", "prompt_tokens", "preemptions"),
)
LOAD = LoadSpec(kind="static", input_tokens=4, output_tokens=2, batch_size=2, requests=2)


def info(found: Any) -> None:
    weights_of(found, None)
    for told in (takes_kv_ahead, keeps_buffers):
        told(found)
    replays_graphs(found, None)
    is_eager(found, None)
    engine_memory(found)
    list(of_engine(LOAD, 2, found))


PAGES = spliced(
    b"vllm:num_requests_running",
    b"DCGM_FI_DEV_FB_USED",
    b'{UUID="a",gpu="0"}',
    b"{",
    b"}",
    b" 1\n",
    b" nan\n",
    b" 1e999\n",
    b" 1e300\n",
    b"vllm:cache_config_info",
    b'{num_gpu_blocks="9' + b"9" * 4000 + b'",block_size="9"}',
    b"# HELP\n",
    b"\xff",
    b"\n",
)
COUNTERS = spliced(
    b"vllm:generation_tokens_total",
    b"tgi_batch_inference_duration_count",
    b"nv_inference_request_success",
    b"nv_inference_count",
    b'nv_inference_request_failure{reason="x"}',
    b" 5\n",
    b" nan\n",
    b" -1\n",
    b" 1e300\n",
    b" +Inf\n",
    b"nv_inference_queue_duration_us",
    b"\n",
)


def page(data: bytes) -> None:
    to_json(read_page(data.decode("utf-8", "replace")).readings)


def counters(found: tuple[bytes, bytes]) -> None:
    before, after = (data.decode("utf-8", "replace") for data in found)
    to_json(server_side_counts(before, after))
    to_json(server_side_times(before, after, {}))


POINTS = st.lists(JSON | st.tuples(ODD, ODD).map(list), max_size=2)
SERIES = st.lists(
    JSON
    | some(
        metric=JSON | some(__name__=st.sampled_from(["DCGM_FI_DEV_FB_USED", "x"]), job=JSON, UUID=JSON),
        values=POINTS | JSON,
    ),
    max_size=2,
)
QUERIES = some(
    status=st.sampled_from(["success", "error", 1]), data=some(result=SERIES | JSON) | JSON, error=JSON
)


def query(found: Any) -> None:
    try:
        scrapes_of("http://127.0.0.1:1", result_of(200, json.dumps(found).encode()), 0.0, 0, 2**62)
    except PrometheusFault:
        return


EDGES: Edges = {
    "discovery pages": (SITE, site),
    "/info": (INFOS, info),
    "metrics page": (PAGES, page),
    "engine counters": (st.tuples(COUNTERS, COUNTERS), counters),
    "PromQL reply": (QUERIES, query),
}
