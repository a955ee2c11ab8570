"""``sweep --metrics-port``: the live figures of a sweep for Prometheus.

A watcher beside the console's. A sample costs one append; samples are folded, and the page is written, by the thread
that answers a scrape, in steps short enough that the load generator waits for none of them.

| family | labels |
|---|---|
| loadgen_trial_info | 1 for the running trial: trial, framework, model, tp, pp, load, input_tokens, output_tokens |
| loadgen_trials_planned, loadgen_trials_total | –; outcome |
| loadgen_requests_total | phase, outcome |
| loadgen_in_flight_requests | – |
| loadgen_input_tokens_total, loadgen_output_tokens_total | – (measured requests that succeeded) |
| loadgen_e2e_latency_seconds, loadgen_time_to_first_token_seconds | histograms (measured requests that succeeded) |
"""

from __future__ import annotations

import http.server
import threading
import time
from bisect import bisect_left
from collections import Counter, deque
from collections.abc import Iterator, Sequence

from loadgen.errors import BadInput
from loadgen.live.progress import trial_row
from loadgen.metrics.summary import e2e_ns, start_ns
from loadgen.protocols import Watcher
from loadgen.records import Sample, Trial, TrialResult
from loadgen.units import seconds

BOUNDS = (
    0.001,
    0.0025,
    0.005,
    0.01,
    0.025,
    0.05,
    0.1,
    0.25,
    0.5,
    1.0,
    2.5,
    5.0,
    10.0,
    30.0,
    60.0,
    120.0,
    300.0,
)
YIELD_EVERY = 16
BACKLOG = 1 << 18  # samples kept for the next scrape; older ones are then folded by whoever adds
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Histogram:
    """Prometheus' cumulative histogram."""

    def __init__(self) -> None:
        self.counts = [0] * (len(BOUNDS) + 1)
        self.total = 0.0

    def add(self, value: float) -> None:
        """Count a value, in seconds as the bounds are."""
        self.counts[bisect_left(BOUNDS, value)] += 1
        self.total += value

    def lines(self, name: str, words: str) -> Iterator[str]:
        """The series in Prometheus' text format, buckets cumulative."""
        yield f"# HELP {name} {words}"
        yield f"# TYPE {name} histogram"
        below = 0
        for bound, count in zip((*map(repr, BOUNDS), "+Inf"), self.counts, strict=True):
            below += count
            yield f'{name}_bucket{{le="{bound}"}} {below}'
        yield f"{name}_sum {self.total!r}"
        yield f"{name}_count {below}"


