"""What framework ``ds`` can be told, and which engine a spec gets. Pure: shared by the launcher and the server."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

from loadgen.errors import BadInput
from loadgen.records import ServerSpec
from loadgen.theory.models import split_problem

FASTGEN, AUTOTP, KERNEL = "mii-fastgen", "ds-inference-autotp", "ds-inference-kernel"
ENGINES = ("auto", FASTGEN, AUTOTP, KERNEL)
DTYPES = ("bfloat16", "float16", "float32")
# Of FastGen's kernels, as deepspeed 0.19 declares them.
FASTGEN_HEAD_DIMS = (64, 80, 96, 128)
FASTGEN_QUERY_GROUPS = (1, 2, 4, 5, 6, 7, 8, 16, 29, 35, 36, 71)
FASTGEN_CAPABILITY = (8, 0)

HELP: Mapping[str, str] = {
    "engine": f"{', '.join(ENGINES)}. Default auto: {FASTGEN} on GPUs where the model fits its kernels, else {AUTOTP}",
    "seed": "seed of random weights, a whole number. Default 0",
    "cuda_graph": f"true, false: on GPUs, {FASTGEN} and {AUTOTP} replay decode steps as CUDA graphs. Default false",
    "tuned": f"true, false: {FASTGEN} with patches that spare its host needless work (named in results). Default false",
    "kv_tokens": f"tokens of key/value cache that {FASTGEN} allocates. Default 0: all memory but kv_reserve_mb",
    "kv_reserve_mb": f"megabytes that {FASTGEN} leaves free beside its cache when kv_tokens is 0. Default 1000",
    "ragged_tokens": f"tokens that {FASTGEN} puts through one forward pass at most. Default 768, as MII has it",
    "op_cache": "folder of DeepSpeed's compiled ops. Default ~/.cache/loadgen/deepspeed-ops",
}
_WHOLE = {"seed": 0, "kv_tokens": 0, "kv_reserve_mb": 1000, "ragged_tokens": 768}


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """The options of one spec, with defaults laid in; ``engine`` is decided, ``reason`` says why that one."""

    engine: str
    reason: str
    seed: int
    cuda_graph: bool
    tuned: bool
    kv_tokens: int
    kv_reserve_mb: int
    ragged_tokens: int
    op_cache: str


def read(spec: ServerSpec) -> Options:
    """Check a spec by arithmetic alone and decide its engine. Raises BadInput: what, value, what is accepted."""
    for name in spec.options:
        if name not in HELP:
            raise BadInput(f"ds: unknown option {name!r} (accepted: {', '.join(HELP)})")
    _check_spec(spec)
    engine, reason = _engine(spec)
    found = Options(
        engine=engine,
        reason=reason,
        seed=_whole(spec, "seed"),
        cuda_graph=_switch(spec, "cuda_graph"),
        tuned=_switch(spec, "tuned"),
        kv_tokens=_whole(spec, "kv_tokens"),
        kv_reserve_mb=_whole(spec, "kv_reserve_mb", 1),
        ragged_tokens=max(_whole(spec, "ragged_tokens", 1), spec.max_batch or 1),
        op_cache=_folder(spec),
    )
    for name, only in (("cuda_graph", (FASTGEN, AUTOTP)), ("tuned", (FASTGEN,)), ("kv_tokens", (FASTGEN,))):
        if getattr(found, name) and engine not in only:
            raise BadInput(
                f"ds: option {name} = {spec.options[name]!r} with engine {engine} (accepted with: {', '.join(only)})"
            )
    if found.cuda_graph and not spec.gpus:
        raise BadInput("ds: option cuda_graph = True on CPU (accepted: with GPUs)")
    return found


def default_cache() -> str:
    """Where compiled ops are kept: they take minutes to build and serve every later start."""
    return os.path.join(
        os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "loadgen", "deepspeed-ops"
    )


def fastgen_problem(spec: ServerSpec) -> str | None:
    """Why FastGen's kernels cannot run this spec, or None."""
    model = spec.model
    if not spec.gpus:
        return "it needs CUDA GPUs"
    if spec.dtype not in ("bfloat16", "float16"):
        return f"dtype {spec.dtype} (it has bfloat16, float16)"
    if model.head_dim not in FASTGEN_HEAD_DIMS:
        return f"head_dim {model.head_dim} (it has {', '.join(map(str, FASTGEN_HEAD_DIMS))})"
    if model.head_dim * model.heads != model.hidden:
        return f"{model.heads} heads of {model.head_dim} make {model.head_dim * model.heads}, not hidden {model.hidden}"
    if model.heads // model.kv_heads not in FASTGEN_QUERY_GROUPS:
        return f"{model.heads // model.kv_heads} query heads a key/value head"
    if model.vocab % spec.tp:
        return f"a vocabulary of {model.vocab}, which tp {spec.tp} does not divide"
    if model.tied and not spec.dummy_weights:
        return "tied embeddings, which its llama does not load"
    return None


