"""Whether engine ``compiled`` gives the same greedy tokens at every start, and what torch's deterministic option costs.

Usage: python tests/benches/compiled_starts.py [--model llama-13b] [--starts 3] [--cells 20/100x1,20/100x64]

Each start is a process of its own with an empty compile cache, as on a fresh machine. Starts take turns between
reductions tuned anew, deterministic ones, and those with cuBLAS's work space fixed too. Per cell: the median of a
start's calls in milliseconds, the share of sequences whose tokens are the same in all its calls, and the shares whose
first token, and whose tokens all, are those of the first start of the same kind.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time

KINDS = ("tuned", "deterministic", "work space")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="llama-13b")
    parser.add_argument("--cells", default="20/100x1,20/100x64,20/100x256,512/20x64")
    parser.add_argument("--starts", type=int, default=3)
    parser.add_argument("--calls", type=int, default=3)
    parser.add_argument("--inside", choices=KINDS, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.inside:
        one_start(given)
        return
    firsts: dict[tuple[str, str], list[list[int]]] = {}
    print(
        f"{'start':<18}{'cell':>13}{'ms':>9}{'ready, s':>10}{'in a start':>12}{'first token':>13}{'all tokens':>12}",
        flush=True,
    )
    for start in range(given.starts):
        for kind in KINDS:
            with tempfile.TemporaryDirectory(prefix="compiled-starts-") as cache:
                argv = [
                    sys.executable, __file__, "--model", given.model, "--cells", given.cells,
                    "--calls", str(given.calls), "--inside", kind,
                ]  # fmt: skip
                env = os.environ | {"TORCHINDUCTOR_CACHE_DIR": cache, "TRITON_CACHE_DIR": cache + "/triton"}
                if kind == "work space":
                    env["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"
                done = subprocess.run(argv, env=env, stdout=subprocess.PIPE, text=True)
            if done.returncode:
                sys.exit(f"start {start}, {kind}: exit {done.returncode}")
            for line in done.stdout.splitlines():
                if not line.startswith('{"cell"'):
                    continue
                row = json.loads(line)
                calls = row["tokens"]
                first = firsts.setdefault((kind, row["cell"]), calls[0])
                same = sum(all(call[at] == one for call in calls) for at, one in enumerate(calls[0]))
                pairs = list(zip(calls[0], first, strict=True))
                one = sum(a[0] == b[0] for a, b in pairs) / len(pairs)
                whole = sum(a == b for a, b in pairs) / len(pairs)
                figures = (
                    f"{row['ms']:9.1f}{row['ready_s']:10.1f}{same / len(pairs):12.3f}{one:13.3f}{whole:12.3f}"
                )
                print(f"{start} {kind:<16}{row['cell']:>13}{figures}", flush=True)


def one_start(given: argparse.Namespace) -> None:
    """Start the engine in this process, and print each cell's time and tokens as a line of JSON."""
    sys.argv = [sys.argv[0]]
    began = time.perf_counter()
    import torch
    from hf_overhead import Direct, arguments, spec_of

    from loadgen.servers._hf import compiled
    from loadgen.servers._hf.call import Run

    gpu = torch.cuda.is_available()
    options = {} if given.inside == "tuned" else {"deterministic": True}
    compiled.inductor_options = lambda mode: options
    where = [] if gpu else ["--gpus", "none"]
    direct = Direct(spec_of(arguments().parse_args(["--model", given.model, "--engine", "compiled", *where])))
    for cell in given.cells.split(","):
        lengths, batch = cell.split("x")
        input_tokens, output = map(int, lengths.split("/"))
        chance = random.Random(cell)
        prompts = [[chance.randrange(4, 1000) for _ in range(input_tokens)] for _ in range(int(batch))]
        times, tokens = [], []
        for _ in range(1 + given.calls):
            run = Run(direct.call(prompts, output), frozenset())
            start = time.perf_counter()
            direct.ready.engine.run(run)
            if gpu:
                torch.cuda.synchronize()
            times.append((time.perf_counter() - start) * 1e3)
            tokens.append(run.tokens)
        row = {"cell": cell, "ms": statistics.median(times[1:]), "ready_s": time.perf_counter() - began}
        print(json.dumps(row | {"tokens": tokens}), flush=True)
        torch.cuda.empty_cache()


if __name__ == "__main__":
    main()
