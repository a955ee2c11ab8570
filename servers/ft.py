"""Framework ``ft``: NVIDIA's Triton with the FasterTransformer backend, which a user brings.

No package registry has the backend. Everything around it is here: the checkpoint in its layout, the model repository,
the environment, the server's command; variants ``a`` and ``b`` are the two community forks that know llama.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from loadgen.errors import BadInput, MissingDependency
from loadgen.identity import digest
from loadgen.launch import container
from loadgen.launch.child import child_argv
from loadgen.launch.options import Options
from loadgen.protocols import Command, Need
from loadgen.records import ServerSpec
from loadgen.servers._ft import faults
from loadgen.servers._ft import weights as ft_weights
from loadgen.servers._ft.layout import VARIANTS
from loadgen.servers._ft.weights import Weights
from loadgen.servers._triton import find, launch
from loadgen.servers._triton.find import FT_VARIABLE, Triton
from loadgen.servers._triton.repository import MODEL, Repository

LOG_LEVELS = ("info", "trace", "debug", "warning", "error")


class FasterTransformer:
    """See protocols.Framework."""

    name = "ft"
    protocol = "triton-grpc"
    ports = 3
    uses_gpus = True
    needs_gpus = True
    options: Mapping[str, str] = {
        "variant": "a (model_type Llama: llama-1, llama-2 to 13B) or b (llama: also grouped heads, rope). Default a",
        "backend_dir": f"folder that holds fastertransformer/{find.FT_LIBRARY}. Default: {FT_VARIABLE}, then "
        "tritonserver's own backends",
        "tritonserver": "the executable or its installation. Default: PATH, then the wheel nvidia-pytriton",
        **container.OPTIONS,
        "weights": "auto, written (random numbers on disk, same each time) or backend (config.ini alone: the backend "
        "makes random weights of its own). Default auto: a checkpoint is converted, a small preset written",
        "checkpoint": "a FasterTransformer checkpoint that is there already: its <T>-gpu folder, or the one above",
        "cache": "where converted checkpoints are kept. Default ~/.cache/loadgen/ft",
        "decoupled": "true: responses stream (decoupled gRPC); false: one response a request. Default true",
        "stream_step": "a streamed response every so many positions (LLAMA_STREAM_CB_STEP). Default 1",
        "dynamic_batching": "true: waiting requests are merged into one static batch. Default false",
        "queue_delay_us": "how long dynamic batching waits for more, in microseconds. Default 0",
        "fused_attention": "false or true: fused context attention; never on sm90 (H100, H200). Default false",
        "custom_all_reduce": "true: the backend's own all-reduce, for tp 8 alone. Default false",
        "mpirun": "false, or true: started by mpirun -n 1, which one machine never needs. Default false",
        "log_level": f"FT_LOG_LEVEL: {', '.join(LOG_LEVELS)}. Default info",
    }

    def default_dtype(self, on_gpu: bool) -> str:
        """float16: the library's bfloat16 is wrong."""
        return "float16"

    def library(self, spec: ServerSpec) -> str:
        """Over the files of the backend's folder; empty for an image, whose name tells, and where there is none."""
        options = Options(self.name, spec.options)
        if options.text("image") is not None:
            return ""
        found = find.hashes(self._usual(options)[1])
        return digest(found)[:16] if found else ""

    def check(self, spec: ServerSpec) -> None:
        """Raise BadInput for a spec that cannot run anywhere, MissingDependency for what is not on this machine."""
        options = Options(self.name, spec.options)
        options.known(self.options)
        ft_weights.layout(spec, options)
        self._repository(spec, options, "")
        self._env(spec, options, None)
        self._mpirun(options, inside=False)
        if options.flag("custom_all_reduce", False) and spec.tp * spec.pp != 8:
            raise BadInput(
                f"ft: option custom_all_reduce with {spec.tp * spec.pp} GPUs (accepted: exactly 8)"
            )
        faults.refuse(spec, options)
        if spec.gpus and len(spec.gpus) != spec.tp * spec.pp:
            raise BadInput(
                f"ft: {len(spec.gpus)} GPUs for tp {spec.tp} × pp {spec.pp} (accepted: {spec.tp * spec.pp})"
            )
        if len(set(spec.gpus)) != len(spec.gpus):
            raise BadInput(f"ft: gpus = {spec.gpus} names one twice")
        lacking: MissingDependency | None = None
        try:
            ft_weights.check(spec, options)
        except MissingDependency as error:
            lacking = error  # without the library weights are of no use: that comes first
        self._find(options)
        if lacking is not None:
            raise lacking
        if not spec.gpus:
            raise MissingDependency(
                "ft: no GPU is given, and FasterTransformer runs on nothing else", "name --gpus"
            )

    def _find(self, options: Options) -> tuple[Triton | None, Path | None]:
        """Server and backends on this machine; neither with an image. Raises MissingDependency."""
        container.check(options)
        if options.text("image") is not None:
            return None, None
        triton = find.find_triton(options.text("tritonserver"))
        return triton, find.find_ft_backends(options.text("backend_dir"), triton)

    def command(self, spec: ServerSpec, run_dir: str, ports: Sequence[int]) -> Command:
        """How to start it. What ``check`` would miss here stands in the command by its usual name."""
        options = Options(self.name, spec.options)
        where = launch.addresses(spec, ports)
        weights = ft_weights.weights(spec, options, run_dir)
        repository = self._repository(spec, options, weights.folder)
        image = options.text("image")
        server, backends = self._usual(options)
        links = f"{run_dir}/lib"
        env = self._env(spec, options, None if image else (str(backends / "fastertransformer"), links))
        flags = launch.server_flags(spec, run_dir, where, str(backends))
        argv = (*self._mpirun(options, inside=image is not None), str(server), *flags)
        setup = weights.setup
        info = self._info(spec, options, weights) | {"backend": image or str(backends), "command": argv}
        if image is None:
            info["library"] = find.hashes(backends)
        else:
            mounts = {run_dir: "rw", str(Path(weights.folder).parent): "ro"}
            if options.text("backend_dir") is not None:
                mounts[str(backends)] = "ro"
            wanted = container.image_of(options)
            assert wanted is not None
            argv = container.argv(
                wanted, argv, env, mounts, name=f"loadgen-ft-{where.grpc}", gpus=_gpus(spec)
            )
        if image is None:
            library = backends / "fastertransformer" / find.FT_LIBRARY
            preflight = child_argv(
                None, "loadgen.servers._triton.libraries", str(server), str(library), links
            )
            setup = (*setup, preflight)
        return Command(
            argv=argv,
            env=env,
            files={
                **repository.files(),
                **weights.files,
                "checkpoint-plan.txt": weights.plan(),
                "info.json": json.dumps(info, indent=1),
            },
            setup=setup,
            ready_url=where.ready_url,
            base_url=where.base_url,
            info_url=launch.info_url(run_dir),
            version_url=where.version_url,
            metrics_url=where.metrics_url,
            stop_timeout_s=30.0,
            oom_pattern=r"out of memory|CUBLAS_STATUS_ALLOC_FAILED",
            meanings=faults.meanings(weights.layout.variant),
            if_silent=faults.IF_SILENT,
        )

    def _usual(self, options: Options) -> tuple[Path, Path]:
        """Server and backends: as found, or where an image has them, so that a plan can be shown anywhere."""
        home = find.CONTAINER_HOME
        given = options.text("backend_dir")
        if options.text("image") is not None:
            return Path("tritonserver"), Path(given).expanduser().absolute() if given else home / "backends"
        try:
            triton: Triton | None = find.find_triton(options.text("tritonserver"))
        except MissingDependency:
            triton = None
        try:
            backends = find.find_ft_backends(given, triton)
        except MissingDependency:
            backends = Path(given).expanduser().absolute() if given else home / "backends"
        return triton.server if triton else Path("tritonserver"), backends

    def _mpirun(self, options: Options, *, inside: bool) -> tuple[str, ...]:
        """One process drives all GPUs of a node; mpirun is a form of starting it, no more. ``auto`` was true once.

        mpirun binds a process to one core, and the threads of all its GPUs would share it: tp 2 took 1.8 times as long.
        """
        auto = str(options.values.get("mpirun", "")).lower() == "auto"
        root = ("--allow-run-as-root",) if inside or os.geteuid() == 0 else ()
        use = not auto and options.flag("mpirun", False)
        return ("mpirun", "-n", "1", "--bind-to", "none", *root) if use else ()

    def _env(
        self, spec: ServerSpec, options: Options, libraries: tuple[str, str] | None
    ) -> dict[str, str | None]:
        """``libraries`` are the folders that LD_LIBRARY_PATH begins and ends with."""
        fused = options.flag("fused_attention", False)
        variant_b = options.choice("variant", tuple(VARIANTS)) == "b"
        env: dict[str, str | None] = {
            "CUDA_VISIBLE_DEVICES": _gpus(spec),
            "FT_LOG_LEVEL": options.choice("log_level", LOG_LEVELS).upper(),
            "FT_DEBUG_LEVEL": None,  # DEBUG waits for every kernel
            "FT_NVTX": None,
            # With the default of 5 the first response is not always the first token.
            "LLAMA_STREAM_CB_STEP": str(options.number("stream_step", 1, 1)),
            "FMHA_ENABLE": "ON" if fused and not variant_b else None,
            "LLAMA_CONTEXT_ATTENTION_DISABLE_FUSED_MHA": "ON" if variant_b and not fused else None,
        }
        if libraries is not None:
            folders = [libraries[0], os.environ.get("LD_LIBRARY_PATH", ""), libraries[1]]
            env["LD_LIBRARY_PATH"] = os.pathsep.join(folder for folder in folders if folder)
        return env

    def _repository(self, spec: ServerSpec, options: Options, checkpoint: str) -> Repository:
        layout = ft_weights.layout(spec, options)
        return Repository(
            backend="fastertransformer",
            decoupled=options.flag("decoupled", True),
            max_batch=spec.max_batch or 1024,
            dynamic_batching=options.flag("dynamic_batching", False),
            queue_delay_us=options.number("queue_delay_us", 0, 0),
            parameters={
                "tensor_para_size": str(spec.tp),
                "pipeline_para_size": str(spec.pp),
                "data_type": layout.dtype,
                "model_type": VARIANTS[layout.variant],
                "model_checkpoint_path": checkpoint,
                "enable_custom_all_reduce": "1" if options.flag("custom_all_reduce", False) else "0",
                "int8_mode": "0",
                "loadgen_info": json.dumps(self._facts(spec, options)),
            },
        )

    def _info(self, spec: ServerSpec, options: Options, weights: Weights) -> dict[str, Any]:
        """What results say of the engine; nothing here is asked of the running server."""
        launcher = " ".join(self._mpirun(options, inside=options.text("image") is not None))
        return {
            **self._facts(spec, options),
            "weights": weights.numbers.page(),
            "launcher": launcher or "none",
        }

    def _facts(self, spec: ServerSpec, options: Options) -> dict[str, Any]:
        """What the spec decides; the model's configuration holds it too, for whoever meets the server by its URL."""
        layout = ft_weights.layout(spec, options)
        return {
            "engine": f"fastertransformer/{layout.variant}",
            "framework": self.name,
            "options": dict(spec.options),
            "model": spec.model.name,
            "vocab": spec.model.vocab,
            "max_context": spec.model.max_context,
            "variant": layout.variant,
            "dtype": layout.dtype,
            "tp": spec.tp,
            "pp": spec.pp,
            "decoupled": options.flag("decoupled", True),
            "stream_step": options.number("stream_step", 1, 1),
            "in_flight_batching": False,
            "keeps_buffers": True,
            "scheduling": "one request or one merged batch at a time",
        }

    def driver_options(self, spec: ServerSpec) -> Mapping[str, Any]:
        """Exact lengths, counted as the variant counts them."""
        options = Options(self.name, spec.options)
        return {
            "model": MODEL,
            "vocab": spec.model.vocab,
            "variant": options.choice("variant", tuple(VARIANTS)),
            "merged": options.flag("dynamic_batching", False),
        }

    def needs(self) -> Sequence[Need]:
        """The server, and the backend's library: found, or where it was looked for and what to do."""
        triton: Triton | None = None
        try:
            triton = find.find_triton()
            found = [Need(name="tritonserver", ok=True, found=str(triton.server))]
        except MissingDependency as error:
            found = [Need(name="tritonserver", ok=False, found=error.what, remedy=error.remedy)]
        try:
            backends = find.find_ft_backends(None, triton)
            found.append(Need(name=find.FT_LIBRARY, ok=True, found=str(backends)))
        except MissingDependency as error:
            found.append(Need(name=find.FT_LIBRARY, ok=False, found=error.what, remedy=error.remedy))
        return found


def _gpus(spec: ServerSpec) -> str:
    """The GPUs it may see: exactly tp × pp, or it refuses to load. A plan without any shows the first ones."""
    return ",".join(map(str, spec.gpus or range(spec.tp * spec.pp)))


FRAMEWORK = FasterTransformer()
