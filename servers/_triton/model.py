"""What Triton's Python backend runs: a transformers engine behind the FasterTransformer tensor contract.

Imported by the few lines of ``model.py`` that ``triton.py`` places in the model repository.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import triton_python_backend_utils as pb_utils
from torch.utils.dlpack import from_dlpack

from loadgen.records import ModelSpec, ServerSpec
from loadgen.servers._hf.call import Cancelled, Run, Step
from loadgen.servers._hf.queue import first_line, free_memory
from loadgen.servers._hf.requests import Call
from loadgen.servers._hf.start import start_rank
from loadgen.servers._torch.facts import process_facts
from loadgen.servers._torch.memory import Memory
from loadgen.servers._triton import batch

log = logging.getLogger("loadgen.triton")
LIBRARIES = ("torch", "transformers", "numpy")
STARTED_BY = (
    "loadgen.servers.triton",
    *(f"loadgen.servers._triton.{name}" for name in ("exec", "launch", "repository")),
)
FINAL = pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL


class TritonPythonModel:
    """See Triton's Python backend. One instance; ``execute`` returns when its requests are answered."""

    def initialize(self, args: dict[str, str]) -> None:
        """Stand the engine up, and write down what it is."""
        logging.basicConfig(
            level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s", force=True
        )
        config = json.loads(args["model_config"])
        self.settings = json.loads(config["parameters"]["loadgen_settings"]["string_value"])
        fields = self.settings["spec"]
        self.spec = ServerSpec(
            **{**fields, "model": ModelSpec(**fields["model"]), "gpus": tuple(fields["gpus"])}
        )
        self.decoupled = bool(config["model_transaction_policy"]["decoupled"])
        self.ready = start_rank(self.spec, rank=0, run_dir=self.settings["run_dir"])
        self.inputs = [entry["name"] for entry in config["input"]]
        self.memory = _MemoryGauges(self.ready.memory)
        self.memory.note()
        info = Path(self.settings["run_dir"], "info.json")
        partial = info.with_suffix(".partial")  # it is watched for: never half of it
        partial.write_text(json.dumps(self._info()))
        partial.rename(info)

    def execute(self, requests: Sequence[Any]) -> list[Any] | None:
        """Answer the requests of one execution as one static batch, as the C++ backend does."""
        jobs = [_Job(request, self.decoupled) for request in requests]
        for job in jobs:
            self._read(job)
        live = [job for job in jobs if job.rows is not None]
        if live:
            self._generate(live)
            self.memory.note()
        return None if self.decoupled else [job.response for job in jobs]

    def finalize(self) -> None:
        """Triton unloads the model: release the engine."""
        self.ready.leave()

    def _read(self, job: _Job) -> None:
        tensors = {}
        for name in self.inputs:
            tensor = pb_utils.get_input_tensor_by_name(job.request, name)
            if tensor is not None:
                tensors[name] = from_dlpack(tensor.to_dlpack())
        model = self.spec.model
        try:
            ask = batch.read(tensors, model.vocab, model.max_context)
        except batch.Refusal as error:
            job.fail(str(error), pb_utils.TritonError.INVALID_ARG)
            return
        job.rows = batch.Rows(ask, padded_count=self.settings["variant"] == "a", fill=model.vocab)

    def _generate(self, jobs: list[_Job]) -> None:
        all_rows = [job.rows for job in jobs if job.rows is not None]
        places = batch.place(all_rows)
        first = all_rows[0].ask
        call = Call(
            prompts=tuple(prompt for rows in all_rows for prompt in rows.ask.prompts),
            max_tokens=max(limit for rows in all_rows for limit in rows.ask.limits),
            ignore_eos=True,
            temperature=first.temperature,
            seed=first.seed,
        )

        def on_step(step: Step) -> None:
            for number, token, _finish in step.tokens:
                rows, row = places[number]
                rows.take(row, token)
            for job in jobs:
                job.after_step(self.settings["stream_step"])

        run = Run(call, self.ready.eos, cancelled=lambda: all(job.over() for job in jobs), on_step=on_step)
        self.ready.memory.begin()
        try:
            self.ready.engine.run(run)
        except Cancelled:
            log.debug("ended before %d tokens: every row had ended, or its client had gone", call.max_tokens)
        except torch.OutOfMemoryError as error:
            for job in jobs:
                job.fail(f"CUDA out of memory: {first_line(error)}", pb_utils.TritonError.INTERNAL)
            free_memory()
        except Exception as error:  # any other fault leaves the device in an unknown state: say so, and end
            log.exception("engine %s failed; this process is unusable and ends", self.ready.engine.name)
            for job in jobs:
                job.fail(f"{type(error).__name__}: {first_line(error)}", pb_utils.TritonError.INTERNAL)
            threading.Timer(1.0, os._exit, (1,)).start()  # time for the words to leave
        for job in jobs:
            job.abandon()

    def _info(self) -> dict[str, Any]:
        """What really runs, for the results."""
        spec = self.spec
        return {
            **process_facts(spec, LIBRARIES, STARTED_BY),
            "engine": f"triton-python/transformers ({self.ready.engine.name.removeprefix('hf/')})",
            "framework": "triton",
            "options": self.settings["asked"],
            "weight_bytes": self.ready.weight_bytes,
            "decoupled": self.decoupled,
            "execute_spans_stream": True,
            "in_flight_batching": False,
            "graphs": self.ready.engine.graphs,
            "eager": self.ready.engine.eager,
            "scheduling": "one execution at a time, first in first out",
            "prefix": sys.prefix,
        }