class LiveMetrics:
    """See protocols.Watcher; passes every event on to ``inner``."""

    def __init__(self, inner: Watcher) -> None:
        self._inner = inner
        self._fresh: deque[Sample] = deque()
        self._lock = threading.Lock()
        self._in_flight = self._planned = self._input = self._output = 0
        self._requests: Counter[tuple[str, str]] = Counter()
        self._trials: Counter[str] = Counter()
        self._e2e, self._ttft = Histogram(), Histogram()
        self._trial: Trial | None = None

    def plan(self, trials: Sequence[Trial], done: Sequence[TrialResult]) -> None:
        """Set the gauge of planned trials."""
        self._planned = len(trials)
        self._inner.plan(trials, done)

    def server(self, label: str, state: str) -> None:
        """Passed on alone: a server's state is no series."""
        self._inner.server(label, state)

    def trial(self, trial: Trial) -> None:
        """The trial that runs from now on."""
        self._trial = trial
        self._inner.trial(trial)

    def sample(self, sample: Sample, in_flight: int) -> None:
        """Keep a sample for the next scrape, or fold the backlog where nobody scrapes."""
        self._in_flight = in_flight
        self._fresh.append(sample)
        if len(self._fresh) > BACKLOG:
            self._fold()  # nobody scrapes: memory must not grow for ever
        self._inner.sample(sample, in_flight)

    def result(self, result: TrialResult) -> None:
        """Count a trial as ok or failed; nothing is in flight after it."""
        self._trial, self._in_flight = None, 0
        self._trials["failed" if result.failure else "ok"] += 1
        self._inner.result(result)

    def note(self, message: str) -> None:
        """Passed on alone."""
        self._inner.note(message)

    def _fold(self) -> None:
        with self._lock:
            for count in range(len(self._fresh)):
                sample = self._fresh.popleft()
                self._requests[sample.phase, "ok" if sample.error is None else "failed"] += 1
                if sample.error is None and sample.phase == "measured":
                    self._add(sample)
                if count % YIELD_EVERY == 0:
                    time.sleep(0)

    def _add(self, sample: Sample) -> None:
        reply = sample.reply
        self._input += sample.input_tokens * sample.batch_size
        self._output += sum(reply.output_tokens or ())
        self._e2e.add(seconds(e2e_ns(sample)))
        if reply.token_ns:
            self._ttft.add(seconds(reply.token_ns[0] - start_ns(sample)))

    def text(self) -> str:
        """The page, with every sample so far."""
        self._fold()
        lines: list[str] = []

        def family(
            name: str, kind: str, words: str, values: Sequence[tuple[dict[str, object], float]]
        ) -> None:
            lines.extend((f"# HELP {name} {words}", f"# TYPE {name} {kind}"))
            lines.extend(f"{name}{shown_labels(labels)} {value}" for labels, value in values)

        trial = self._trial
        if trial is not None:
            family("loadgen_trial_info", "gauge", "The running trial", [(labels_of(trial), 1)])
        family("loadgen_trials_planned", "gauge", "Trials of the sweep", [({}, self._planned)])
        trials: list[tuple[dict[str, object], float]] = [
            ({"outcome": k}, v) for k, v in sorted(self._trials.items())
        ]
        family("loadgen_trials_total", "counter", "Trials that ended", trials)
        requests: list[tuple[dict[str, object], float]] = [
            ({"phase": phase, "outcome": outcome}, count)
            for (phase, outcome), count in sorted(self._requests.items())
        ]
        family("loadgen_requests_total", "counter", "Requests that ended", requests)
        family("loadgen_in_flight_requests", "gauge", "Requests in flight", [({}, self._in_flight)])
        family("loadgen_input_tokens_total", "counter", "Prompt tokens", [({}, self._input)])
        family("loadgen_output_tokens_total", "counter", "Output tokens", [({}, self._output)])
        lines.extend(self._e2e.lines("loadgen_e2e_latency_seconds", "Start to last token"))
        lines.extend(self._ttft.lines("loadgen_time_to_first_token_seconds", "Start to first token"))
        return "\n".join(lines) + "\n"


def labels_of(trial: Trial) -> dict[str, object]:
    """What tells a trial, as labels."""
    row = trial_row(trial)
    return {
        "trial": trial.id,
        "framework": row.framework,
        "model": row.model,
        "tp": row.tp or "",
        "pp": row.pp or "",
        "load": row.load,
        "input_tokens": row.input_tokens,
        "output_tokens": row.output_tokens,
    }


def shown_labels(labels: dict[str, object]) -> str:
    """``{a="b"}``, escaped as the text format asks; nothing when there is none."""
    if not labels:
        return ""
    escapes = str.maketrans({"\\": "\\\\", '"': '\\"', "\n": "\\n"})
    return "{" + ",".join(f'{key}="{str(value).translate(escapes)}"' for key, value in labels.items()) + "}"


class MetricsPort:
    """Serves a LiveMetrics on 127.0.0.1 from a thread, for the length of a ``with`` block; ``url`` tells where.

    Raises BadInput for a port that is taken.
    """

    def __init__(self, metrics: LiveMetrics, port: int) -> None:
        class Handler(http.server.BaseHTTPRequestHandler):
            timeout = 5.0  # a peer that says nothing must not hold the thread for ever

            def do_GET(self) -> None:
                page = metrics.text().encode() if self.path.split("?")[0] == "/metrics" else b""
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
