"""What telemetry itself takes of this machine, measured beside a load."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from loadgen.records import Environment
from loadgen.telemetry.recorder import Recorder
from loadgen.telemetry_records import TelemetrySpec


class TelemetryCost:
    """CPU seconds per second of each of telemetry's processes, once ``beside`` has run; empty when none could."""

    def __init__(self, spec: TelemetrySpec) -> None:
        self.period_s = spec.period_s
        self.cpu_cores: Mapping[str, float] = {}
        self._spec = spec

    @contextmanager
    def beside(self, pid: int | None) -> Iterator[None]:
        """Record while a load runs on the server whose process id is ``pid``."""
        nowhere = Environment(
            id="", host="", os="", cpu="", cpus=0, memory_bytes=0, gpus=(), driver=None, cuda=None, packages={},
            commit=None, argv=(), started="",
        )  # fmt: skip
        with Recorder(
            self._spec, server=None, environment=nowhere, pid=pid, metrics_url=None, before=(), page=dict
        ) as recorder:
            recorder.begin()
            start_s, before = time.monotonic(), recorder.cpu_s()
            yield
            took_s, after = time.monotonic() - start_s, recorder.cpu_s()
        self.cpu_cores = {
            name.rpartition(".")[2]: (after[name] - before[name]) / took_s for name in after if name in before
        }
