"""The exported tables' columns: names that hold the unit, types and meanings, as ``docs/exports.md`` shows them.

A column that is renamed, taken away or given another meaning raises VERSION; one more at the end does not.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from loadgen.analysis.table import DISTRIBUTIONS, METRICS, OF_OBJECTIVES
from loadgen.metrics.percentiles import PERCENTILES

VERSION = (
    2  # 1 had no column for it: ``batch`` held the sequences at work together, and there was no concurrency
)

Kind = Literal["string", "int64", "double", "bool"]


@dataclass(frozen=True, slots=True)
class Column:
    """One column; a cell without a value was not measured, or does not apply."""

    name: str
    kind: Kind
    meaning: str


WORDS = {
    "e2e": "start to last token",
    "ttft": "start to first token, in a batch of the last sequence to begin",
    "tpot": "(E2E − TTFT)/(n − 1)",
    "itl": "gap between token arrivals",
    "latency_per_output_token": "E2E by output tokens of a sequence",
}
FIGURES = {
    "output_tokens_per_s": "generated tokens of the served requests per second",
    "total_tokens_per_s": "the same with input tokens",
    "requests_per_s": "served requests per second",
    "gpu_memory_bytes": "memory needed on the fullest GPU",
    "gpu_memory_reserved_bytes": "memory reserved on the fullest GPU",
    "cpu_memory_bytes": "peak memory of the server's processes on the host",
    "power_w": "mean power of the server's GPUs under load",
    "joules_per_output_token": "energy of these GPUs per output token",
}


def _percentiles(name: str) -> list[Column]:
    found = []
    for each in PERCENTILES:
        found.append(Column(f"{name}_{each}_s", "double", f"{each} of {WORDS[name]}"))
        found += [
            Column(f"{name}_{each}_{end}_s", "double", f"{end} end of its 95 % interval within this trial")
            for end in ("low", "high")
        ]
    return [
        *found,
        Column(f"{name}_max_s", "double", "the largest"),
        Column(f"{name}_n", "int64", "how many values it is of"),
    ]


def _measured() -> list[Column]:
    found: list[Column] = []
    for metric in METRICS:
        if metric in DISTRIBUTIONS:
            found += _percentiles(metric.removesuffix("_s"))
        elif metric not in OF_OBJECTIVES:
            found.append(Column(metric, "double", FIGURES[metric]))
    return found


SERVER_COLUMNS = (
    Column("machine", "string", "the device that computed"),
    Column("server", "string", "framework and engine"),
    Column("variant", "string", "further options that set the server apart"),
    Column("model", "string", ""),
    Column("dtype", "string", ""),
    Column("tp", "int64", "tensor parallel size"),
    Column("pp", "int64", "pipeline parallel size"),
)

TRIAL_COLUMNS = (
    Column("schema_version", "int64", "of these columns"),
    Column("source", "string", "the results folder's name"),
    Column("trial", "string", "the trial's id, unique within its source"),
    *SERVER_COLUMNS,
    Column("load", "string", "static, closed, constant, poisson, gamma, ramp, trace or sessions"),
    Column("batch", "int64", "sequences in one request: what was sent at once"),
    Column("concurrency", "int64", "requests kept in flight; none of an open loop"),
    Column("sequences", "int64", "batch × concurrency; none of an open loop"),
    Column("rate_per_s", "double", "open loop: requests due per second"),
    Column("input_tokens", "int64", "asked, per sequence"),
    Column("output_tokens", "int64", "asked, per sequence"),
    Column("streamed", "bool", ""),
    Column("start", "int64", "which fresh server of the plan's, from 0"),
    Column("server_start", "string", "equal for trials that one start of a server served"),
    Column("repeat", "int64", "from 0"),
    Column("started", "string", "ISO 8601 with its zone"),
    Column("wall_s", "double", "how long the trial took, warm-up and all"),
    Column("requests_ok", "int64", "measured requests that were served"),
    Column("requests_failed", "int64", "measured requests that failed"),
    Column("failed_share", "double", "0 to 1"),
    *_measured(),
    Column("mbu", "double", "share of the machine's bandwidth, 0 to 1"),
    Column("mfu", "double", "share of its matrix rate, 0 to 1"),
    Column("ideal_s", "double", "least time of a request by bandwidth and matrix rate alone"),
    Column("floor_s", "double", "the same with communication"),
    Column("floor_share", "double", "floor by E2E p50"),
    Column("communication_share", "double", "of the floor, 0 to 1"),
    Column("intensity_flops_per_byte", "double", "arithmetic intensity"),
    Column("flops_per_s", "double", "achieved"),
    Column("prefill_s", "double", "until the first token"),
    Column("decode_step_s", "double", "one more token for each sequence"),
    Column("prefill_mfu", "double", "0 to 1"),
    Column("decode_mbu", "double", "0 to 1"),
    Column("total_input_tokens", "double", "of the sequences at work together"),
    Column("ridge_tokens", "double", "tokens at which the machine turns from bandwidth to matrix rate"),
    Column("regime", "string", "what sets its time: bandwidth, matrix rate, communication or the host"),
    Column("client_limited", "bool", "the load generator set the figure"),
    Column("excluded", "string", "why it has no say in findings"),
    Column("caveats", "string", 'kinds of its doubts, split by "; "'),
    Column("failure", "string", "class of the error that ended the trial"),
    Column("slo", "string", "the objectives that the trial's requests were held to"),
    Column("attainment", "double", "share of the requests due that kept all of them, 0 to 1"),
    Column(
        "attainment_low", "double", "low end of its 95 % interval within this trial; where there is one goal"
    ),
    Column("attainment_high", "double", "high end of its 95 % interval within this trial"),
    Column("goodput_per_s", "double", "requests that kept all of them, per second"),
    Column("binding", "string", "the objective that uses up most of the misses that it allows"),
    Column(
        "share", "string", "0/2, 1/2, …: a part that one of several hosts sent, no trial; none of a whole one"
    ),
)

REQUEST_COLUMNS = (
    Column("schema_version", "int64", "of these columns"),
    Column("source", "string", "the results folder's name"),
    Column("trial", "string", "the trial's id; with source it finds the trial's row"),
    Column("request", "int64", "its number within the trial, the warm-up counted"),
    Column("phase", "string", "warmup, lead_in, measured or drain; figures are of measured alone"),
    Column("batch", "int64", "sequences in it"),
    Column("input_tokens", "int64", "asked, per sequence"),
    Column("output_tokens_asked", "int64", "per sequence"),
    Column("output_tokens", "int64", "counted, all sequences together"),
    Column("due_s", "double", "open loop: when it was due, from the trial's first send on"),
    Column("sent_s", "double", "when it was sent, likewise"),
    Column("end_s", "double", "when its reply ended, likewise"),
    Column("e2e_s", "double", "start (due, else sent) to last token"),
    Column("ttft_s", "double", "start to first token; none where not streamed"),
    Column("tpot_s", "double", "(E2E − TTFT)/(n − 1); none of fewer than 2 tokens or arrivals"),
    Column("error", "string", "class and words of what failed; such a request has no latency"),
)


CAPACITY_COLUMNS = (
    Column("schema_version", "int64", "of these columns"),
    Column("source", "string", "the results folder's name"),
    *SERVER_COLUMNS,
    Column("start", "int64", "which fresh server of the plan's, from 0"),
    Column("server_start", "string", "equal for searches and trials that one start of a server served"),
    Column("input", "string", "tokens asked, or what they are drawn from"),
    Column("output", "string", "tokens asked, or what they are drawn from"),
    Column("arrivals", "string", "gamma or constant; none of requests in flight"),
    Column("burstiness", "double", "of gamma arrivals; 1 is Poisson"),
    Column("slo", "string", "the objectives"),
    Column("variable", "string", "what was searched: rate or concurrency"),
    Column("ended", "string", "found, none, failed or client"),
    Column("why", "string", "what ended a search that found none"),
    Column("capacity", "double", "requests per second, or in flight"),
    Column("capacity_low", "double", "low end of its 90 % interval"),
    Column("capacity_high", "double", "high end of its 90 % interval"),
    Column(
        "binding", "string", "the objective that most requests miss there; none where the server is the limit"
    ),
    Column("joules_per_output_token", "double", "median over its windows"),
    Column("confirmed", "bool", "by a long trial at the interval's low end; none without one"),
    Column("caveats", "string", 'kinds of its doubts, split by "; "'),
    Column("trials", "int64", "that the search took"),
)


def arrow_schema(columns: tuple[Column, ...]) -> Any:
    """The ``pyarrow.Schema`` of these columns, the version in its metadata, too."""
    import pyarrow as pa

    types = {"string": pa.string(), "int64": pa.int64(), "double": pa.float64(), "bool": pa.bool_()}
    fields = [pa.field(column.name, types[column.kind]) for column in columns]
    return pa.schema(fields, metadata={"loadgen_export_version": str(VERSION)})
