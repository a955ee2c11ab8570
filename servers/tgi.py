"""Framework ``tgi``: text-generation-inference, a container image or launcher that a user brings, by contract only.

No route of it takes token ids or ignores the end of a sequence. Prompts are therefore words of one token each, and the
tokenizer that is written has no end token, so that lengths are exact both ways; a checkpoint's own may end an output
early, which counts as an error. Its command line and answers are those of 3.3 as read; nobody here has seen it run.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from loadgen.errors import BadInput, MissingDependency
from loadgen.launch.child import url_host
from loadgen.launch.interpreter import interpreter_of
from loadgen.launch.options import Options
from loadgen.protocols import Command, Need
from loadgen.records import ServerSpec
from loadgen.servers._llama import fits, folders

PROGRAM = "text-generation-launcher"
DTYPES = ("bfloat16", "float16")
CONCURRENT = 4096  # requests that its router takes at once; above it answers 429
GET_IT = "use its image: -o image=ghcr.io/huggingface/text-generation-inference:3.3.5"


class Tgi:
    """See protocols.Framework. ``ports`` are HTTP, its Prometheus exporter's, and the shards' master port."""

    name = "tgi"
    protocol = "tgi"
    ports = 3
    uses_gpus = True
    needs_gpus = True
    options: Mapping[str, str] = {
        "weights": folders.HELP,
        "seed": "seed of random weights, a whole number. Default 0",
        "prefill_tokens": "tokens of a prefill at most, from 1. Default: max_batch prompts of half the context",
        "waiting_served_ratio": "waiting over running requests from which a prefill interrupts decoding. Default 0.3",
        "prefix_caching": "true, false: prompts known from before are not computed again. Default false",
    }

    def default_dtype(self, on_gpu: bool) -> str:
        """bfloat16."""
        return "bfloat16"

    def library(self, spec: ServerSpec) -> str:
        """Nothing that its version does not tell."""
        return ""

    def check(self, spec: ServerSpec) -> None:
        """Raise BadInput for a spec that cannot run anywhere, MissingDependency for one that cannot run here."""
        options = Options(self.name, spec.options)
        options.known(self.options)
        fits.check(spec, DTYPES)
        folders.check(spec)
        _flags(spec, options)
        if spec.pp > 1:
            raise BadInput(f"tgi: pp = {spec.pp} (accepted: 1)")
        if not spec.gpus:
            raise MissingDependency("tgi: no GPU is given, and it runs on nothing else", "name --gpus")
        if shutil.which(PROGRAM) is None:
            raise MissingDependency(f"tgi: no {PROGRAM} on PATH", GET_IT)

    def command(self, spec: ServerSpec, run_dir: str, ports: Sequence[int]) -> Command:
        """How to start it, on a folder of safetensors with a tokenizer: it has no dummy loader."""
        port = spec.port or ports[0]
        base = f"http://{url_host(spec.host)}:{port}"
        options = Options(self.name, spec.options)
        model = folders.model_of(spec, interpreter_of(self.name, spec.python))
        return Command(
            argv=(
                *(shutil.which(PROGRAM) or PROGRAM, "--model-id", model.path, "--num-shard", str(spec.tp)),
                *("--hostname", spec.host, "--port", str(port), "--prometheus-port", str(ports[1])),
                *("--master-addr", "127.0.0.1", "--master-port", str(ports[2])),
                *("--shard-uds-path", f"{run_dir}/shard", "--dtype", spec.dtype),
                *_flags(spec, options),
            ),
            env={
                "CUDA_VISIBLE_DEVICES": ",".join(map(str, spec.gpus)),
                "HF_HUB_OFFLINE": "1",
                "PREFIX_CACHING": "1" if options.flag("prefix_caching", False) else "0",
            },
            files={"info.json": json.dumps(folders.facts(spec, "tgi"), indent=1)},
            setup=model.setup,
            setup_stays=bool(model.setup),
            ready_url=f"{base}/health",
            base_url=base,
            info_url=Path(run_dir, "info.json").as_uri(),
            metrics_url=f"{base}/metrics",
            stop_timeout_s=20.0,
            mounts=model.mounts,
        )

    def driver_options(self, spec: ServerSpec) -> Mapping[str, Any]:
        """How prompts become text: the written tokenizer's words are the ids in decimal."""
        if spec.dummy_weights:
            return {"text": "ids"}
        return {"text": "tokenizer", "tokenizer": spec.model.checkpoint}

    def needs(self) -> Sequence[Need]:
        """The launcher on PATH; an image needs none."""
        found = shutil.which(PROGRAM)
        return [
            Need(name="by contract only", ok=True, found="command line and answers as read; never run by us"),
            Need(
                name=PROGRAM,
                ok=found is not None,
                found=found or "not on PATH",
                remedy="" if found else GET_IT,
            ),
        ]


def _flags(spec: ServerSpec, options: Options) -> tuple[str, ...]:
    """What decides its figures. Raises BadInput for bad values."""
    ratio = options.values.get("waiting_served_ratio", 0.3)
    if not isinstance(ratio, int | float) or isinstance(ratio, bool) or ratio < 0:
        raise BadInput(f"tgi: option waiting_served_ratio = {ratio!r} (accepted: a number from 0)")
    context, sequences = spec.model.max_context, spec.max_batch or 64
    tokens = options.number("prefill_tokens", max(context, sequences * context // 2), 1)
    return (
        *("--max-input-tokens", str(context - 1), "--max-total-tokens", str(context)),
        *("--max-batch-prefill-tokens", str(tokens), "--waiting-served-ratio", f"{ratio:g}"),
        *("--max-concurrent-requests", str(CONCURRENT), "--usage-stats", "off"),
    )


FRAMEWORK = Tgi()
