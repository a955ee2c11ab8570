"""What a running vLLM tells of itself, from its log and its pages, and whether it is what was asked for.

The log is that of 0.25 to 0.33; what a version does not say is left out, never guessed.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping
from dataclasses import dataclass

from loadgen.errors import ServerError
from loadgen.launch.endpoint import metrics_text, server_info
from loadgen.records import ServerSpec
from loadgen.servers._llama import weights
from loadgen.servers._vllm.options import SEQUENCES
from loadgen.telemetry.prometheus_text import KV_CONFIG, series_of

MAKER, OWN = "vLLM", "uniform, up to 0.001"  # of its dummy loader
YES = {"True": True, "False": False, "enabled": True, "disabled": False}
# Fact → where the log tells it.
LOG = {
    "version": r"LLM engine \(v([^)\s]+)\)",
    "prefix_caching": r"enable_prefix_caching=(True|False)",
    "chunked_prefill": r"enable_chunked_prefill=(True|False)",
    "async_scheduling": r"[Aa]synchronous scheduling is (enabled|disabled)",
    "graph_mode": r"'cudagraph_mode': <CUDAGraphMode\.(\w+)",
    "compile_mode": r"'mode': <CompilationMode\.(\w+)",
    "attention": r"Using (?:AttentionBackendEnum\.)?(\w+?) (?:attention )?backend",
    "attention_version": r"Using FlashAttention version (\d)",
    "max_ragged_batch_size": r"max_num_batched_tokens=(\d+)",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadBack:
    """See protocols.Command; ``base`` is the server's URL."""

    spec: ServerSpec
    base: str

    def __call__(self, log: str) -> Mapping[str, object]:
        """Facts of a server that takes work. Raises ServerError where it caches prefixes unasked, or has a shorter
        context than the model."""
        facts = asked_for(self.spec) | from_log(log)
        version = server_info(f"{self.base}/version").get("version")
        if isinstance(version, str):
            facts["version"] = version
        facts["engine"] = f"vllm {facts['version']}" if "version" in facts else "vllm"
        facts |= cache_config(metrics_text(f"{self.base}/metrics") or "")
        served = server_info(f"{self.base}/v1/models").get("data")
        entry = served[0] if isinstance(served, list) and served and isinstance(served[0], dict) else {}
        context = entry.get("max_model_len")
        if isinstance(context, int):
            facts["max_context"] = context
            if context < self.spec.model.max_context:
                raise ServerError(
                    f"vllm serves a context of {context} tokens, and {self.spec.model.max_context} were asked for"
                )
        asked = self.spec.options.get("prefix_caching") is True
        if facts.get("prefix_caching", asked) is not asked:
            raise ServerError(
                f"vllm runs with prefix caching {facts['prefix_caching']}, and {asked} was asked for"
            )
        return facts


def asked_for(spec: ServerSpec) -> dict[str, object]:
    """What the spec decides."""
    eager = spec.options.get("enforce_eager") is True
    return {
        "framework": spec.framework,
        "model": spec.model.name,
        "vocab": spec.model.vocab,
        "dtype": spec.dtype,
        "tp": spec.tp,
        "pp": spec.pp,
        "device": "cuda" if spec.gpus else "cpu",
        "weights": weights.numbers(spec, MAKER, OWN).page(),
        "options": dict(spec.options),
        "max_sequences": spec.max_batch or SEQUENCES,
        "in_flight_batching": True,
        "kv_ahead": True,
        "eager": eager,
        "graphs": bool(spec.gpus) and not eager,
    }


def from_log(log: str) -> dict[str, object]:
    """The facts that its log tells; numbers and truth values as such."""
    facts: dict[str, object] = {}
    for name, pattern in LOG.items():
        if (found := re.search(pattern, log)) is not None:
            text = found[1]
            facts[name] = YES[text] if text in YES else int(text) if text.isdigit() else text
    sizes = re.search(r"'cudagraph_capture_sizes': (\[[\d, ]*\])", log)
    if sizes is not None and (listed := ast.literal_eval(sizes[1])):
        facts["graphs_up_to"] = max(listed)
    return facts


def cache_config(metrics: str) -> dict[str, object]:
    """KV cache and prefix caching as its page of counters tells them."""
    facts: dict[str, object] = {}
    for _, labels, _ in series_of(metrics, (KV_CONFIG,)):
        block, blocks = labels.get("block_size", ""), labels.get("num_gpu_blocks", "")
        tokens = labels.get("kv_cache_size_tokens", "")
        if block.isdigit():
            facts["kv_block_tokens"] = int(block)
        if tokens.isdigit():
            facts["kv_tokens"] = int(tokens)
        elif block.isdigit() and blocks.isdigit():
            facts["kv_tokens"] = int(block) * int(blocks)
        if (caching := labels.get("enable_prefix_caching")) in YES:
            facts["prefix_caching"] = YES[caching]
    return facts
