"""Framework ``llamacpp``: llama.cpp's own server ``llama-server``, a program that a user brings.

Its weights are a GGUF file, which is written once and kept. A server has so many slots, each of which runs one sequence
in its share of the context: a batch of more sequences than slots runs in waves.
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from loadgen.engine_facts import own_weights
from loadgen.errors import BadInput
from loadgen.identity import digest
from loadgen.launch.child import child_argv, url_host
from loadgen.launch.interpreter import interpreter_of, look_into
from loadgen.launch.options import Options
from loadgen.protocols import Command, Need
from loadgen.records import ServerSpec
from loadgen.servers._llama import weights
from loadgen.servers._llama.foreign import ANY, Foreign, found_or_not
from loadgen.theory import models

PROGRAM = "llama-server"
VARIABLE = "LOADGEN_LLAMA_SERVER"
SLOTS = 32  # where no max_batch says how many sequences there are at once
WRITERS = ("gguf", "torch", "safetensors")  # distributions that write a GGUF
INSTALL = "pip install 'llm-loadgen[hf,llamacpp]' in the interpreter that python = names"
FORMAT = 1  # of the files that are written
GET_IT = "build llama.cpp's target llama-server, or use its image (-o image=)"


class LlamaCpp(Foreign):
    """See protocols.Framework."""

    name = "llamacpp"
    protocol = "llamacpp"
    needs_gpus = False
    dtypes = ANY
    splits_layers = True
    options: Mapping[str, str] = {
        "server": f"the executable {PROGRAM}. Default: {VARIABLE}, then PATH",
        "gguf": "a GGUF file that is there already. Default: one is written, of random weights or of the checkpoint",
        "slot_context": "tokens of the context of each slot, from 1. Default the model's",
        "ubatch": "tokens of one forward pass at most, from 1. Default the server's own, 512",
        "threads": "threads that compute on the CPU, from 1. Default the server's own",
        "flash_attention": "auto, on or off. Default auto",
        "prefix_caching": "true, false: prompts known from before are not computed again. Default false",
        "seed": "seed of random weights, a whole number. Default 0",
    }

    def library(self, spec: ServerSpec) -> str:
        """Of the program and of a file that is brought: size and time of change tell one from another."""
        options = Options(self.name, spec.options)
        brought = [path for path in (_found(options), options.text("gguf")) if path and os.path.isfile(path)]
        states = [
            (path, os.stat(path).st_size, os.stat(path).st_mtime_ns)
            for path in map(os.path.realpath, brought)
        ]
        return digest([state[1:] for state in states])[:16] if states else ""

    def doubt(self, spec: ServerSpec, options: Options) -> None:
        """See Foreign."""
        _flags(spec, options)
        if spec.tp > 1 and spec.pp > 1:
            raise BadInput(f"llamacpp: tp = {spec.tp} with pp = {spec.pp} (accepted: one of them above 1)")
        if spec.tp * spec.pp > 1 and not spec.gpus:
            raise BadInput(f"llamacpp: tp = {spec.tp}, pp = {spec.pp} without GPUs (accepted: 1 on a CPU)")
        gguf = options.text("gguf")
        if gguf is not None and not Path(gguf).is_file():
            raise BadInput(f"llamacpp: option gguf = {gguf!r}: no such file (accepted: a GGUF file)")

    def lack(self, spec: ServerSpec) -> tuple[str, str] | None:
        """See Foreign."""
        options = Options(self.name, spec.options)
        found = _found(options)
        if found is None or not os.access(found, os.X_OK):
            return f"no {options.text('server') or PROGRAM}", GET_IT
        if options.text("gguf") is None:
            python = interpreter_of(self.name, spec.python)
            if missing := _missing(python):
                return f"{python} has no {', '.join(missing)}", INSTALL
        return None

    def command(self, spec: ServerSpec, run_dir: str, ports: Sequence[int]) -> Command:
        """How to start it: the GGUF first, where it does not lie there yet."""
        options = Options(self.name, spec.options)
        port = spec.port or ports[0]
        base = f"http://{url_host(spec.host)}:{port}"
        given = options.text("gguf")
        path = os.path.abspath(given) if given is not None else str(_gguf_of(spec))
        return Command(
            argv=(
                _found(options) or PROGRAM,
                *("-m", path, "--alias", spec.model.name, "--host", spec.host, "--port", str(port)),
                *_flags(spec, options),
            ),
            env={"CUDA_VISIBLE_DEVICES": ",".join(map(str, spec.gpus))},
            files={"info.json": json.dumps(self._facts(spec, options), indent=1)},
            setup=() if given is not None else (_writes(spec, path),),
            setup_stays=given is None,
            ready_url=f"{base}/health",
            base_url=base,
            info_url=Path(run_dir, "info.json").as_uri(),
            metrics_url=f"{base}/metrics",
            # SIGTERM waits for requests under way.
            stop_timeout_s=10.0,
            oom_pattern=r"out of memory|failed to allocate (?:buffer|CUDA)|unable to allocate \w+ buffer",
            meanings=(
                (r"unknown model architecture|failed to load model", "it could not read the GGUF file"),
            ),
            mounts={os.path.dirname(path): "ro" if given is not None else "rw"},
        )

    def _facts(self, spec: ServerSpec, options: Options) -> dict[str, Any]:
        """What the spec decides."""
        brought = options.text("gguf") is not None
        return {
            "engine": "llama.cpp",
            "framework": self.name,
            "options": dict(spec.options),
            "model": spec.model.name,
            "vocab": spec.model.vocab,
            "dtype": spec.dtype,
            "tp": spec.tp,
            "pp": spec.pp,
            "slots": _slots(spec),
            "max_context": _slot_context(spec, options),
            "kv_ahead": True,
            "kv_dtype": "float16",  # its default, whatever the weights have
            "kv_tokens": _slots(spec) * _slot_context(spec, options),
            "prefix_caching": options.flag("prefix_caching", False),
            **({} if brought else {"weights": own_weights(spec).page()}),
        }

    def needs(self) -> Sequence[Need]:
        """The program; and what writes its weights."""
        python = interpreter_of(self.name, None)
        missing = _missing(python)
        named = _found(Options(self.name, {}))
        program = named if named is not None and os.access(named, os.X_OK) else None
        there = None if missing else f"gguf {look_into(python, distributions=WRITERS).versions['gguf']}"
        return [
            Need(
                name="run here", ok=True, found="by tests on a CPU (xllamacpp); no figure of it was measured"
            ),
            found_or_not(PROGRAM, program, GET_IT, f"no {named}" if named else "not on PATH"),
            found_or_not("GGUF writer", there, INSTALL, f"missing: {', '.join(missing)}"),
        ]


def _missing(python: str) -> list[str]:
    """The libraries that write a GGUF and are not in an interpreter."""
    there = look_into(python, distributions=WRITERS).versions
    return [name for name in WRITERS if name not in there]


def _found(options: Options) -> str | None:
    """The program's path; as it was asked for, whether it is there or not."""
    named = options.text("server") or os.environ.get(VARIABLE)
    return os.path.abspath(os.path.expanduser(named)) if named else shutil.which(PROGRAM)


