"""``sweep --metrics-port``: the live figures of a sweep for Prometheus.

A watcher beside the console's. A sample costs one append; samples are folded, and the page is written, by the thread
that answers a scrape, in steps short enough that the load generator waits for none of them.

What is exported, and a dashboard for it: ``docs/prometheus.md``.
"""

from __future__ import annotations

import http.server
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from contextlib import suppress

from loadgen.errors import BadInput
from loadgen.live.trial_series import FAMILIES, TrialSeries
from loadgen.protocols import Watcher
from loadgen.records import Trial, TrialResult
from loadgen.request_records import Sample

BACKLOG = 1 << 18  # samples kept for the next scrape; older ones are then folded by whoever adds
KEPT_S = 60.0  # that a trial stays on the page after its end, for a scrape or two to see it
KEPT = 16  # such trials at most
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class LiveMetrics:
    """See protocols.Watcher; passes every event on to ``inner``.

    Shown are the running trial and those that ended within the last minute: so the last figure that Prometheus keeps of
    a trial is its final one, and no page grows with the sweep. ``clock`` is any steady clock's seconds.
    """

    def __init__(self, inner: Watcher, clock: Callable[[], float] = time.monotonic) -> None:
        self._inner, self._clock = inner, clock
        self._folding, self._telling = threading.Lock(), threading.Lock()
        self._planned = 0
        self._trials: Counter[str] = Counter()
        self._running: TrialSeries | None = None
        self._ended: deque[tuple[float, TrialSeries]] = deque(maxlen=KEPT)

    def plan(self, trials: Sequence[Trial], done: Sequence[TrialResult]) -> None:
        """Set the gauge of planned trials."""
        self._planned = len(trials)
        self._inner.plan(trials, done)

    def server(self, label: str, state: str) -> None:
        """Passed on alone: a server's state is no series."""
        self._inner.server(label, state)

    def place(self, name: str, doing: str) -> None:
        """Passed on alone: samples of a node's trial are told when it has ended."""
        self._inner.place(name, doing)

    def trial(self, trial: Trial) -> None:
        """The trial that runs from now on."""
        self._running = TrialSeries(trial)
        self._inner.trial(trial)

    def sample(self, sample: Sample, in_flight: int) -> None:
        """Keep a sample for the next scrape, or fold the backlog where nobody scrapes."""
        series = self._running
        assert series is not None, "a sample of no trial"
        series.in_flight = in_flight
        series.fresh.append(sample)
        if len(series.fresh) > BACKLOG:
            self._fold(series)  # nobody scrapes: memory must not grow for ever
        self._inner.sample(sample, in_flight)

    def result(self, result: TrialResult) -> None:
        """Count a trial as ok or failed; nothing is in flight after it."""
        series, self._running = self._running, None
        if series is not None:  # one whose server did not start never ran
            series.running, series.in_flight = False, 0
            self._ended.append((self._clock(), series))
        self._trials["failed" if result.failure else "ok"] += 1
        self._inner.result(result)

    def note(self, message: str) -> None:
        """Passed on alone."""
        self._inner.note(message)

    def _fold(self, series: TrialSeries) -> None:
        with self._folding:
            series.fold()

    def text(self) -> str:
        """The page, with every sample so far."""
        with self._telling:
            # The ended ones first: one that ends meanwhile is in neither, and on the next page.
            shown = [series for ended_s, series in list(self._ended) if self._clock() - ended_s <= KEPT_S]
            if (running := self._running) is not None:
                shown.append(running)
            families: dict[str, list[str]] = {name: [] for name in FAMILIES}
            for series in shown:
                self._fold(series)
                for family, line in series.lines():
                    families[family].append(line)
        lines = [
            "# HELP loadgen_trials_planned Trials of the sweep",
            "# TYPE loadgen_trials_planned gauge",
            f"loadgen_trials_planned {self._planned}",
            "# HELP loadgen_trials_total Trials that ended",
            "# TYPE loadgen_trials_total counter",
            *(f'loadgen_trials_total{{outcome="{name}"}} {self._trials[name]}' for name in ("ok", "failed")),
        ]
        for name, (kind, words) in FAMILIES.items():
            lines += [f"# HELP {name} {words}", f"# TYPE {name} {kind}", *families[name]]
        return "\n".join(lines) + "\n"


class MetricsPort:
    """Serves a LiveMetrics on 127.0.0.1 from a thread, for the length of a ``with`` block; ``url`` tells where.

    Raises BadInput for a port that is taken.
    """

    def __init__(self, metrics: LiveMetrics, port: int) -> None:
        class Handler(http.server.BaseHTTPRequestHandler):
            timeout = 5.0  # a peer that says nothing must not hold the thread for ever

            def do_GET(self) -> None:
                page = metrics.text().encode() if self.path.split("?")[0] == "/metrics" else b""
                with suppress(
                    ConnectionError
                ):  # a scraper whose time was up: no news for the sweep's terminal
                    self.send_response(200 if page else 404)
                    self.send_header("Content-Type", CONTENT_TYPE)
                    self.send_header("Content-Length", str(len(page)))
                    self.end_headers()
                    self.wfile.write(page)

            def log_message(self, format: str, *args: object) -> None:
                """Scrapes are no news; the sweep's own lines share this terminal."""

        try:
            self._server = http.server.ThreadingHTTPServer(("127.0.0.1", port), Handler)
        except OSError as error:
            raise BadInput(
                f"--metrics-port {port}: cannot listen: {error.strerror or error} (accepted: a free port, or 0)"
            ) from None
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}/metrics"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.5,), daemon=True)

    def __enter__(self) -> MetricsPort:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
