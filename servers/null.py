"""Framework ``null``: no model at all. Tokens come at set times, so that the client itself can be measured.

It answers like an engine over the same protocol, with a made-up token at every step of an absolute schedule, and logs
when each was really sent. Whatever differs in the client's figures is the client's error (``loadgen calibrate``).

With ``slots`` it has a queue (``_null/queue.py``), whose capacity is known: what a search for capacity is checked by. A
step of c sequences lasts ``step_ms + c · sequence_us`` and ``prompt_us`` for each prompt token of those that begin in
it; with every slot taken by requests of p tokens in and n out, it serves slots / (n · (step_ms + slots · sequence_us) +
slots · p · prompt_us) requests per second.
"""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from loadgen.errors import BadInput
from loadgen.launch.child import child_argv, url_host
from loadgen.launch.interpreter import interpreter_of
from loadgen.protocols import Command, Need
from loadgen.records import ServerSpec

ENGINE = "null (no model)"
NUMBERS = ("ttft_ms", "itl_ms")
COSTS = ("step_ms", "sequence_us", "prompt_us")
MOST_SLOTS = 100_000
LONGEST_MS = 3_600_000.0


class Null:
    """See protocols.Framework."""

    name = "null"
    protocol = "openai"
    ports = 1
    uses_gpus = False
    needs_gpus = False
    options: Mapping[str, str] = {
        "ttft_ms": "milliseconds from a request to its first token, from 0. Default 0",
        "itl_ms": "milliseconds from token to token, from 0 (0: as fast as possible). Default 0",
        "coalesce": "true: tokens that are due together leave in one write; false: one write each. Default false",
        "slots": "sequences at work at once: further requests wait, and steps take the place of ttft_ms and itl_ms. "
        "Default 0: none wait",
        "step_ms": "with slots: milliseconds of a step, a token for each sequence at work, above 0. Default 10",
        "sequence_us": "with slots: microseconds that each sequence at work adds to a step, from 0. Default 0",
        "prompt_us": "with slots: microseconds that each prompt token adds to the first step, from 0. Default 0",
        "log": "file for the true send times, relative to the server's run folder. Default none",
    }

    def default_dtype(self, on_gpu: bool) -> str:
        """There are no weights; the word, that of profiles which name none, stands in the results."""
        return "bfloat16"

    def library(self, spec: ServerSpec) -> str:
        """Nothing that its versions do not tell."""
        return ""

    def check(self, spec: ServerSpec) -> None:
        """Raise BadInput for options it does not have, and for a model split over devices: there is no model."""
        for key, value in spec.options.items():
            if key not in self.options:
                raise BadInput(f"null: unknown option {key!r} (accepted: {', '.join(self.options)})")
            if key in NUMBERS and not _is_duration(value):
                raise BadInput(f"null: option {key} = {value!r} (accepted: 0 to {LONGEST_MS:.0f})")
            if key in COSTS and not (_is_duration(value) and (value or key != "step_ms")):
                least = "above 0 and up" if key == "step_ms" else "0"
                raise BadInput(f"null: option {key} = {value!r} (accepted: {least} to {LONGEST_MS:.0f})")
            if key == "slots" and not (type(value) is int and 0 <= value <= MOST_SLOTS):
                raise BadInput(f"null: option slots = {value!r} (accepted: 0 to {MOST_SLOTS})")
            if key == "coalesce" and not isinstance(value, bool):
                raise BadInput(f"null: option coalesce = {value!r} (accepted: true, false)")
            if key == "log" and not _is_name(value):
                raise BadInput(
                    f"null: option log = {value!r} (accepted: a plain file name in the run folder)"
                )
        slots = spec.options.get("slots", 0)
        lost = [key for key in (NUMBERS if slots else COSTS) if key in spec.options]
        if slots and spec.options.get("coalesce"):
            lost.append("coalesce")
        if lost:
            without = "with slots, whose steps are the pace" if slots else "without slots"
            raise BadInput(f"null: option {lost[0]} has no effect {without} (accepted: one or the other)")
        if spec.tp != 1 or spec.pp != 1:
            raise BadInput(f"null: tp = {spec.tp}, pp = {spec.pp}: there is no model to split (accepted: 1)")
        if spec.gpus:
            raise BadInput(f"null: gpus = {list(spec.gpus)}: there is no model to place (accepted: none)")

    def command(self, spec: ServerSpec, run_dir: str, ports: Sequence[int]) -> Command:
        """How to start the child: the standard library is all it needs."""
        port = spec.port or ports[0]
        base = f"http://{url_host(spec.host)}:{port}"
        options = spec.options
        log = str(options.get("log", ""))
        arguments = [
            *("--host", spec.host, "--port", str(port), "--model", spec.model.name),
            *("--ttft-ms", str(options.get("ttft_ms", 0)), "--itl-ms", str(options.get("itl_ms", 0))),
        ]
        if options.get("slots", 0):
            arguments += ["--slots", str(options["slots"]), "--step-ms", str(options.get("step_ms", 10))]
            arguments += ["--sequence-us", str(options.get("sequence_us", 0))]
            arguments += ["--prompt-us", str(options.get("prompt_us", 0))]
        if options.get("coalesce", False):
            arguments.append("--coalesce")
        if log:
            arguments += ["--log", os.path.join(run_dir, log)]
        return Command(
            argv=child_argv(interpreter_of(self.name, spec.python), "loadgen.servers._null.main", *arguments),
            ready_url=f"{base}/health",
            base_url=base,
            info_url=f"{base}/info",
            stop_timeout_s=10.0,
        )

    def driver_options(self, spec: ServerSpec) -> Mapping[str, Any]:
        """Requests carry their number, under which the log keeps their send times."""
        return {"request_ids": True}

    def needs(self) -> Sequence[Need]:
        """Nothing but Python on Linux."""
        ok = sys.platform == "linux"
        return [Need(name="linux", ok=ok, found=sys.platform, remedy="" if ok else "run it on Linux (epoll)")]


def _is_name(value: object) -> bool:
    """Whether it names a file in the run folder itself: elsewhere it could overwrite anything."""
    return (
        isinstance(value, str)
        and os.path.basename(value) == value
        and value not in (".", "..")
        and "\0" not in value
    )


def _is_duration(value: object) -> bool:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return number and math.isfinite(float(str(value))) and 0 <= float(str(value)) <= LONGEST_MS


FRAMEWORK = Null()