def _check_spec(spec: ServerSpec) -> None:
    if spec.dtype not in DTYPES:
        raise BadInput(f"ds: dtype = {spec.dtype!r} (accepted: {', '.join(DTYPES)})")
    if spec.pp != 1:
        raise BadInput(
            f"ds: pp = {spec.pp}: DeepSpeed's inference engines split by tensor only (accepted: 1)"
        )
    if spec.tp < 1:
        raise BadInput(f"ds: tp = {spec.tp} (accepted: whole numbers from 1)")
    if spec.gpus and (len(spec.gpus) != spec.tp or len(set(spec.gpus)) != len(spec.gpus)):
        raise BadInput(
            f"ds: gpus = {spec.gpus} for tp {spec.tp} (accepted: {spec.tp} different GPUs, or none: CPU)"
        )
    if (why := split_problem(spec.model, spec.tp)) is not None:
        raise BadInput(f"ds: {why}")
    if spec.max_batch is not None and spec.max_batch < 1:
        raise BadInput(f"ds: max_batch = {spec.max_batch} (accepted: whole numbers from 1)")
    if not spec.dummy_weights and spec.model.checkpoint is None:
        raise BadInput(
            f"ds: model {spec.model.name!r} has no weights (accepted: a checkpoint folder, or random weights)"
        )


def _engine(spec: ServerSpec) -> tuple[str, str]:
    asked = spec.options.get("engine", "auto")
    if asked not in ENGINES:
        raise BadInput(f"ds: option engine = {asked!r} (accepted: {', '.join(ENGINES)})")
    problem = fastgen_problem(spec)
    if asked == "auto":
        if problem is None:
            return FASTGEN, f"engine auto took {FASTGEN}: GPUs are there and the model fits its kernels"
        return AUTOTP, f"engine auto took {AUTOTP}, because {FASTGEN} cannot: {problem}"
    if asked == FASTGEN and problem is not None:
        raise BadInput(f"ds: engine {FASTGEN} cannot run this: {problem} (accepted here: engine {AUTOTP})")
    if asked == KERNEL:
        _check_kernel(spec)
    return str(asked), "as asked"


def _check_kernel(spec: ServerSpec) -> None:
    if not spec.gpus:
        raise BadInput(f"ds: engine {KERNEL} needs CUDA GPUs (accepted on CPU: {AUTOTP})")
    if spec.dtype != "float16":
        raise BadInput(
            f"ds: engine {KERNEL} with dtype {spec.dtype} (accepted: float16, the one it was checked with)"
        )
    if spec.model.kv_heads != spec.model.heads:
        raise BadInput(f"ds: engine {KERNEL} with grouped key/value heads (accepted: one per query head)")


def _whole(spec: ServerSpec, name: str, least: int = 0) -> int:
    value = spec.options.get(name, _WHOLE[name])
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise BadInput(f"ds: option {name} = {value!r} (accepted: a whole number from {least})")
    return value


def _switch(spec: ServerSpec, name: str) -> bool:
    value = spec.options.get(name, False)
    if not isinstance(value, bool):
        raise BadInput(f"ds: option {name} = {value!r} (accepted: true, false)")
    return value


def _folder(spec: ServerSpec) -> str:
    value = spec.options.get("op_cache", "") or default_cache()
    if not isinstance(value, str) or not os.path.isabs(os.path.expanduser(value)):
        raise BadInput(f"ds: option op_cache = {value!r} (accepted: an absolute folder)")
    return os.path.expanduser(value)
