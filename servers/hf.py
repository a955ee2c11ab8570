"""Framework ``hf``: Hugging Face transformers behind an OpenAI-compatible server of our own (``_hf/``)."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Any

from loadgen.errors import BadInput, MissingDependency
from loadgen.launch.child import child_argv, url_host
from loadgen.launch.interpreter import interpreter_of, look_into
from loadgen.protocols import Command, Need
from loadgen.records import ServerSpec

ENGINES = ("generate", "compiled", "continuous")
COMPILE = ("default", "autotune", "off")
ATTENTION = ("sdpa", "eager")
DTYPES = ("bfloat16", "float16", "float32")
LIBRARIES = (
    "torch",
    "transformers",
    "starlette",
    "uvicorn",
    "prometheus_client",
    "safetensors",
    "accelerate",
)
REMEDY = "pip install 'llm-loadgen[hf]' in the interpreter that runs the server"


class HuggingFace:
    """See protocols.Framework."""

    name = "hf"
    protocol = "openai"
    ports = 1
    uses_gpus = True
    needs_gpus = False
    options: Mapping[str, str] = {
        "engine": "generate (eager model.generate), compiled (static cache, CUDA graphs, own decode loop), "
        "continuous (transformers' continuous batching, greedy). Default generate",
        "attention": "sdpa, eager. Default sdpa",
        "compile": "for engine=compiled: default (torch.compile), autotune (slower start), off. Default default",
        "seed": "seed of random weights, a whole number. Default 0",
    }

    def default_dtype(self, on_gpu: bool) -> str:
        """bfloat16 on GPUs; float32 on CPUs, which compute no less in it."""
        return "bfloat16" if on_gpu else "float32"

    def library(self, spec: ServerSpec) -> str:
        """Nothing that its versions do not tell."""
        return ""

    def check(self, spec: ServerSpec) -> None:
        """Raise BadInput for a spec that cannot run anywhere, MissingDependency for one that cannot run here."""
        engine = _choice(spec, "engine", ENGINES)
        _choice(spec, "attention", ATTENTION)
        _choice(spec, "compile", COMPILE)
        seed = spec.options.get("seed", 0)
        if not isinstance(seed, int) or isinstance(seed, bool) or seed < 0:
            raise BadInput(f"hf: option seed = {seed!r} (accepted: a whole number from 0)")
        for name in spec.options:
            if name not in self.options:
                raise BadInput(f"hf: unknown option {name!r} (accepted: {', '.join(self.options)})")
        if spec.dtype not in DTYPES:
            raise BadInput(f"hf: dtype = {spec.dtype!r} (accepted: {', '.join(DTYPES)})")
        if not spec.dummy_weights and spec.model.checkpoint is None:
            raise BadInput(
                f"hf: model {spec.model.name!r} is a preset without weights (accepted: a checkpoint folder)"
            )
        _check_parallel(spec, engine)
        python = interpreter_of(self.name, spec.python)
        there = look_into(python, distributions=LIBRARIES).versions
        if missing := [library for library in LIBRARIES if library not in there]:
            raise MissingDependency(f"hf: {python} has no {', '.join(missing)}", REMEDY)

    def command(self, spec: ServerSpec, run_dir: str, ports: Sequence[int]) -> Command:
        """How to start it; tensor-parallel ranks are started by rank 0."""
        port = spec.port or ports[0]
        base = f"http://{url_host(spec.host)}:{port}"
        fields = dataclasses.asdict(dataclasses.replace(spec, port=port))
        fields["options"] = dict(spec.options)
        return Command(
            argv=child_argv(
                interpreter_of(self.name, spec.python),
                "loadgen.servers._hf.main",
                "--spec",
                json.dumps(fields),
                "--run-dir",
                run_dir,
            ),
            env={
                "CUDA_VISIBLE_DEVICES": ",".join(map(str, spec.gpus)),
                "HF_HUB_OFFLINE": "1",
                "TOKENIZERS_PARALLELISM": "false",
            },
            ready_url=f"{base}/health",
            base_url=base,
            info_url=f"{base}/info",
            metrics_url=f"{base}/metrics",
            stop_timeout_s=25.0,
        )

    def driver_options(self, spec: ServerSpec) -> Mapping[str, Any]:
        """The server takes static batches in one call and sends token ids, on request."""
        return {}

    def needs(self) -> Sequence[Need]:
        """The libraries of loadgen's own interpreter; a server with its own ``python`` may have others."""
        there = look_into(interpreter_of(self.name, None), distributions=LIBRARIES).versions
        found = []
        for library in LIBRARIES:
            version = there.get(library)
            shown, remedy = (f"installed {version}", "") if version else ("missing", REMEDY)
            found.append(Need(name=library, ok=version is not None, found=shown, remedy=remedy))
        return found


def _choice(spec: ServerSpec, name: str, accepted: tuple[str, ...]) -> str:
    value = spec.options.get(name, accepted[0])
    if value not in accepted:
        raise BadInput(f"hf: option {name} = {value!r} (accepted: {', '.join(accepted)})")
    return str(value)


def _check_parallel(spec: ServerSpec, engine: str) -> None:
    model, tp, pp = spec.model, spec.tp, spec.pp
    if tp < 1 or pp < 1:
        raise BadInput(f"hf: tp = {tp}, pp = {pp} (accepted: whole numbers from 1)")
    if tp > 1 and pp > 1:
        raise BadInput(f"hf: tp = {tp} with pp = {pp} (accepted: one of them above 1)")
    if spec.gpus and len(spec.gpus) != tp * pp:
        raise BadInput(f"hf: {len(spec.gpus)} GPUs for tp {tp} × pp {pp} (accepted: {tp * pp})")
    if len(set(spec.gpus)) != len(spec.gpus):
        raise BadInput(f"hf: gpus = {spec.gpus} names one twice")
    if pp > 1 and not spec.gpus:
        raise BadInput(
            f"hf: pp = {pp} places layers on GPUs, and none is given (accepted: {pp} GPUs, or pp 1)"
        )
    if pp > model.layers:
        raise BadInput(f"hf: pp = {pp} exceeds the model's {model.layers} layers")
    if pp > 1 and engine != "generate":
        raise BadInput(f"hf: pp = {pp} with engine {engine} (accepted: engine generate)")
    if engine == "continuous" and tp > 1:
        raise BadInput(f"hf: tp = {tp} with engine continuous (accepted: tp 1)")
    for what, size in (
        ("attention heads", model.heads),
        ("key/value heads", model.kv_heads),
        ("MLP rows", model.intermediate),
        ("vocabulary", model.vocab),
    ):
        if size % tp:
            raise BadInput(f"hf: {model.name}: {size} {what} do not divide by tp = {tp}")
    if 840 % tp and (model.checkpoint is None or spec.dummy_weights):  # the blocks of _torch/model.py
        raise BadInput(f"hf: tp = {tp} with random weights (accepted: a divisor of 840, such as 1 to 8)")


FRAMEWORK = HuggingFace()
