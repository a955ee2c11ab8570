"""What servers build once on a machine (compiled ops), made before anything is timed or limited."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from loadgen.errors import BadInput, ServerError
from loadgen.labels import server_label
from loadgen.launch import frameworks
from loadgen.launch.process import Server, free_ports
from loadgen.records import ServerSpec
from loadgen.units import show_duration


def run_ahead(
    specs: Iterable[ServerSpec], logs: Path, left_s: Callable[[], float], say: Callable[[str], None]
) -> None:
    """Run the set-up whose results stay, once for each engine, within what is left of the time.

    One that fails or takes too long is told and left: the server that needs it runs it again, and says so as its own.
    """
    for spec in _widest_of_each_engine(specs):
        framework = frameworks.of(spec)
        with tempfile.TemporaryDirectory(prefix="loadgen-") as folder:
            try:
                command = framework.command(spec, folder, free_ports(framework.ports, spec.host))
                if not (command.setup and command.setup_stays):
                    continue
                began_s, label = time.monotonic(), server_label(spec)
                log = logs / f"set-up-{label.replace('/', '-').replace(' ', '_')}.log"
                if (limit_s := min(spec.ready_timeout_s, left_s())) <= 0:
                    return
                say(f"{label}: what it compiles once is made first (log: {log})")
                Server(command, Path(folder), log.absolute()).set_up(limit_s)
                say(f"{label}: set up after {show_duration(time.monotonic() - began_s)}")
            except (BadInput, ServerError) as error:
                say(f"{server_label(spec)}: not set up: {str(error).splitlines()[0]}")


def _widest_of_each_engine(specs: Iterable[ServerSpec]) -> list[ServerSpec]:
    """The server on most GPUs stands for those of its engine: it needs whatever they need."""
    found: dict[tuple[object, ...], ServerSpec] = {}
    for spec in specs:
        key = (spec.framework, spec.options.get("engine"), bool(spec.gpus), spec.python)
        if key not in found or spec.tp > found[key].tp:
            found[key] = spec
    return list(found.values())
