"""A Prometheus text page → readings under one set of names and units, whoever wrote it. Pure.

dcgm-exporter gives percent, MiB, mJ and MHz; Triton gives 0–1, bytes and joules. Readings are 0–1, bytes, watts,
joules, hertz. What is blank, out of range or not a number is refused, never turned into a zero; a GPU whose total
memory reads 0 cannot be read by that source at all (seen with Triton's DCGM), and none of its figures is believed.
"""

from __future__ import annotations

import re
from collections.abc import Container, Iterable, Iterator, Mapping
from dataclasses import dataclass

MIB = 1024.0**2
DCGM_BLANK = 140737488355328.0  # DCGM's blank of doubles; its integer blanks are larger still
# Name, labels, value; a time and an exemplar may follow.
LINE = re.compile(
    r"^[ \t]*([a-zA-Z_:][a-zA-Z0-9_:]*+)"
    r'(?:[ \t]*\{((?:[^"{}]|"(?:[^"\\]|\\.)*+")*+)\})?'
    r"[ \t]*+(?<=[ \t}])(\S+)(?:[ \t]+-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?)?(?:[ \t]+#.*)?\s*$"
)
# Without the word boundary and the possessive repeats, a line of one long word takes the square of its length.
LABEL = re.compile(r'\b([a-zA-Z_]\w*+)[ \t]*+=[ \t]*+"((?:[^"\\]|\\.)*)"')
TREE, HOST, ENGINE = "tree", "host", "engine"

# The largest value that a reading of a metric can have; above it the source is wrong.
LIMITS = {
    "gpu_utilization": 1.0,
    "kv_usage": 1.0,
    "gpu_power_w": 1e5,
    "gpu_power_cap_w": 1e5,
    "gpu_temperature_c": 300.0,
    "gpu_sm_clock_hz": 1e11,
    "gpu_memory_clock_hz": 1e11,
    "gpu_memory_used_bytes": 1e14,
    "gpu_memory_total_bytes": 1e14,
}


@dataclass(frozen=True, slots=True)
class Rule:
    """One foreign metric: our name, the factor to our unit, and the label that names its subject."""

    metric: str
    factor: float = 1.0
    label: str | None = None
    subject: str = ENGINE


def _dcgm(metric: str, factor: float = 1.0) -> Rule:
    return Rule(metric, factor, "UUID")


def _triton(metric: str) -> Rule:
    return Rule(metric, 1.0, "gpu_uuid")


