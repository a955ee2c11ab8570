"""What framework ``vllm`` can be told, and the flags that come of it. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping

from loadgen.errors import BadInput
from loadgen.launch.options import Options
from loadgen.records import ServerSpec
from loadgen.servers._llama import weights
from loadgen.theory.models import kv_bytes_per_token

SEQUENCES = 1024  # at once, as vLLM itself has it on GPUs of 70 GiB or more
KV_BLOCK = 128  # tokens; that of CPUs, a multiple of those of GPUs
HELP: Mapping[str, str] = {
    "weights": weights.HELP,
    "seed": "seed of random weights, a whole number. Default 0",
    "enforce_eager": "true: neither torch.compile nor CUDA graphs. Default false",
    "max_num_batched_tokens": "tokens of one step at most, from 1. Default vLLM's own, which results tell",
    "max_cudagraph_capture_size": "the largest batch that is replayed as a CUDA graph, from 1. Default vLLM's own, 512",
    "gpu_memory_utilization": "share of a GPU's memory that it takes, above 0, up to 1. Default vLLM's own, 0.92",
    "kv_tokens": "tokens of key/value cache, from 1. Default: as many as its share of the memory leaves",
    "async_scheduling": "true, false: the next step is scheduled while one runs. Default vLLM's own",
    "chunked_prefill": "true, false: prompts are read in pieces beside decoding. Default true",
    "prefix_caching": "true, false: prompts known from before are not computed again. Default false",
    "attention": "attention backend by vLLM's name, such as FLASH_ATTN, FLASHINFER, TRITON_ATTN. Default vLLM's own",
}
_FLAGS = {"async_scheduling": "async-scheduling", "chunked_prefill": "enable-chunked-prefill"}
_NUMBERS = ("max_num_batched_tokens", "max_cudagraph_capture_size")


def flags(spec: ServerSpec) -> tuple[str, ...]:
    """vLLM's flags for the options that were given, and those that are always set. Raises BadInput for bad values."""
    options = Options(spec.framework, spec.options)
    found = ["--max-num-seqs", str(spec.max_batch or SEQUENCES)]
    found.append(
        "--enable-prefix-caching" if options.flag("prefix_caching", False) else "--no-enable-prefix-caching"
    )
    for name, flag in _FLAGS.items():
        if name in options.values:
            found.append(f"--{flag}" if options.flag(name, True) else f"--no-{flag}")
    if options.flag("enforce_eager", False):
        found.append("--enforce-eager")
    for name in _NUMBERS:
        if name in options.values:
            found += [f"--{name.replace('_', '-')}", str(options.number(name, 0, 1))]
    if "gpu_memory_utilization" in options.values:
        found += ["--gpu-memory-utilization", f"{options.share('gpu_memory_utilization', whole=True):g}"]
    if "kv_tokens" in options.values:
        tokens = -(-options.number("kv_tokens", 0, 1) // KV_BLOCK) * KV_BLOCK
        size = tokens * kv_bytes_per_token(spec.model, spec.dtype, spec.tp, spec.pp)
        found += ["--kv-cache-memory-bytes", str(size)]
    backend = options.text("attention")
    if backend is not None:
        if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*", backend):
            raise BadInput(f"vllm: option attention = {backend!r} (accepted: a name such as FLASH_ATTN)")
        found += ["--attention-backend", backend.upper()]
    return tuple(found)
