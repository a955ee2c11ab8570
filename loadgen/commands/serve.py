"""``loadgen serve``: one server, its URLs, until Ctrl-C."""

from __future__ import annotations

import dataclasses
import shlex
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from loadgen.engine_facts import weights_of
from loadgen.errors import BadInput, MissingDependency, ServerError
from loadgen.labels import server_label
from loadgen.launch import frameworks
from loadgen.launch.endpoint import page_of
from loadgen.launch.running import start_server
from loadgen.profile.overrides import value_of
from loadgen.profile.read import build_profile
from loadgen.records import OptionValue, ServerSpec
from loadgen.system import interrupt
from loadgen.system.environment import visible_gpus
from loadgen.theory.models import PRESETS
from loadgen.units import show_bytes


def server_spec(
    *,
    framework: str,
    model: str | None,
    tp: int,
    pp: int,
    gpus: str | None,
    dtype: str | None,
    dummy_weights: bool,
    max_batch: int | None,
    max_context: int | None,
    python: str | None,
    host: str,
    port: int,
    ready_timeout: float,
    options: Sequence[str],
    dry_run: bool = False,
) -> ServerSpec:
    """The command line as a ServerSpec. Raises BadInput that names the option, its value and what is accepted.

    A dry run on a machine without GPUs plans for one that has enough.
    """
    if not 0 <= port <= 65535:
        raise BadInput(f"--port {port}: not a port (accepted: 1 to 65535, or 0 to pick a free one)")
    asked = frameworks.find(framework)
    visible = visible_gpus() if asked.uses_gpus else ()
    not_here = dry_run and not visible and (asked.needs_gpus or tp * pp > 1)
    on_gpu = (bool(visible) or not_here) and gpus != ""
    model = model or ("llama-13b" if on_gpu or asked.needs_gpus else "tiny")
    if asked.uses_gpus and gpus is None and not visible and not not_here and tp * pp > 1:
        raise BadInput(
            f"tp = {tp}, pp = {pp}: needs {tp * pp} GPUs, and this machine has none "
            "(accepted: --gpus '' to run on its CPU)"
        )
    table = {
        "framework": framework,
        "model": model,
        "extend_context": max_context,
        "dtype": dtype or asked.default_dtype(on_gpu),
        "tp": tp,
        "pp": pp,
        "gpus": gpu_list(gpus) if gpus is not None else None if visible or not_here else [],
        "max_batch": max_batch,
        "dummy_weights": dummy_weights or model in PRESETS,
        "python": python,
        "ready_timeout_s": ready_timeout,
        "options": dict(option_pair(text) for text in options),
    }
    profile = build_profile(
        {
            "server": {key: value for key, value in table.items() if value is not None},
            "load": {"input_tokens": 1, "output_tokens": 1},
        },
        gpu_count=None if not_here else len(visible),
        frameworks=frameworks.names(),
        ask=frameworks.find,
    )
    spec = profile.cells[0].server
    assert spec is not None
    spec = dataclasses.replace(spec, host=host, port=port)
    with suppress(MissingDependency):  # starting it says so; a dry run shows the plan on any machine
        frameworks.of(spec).check(spec)
    return spec


def gpu_list(text: str) -> list[int]:
    """``0,1`` as device indices; empty text is the CPU. Raises BadInput for anything else."""
    try:
        return [int(part) for part in text.split(",") if part.strip()]
    except ValueError:
        raise BadInput(f"--gpus {text}: not a list of device indices (accepted: such as 0,1)") from None


def option_pair(text: str) -> tuple[str, OptionValue]:
    """``key=value``; numbers and true/false are read as such. Raises BadInput for text without a key or a ``=``."""
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise BadInput(f"--option {text}: not key=value")
    return key.strip(), value_of(value.strip(), listable=False)


def dry_run(spec: ServerSpec) -> str:
    """What would be started, as text: nothing is written or spawned."""
    framework = frameworks.of(spec)
    ports = tuple(spec.port + n if spec.port else 20000 + n for n in range(framework.ports))
    command = framework.command(spec, "/RUN_DIR", ports)
    lines = [f"# {server_label(spec)}, {spec.dtype}, GPUs {list(spec.gpus) or 'none (CPU)'}"]
    for name, text in command.files.items():
        lines += [f"# file RUN_DIR/{name}", text.rstrip()]
    for step in command.setup:
        lines += ["# first", shlex.join(step)]
    lines += ["# environment"]
    lines += [
        f"unset {key}" if value is None else f"{key}={shlex.quote(value)}"
        for key, value in command.env.items()
    ]
    lines += ["# server", shlex.join(command.argv), f"# ready when {command.ready_url} answers"]
    try:
        framework.check(spec)
    except MissingDependency as error:
        lines += ["# it would not start here:", *(f"# {line}" for line in str(error).splitlines())]
    return "\n".join(lines)


def serve(spec: ServerSpec, log: Path | None, echo: Callable[[str], None]) -> int:
    """Start, print the ready line, wait. Returns when interrupted (0) or when the server died (1).

    Raises the ServerError of a server that never became ready.
    """
    with tempfile.TemporaryDirectory(prefix="loadgen-serve-") as folder:
        log_path = (log or Path(folder) / "server.log").absolute()
        echo(f"starting {server_label(spec)}; log: {log_path}")
        server, endpoint = start_server(spec, log_path, Path(folder) / "run", lambda _state: None)
        try:
            echo(ready_line(spec, endpoint.base_url, page_of(endpoint), server.command.metrics_url))
            while server.alive():
                interrupt.check()
                time.sleep(0.2)
            raise server.death()
        except KeyboardInterrupt:
            echo("stopping")
            return 0
        except ServerError as error:
            echo(f"loadgen: {error}")
            return 1
        finally:
            server.stop()
            echo("stopped")


def ready_line(spec: ServerSpec, url: str, info: dict[str, object], metrics_url: str | None) -> str:
    """URLs, the engine's true name in the server's own words, and the GPUs."""
    engine = info.get("engine", "engine unknown")
    whose, held = weights_of(info, spec), info.get("weight_bytes")
    words = [whose.text] if whose else []
    words += [show_bytes(float(held))] if isinstance(held, int) else []
    weights = f", weights {', '.join(words)}" if words else ""
    where = f"GPUs {','.join(map(str, spec.gpus))}" if spec.gpus else "CPU"
    metrics = f"  metrics: {metrics_url}" if metrics_url else ""
    what = f"{spec.model.name} {spec.dtype} tp{spec.tp} pp{spec.pp}"
    return f"ready: {url}  engine: {engine}  {what} on {where}{weights}{metrics}"
