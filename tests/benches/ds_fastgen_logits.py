"""FastGen's logits against transformers' on small models, at several TP degrees, eager and as CUDA graphs.

Usage: python tests/benches/ds_fastgen_logits.py --tp 1,2

Both compute the same seeded weights. The reference is transformers in float32; its own error at the served dtype is
the yardstick: FastGen may be off by three times that. Exits 1 when it is off by more.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import ds_ranks

PROMPT, STEPS, FACTOR = 24, 28, 3.0  # graphs begin after the first 14 forwards
SHAPES: dict[str, dict[str, int]] = {
    "heads of 64": {"hidden": 512, "intermediate": 1408, "heads": 8, "kv_heads": 8, "head_dim": 64},
    "heads of 128": {"hidden": 1024, "intermediate": 2816, "heads": 8, "kv_heads": 8, "head_dim": 128},
    "grouped heads": {"hidden": 1024, "intermediate": 2816, "heads": 8, "kv_heads": 4, "head_dim": 128},
}
COLUMNS = ("shape", "tp", "graph", "error", "own_error", "limit", "same_argmax", "verdict")


def main() -> None:
    parser = ds_ranks.arguments(__doc__ or "")
    given = parser.parse_args()
    if given.rank >= 0:
        rank(given.rank, json.loads(given.work))
        return
    from loadgen.records import ModelSpec

    rows = []
    for degree in map(int, given.tp.split(",")):
        for shape, sizes in SHAPES.items():
            for graph in (False, True):
                model = ModelSpec(name=shape, layers=4, vocab=4096, max_context=2048, rms_eps=1e-6, **sizes)
                options = {"engine": "mii-fastgen", "kv_tokens": 8192, "cuda_graph": graph, "seed": 1}
                spec = ds_ranks.spec_of(given, degree, options, model=model)
                if not rows:
                    ds_ranks.prepare(spec, given)
                found = None
                for line in ds_ranks.launch(spec, given, __file__, {}):
                    if line.startswith("{"):
                        found = json.loads(line)
                    else:
                        print(f"{shape} tp {degree}: {line}")
                rows.append(
                    {"shape": shape, "tp": degree, "graph": graph, **(found or {"verdict": "FAILED"})}
                )
    print(ds_ranks.table(rows, COLUMNS))
    sys.exit(any(row["verdict"] != "ok" for row in rows))


def rank(number: int, work: dict[str, Any]) -> None:
    import torch

    spec = ds_ranks.load(work["spec"])
    options, ready, _ = ds_ranks.start_rank(spec, number, work["folder"])
    engine = ready.pipeline.inference_engine
    tokens = (torch.arange(PROMPT + STEPS) * 37 + 11) % spec.model.vocab
    got = [engine.put([7], [tokens[:PROMPT]], do_checks=False).float().cpu()]
    got += [
        engine.put([7], [tokens[place : place + 1]], do_checks=False).float().cpu()
        for place in range(PROMPT, PROMPT + STEPS)
    ]
    if number == 0:
        print(json.dumps(compare(spec, options.seed, tokens, torch.cat(got))), flush=True)
    ds_ranks.leave()


def compare(spec: Any, seed: int, tokens: Any, got: Any) -> dict[str, Any]:
    """Largest differences over all logits [steps, vocabulary], and how many argmaxes agree."""
    import dataclasses

    import torch

    from loadgen.servers._torch import model as hf_model

    alone = dataclasses.replace(spec, tp=1, gpus=spec.gpus[:1])
    model = hf_model.build(alone, torch.device("cuda", 0), 0, seed=seed, attention="sdpa")
    ids = tokens.unsqueeze(0).cuda()
    with torch.inference_mode():
        own = model(input_ids=ids).logits[0, PROMPT - 1 :].float().cpu()
        exact = model.float()(input_ids=ids).logits[0, PROMPT - 1 :].float().cpu()
    error, own_error = (got - exact).abs().max().item(), (own - exact).abs().max().item()
    same = (got.argmax(-1) == exact.argmax(-1)).sum().item()
    return {
        "error": error,
        "own_error": own_error,
        "limit": FACTOR * own_error,
        "same_argmax": f"{same}/{len(exact)}",
        "verdict": "ok" if error <= FACTOR * own_error else "DIFFERS",
    }


if __name__ == "__main__":
    main()
