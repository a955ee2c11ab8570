"""A server's telemetry, from its start to its stop: the children that export and scrape, and each trial's share.

Nothing here runs while a trial's load does: the children write, and the trial's part is read once it is over. A fault
of telemetry costs a caveat, never the trial.
"""

from __future__ import annotations

import select
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any

import httpx
import psutil

from loadgen.records import Caveat, Environment, ServerSpec, TrialResult
from loadgen.telemetry.caveats import before_start, holds, of_devices, of_host, of_sources, works
from loadgen.telemetry.host import Gauge, HostWatch
from loadgen.telemetry.known_series import known_series
from loadgen.telemetry.ledger import make_ledger
from loadgen.telemetry.nvml import Gpu, Nvml
from loadgen.telemetry.processes import TreeReader
from loadgen.telemetry.promql import Prometheus
from loadgen.telemetry.scrapes import Scrape, ScrapeLog, write_parquet
from loadgen.telemetry.series import readings_of
from loadgen.telemetry.spans import spans_of_file
from loadgen.telemetry.summary import summarise
from loadgen.telemetry_records import TelemetrySpec
from loadgen.units import seconds

START_S = 10.0  # a child's Python, its imports and its first scrape, on a busy machine
MARK_S = 2.5  # for one scrape asked for: the sampler's own limit, and a little
STOP_S = 5.0
POLL_S = 0.01
SETTLE_S = 1.2  # NVML averages utilization over up to a second
PAGE_S = 2.0
CONTAINERS = frozenset({"docker", "podman"})


def look(settle_s: float = SETTLE_S) -> list[Gpu]:
    """The GPUs as they are before a server starts; empty without a driver.

    One that works and holds next to nothing is looked at again: its utilization is that of the last second, in which
    the server before this one may have run.
    """
    nvml = Nvml()
    try:
        found = nvml.read(links=False)
        if any(works(gpu) and not holds(gpu) for gpu in found):
            time.sleep(settle_s)
            found = nvml.read(links=False)
        return found
    finally:
        nvml.close()