def _slots(spec: ServerSpec) -> int:
    return spec.max_batch or SLOTS


def _slot_context(spec: ServerSpec, options: Options) -> int:
    return options.number("slot_context", spec.model.max_context, 1)


def _flags(spec: ServerSpec, options: Options) -> tuple[str, ...]:
    """What decides its figures. The context is shared out over the slots; what does not fit one is cut in silence."""
    slots = _slots(spec)
    caching = options.flag("prefix_caching", False)
    flags = ["-np", str(slots), "-c", str(slots * _slot_context(spec, options)), "--metrics", "--slots"]
    if (attention := options.choice("flash_attention", ("auto", "on", "off"))) != "auto":
        flags += ["-fa", attention]
    # The prompt cache in main memory is another one, of gigabytes.
    flags += ["--cache-prompt"] if caching else ["--no-cache-prompt", "--cache-ram", "0"]
    flags += ["-ngl", "all" if spec.gpus else "0"]
    if len(spec.gpus) > 1:
        flags += ["-sm", "row" if spec.tp > 1 else "layer"]
    if "ubatch" in options.values:
        ubatch = options.number("ubatch", 1, 1)
        flags += ["-b", str(max(ubatch, 2048)), "-ub", str(ubatch)]
    if "threads" in options.values:
        flags += ["-t", str(options.number("threads", 1, 1))]
    return tuple(flags)


def _gguf_of(spec: ServerSpec) -> Path:
    """Where the file lies, named by all that decides its content."""
    shape = dataclasses.replace(spec.model, name="", checkpoint=None, fingerprint="")
    whose = weights.seed_of(spec) if spec.dummy_weights else spec.model.fingerprint
    device = "cuda" if spec.gpus else "cpu"
    content = [FORMAT, dataclasses.asdict(shape), spec.dtype, device, whose]
    name = f"{Path(spec.model.name).name}-{spec.dtype}-{digest(content)[:16]}.gguf"
    return weights.cache_folder() / "gguf" / name


def _writes(spec: ServerSpec, path: str) -> tuple[str, ...]:
    shape = dataclasses.replace(spec.model, checkpoint=None, fingerprint="")
    checkpoint = () if spec.dummy_weights else ("--checkpoint", str(spec.model.checkpoint))
    return child_argv(
        interpreter_of("llamacpp", spec.python),
        "loadgen.servers._llamacpp.write",
        *("--model", models.to_json(shape), "--dtype", spec.dtype),
        *("--device", "cuda" if spec.gpus else "cpu", "--seed", str(weights.seed_of(spec)), "--out", path),
        *checkpoint,
    )


FRAMEWORK = LlamaCpp()