RULES: Mapping[str, Rule] = {
    "DCGM_FI_DEV_GPU_UTIL": _dcgm("gpu_utilization", 0.01),
    "DCGM_FI_DEV_FB_USED": _dcgm("gpu_memory_used_bytes", MIB),
    "DCGM_FI_DEV_FB_FREE": _dcgm("gpu_memory_free_bytes", MIB),
    "DCGM_FI_DEV_FB_TOTAL": _dcgm("gpu_memory_total_bytes", MIB),
    "DCGM_FI_DEV_POWER_USAGE": _dcgm("gpu_power_w"),
    "DCGM_FI_DEV_POWER_MGMT_LIMIT": _dcgm("gpu_power_cap_w"),
    "DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION": _dcgm("gpu_energy_j", 1e-3),
    "DCGM_FI_DEV_SM_CLOCK": _dcgm("gpu_sm_clock_hz", 1e6),
    "DCGM_FI_DEV_MEM_CLOCK": _dcgm("gpu_memory_clock_hz", 1e6),
    "DCGM_FI_DEV_GPU_TEMP": _dcgm("gpu_temperature_c"),
    "DCGM_FI_DEV_CLOCK_THROTTLE_REASONS": _dcgm("gpu_throttle_reasons"),
    "DCGM_FI_DEV_CLOCKS_EVENT_REASONS": _dcgm("gpu_throttle_reasons"),  # the same mask, renamed in DCGM 4
    "nv_gpu_utilization": _triton("gpu_utilization"),
    "nv_gpu_memory_used_bytes": _triton("gpu_memory_used_bytes"),
    "nv_gpu_memory_total_bytes": _triton("gpu_memory_total_bytes"),
    "nv_gpu_power_usage": _triton("gpu_power_w"),
    "nv_gpu_power_limit": _triton("gpu_power_cap_w"),
    "nv_energy_consumption": _triton("gpu_energy_j"),
    "nv_cpu_memory_used_bytes": Rule("host_memory_used_bytes", subject=HOST),
    "nv_cpu_memory_total_bytes": Rule("host_memory_total_bytes", subject=HOST),
    "vllm:num_requests_running": Rule("engine_running"),
    "vllm:num_requests_waiting": Rule("engine_waiting"),
    "vllm:generation_tokens_total": Rule("engine_output_tokens"),
    "vllm:prefix_cache_hits_total": Rule("engine_cached_tokens"),
    "vllm:num_preemptions_total": Rule("engine_preemptions"),
    "vllm:iteration_tokens_total_count": Rule("engine_steps"),
    "vllm:kv_cache_usage_perc": Rule("kv_usage"),  # 0–1, whatever the name says
    "vllm:gpu_cache_usage_perc": Rule("kv_usage"),  # its name before vLLM 0.10
    "sglang:num_running_reqs": Rule("engine_running"),
    "sglang:num_queue_reqs": Rule("engine_waiting"),
    "sglang:generation_tokens_total": Rule("engine_output_tokens"),
    "sglang:token_usage": Rule("kv_usage"),
    "sglang:max_total_num_tokens": Rule("kv_capacity_tokens"),
    "llamacpp:requests_processing": Rule("engine_running"),
    "llamacpp:requests_deferred": Rule("engine_waiting"),
    "llamacpp:tokens_predicted_total": Rule("engine_output_tokens"),
    "lmdeploy:num_requests_running": Rule("engine_running"),
    "lmdeploy:num_requests_waiting": Rule("engine_waiting"),
    "lmdeploy:generation_tokens_total": Rule("engine_output_tokens"),
    "lmdeploy:gpu_cache_usage_perc": Rule("kv_usage"),
    "tgi_batch_current_size": Rule("engine_running"),
    "tgi_queue_size": Rule("engine_waiting"),
    "tgi_request_generated_tokens_sum": Rule("engine_output_tokens"),
    "hf_running_sequences": Rule("engine_running"),
    "hf_queue_depth": Rule("engine_waiting"),
    "hf_generated_tokens_total": Rule("engine_output_tokens"),
    "hf_cuda_allocated_bytes": Rule("engine_allocated_bytes", 1.0, "rank"),
    "hf_cuda_reserved_bytes": Rule("engine_reserved_bytes", 1.0, "rank"),
    "hf_cuda_peak_allocated_bytes": Rule("engine_peak_bytes", 1.0, "rank"),
    "hf_cuda_call_peak_allocated_bytes": Rule("engine_call_peak_bytes", 1.0, "rank"),
    "hf_cuda_loaded_bytes": Rule("engine_loaded_bytes", 1.0, "rank"),
    "hf_cuda_kv_needed_bytes": Rule("engine_kv_needed_bytes", 1.0, "rank"),
    "hf_cuda_kv_reserved_bytes": Rule("engine_kv_reserved_bytes", 1.0, "rank"),
    "loadgen_process_tree_cpu_seconds_total": Rule("server_cpu_s", 1.0, "root", TREE),
    "loadgen_process_tree_resident_memory_bytes": Rule("server_rss_bytes", 1.0, "root", TREE),
    "loadgen_process_tree_proportional_memory_bytes": Rule("server_pss_bytes", 1.0, "root", TREE),
    "loadgen_process_tree_threads": Rule("server_threads", 1.0, "root", TREE),
    "loadgen_host_cpu_busy_seconds_total": Rule("host_cpu_busy_s", subject=HOST),
    "loadgen_host_cpu_steal_seconds_total": Rule("host_cpu_steal_s", subject=HOST),
    "loadgen_host_cpu_frequency_hertz": Rule("host_cpu_frequency_hz", subject=HOST),
    "loadgen_host_pressure_cpu_waiting_seconds_total": Rule("host_cpu_waiting_s", subject=HOST),
    "loadgen_host_memory_used_bytes": Rule("host_memory_used_bytes", subject=HOST),
    "loadgen_host_memory_total_bytes": Rule("host_memory_total_bytes", subject=HOST),
}
PROCESS_MEMORY = "loadgen_gpu_process_memory_bytes"  # by owner, summed over the processes of a GPU
KV_CONFIG = "vllm:cache_config_info"
MOST = 2.0**63  # of whatever is read: what is more, or not finite, is no figure, and JSON could not carry it
Reading = tuple[str, str, float]  # metric, subject (GPU UUID, rank, process, …), value
Series = tuple[str, Mapping[str, str], float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """What a page said. ``refused`` are values that cannot be, ``blind`` the GPUs that its source cannot read;
    ``quiet``: it has nothing to say, because nothing has happened."""

    readings: tuple[Reading, ...]
    refused: tuple[str, ...]
    blind: tuple[str, ...]
    quiet: bool = False


def names_of(rules: Mapping[str, Rule] = RULES) -> frozenset[str]:
    """The series that ``normalise`` makes readings of."""
    return frozenset((*rules, PROCESS_MEMORY, KV_CONFIG))


def read_page(text: str, rules: Mapping[str, Rule] = RULES) -> Page:
    """The readings of one page in Prometheus' text format; lines of no interest, or torn, are passed over."""
    return normalise(series_of(text, names_of(rules)), rules)


def series_of(text: str, names: Container[str] | None = None) -> Iterator[Series]:
    """The series of a page: name, labels, value; those of ``names`` alone where they are given."""
    for line in text.removeprefix("\ufeff").splitlines():
        if line.startswith("#"):
            continue
        match = LINE.match(line)
        if match is None or (names is not None and match[1] not in names):
            continue
        try:
            value = float(match[3])
        except ValueError:
            continue
        yield match[1], dict(LABEL.findall(match[2] or "")), value


def normalise(series: Iterable[Series], rules: Mapping[str, Rule] = RULES) -> Page:
    """Series under our names and units, doubtful ones refused.

    A page of several engines has one series for each: they are summed, a share of a cache is averaged; without one of
    them there is no sum.
    """
    found: dict[tuple[str, str], float] = {}
    engines: dict[tuple[str, str], dict[tuple[tuple[str, str], ...], float]] = {}
    refused: list[str] = []
    doubtful: set[str] = set()
    slices = False
    for name, every, value in series:
        labels = {label.lower(): text for label, text in every.items()}
        if not 0 <= value <= MOST:
            refused.append(f"{name} = {value}")
            doubtful.add(name)
            continue
        if value >= DCGM_BLANK and name.startswith("DCGM_"):
            continue  # DCGM's way to say that it does not know
        if labels.get("gpu_i_id"):
            slices = True
            continue  # a MIG slice under its parent's UUID
        for metric, subject, converted, adds in _readings(name, labels, value, rules):
            if converted > LIMITS.get(metric, MOST * MIB):
                refused.append(f"{name} = {value}")
                doubtful.add(name)
                continue
            if subject == ENGINE:
                engines.setdefault((metric, name), {})[tuple(sorted(labels.items()))] = converted
                continue
            found[metric, subject] = converted + (found.get((metric, subject), 0.0) if adds else 0.0)
    for (metric, name), each in engines.items():
        if name in doubtful:
            continue
        found[metric, ENGINE] = sum(each.values()) / (len(each) if metric == "kv_usage" else 1)
    if slices and not any(metric.startswith("gpu_") for metric, _ in found):
        refused.append("figures of MIG slices alone (GPU_I_ID), which are no GPU's")
    blind = _drop_blind(found)
    _drop_impossible(found, refused)
    return Page(
        readings=tuple((metric, subject, value) for (metric, subject), value in found.items()),
        refused=tuple(refused),
        blind=blind,
    )


def _readings(
    name: str, labels: Mapping[str, str], value: float, rules: Mapping[str, Rule]
) -> Iterator[tuple[str, str, float, bool]]:
    if name == PROCESS_MEMORY:
        owner = labels.get("owner", "unseen")
        yield f"gpu_{owner}_memory_bytes", labels.get("uuid", ""), value, True
        yield f"gpu_{owner}_processes", labels.get("uuid", ""), 1.0, True
        return
    if name == KV_CONFIG:
        try:
            tokens = float(int(labels["num_gpu_blocks"]) * int(labels["block_size"]))
        except (KeyError, ValueError, OverflowError):
            return
        if tokens > 0:
            yield "kv_capacity_tokens", ENGINE, tokens, False
        return
    rule = rules[name]
    subject = rule.subject if rule.label is None else labels.get(rule.label.lower())
    if subject:
        yield rule.metric, subject, value * rule.factor, False


def _drop_blind(found: dict[tuple[str, str], float]) -> tuple[str, ...]:
    """Take out every figure of a GPU whose total memory is 0, and tell which they are.

    dcgm-exporter by default exports used and free but no total: then the total is their sum.
    """
    for metric, gpu in list(found):
        if metric == "gpu_memory_used_bytes" and ("gpu_memory_free_bytes", gpu) in found:
            total = found[metric, gpu] + found["gpu_memory_free_bytes", gpu]
            found.setdefault(("gpu_memory_total_bytes", gpu), total)
    blind = tuple(
        sorted(gpu for (metric, gpu), v in found.items() if metric == "gpu_memory_total_bytes" and not v)
    )
    for key in [key for key in found if key[0].startswith("gpu_") and key[1] in blind]:
        del found[key]
    return blind


def _drop_impossible(found: dict[tuple[str, str], float], refused: list[str]) -> None:
    for (metric, gpu), used in list(found.items()):
        total = found.get(("gpu_memory_total_bytes", gpu))
        if metric == "gpu_memory_used_bytes" and total is not None and used > total:
            refused.append(f"used memory {used:.0f} of {total:.0f} bytes")
            del found[metric, gpu]