class Recorder:
    """Telemetry of one server. Use as a context manager around its trials; ``begin`` and ``finish`` around each.

    ``pid`` is the root of the server's process tree, ``None`` where it is not this host's to see; ``before`` what
    ``look`` saw before its start; ``page`` asks the server for its own page; ``gauge`` is given where the server runs
    on this host.
    """

    def __init__(
        self,
        spec: TelemetrySpec,
        *,
        server: ServerSpec | None,
        environment: Environment,
        pid: int | None,
        metrics_url: str | None,
        before: Sequence[Gpu],
        page: Callable[[], Mapping[str, object]],
        gauge: Gauge | None = None,
    ) -> None:
        self._spec, self._pid, self._page = spec, pid, page
        self._metrics_url = metrics_url
        indices = server.gpus if server is not None else ()
        known = {gpu.get("index"): str(gpu.get("uuid") or "") for gpu in environment.gpus}
        self._gpus = tuple(uuid for index in indices if (uuid := known.get(index)))
        self._used_before = {
            gpu.uuid: float(gpu.memory_used_bytes) for gpu in before if gpu.memory_used_bytes is not None
        }
        self._caveats_before = tuple(before_start(before, indices))
        rules, skipped = known_series()
        self._prometheus = Prometheus(spec.prometheus, spec.selector, rules) if spec.prometheus else None
        self._children: list[subprocess.Popen[bytes]] = []
        self._logs: dict[int, Path] = {}
        self._faults: list[str] = list(skipped)
        self._urls: list[str] = []
        self._scrapes: list[Scrape] = []
        self._failing: set[str] = set()
        self._scrape_log: ScrapeLog | None = None
        self._began_ns, self._cpu_s = 0, 0.0
        self._tree = None if pid is None else TreeReader(pid, pss_period_s=0)
        self._host = None if gauge is None else HostWatch(gauge, whole=pid is not None)
        self._server_page: Mapping[str, object] = {}
        self._peaks_known = True
        self._held_bytes: float | None = None

    def __enter__(self) -> Recorder:
        self._folder = tempfile.TemporaryDirectory(prefix="loadgen-telemetry-")
        try:
            self._start()
        except OSError as error:
            self._faults.append(f"telemetry could not be started: {error}")
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _start(self) -> None:
        self._urls = list(self._spec.sources)
        if self._spec.exporter and (url := self._start_exporter()) is not None:
            self._urls.append(url)
        # Last: Triton's own GPU figures are up to two seconds old.
        if self._metrics_url is not None and self._metrics_url not in self._urls:
            self._urls.append(self._metrics_url)
        if not self._urls:
            return
        path = Path(self._folder.name) / "scrapes.jsonl"
        path.touch()
        self._scrape_log = ScrapeLog(path, self._urls)
        period = ("--period", repr(self._spec.period_s))
        self._spawn("loadgen.telemetry.sampler", "--log", str(path), *period, *self._urls)
        self._await_scrapes(time.monotonic_ns(), START_S)

    def _start_exporter(self) -> str | None:
        pid = () if self._pid is None else ("--pid", str(self._pid))
        child = self._spawn("loadgen.telemetry.exporter", "--port", str(self._spec.exporter_port), *pid)
        assert child.stdout is not None
        heard, _, _ = select.select([child.stdout], [], [], START_S)
        # Its URL, or the end of its output when it could not start.
        url = child.stdout.readline().decode().strip() if heard else ""
        if not url:
            self._faults.append(f"the exporter did not start: {self._words(child)}")
            return None
        return url

    def _spawn(self, module: str, *args: str) -> subprocess.Popen[bytes]:
        path = Path(self._folder.name) / f"{module}.log"
        with path.open("wb") as log:
            child = subprocess.Popen(
                [sys.executable, "-m", module, *args],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                start_new_session=True,  # Ctrl-C is the sweep's to handle; the end of its pipe is theirs
            )
        self._children.append(child)
        self._logs[child.pid] = path
        return child

    def _words(self, child: subprocess.Popen[bytes]) -> str:
        lines = self._logs[child.pid].read_text(errors="replace").strip().splitlines()
        return lines[-1] if lines else f"exit status {child.poll()}"

    def begin(self) -> None:
        """Before a trial: a scrape of every source, so that the idle server is on record."""
        if self._host is not None:
            self._host.begin()
        self._began_ns, self._cpu_s = time.monotonic_ns(), sum(self.cpu_s().values())
        self._server_page = self._begin_peaks(self._page())
        self._mark()

    def _begin_peaks(self, page: Mapping[str, object]) -> Mapping[str, object]:
        """Have an engine whose calls mix count its peaks from here on; the page as it is then.

        Where that fails, the peaks that it will tell are of nobody knows when, and none of them is used.
        """
        self._peaks_known = True
        url = page.get("reset_peaks_url")
        if url is None:
            return page
        try:
            self._peaks_known = httpx.post(str(url), timeout=PAGE_S, trust_env=False).is_success
        except (httpx.HTTPError, httpx.InvalidURL):
            self._peaks_known = False
        return self._page() if self._peaks_known else page

    def finish(self, result: TrialResult, samples: Path, into: Path) -> TrialResult:
        """After a trial: its telemetry in ``into`` (Parquet), its summary and caveats in the result.

        Whatever is wrong with files or figures, the trial's own result comes back.
        """
        try:
            return self._finish(result, samples, into)
        except Exception as error:  # noqa: BLE001 a trial of minutes is worth more than what was seen beside it
            gap = _gap(f"telemetry could not be summed up: {type(error).__name__}: {error}")
            return replace(result, caveats=(*result.caveats, gap))

    def _finish(self, result: TrialResult, samples: Path, into: Path) -> TrialResult:
        self._mark()
        end_ns = time.monotonic_ns()
        tree = (
            None if self._tree is None else self._tree.read()
        )  # its PSS stalls the server: never under load
        cpu_s = sum(self.cpu_s().values()) - self._cpu_s
        scrapes = [scrape for scrape in self._scrapes if scrape.at_ns >= self._began_ns]
        self._scrapes = []
        preferred = list(self._urls)
        if self._prometheus is not None:
            scrapes += self._prometheus.read(self._began_ns, end_ns)
            preferred.insert(len(self._spec.sources), self._prometheus.url)
        caveats = [*self._caveats_before, *self._own_caveats(), *of_sources(scrapes, preferred)]
        try:
            write_parquet(into, scrapes)
        except OSError as error:
            caveats.append(_gap(f"telemetry could not be stored: {error}"))
        if result.failure is not None and not samples.exists():
            return replace(result, caveats=(*result.caveats, *caveats))
        done = self._summed(
            result, samples, scrapes, preferred, caveats, pss_bytes=None if tree is None else tree.pss_bytes
        )
        if done.telemetry is None or not self._children or cpu_s < 0:
            return done
        own = cpu_s / seconds(end_ns - self._began_ns)
        return replace(done, telemetry=replace(done.telemetry, cpu_cores=own))

    def _summed(
        self,
        result: TrialResult,
        samples: Path,
        scrapes: list[Scrape],
        preferred: Sequence[str],
        caveats: list[Caveat],
        *,
        pss_bytes: float | None,
    ) -> TrialResult:
        readings = readings_of(scrapes, preferred)
        spans = spans_of_file(samples, self._began_ns, result.window)
        gpus = self._gpus
        # A request that was given up may still keep the server busy.
        idle = result.summary is not None and not result.summary.requests_failed
        host = None if self._host is None else self._host.finish(readings, spans, idle=idle)
        if not self._peaks_known:
            caveats.append(
                _gap("the server did not begin its memory peaks anew: what the trial needed is not known")
            )
        ledger = make_ledger(
            result.trial,
            readings,
            spans,
            gpus=gpus,
            before=self._server_page,
            after=result.engine,
            used_before=self._used_before,
            peaks_known=self._peaks_known,
            held_before=self._held_bytes,
        )
        if ledger is not None and ledger.process_bytes is not None:
            self._held_bytes = max(self._held_bytes or 0.0, ledger.process_bytes)
        telemetry = summarise(
            scrapes,
            readings,
            spans,
            gpus=gpus,
            root=str(self._pid),
            summary=result.summary,
            before=self._used_before,
            ledger=ledger,
            pss_end_bytes=pss_bytes,
            host=host,
            period_s=self._spec.period_s,
        )
        caveats += of_devices(readings, spans, gpus)
        caveats += () if host is None else of_host(host)
        return replace(result, telemetry=telemetry, caveats=(*result.caveats, *caveats))

    def cpu_s(self) -> dict[str, float]:
        """CPU time so far of each child that still runs, by its module."""
        found: dict[str, float] = {}
        for child in self._children:
            try:
                times = psutil.Process(child.pid).cpu_times()
            except psutil.NoSuchProcess:
                continue
            found[self._logs[child.pid].stem] = times.user + times.system
        return found

    def _own_caveats(self) -> list[Caveat]:
        dead = [child for child in self._children if child.poll() is not None]
        words = [f"{self._logs[child.pid].stem} ended: {self._words(child)}" for child in dead]
        return [_gap(fault) for fault in (*self._faults, *words)]

    def _mark(self) -> None:
        """Ask for a scrape of every source and wait until they are in, or have had their time."""
        if self._scrape_log is None or self._children[-1].poll() is not None:
            return
        asked_ns = time.monotonic_ns()
        stdin: Any = self._children[-1].stdin
        try:
            stdin.write(b"now\n")
            stdin.flush()
        except BrokenPipeError:
            return  # it has just ended, which _own_caveats tells
        self._await_scrapes(asked_ns, MARK_S)

    def _await_scrapes(self, since_ns: int, limit_s: float) -> None:
        """Until every source that answers was scraped since an instant; one that last failed is not waited for."""
        assert self._scrape_log is not None
        deadline_s = time.monotonic() + limit_s
        missing = set(self._urls) - self._failing
        while missing and time.monotonic() < deadline_s and self._children[-1].poll() is None:
            new = self._scrape_log.read()
            self._scrapes += new
            for scrape in new:
                (self._failing.add if scrape.error else self._failing.discard)(scrape.source)
                if scrape.at_ns >= since_ns:
                    missing.discard(scrape.source)
            if missing:
                time.sleep(POLL_S)

    def close(self) -> None:
        """End the children. Idempotent."""
        for child in self._children:
            for pipe in (child.stdin, child.stdout):
                if pipe is not None:
                    pipe.close()
        for child in self._children:
            try:
                child.wait(STOP_S)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()
        self._children = []
        self._scrape_log = None
        self._folder.cleanup()


def _gap(message: str) -> Caveat:
    return Caveat(kind="telemetry-gap", message=message, remedy="run the trial again; see the message")
