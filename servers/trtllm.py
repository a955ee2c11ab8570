"""Framework ``trtllm``: TensorRT-LLM's ``trtllm-serve`` with its PyTorch backend, by contract only.

Its completions refuse any field that they do not know, so that only theirs are sent; ``detokenize: false`` brings token
ids, and each prompt's usage is told apart. Its command line and answers are those of its source as read (1.2);
nobody here has seen it run.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from loadgen.launch.child import url_host
from loadgen.launch.interpreter import interpreter_of, program_of
from loadgen.launch.options import Options
from loadgen.protocols import Command, Need
from loadgen.records import ServerSpec
from loadgen.servers._llama import weights
from loadgen.servers._llama.files import CONFIG, config_json, tokenizer_files
from loadgen.servers._llama.folders import facts, model_of
from loadgen.servers._llama.foreign import UNSEEN, Foreign, found_or_not

PROGRAM = "trtllm-serve"
SEQUENCES = 256
MAKER, OWN = "TensorRT-LLM", "its own"
GET_IT = "NVIDIA's image (-o image=), or their wheel in an environment of its own, named by --python PATH"


class TensorRtLlm(Foreign):
    """See protocols.Framework. Its workers sit in a session of their own; the guard follows the tree, not the group."""

    name = "trtllm"
    protocol = "openai"
    splits_layers = True
    options: Mapping[str, str] = {
        "weights": weights.HELP,
        "seed": "seed of random weights, a whole number. Default 0",
        "max_num_tokens": "tokens of one step at most, from 1. Default 8192",
        "cache_share": "share of the GPU's free memory for key/value cache, above 0, below 1. Default 0.8",
        "overlap_scheduler": "true, false: the next step is scheduled while one runs. Default true",
        "batch_wait_ms": "how long a step waits for more requests, in milliseconds. Default 0",
        "prefix_caching": "true, false: prompts known from before are not computed again. Default false",
    }

    def doubt(self, spec: ServerSpec, options: Options) -> None:
        """See Foreign."""
        weights.choice(spec)
        _settings(spec, options)

    def lack(self, spec: ServerSpec) -> tuple[str, str] | None:
        """See Foreign."""
        program = program_of(self.name, spec.python, PROGRAM)
        return None if shutil.which(program) else (f"no {program}", GET_IT)

    def command(self, spec: ServerSpec, run_dir: str, ports: Sequence[int]) -> Command:
        """How to start it. The model is called as its folder, so that lies in the run folder under its name."""
        port = spec.port or ports[0]
        base = f"http://{url_host(spec.host)}:{port}"
        options = Options(self.name, spec.options)
        own = weights.choice(spec) == weights.ENGINE
        name = Path(spec.model.name).name
        files = {"extra.yaml": json.dumps(_settings(spec, options), indent=1)}  # JSON is YAML
        setup: tuple[tuple[str, ...], ...] = ()
        mounts: Mapping[str, str] = {}
        if own:
            written = {CONFIG: config_json(spec.model, spec.dtype)}
            written |= tokenizer_files(spec.model.vocab, spec.model.max_context)
            files |= {f"{name}/{file}": text for file, text in written.items()}
        else:
            model = model_of(spec, interpreter_of(self.name, spec.python))
            setup = (*model.setup, ("ln", "-sfn", model.path, os.path.join(run_dir, name)))
            mounts = model.mounts
        files["info.json"] = json.dumps(
            {**facts(spec, "tensorrt-llm"), "weights": weights.numbers(spec, MAKER, OWN).page()}, indent=1
        )
        return Command(
            argv=(
                *(program_of(self.name, spec.python, PROGRAM), os.path.join(run_dir, name)),
                *("--host", spec.host, "--port", str(port)),
                *("--backend", "pytorch", "--tp_size", str(spec.tp), "--pp_size", str(spec.pp)),
                *("--max_batch_size", str(spec.max_batch or SEQUENCES)),
                *("--max_num_tokens", str(options.number("max_num_tokens", 8192, 1))),
                *("--max_seq_len", str(spec.model.max_context)),
                *("--config", os.path.join(run_dir, "extra.yaml")),
            ),
            env={
                "CUDA_VISIBLE_DEVICES": ",".join(map(str, spec.gpus)),
                "HF_HUB_OFFLINE": "1",
                "TRTLLM_NO_USAGE_STATS": "1",
                "DO_NOT_TRACK": "1",
                "OMPI_ALLOW_RUN_AS_ROOT": "1",
                "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
            },
            files=files,
            setup=setup,
            ready_url=f"{base}/health",
            base_url=base,
            info_url=Path(run_dir, "info.json").as_uri(),
            records_url=f"{base}/metrics",
            stop_timeout_s=30.0,
            mounts=mounts,
        )

    def driver_options(self, spec: ServerSpec) -> Mapping[str, Any]:
        """The fields that it takes beyond OpenAI's; it refuses all others."""
        return {
            "extras": ["ignore_eos", "min_tokens"],
            "extra_body": {"detokenize": False},
            "usage": "each",
        }

    def needs(self) -> Sequence[Need]:
        """Its program, beside the interpreter that is named for it or on PATH; an image needs none."""
        found = shutil.which(program_of(self.name, None, PROGRAM))
        return [UNSEEN, found_or_not(PROGRAM, found, GET_IT)]


def _settings(spec: ServerSpec, options: Options) -> dict[str, Any]:
    """Its LLM arguments that are no flags; those of the file win over flags. Raises BadInput for bad values."""
    return {
        "load_format": "dummy" if weights.choice(spec) == weights.ENGINE else "auto",
        "dtype": spec.dtype,
        "kv_cache_config": {
            "enable_block_reuse": options.flag("prefix_caching", False),
            "free_gpu_memory_fraction": options.share("cache_share", 0.8),
        },
        "stream_interval": 1,
        "enable_iter_perf_stats": True,  # else its page of iterations stays empty
        "disable_overlap_scheduler": not options.flag("overlap_scheduler", True),
        "cuda_graph_config": {"enable_padding": True, "max_batch_size": spec.max_batch or SEQUENCES},
        "batch_wait_timeout_ms": options.number("batch_wait_ms", 0, 0),
    }


FRAMEWORK = TensorRtLlm()
