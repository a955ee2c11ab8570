"""Framework ``lmdeploy``: LMDeploy's ``api_server``, in an installation of its own, by contract only.

Its command line and its answers are those of its source as read (0.18.0); nobody here has seen it run. A static batch
goes out as single calls, since its route for token ids takes one prompt.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from loadgen.errors import BadInput
from loadgen.launch.child import url_host
from loadgen.launch.interpreter import interpreter_of, look_into, variable
from loadgen.launch.options import Options
from loadgen.protocols import Command, Need
from loadgen.records import ServerSpec
from loadgen.servers._llama import folders
from loadgen.servers._llama.foreign import UNSEEN, Foreign, found_or_not

BACKENDS = ("turbomind", "pytorch")
SEQUENCES = 1024
INSTALL = "pip install lmdeploy in an environment of its own (it pins torch), named by --python PATH"


class LmDeploy(Foreign):
    """See protocols.Framework."""

    name = "lmdeploy"
    protocol = "lmdeploy"
    options: Mapping[str, str] = {
        "weights": folders.HELP,
        "seed": "seed of random weights, a whole number. Default 0",
        "backend": f"{', '.join(BACKENDS)}: LMDeploy's engine. Default turbomind",
        "cache_share": "share of the GPU's free memory for key/value cache, above 0, below 1. Default 0.8",
        "eager": "true, false: backend pytorch without CUDA graphs. Default false",
        "prefix_caching": "true, false: prompts known from before are not computed again. Default false",
    }

    def doubt(self, spec: ServerSpec, options: Options) -> None:
        """See Foreign."""
        folders.check(spec)
        _flags(spec, options)

    def lack(self, spec: ServerSpec) -> tuple[str, str] | None:
        """See Foreign."""
        python = interpreter_of(self.name, spec.python)
        return None if _version(python) else (f"{python} has no lmdeploy", INSTALL)

    def command(self, spec: ServerSpec, run_dir: str, ports: Sequence[int]) -> Command:
        """How to start it, on a folder of safetensors with a tokenizer: it has no dummy loader."""
        port = spec.port or ports[0]
        base = f"http://{url_host(spec.host)}:{port}"
        python = interpreter_of(self.name, spec.python)
        model = folders.model_of(spec, python)
        return Command(
            argv=(
                *(python, "-m", "lmdeploy", "serve", "api_server", model.path),
                *("--model-name", spec.model.name),
                *("--server-name", spec.host, "--server-port", str(port), "--tp", str(spec.tp)),
                *("--dtype", spec.dtype, "--session-len", str(spec.model.max_context)),
                *_flags(spec, Options(self.name, spec.options)),
            ),
            env={"CUDA_VISIBLE_DEVICES": ",".join(map(str, spec.gpus)), "HF_HUB_OFFLINE": "1"},
            files={"info.json": json.dumps(folders.facts(spec, "lmdeploy"), indent=1)},
            setup=model.setup,
            setup_stays=bool(model.setup),
            ready_url=f"{base}/health",
            base_url=base,
            info_url=Path(run_dir, "info.json").as_uri(),
            metrics_url=f"{base}/metrics",
            stop_timeout_s=20.0,
            mounts=model.mounts,
        )

    def needs(self) -> Sequence[Need]:
        """LMDeploy in the interpreter that ``LOADGEN_LMDEPLOY_PYTHON`` names, else in loadgen's own."""
        python = interpreter_of(self.name, None)
        version = _version(python)
        found = None if version is None else f"{version} in {python}"
        remedy = f"{INSTALL} or {variable(self.name)}=PATH"
        return [UNSEEN, found_or_not("lmdeploy", found, remedy, f"{python} has no lmdeploy")]


def _version(python: str) -> str | None:
    return look_into(python, distributions=("lmdeploy",)).versions.get("lmdeploy")


def _flags(spec: ServerSpec, options: Options) -> tuple[str, ...]:
    """What decides its figures. Raises BadInput for bad values."""
    share = options.share("cache_share", 0.8)
    backend = options.choice("backend", BACKENDS)
    flags = ["--backend", backend, "--max-batch-size", str(spec.max_batch or SEQUENCES)]
    flags += ["--cache-max-entry-count", f"{share:g}"]
    if options.flag("eager", False):
        if backend != "pytorch":
            raise BadInput("lmdeploy: option eager with backend turbomind (accepted: backend=pytorch)")
        flags.append("--eager-mode")
    if options.flag("prefix_caching", False):
        flags.append("--enable-prefix-caching")
    return tuple(flags)


FRAMEWORK = LmDeploy()