class _Job:
    """One request and the way its responses go."""

    def __init__(self, request: Any, decoupled: bool) -> None:
        self.request = request
        self.rows: batch.Rows | None = None
        self.response: Any = None
        self._sender = request.get_response_sender() if decoupled else None
        self._sent = -1
        self._final = False

    def after_step(self, stream_step: int) -> None:
        """Send what is due: every ``stream_step`` positions in a stream, and the whole at the end."""
        assert self.rows is not None
        if self._final:
            return
        if self.rows.done:
            self._send(self._answer(), final=True)
        elif self._sender is not None and self.rows.due(stream_step):
            self._send(self._answer(), final=False)

    def over(self) -> bool:
        """Nothing more can come of it: answered, failed, or given up by its client."""
        if not self._final and self._cancelled():
            self._final = True
            if self._sender is not None:
                self._sender.send(flags=FINAL)
        return self._final

    def fail(self, message: str, code: int) -> None:
        if not self._final:
            self._send(pb_utils.InferenceResponse([], pb_utils.TritonError(message, code)), final=True)

    def abandon(self) -> None:
        """A request must not stay open whatever happened to its execution."""
        if not self._final or (self._sender is None and self.response is None):
            self._final = False
            self.fail("cancelled by the client", pb_utils.TritonError.CANCELLED)

    def _cancelled(self) -> bool:
        return bool((self._sender or self.request).is_cancelled())

    def _answer(self) -> Any:
        assert self.rows is not None
        return pb_utils.InferenceResponse(
            [pb_utils.Tensor.from_dlpack(name, tensor) for name, tensor in self.rows.tensors().items()]
        )

    def _send(self, response: Any, *, final: bool) -> None:
        self._final = final
        if self._sender is None:
            self.response = response
        else:
            self._sender.send(response, flags=FINAL if final else 0)


class _MemoryGauges:
    """Gauges beside Triton's own on its /metrics, under the names that framework hf uses; none without CUDA."""

    def __init__(self, memory: Memory) -> None:
        self._memory = memory
        self._families: list[Any] = []  # a family takes its metrics with it when it goes
        self._gauges: dict[str, Any] = {}

    def _add(self, name: str) -> None:
        family = pb_utils.MetricFamily(
            name=f"hf_cuda_{name}",
            description="CUDA memory of a rank's process",
            kind=pb_utils.MetricFamily.GAUGE,
        )
        self._families.append(family)
        self._gauges[name] = family.Metric(labels={"rank": "0"})

    def note(self) -> None:
        if self._memory.kind != "cuda":
            return
        for name, value in self._memory.figures().get("0", {}).items():
            if name not in self._gauges:
                self._add(name)
            self._gauges[name].set(value)
