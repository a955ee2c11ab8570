"""One load worker: a process of its own that sends its share of a trial's requests (``python -m`` this module)."""

from __future__ import annotations

import asyncio
import importlib
import os
import signal
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any, cast

import orjson

from loadgen.errors import BadInput, LoadgenError, WarmupRefused
from loadgen.load.client import run_here
from loadgen.protocols import DriverFactory
from loadgen.records import Trial
from loadgen.results.record_json import from_json
from loadgen.results.store import SampleWriter
from loadgen.system.parent import die_with_parent

LIFE_S = 1.0  # between signs of life
_SPEAKING = threading.Lock()


def import_name(make_driver: DriverFactory) -> str:
    """``module:name``, by which a worker process imports the factory. Raises BadInput when it cannot."""
    name = f"{make_driver.__module__}:{getattr(make_driver, '__qualname__', '?')}"
    try:
        found: object = _imported(name)
    except (ImportError, AttributeError):
        found = None
    if found is not make_driver:
        raise BadInput(f"make_driver = {name}: workers cannot import it (accepted: a module's own function)")
    return name


def _imported(name: str) -> DriverFactory:
    module, _, attribute = name.partition(":")
    return cast(DriverFactory, getattr(importlib.import_module(module), attribute))


def main() -> int:
    """One worker: its job on standard input, its outcome on standard output."""
    die_with_parent(int(os.environ.pop("LOADGEN_PARENT")))
    # A parent may ignore what stops us, or block it in the thread that starts us, as Ray's do: a child inherits both.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    stdout = sys.stdout.buffer
    threading.Thread(target=_live, args=(stdout.fileno(),), name="signs-of-life", daemon=True).start()
    job = orjson.loads(sys.stdin.buffer.readline())
    trial = from_json(Trial, orjson.dumps(job["trial"]))
    part = SampleWriter(Path(job["part"]))
    try:
        try:
            outcome = run_here(
                trial,
                job["base_url"],
                _imported(job["make_driver"]),
                job["driver_options"],
                lambda sample, _: part.add(sample),
                share=(job["number"], job["workers"]),
                agree_start=lambda: _agree(stdout),
            )
        finally:
            part.close()
    except LoadgenError as error:
        kind = next(known for known in (BadInput, WarmupRefused, LoadgenError) if isinstance(error, known))
        _say(stdout, {"error": str(error), "kind": kind.__name__})
        return 1
    assert outcome is not None, "only a stopped load has no outcome"
    _say(stdout, {"outcome": asdict(outcome)})
    return 0


async def _agree(stdout: IO[bytes]) -> int:
    """Report ready, and wait for the start instant. From then on a closed input means that the parent has gone."""
    loop, me = asyncio.get_running_loop(), asyncio.current_task()
    assert me is not None
    start: asyncio.Future[int] = loop.create_future()

    def heard() -> None:
        line = os.read(0, 4096)
        if line and not start.done():
            start.set_result(int(orjson.loads(line)["start_ns"]))
        elif not line:
            loop.remove_reader(0)
            me.cancel()

    loop.add_reader(0, heard)
    _say(stdout, {"ready": True})
    return await start


def _say(stdout: IO[bytes], message: Mapping[str, Any]) -> None:
    with _SPEAKING:
        stdout.write(orjson.dumps(message) + b"\n")
        stdout.flush()


def _live(number: int) -> None:
    """An empty line each second: a parent that waits for an outcome cannot tell work from a stopped process else."""
    while True:
        with _SPEAKING:
            try:
                os.write(
                    number, b"\n"
                )  # past the buffer, whose lock must not be held when the interpreter ends
            except OSError:
                return  # nobody listens any more
        time.sleep(LIFE_S)


if __name__ == "__main__":
    sys.exit(main())
