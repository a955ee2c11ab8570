"""Framework ``triton``: NVIDIA's Triton Inference Server with transformers in its Python backend.

The same server, repository, tensors and driver as framework ``ft``, from PyPI alone, with or without a GPU. It is
labelled ``triton-python/transformers`` everywhere: it shows what Triton costs, not what FasterTransformer gains.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Any

from loadgen.errors import BadInput, MissingDependency
from loadgen.launch.child import CHILD, child_argv, servers_folder
from loadgen.launch.interpreter import interpreter_of
from loadgen.launch.options import Options
from loadgen.protocols import Command, Need
from loadgen.records import ServerSpec
from loadgen.servers._triton import find, launch
from loadgen.servers._triton.repository import MODEL, Repository
from loadgen.servers.hf import FRAMEWORK as HF

ENGINES = ("generate", "compiled")
MODEL_PY = '''"""Placed by loadgen: a transformers engine behind the FasterTransformer tensor contract."""

import runpy

runpy.run_path({child!r})["bootstrap"]({servers!r})

from loadgen.servers._triton.model import TritonPythonModel  # noqa: E402, F401
'''


class TritonPython:
    """See protocols.Framework."""

    name = "triton"
    protocol = "triton-grpc"
    ports = 3
    uses_gpus = True
    needs_gpus = False
    options: Mapping[str, str] = {
        "engine": "generate (eager model.generate) or compiled (static cache, CUDA graphs). Default generate",
        "attention": "sdpa, eager. Default sdpa",
        "compile": "for engine=compiled: default (torch.compile), autotune, off. Default default",
        "seed": "seed of random weights, a whole number. Default 0",
        "decoupled": "true: responses stream (decoupled gRPC); false: one response a request. Default true",
        "stream_step": "a streamed response every so many positions, as FasterTransformer's. Default 1",
        "variant": "a or b: whose meaning sequence_length has (a: padded input width counted in). Default a",
        "dynamic_batching": "true: waiting requests are merged into one static batch. Default false",
        "queue_delay_us": "how long dynamic batching waits for more, in microseconds. Default 0",
        "tritonserver": "the executable or its installation. Default: PATH, then the wheel nvidia-pytriton",
    }

    def default_dtype(self, on_gpu: bool) -> str:
        """As ``hf``, whose engine it is."""
        return HF.default_dtype(on_gpu)

    def library(self, spec: ServerSpec) -> str:
        """Nothing that its versions do not tell."""
        return ""

    def check(self, spec: ServerSpec) -> None:
        """Raise BadInput for a spec that cannot run; MissingDependency when there is no tritonserver."""
        options = Options(self.name, spec.options)
        options.known(self.options)
        options.choice("engine", ENGINES)
        self._repository(spec, "")
        if spec.tp != 1:
            raise BadInput(f"triton: tp = {spec.tp}: its Python model is one process (accepted: tp 1)")
        try:
            HF.check(_as_hf(spec))
        except BadInput as error:
            raise BadInput(str(error).replace("hf:", "triton:", 1)) from None
        find.find_triton(options.text("tritonserver"), spec.python)

    def command(self, spec: ServerSpec, run_dir: str, ports: Sequence[int]) -> Command:
        """How to start it: our child looks at its interpreter, then becomes tritonserver."""
        triton = find.find_triton(Options(self.name, spec.options).text("tritonserver"), spec.python)
        where = launch.addresses(spec, ports)
        region = f"loadgen_triton_{where.grpc}_"
        backends = f"{run_dir}/backends"
        flags = (
            *launch.server_flags(spec, run_dir, where, backends),
            f"--backend-config=python,shm-region-prefix-name={region}",
            # The stub counts as lost when the model is not up by then; 30 s by default.
            f"--backend-config=python,stub-timeout-seconds={max(30, round(spec.ready_timeout_s))}",
        )
        exec_args = (
            "--server",
            str(triton.server),
            "--backends",
            str(triton.backends),
            "--stubs",
            str(triton.stubs),
        )
        return Command(
            argv=child_argv(
                interpreter_of(self.name, spec.python),
                "loadgen.servers._triton.exec",
                *exec_args,
                "--assemble",
                backends,
                "--info",
                f"{run_dir}/info.json",
                "--",
                *flags,
            ),
            env={
                "CUDA_VISIBLE_DEVICES": launch.visible_gpus(spec),
                "HF_HUB_OFFLINE": "1",
                "TOKENIZERS_PARALLELISM": "false",
                "PYTHONHOME": None,  # would lead the stub to another environment
            },
            files=self._repository(spec, run_dir).files(
                MODEL_PY.format(child=str(CHILD), servers=str(servers_folder()))
            ),
            ready_url=where.ready_url,
            base_url=where.base_url,
            info_url=launch.info_url(run_dir),
            version_url=where.version_url,
            metrics_url=where.metrics_url,
            stop_timeout_s=20.0,
            cleanup=(launch.shared_memory(region),),
        )

    def driver_options(self, spec: ServerSpec) -> Mapping[str, Any]:
        """Exact lengths, counted as the variant counts them."""
        options = Options(self.name, spec.options)
        return {
            "model": MODEL,
            "vocab": spec.model.vocab,
            "variant": options.choice("variant", ("a", "b")),
            "merged": options.flag("dynamic_batching", False),
        }

    def needs(self) -> Sequence[Need]:
        """tritonserver, a client, and what framework hf needs of an interpreter."""
        try:
            server = find.find_triton()
            found = Need(name="tritonserver", ok=True, found=str(server.server))
        except MissingDependency as error:
            found = Need(name="tritonserver", ok=False, found=error.what, remedy=error.remedy)
        return [found, *HF.needs()]

    def _repository(self, spec: ServerSpec, run_dir: str) -> Repository:
        options = Options(self.name, spec.options)
        fields = dataclasses.asdict(_as_hf(spec))
        settings = {
            "spec": {**fields, "options": dict(fields["options"])},
            "run_dir": run_dir,
            "variant": options.choice("variant", ("a", "b")),
            "stream_step": options.number("stream_step", 1, 1),
            "asked": dict(spec.options),
        }
        return Repository(
            backend="python",
            decoupled=options.flag("decoupled", True),
            max_batch=spec.max_batch or 1024,
            dynamic_batching=options.flag("dynamic_batching", False),
            queue_delay_us=options.number("queue_delay_us", 0, 0),
            parameters={"loadgen_settings": json.dumps(settings)},
        )


def _as_hf(spec: ServerSpec) -> ServerSpec:
    """The engine's part of the spec: what framework hf would be given."""
    engine_options = {name: value for name, value in spec.options.items() if name in HF.options}
    return dataclasses.replace(spec, framework="hf", options=engine_options)


FRAMEWORK = TritonPython()
