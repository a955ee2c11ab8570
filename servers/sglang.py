"""Framework ``sglang``: SGLang's own server, in an installation of its own, asked by its route ``/generate``.

Its OpenAI route makes answers of text, and before 0.5.23 sends no token ids; ``/generate`` has both ways ids in every
version, and needs no tokenizer.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from loadgen.errors import BadInput, ServerError
from loadgen.launch.child import url_host
from loadgen.launch.endpoint import server_info
from loadgen.launch.interpreter import Interpreter, interpreter_of, look_into, variable
from loadgen.launch.options import Options
from loadgen.launch.sockets import sockets_in
from loadgen.protocols import Command, Need
from loadgen.records import ServerSpec
from loadgen.servers._llama import weights
from loadgen.servers._llama.files import CONFIG, config_json, tokenizer_files
from loadgen.servers._llama.foreign import ANY, Foreign, found_or_not

SOCKET_BYTES = 20  # of a temporary file's name, which its sockets have
SEQUENCES = 1024  # at once, where no max_batch says how many there are
CPU_SEQUENCES = 16  # there their cache is not a share of the memory, but named
OLDEST, KNOWN = (0, 5, 15), (0, 5, 23)  # whose flags are known here
MAKER, OWN = "SGLang", "uniform, up to 0.001"  # of its dummy loader
INSTALL = "pip install sglang in an environment of its own (it pins torch), named by --python PATH"
MODULE = "sglang.launch_server"
MEANINGS = (
    (
        r"IndexError: index out of range|index out of bounds|device-side assert|Scheduler hit an exception",
        "its scheduler ended while it computed, and the server with it. A token id outside the model's vocabulary does "
        "that, which SGLang does not look for",
    ),
    (r"unrecognized arguments", "this version has other flags than those known here (0.5.15 to 0.5.23)"),
)


class SGLang(Foreign):
    """See protocols.Framework."""

    name = "sglang"
    protocol = "sglang"
    needs_gpus = False
    dtypes = ANY
    splits_layers = True
    options: Mapping[str, str] = {
        "weights": weights.HELP,
        "seed": "seed of random weights, a whole number. Default 0",
        "mem_fraction_static": "share of a GPU's memory for weights and cache, above 0, below 1. Default SGLang's own",
        "kv_tokens": "tokens of key/value cache at most, from 1. Default SGLang's own",
        "chunked_prefill_size": "tokens of a prefill step at most, from 1, or -1: whole. Default SGLang's own",
        "cuda_graph_max_batch": "the largest batch that is replayed as a CUDA graph, from 1. Default SGLang's own",
        "cuda_graphs": "true, false: neither decoding nor prefill as CUDA graphs. Default true",
        "overlap_schedule": "true, false: the next step is scheduled while one runs. Default true",
        "prefix_caching": "true, false: prompts known from before are not computed again. Default false",
        "attention": "attention backend by SGLang's name, such as fa3, triton, flashinfer. Default SGLang's own",
    }

    def doubt(self, spec: ServerSpec, options: Options) -> None:
        """See Foreign."""
        weights.choice(spec)
        _flags(spec, options)

    def lack(self, spec: ServerSpec) -> tuple[str, str] | None:
        """See Foreign."""
        problem = _problem(_look(spec.python))
        return None if problem is None else (problem, INSTALL)

    def command(self, spec: ServerSpec, run_dir: str, ports: Sequence[int]) -> Command:
        """How to start it: on a folder that is written first, or on one with a configuration alone."""
        options = Options(self.name, spec.options)
        port = spec.port or ports[0]
        base = f"http://{url_host(spec.host)}:{port}"
        python = interpreter_of(self.name, spec.python)
        choice = weights.choice(spec)
        sockets = sockets_in(run_dir, self.name, port, SOCKET_BYTES)
        files: dict[str, str] = {}
        setup: tuple[tuple[str, ...], ...] = ()
        mounts: dict[str, str] = {}
        if choice == weights.SAME:
            folder = weights.folder(spec, python)
            model, setup, mounts = folder.path, (folder.setup,), {os.path.dirname(folder.path): "rw"}
        elif choice == weights.ENGINE:
            model = os.path.join(run_dir, "model")
            written = {CONFIG: config_json(spec.model, spec.dtype)}
            written |= tokenizer_files(spec.model.vocab, spec.model.max_context)
            files = {f"model/{name}": text for name, text in written.items()}
        else:
            model = str(spec.model.checkpoint)
        return Command(
            argv=(
                *(python, "-m", MODULE, "--model-path", model, "--served-model-name", spec.model.name),
                *("--load-format", "dummy" if choice == weights.ENGINE else "safetensors"),
                *("--host", spec.host, "--port", str(port), "--dtype", spec.dtype),
                *("--context-length", str(spec.model.max_context), "--tp-size", str(spec.tp)),
                *("--pp-size", str(spec.pp), "--random-seed", str(weights.seed_of(spec))),
                *_flags(spec, options),
            ),
            env={
                "CUDA_VISIBLE_DEVICES": ",".join(map(str, spec.gpus)),
                "HF_HUB_OFFLINE": "1",
                "SGLANG_ENABLE_HEALTH_ENDPOINT_GENERATION": "0",  # a look at its health generates a token
                "SGL_FORCE_SHUTDOWN": "1",  # SIGTERM drains without a limit
                "TMPDIR": sockets.folder,  # its sockets and folders stay behind when it is killed
                "TORCHINDUCTOR_CACHE_DIR": str(weights.cache_folder() / "sglang" / "inductor"),
            },
            files=files,
            setup=(*sockets.setup, *setup),
            cleanup=sockets.cleanup,
            setup_stays=bool(setup),
            # /ready came between these versions; the other page answers 503 while it starts.
            ready_url=f"{base}/ready" if _version(_look(spec.python)) >= KNOWN else f"{base}/health",
            base_url=base,
            metrics_url=f"{base}/metrics",
            stop_timeout_s=30.0,
            oom_pattern=r"CUDA out of memory|OutOfMemoryError|Not enough memory",
            meanings=MEANINGS,
            read_back=ReadBack(spec=spec, base=base),
            mounts=mounts,
        )

    def needs(self) -> Sequence[Need]:
        """SGLang in the interpreter that ``LOADGEN_SGLANG_PYTHON`` names, else in loadgen's own."""
        there = _look(None)
        problem = _problem(there)
        named = f"in {there.path}" + ("" if variable(self.name) in os.environ else ", loadgen's own")
        return [
            Need(
                name="run here",
                ok=True,
                found="by tests on a CPU, version 0.5.23; no figure of it was measured",
            ),
            found_or_not(
                "sglang",
                None if problem else f"{there.versions['sglang']} {named}",
                f"{INSTALL} or {variable(self.name)}=PATH",
                problem or "",
            ),
        ]


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadBack:
    """See protocols.Command; ``base`` is the server's URL."""

    spec: ServerSpec
    base: str

    def __call__(self, log: str) -> Mapping[str, object]:
        """Facts of a server that takes work. Raises ServerError where it caches prefixes unasked."""
        options = Options("sglang", self.spec.options)
        told = server_info(f"{self.base}/server_info")
        facts = _asked_for(self.spec)
        if isinstance(version := told.get("version"), str):
            facts |= {"version": version, "engine": f"sglang {version}"}
        for ours, theirs in (
            ("attention", "attention_backend"),
            ("chunked_prefill_size", "chunked_prefill_size"),
            ("max_running_requests", "max_running_requests"),
            ("kv_tokens", "max_total_num_tokens"),
        ):
            if isinstance(value := told.get(theirs), int | str):
                facts[ours] = value
        graphs = told.get("cuda_graph_config")
        if isinstance(graphs, Mapping):
            for phase in ("decode", "prefill"):
                config = graphs.get(phase)
                if isinstance(config, Mapping):
                    facts[f"{phase}_graphs"] = config.get("backend")
                    facts[f"{phase}_graphs_up_to"] = config.get("max_bs")
            facts["graphs"] = facts.get("decode_graphs") not in (None, "disabled")
        off = told.get("disable_radix_cache")
        facts["prefix_caching"] = off is not True if off is not None else None
        if off is False and not options.flag("prefix_caching", False):
            raise ServerError("sglang caches prefixes, which nobody asked for")
        return facts


