"""Framework ``tgi``: text-generation-inference, a container image or launcher that a user brings, by contract only.

No route of it takes token ids or ignores the end of a sequence. Prompts are therefore words of one token each, and the
tokenizer that is written has no end token, so that lengths are exact both ways; a checkpoint's own may end an output
early, which counts as an error. ``transport=shard`` leaves the router out (``_tgi/``), whose shards do ignore that end.
Its command lines and answers are those of 3.3 as read; nobody here has seen it run.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from loadgen.errors import BadInput
from loadgen.launch.child import child_argv, url_host
from loadgen.launch.interpreter import interpreter_of, look_into, program_of
from loadgen.launch.options import Options
from loadgen.launch.sockets import sockets_in
from loadgen.protocols import Command, Need
from loadgen.records import ServerSpec
from loadgen.servers._llama import folders
from loadgen.servers._llama.foreign import UNSEEN, Foreign, found_or_not
from loadgen.servers._tgi.settings import PAGE, Settings

ATTENTION = ("flashinfer", "flashdecoding", "paged")
SOCKET_NAME = len("/shard-00")
LIBRARIES = ("grpcio", "protobuf")  # of the child that starts the shards
CONCURRENT = 4096  # requests that its router takes at once; above it answers 429
GET_IT = "use its image: -o image=ghcr.io/huggingface/text-generation-inference:3.3.5"


class Tgi(Foreign):
    """See protocols.Framework. ``ports`` are HTTP, its Prometheus exporter's, and the shards' master port."""

    name = "tgi"
    protocol = "tgi"
    ports = 3
    options: Mapping[str, str] = {
        "transport": "http (the router's), or shard: its shards without router, by gRPC, static batches alone. "
        "Default http",
        "weights": folders.HELP,
        "seed": "seed of random weights, a whole number. Default 0",
        "prefill_tokens": "tokens of a prefill at most, from 1. Default: max_batch prompts of half the context",
        "waiting_served_ratio": "waiting over running requests from which a prefill interrupts decoding. Default 0.3",
        "prefix_caching": "true, false: prompts known from before are not computed again. Default false",
        "attention": f"for transport=shard: {', '.join(ATTENTION)}. Default flashinfer",
    }
    program = "text-generation-launcher"

    def for_spec(self, spec: ServerSpec) -> Foreign:
        """See protocols.Framework. Raises BadInput for a transport that is none."""
        chosen = Options(self.name, spec.options).choice("transport", ("http", "shard"))
        return SHARD if chosen == "shard" else self

    def doubt(self, spec: ServerSpec, options: Options) -> None:
        """See Foreign."""
        folders.check(spec)
        _flags(spec, options)
        if "attention" in options.values:
            raise BadInput("tgi: option attention with transport http (accepted: with transport = shard)")

    def lack(self, spec: ServerSpec) -> tuple[str, str] | None:
        """See Foreign."""
        program = program_of(self.name, spec.python, self.program)
        return None if shutil.which(program) else (f"no {program}", GET_IT)

    def command(self, spec: ServerSpec, run_dir: str, ports: Sequence[int]) -> Command:
        """How to start it, on a folder of safetensors with a tokenizer: it has no dummy loader."""
        port = spec.port or ports[0]
        base = f"http://{url_host(spec.host)}:{port}"
        options = Options(self.name, spec.options)
        model = folders.model_of(spec, interpreter_of(self.name, spec.python))
        return Command(
            argv=(
                *(program_of(self.name, spec.python, self.program), "--model-id", model.path),
                *("--num-shard", str(spec.tp), "--hostname", spec.host, "--port", str(port)),
                *("--prometheus-port", str(ports[1]), "--master-addr", "127.0.0.1"),
                *("--master-port", str(ports[2]), "--shard-uds-path", f"{run_dir}/shard"),
                *("--dtype", spec.dtype, *_flags(spec, options)),
            ),
            env=_env(spec, options),
            files={PAGE: json.dumps({**folders.facts(spec, "tgi"), "transport": "http"}, indent=1)},
            setup=model.setup,
            setup_stays=bool(model.setup),
            ready_url=f"{base}/health",
            base_url=base,
            info_url=Path(run_dir, PAGE).as_uri(),
            metrics_url=f"{base}/metrics",
            stop_timeout_s=20.0,
            mounts=model.mounts,
        )

    def driver_options(self, spec: ServerSpec) -> Mapping[str, Any]:
        """How prompts become text: the written tokenizer's words are the ids in decimal."""
        if spec.dummy_weights:
            return {"text": "ids"}
        return {"text": "tokenizer", "tokenizer": spec.model.checkpoint}

    def needs(self) -> Sequence[Need]:
        """The launcher, and what the shards are without it; an image needs neither."""
        programs = {name: program_of(self.name, None, name) for name in (self.program, SHARD.program)}
        return [UNSEEN, *(found_or_not(name, shutil.which(path), GET_IT) for name, path in programs.items())]


