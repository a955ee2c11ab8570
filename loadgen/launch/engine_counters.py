"""Counters of engines that others wrote as evidence from the other side: steps, tokens, prefix-cache hits. Pure.

vLLM counts an iteration in ``iteration_tokens_total``, llama.cpp a forward pass in ``n_decode_total``, TGI batches by
``method`` (prefill, decode). SGLang counts no steps, and of retracted requests shows those of the last batch alone.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from loadgen.telemetry.prometheus_text import MOST, series_of

Totals = Mapping[str, tuple[int, float]]  # by name: series, and their sum


@dataclass(frozen=True, slots=True, kw_only=True)
class Names:
    """What one engine calls its counters; of several names that a counter had, the first that is there holds."""

    source: str
    output_tokens: tuple[str, ...]
    prompt_tokens: tuple[str, ...] = ()
    steps: tuple[str, ...] = ()
    cached_prompt_tokens: tuple[str, ...] = ()
    preemptions: tuple[str, ...] = ()
    prompt_without_cached: bool = False

    def all(self) -> Iterable[str]:
        """Every name."""
        for names in (
            self.output_tokens, self.prompt_tokens, self.steps, self.cached_prompt_tokens, self.preemptions
        ):  # fmt: skip
            yield from names


ENGINES = (
    Names(
        source="vllm",
        output_tokens=("vllm:generation_tokens_total",),
        prompt_tokens=("vllm:prompt_tokens_total",),
        steps=("vllm:iteration_tokens_total_count",),
        cached_prompt_tokens=("vllm:prefix_cache_hits_total", "vllm:gpu_prefix_cache_hits_total"),
        preemptions=("vllm:num_preemptions_total",),
    ),
    Names(
        source="sglang",
        output_tokens=("sglang:generation_tokens_total",),
        prompt_tokens=("sglang:prompt_tokens_total",),
        cached_prompt_tokens=("sglang:cached_tokens_total",),
    ),
    Names(
        source="llama.cpp",
        output_tokens=("llamacpp:tokens_predicted_total",),
        prompt_tokens=("llamacpp:prompt_tokens_total",),
        steps=("llamacpp:n_decode_total",),
        cached_prompt_tokens=("llamacpp:prompt_tokens_cached_total",),
        prompt_without_cached=True,
    ),
    Names(
        source="lmdeploy",
        output_tokens=("lmdeploy:generation_tokens_total",),
        prompt_tokens=("lmdeploy:prompt_tokens_total",),
        steps=("lmdeploy:iteration_tokens_total_count",),
        cached_prompt_tokens=("lmdeploy:cached_tokens_total",),
    ),
    Names(
        source="tgi",
        output_tokens=("tgi_request_generated_tokens_sum",),
        steps=("tgi_batch_inference_duration_count",),
    ),
)
NAMES = frozenset(name for engine in ENGINES for name in engine.all())
PARTS = {"tgi_batch_inference_duration_count"}  # series that add up; of others, each is an engine of its own


def server_side_counts(before: str, after: str) -> dict[str, object]:
    """What an engine counted between two pages, warm-up included; empty for a page of none of ``ENGINES``, or where a
    counter went back (another server). ``None`` is not counted; steps of several engines side by side are none."""
    first, last = _totals(before), _totals(after)
    for engine in ENGINES:
        if _named(last, engine.output_tokens) is not None:
            break
    else:
        return {}
    found: dict[str, object] = {"source": engine.source, "covers": "warm-up and measured requests"}
    for what in ("output_tokens", "prompt_tokens", "steps", "cached_prompt_tokens", "preemptions"):
        name = _named(last, getattr(engine, what))
        if name is None:
            continue
        series, end = last[name]
        grown = end - first.get(name, (0, 0.0))[1]  # a counter may be absent until it first counts
        if math.isnan(grown):  # one of its series is no figure
            continue
        if grown < 0:
            return {}
        found[what] = None if what == "steps" and series > 1 and name not in PARTS else round(grown)
    prompt, cached = found.get("prompt_tokens"), found.get("cached_prompt_tokens")
    if engine.prompt_without_cached and isinstance(prompt, int) and isinstance(cached, int):
        found["prompt_tokens"] = prompt + cached
    return found if len(found) > 2 else {}


def _named(totals: Totals, names: tuple[str, ...]) -> str | None:
    return next((name for name in names if name in totals), None)


def _totals(text: str) -> Totals:
    found: dict[str, tuple[int, float]] = {}
    for name, _, value in series_of(text, NAMES):
        series, total = found.get(name, (0, 0.0))
        found[name] = (series + 1, total + (value if 0 <= value <= MOST else math.nan))
    return found