def _asked_for(spec: ServerSpec) -> dict[str, object]:
    return {
        "engine": "sglang",
        "framework": "sglang",
        "options": dict(spec.options),
        "model": spec.model.name,
        "vocab": spec.model.vocab,
        "max_context": spec.model.max_context,
        "dtype": spec.dtype,
        "tp": spec.tp,
        "pp": spec.pp,
        "kv_ahead": True,
        "weights": weights.numbers(spec, MAKER, OWN).page(),
    }


def _flags(spec: ServerSpec, options: Options) -> tuple[str, ...]:
    """What decides its figures. Raises BadInput for bad values."""
    flags = ["--max-running-requests", str(_sequences(spec)), "--skip-tokenizer-init", "--skip-server-warmup"]
    # Increments: all ids so far in each event cost bytes that grow with the square of the length.
    flags += ["--enable-metrics", "--incremental-streaming-output", "--stream-interval", "1"]
    if not options.flag("prefix_caching", False):
        flags.append("--disable-radix-cache")
    if not options.flag("overlap_schedule", True):
        flags.append("--disable-overlap-schedule")
    if not options.flag("cuda_graphs", True):
        flags += ["--disable-decode-cuda-graph", "--disable-prefill-cuda-graph"]
    if "cuda_graph_max_batch" in options.values:
        flags += ["--cuda-graph-max-bs-decode", str(options.number("cuda_graph_max_batch", 1, 1))]
    if "chunked_prefill_size" in options.values:
        size = options.number("chunked_prefill_size", -1, -1)
        if size == 0:
            raise BadInput("sglang: option chunked_prefill_size = 0 (accepted: from 1, or -1)")
        flags += ["--chunked-prefill-size", str(size)]
    tokens = None if "kv_tokens" not in options.values else options.number("kv_tokens", 1, 1)
    share = options.share("mem_fraction_static")
    attention = options.text("attention")
    if attention is not None and not attention.replace("_", "").isalnum():
        raise BadInput(f"sglang: option attention = {attention!r} (accepted: a name such as fa3, triton)")
    if not spec.gpus:
        flags += ["--device", "cpu", "--sampling-backend", "pytorch"]
        tokens = tokens or _sequences(spec) * spec.model.max_context
        share, attention = share or 0.05, attention or "torch_native"
    if tokens is not None:
        flags += ["--max-total-tokens", str(tokens)]
    if share is not None:
        flags += ["--mem-fraction-static", f"{share:g}"]
    if attention is not None:
        flags += ["--attention-backend", attention]
    return tuple(flags)


def _sequences(spec: ServerSpec) -> int:
    return spec.max_batch or (SEQUENCES if spec.gpus else CPU_SEQUENCES)


def _look(python: str | None) -> Interpreter:
    path = interpreter_of("sglang", python)
    try:
        return look_into(path, distributions=("sglang",), modules=(MODULE,))
    except BadInput:  # which the start tells; a plan is shown anywhere
        return Interpreter(path=path, version="")


def _version(there: Interpreter) -> tuple[int, ...]:
    """The numbers of its version; those of the newest that is known where none is there."""
    if "sglang" not in there.versions:
        return KNOWN
    parts = there.versions["sglang"].split(".")[:3]
    return tuple(int("".join(c for c in part if c.isdigit()) or 0) for part in parts)


def _problem(there: Interpreter) -> str | None:
    if "sglang" not in there.versions or MODULE not in there.modules:
        return f"{there.path} has no sglang"
    if _version(there) < OLDEST:
        return f"{there.path} has sglang {there.versions['sglang']} (accepted: 0.5.15 or newer)"
    return None


FRAMEWORK = SGLang()