class TgiShard(Tgi):
    """The shards without their router: ``ports`` are that of a health page, and the shards' master port.

    Without queue, router and HTTP its figures are no server's; results say ``transport: shard``.
    """

    protocol = "tgi-shard"
    ports = 2
    program = "text-generation-server"

    def doubt(self, spec: ServerSpec, options: Options) -> None:
        """See Foreign."""
        folders.check(spec)
        _lengths(spec, options)
        options.choice("attention", ATTENTION)
        if "waiting_served_ratio" in options.values:
            raise BadInput(
                "tgi: option waiting_served_ratio with transport shard (accepted: with transport = http)"
            )

    def lack(self, spec: ServerSpec) -> tuple[str, str] | None:
        """See Foreign."""
        if (lack := super().lack(spec)) is not None:
            return lack
        python = interpreter_of(self.name, spec.python)
        missing = [
            name for name in LIBRARIES if name not in look_into(python, distributions=LIBRARIES).versions
        ]
        return (
            (f"{python} has no {', '.join(missing)}", "name its own interpreter: --python PATH")
            if missing
            else None
        )

    def command(self, spec: ServerSpec, run_dir: str, ports: Sequence[int]) -> Command:
        """How to start the shards, by a child that starts one a rank and warms them up."""
        port = spec.port or ports[0]
        options = Options(self.name, spec.options)
        python = interpreter_of(self.name, spec.python)
        model = folders.model_of(spec, python)
        sockets = sockets_in(run_dir, "tgi", port, SOCKET_NAME)
        settings = Settings(
            model=model.path,
            dtype=spec.dtype,
            uds=f"{sockets.folder}/shard",
            ranks=spec.tp,
            host=spec.host,
            port=port,
            master_port=ports[1],
            **_lengths(spec, options),
        )
        facts = {**folders.facts(spec, "tgi shard"), "transport": "shard", "in_flight_batching": False}
        return Command(
            argv=child_argv(
                python, "loadgen.servers._tgi.main", "--spec", json.dumps(dataclasses.asdict(settings))
            ),
            env={**_env(spec, options), "ATTENTION": options.choice("attention", ATTENTION)},
            files={PAGE: json.dumps(facts, indent=1)},
            setup=(*model.setup, *sockets.setup),
            ready_url=f"http://{url_host(spec.host)}:{port}/health",
            base_url=f"unix:{sockets.folder}/shard-0",
            info_url=Path(run_dir, PAGE).as_uri(),
            stop_timeout_s=20.0,
            cleanup=sockets.cleanup,
            mounts=model.mounts,
        )


SHARD = TgiShard()


def _env(spec: ServerSpec, options: Options) -> dict[str, str]:
    return {
        "CUDA_VISIBLE_DEVICES": ",".join(map(str, spec.gpus)),
        "HF_HUB_OFFLINE": "1",
        "PREFIX_CACHING": "1" if options.flag("prefix_caching", False) else "0",
    }


def _lengths(spec: ServerSpec, options: Options) -> dict[str, int]:
    """The greatest lengths, in tokens: of a prompt, of a sequence, of a prefill. Raises BadInput for bad values."""
    context, sequences = spec.model.max_context, spec.max_batch or 64
    prefill = options.number("prefill_tokens", max(context, sequences * context // 2), 1)
    return {"max_input_tokens": context - 1, "max_total_tokens": context, "max_prefill_tokens": prefill}


def _flags(spec: ServerSpec, options: Options) -> tuple[str, ...]:
    """What decides its figures. Raises BadInput for bad values."""
    ratio = options.values.get("waiting_served_ratio", 0.3)
    if not isinstance(ratio, int | float) or isinstance(ratio, bool) or ratio < 0:
        raise BadInput(f"tgi: option waiting_served_ratio = {ratio!r} (accepted: a number from 0)")
    lengths = _lengths(spec, options)
    return (
        *("--max-input-tokens", str(lengths["max_input_tokens"])),
        *("--max-total-tokens", str(lengths["max_total_tokens"])),
        *("--max-batch-prefill-tokens", str(lengths["max_prefill_tokens"])),
        *("--waiting-served-ratio", f"{ratio:g}"),
        *("--max-concurrent-requests", str(CONCURRENT), "--usage-stats", "off"),
    )


FRAMEWORK = Tgi()
