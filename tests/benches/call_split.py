"""Where the time of a static batch goes on a GPU: products, attention, other kernels, and the GPU idle.

Usage: python tests/benches/call_split.py hf|vllm [--model llama-13b] [--cells 20/100x1,20/100x64,512/20x64]

The engine alone, without a server: ``wall`` is the median of calls without a profiler, ``busy`` is how long at least
one kernel ran in a call under the profiler, by kind of kernel. ``idle`` is the rest: the host, and what it launches too
late. For ``hf`` (engine ``compiled``) each cell is measured with attention over all slots of the cache too.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import random
import re
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

KINDS = (
    ("attention", re.compile(r"flash|fmha|attention|attn|paged|mha", re.I)),
    ("products", re.compile(r"gemm|gemv|cutlass|nvjet|xmma|cublas|splitK|\bdot\b", re.I)),
    ("collectives", re.compile(r"nccl|all_?reduce|all_?gather", re.I)),
)
Call = Callable[[list[list[int]], int], None]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("engine", choices=("hf", "vllm"))
    parser.add_argument("--model", default="llama-13b")
    parser.add_argument("--cells", default="20/100x1,20/100x64,512/20x64,20/100x256")
    parser.add_argument("--calls", type=int, default=3)
    given = parser.parse_args()
    print(
        f"{'engine':<24}{'cell':>14}{'wall':>9}{'busy':>9}{'idle':>8}{'products':>10}{'attention':>10}{'other':>8}",
        flush=True,
    )
    for name, call in (hf if given.engine == "hf" else vllm)(given.model):
        for cell in given.cells.split(","):
            lengths, batch = cell.split("x")
            measure(name, cell, call, *map(int, lengths.split("/")), int(batch), given.calls)


def measure(name: str, cell: str, call: Call, input_tokens: int, output: int, batch: int, calls: int) -> None:
    """Print a cell's row; full figures as JSON behind it."""
    import torch

    chance, gpu = random.Random(batch), torch.cuda.is_available()

    def timed() -> float:
        prompts = [[chance.randrange(4, 1000) for _ in range(input_tokens)] for _ in range(batch)]
        began = time.perf_counter()
        call(prompts, output)
        if gpu:
            torch.cuda.synchronize()
        return (time.perf_counter() - began) * 1e3

    timed()
    wall = statistics.median(timed() for _ in range(calls))
    what = torch.profiler.ProfilerActivity
    activities = [what.CUDA if gpu else what.CPU]
    with torch.profiler.profile(activities=activities) as profiler:
        watched = timed()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "trace.json")
        profiler.export_chrome_trace(str(path))
        events = json.loads(path.read_text())["traceEvents"]
    kernels = [each for each in events if each.get("cat") in ("kernel", "gpu_memcpy", "gpu_memset")]
    by_kind: dict[str, float] = defaultdict(float)
    by_name: dict[str, float] = defaultdict(float)
    for each in kernels:
        kind = next((kind for kind, words in KINDS if words.search(each["name"])), "other")
        by_kind[kind] += each["dur"] / 1e3
        by_name[each["name"][:90]] += each["dur"] / 1e3
    busy = union_ms((each["ts"], each["ts"] + each["dur"]) for each in kernels)
    print(
        f"{name:<24}{cell:>14}{wall:9.1f}{busy:9.1f}{max(0.0, wall - busy):8.1f}{by_kind['products']:10.1f}"
        f"{by_kind['attention']:10.1f}{by_kind['other']:8.1f}",
        flush=True,
    )
    longest = sorted(by_name.items(), key=lambda item: -item[1])[:12]
    print(
        "  " + json.dumps({"watched": watched, "kernels": len(kernels), "longest": dict(longest)}), flush=True
    )


def union_ms(spans: object) -> float:
    """Milliseconds that at least one of the spans [µs] covers."""
    total = end = 0.0
    for start, stop in sorted(spans):  # type: ignore[call-overload]
        total += max(0.0, stop - max(start, end))
        end = max(end, stop)
    return total / 1e3


def hf(model: str) -> list[tuple[str, Call]]:
    """``compiled`` with decode steps that read all slots of the cache, then with those that read its filled blocks."""
    sys.argv = [sys.argv[0]]
    import torch
    from hf_overhead import Direct, arguments, spec_of

    where = [] if torch.cuda.is_available() else ["--gpus", "none"]
    direct = Direct(spec_of(arguments().parse_args(["--model", model, "--engine", "compiled", *where])))
    engine = direct.ready.engine
    from loadgen.servers._hf.call import Run

    blocks = engine.functions
    slots = dataclasses.replace(blocks, fused=False)

    def with_functions(functions: object) -> Call:
        def call(prompts: list[list[int]], output: int) -> None:
            if engine.functions is not functions:
                engine.functions = functions
                engine._shapes.clear()
            engine.run(Run(direct.call(prompts, output), frozenset()))

        return call

    return [("compiled, all slots", with_functions(slots)), ("compiled", with_functions(blocks))]


def vllm(model: str) -> list[tuple[str, Call]]:
    """vLLM with the weights of ``hf``, the engine in this process, as it is by default but for prefix caching."""
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    os.environ["VLLM_USE_FLASHINFER_SAMPLER"] = "0"  # as loadgen starts it
    from hf_overhead import ROOT  # which lets loadgen.servers be found

    from loadgen.servers._llama.files import config_json
    from loadgen.servers._vllm import loader
    from loadgen.theory.models import resolve

    shape, folder = resolve(model), Path(tempfile.mkdtemp(prefix="call-split-"))
    (folder / "config.json").write_text(config_json(shape, "bfloat16"))
    plugin = loader.plugin_files(str(ROOT / "loadgen/launch/_child.py"), str(ROOT / "servers"))
    for name, text in plugin.items():
        path = folder / "plugin" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    sys.path.insert(0, str(folder / "plugin"))
    from vllm import LLM, SamplingParams

    fields = dataclasses.asdict(dataclasses.replace(shape, checkpoint=None, fingerprint=""))
    llm = LLM(
        model=str(folder), load_format=loader.FORMAT, model_loader_extra_config={"model": fields, "seed": 0},
        dtype="bfloat16", skip_tokenizer_init=True, enable_prefix_caching=False,
        max_model_len=shape.max_context, generation_config="vllm",
    )  # fmt: skip

    def call(prompts: list[list[int]], output: int) -> None:
        params = SamplingParams(
            temperature=0, max_tokens=output, min_tokens=output, ignore_eos=True, detokenize=False
        )
        llm.generate([{"prompt_token_ids": ids} for ids in prompts], params, use_tqdm=False)

    return [("vllm", call)]


if __name__ == "__main__":
    main()
