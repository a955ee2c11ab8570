"""One trial's series for Prometheus: its histograms, counts and labels, in Prometheus' text format.

Buckets are classic ones: prometheus-client exposes no native histograms, and a Prometheus before 3 takes them over
protobuf alone. ``histogram_quantile`` guesses linearly within a bucket, so it can be wrong by as much as a bucket is
wide: here 4.9 % of the value, from 1 µs to 10,000 s.
"""

from __future__ import annotations

import time
from bisect import bisect_left
from collections import Counter, deque
from collections.abc import Iterator
from itertools import product

from loadgen.errors import cancelled
from loadgen.live.progress import trial_row
from loadgen.metrics.objectives import Judge
from loadgen.metrics.summary import e2e_ns, tpot_ns, ttft_ns
from loadgen.records import Trial
from loadgen.request_records import Phase, Sample
from loadgen.units import seconds

PER_DECADE = 48  # 10^(1/48) = 1.049
SHOWN_BOUNDS = tuple(
    f"{10 ** (step / PER_DECADE):.5g}" for step in range(-6 * PER_DECADE, 4 * PER_DECADE + 1)
)
BOUNDS = tuple(map(float, SHOWN_BOUNDS))  # those that the labels say, to the digit
YIELD_EVERY = 16
LINES_AT_ONCE = 128  # some 0.1 ms

Series = tuple[str, str]
FAMILIES: dict[str, Series] = {
    "loadgen_trial_info": ("gauge", "What tells a trial; always 1"),
    "loadgen_trial_running": ("gauge", "1 while the trial runs, then 0"),
    "loadgen_requests_total": ("counter", "Requests that ended"),
    "loadgen_in_flight_requests": ("gauge", "Requests in flight"),
    "loadgen_input_tokens_total": ("counter", "Prompt tokens of the measured requests that were served"),
    "loadgen_output_tokens_total": ("counter", "Output tokens of the measured requests that were served"),
    "loadgen_trial_duration_seconds": ("gauge", "First send to last end of the measured requests"),
    "loadgen_good_requests_total": ("counter", "Measured requests that kept all objectives"),
    "loadgen_objective_kept_total": ("counter", "Measured requests that kept an objective"),
    "loadgen_e2e_latency_seconds": ("histogram", "Start to last token"),
    "loadgen_time_to_first_token_seconds": ("histogram", "Start to first token"),
    "loadgen_time_per_output_token_seconds": ("histogram", "(E2E - TTFT)/(n - 1)"),
}
PHASES: tuple[Phase, ...] = ("warmup", "measured")
TIMED: tuple[Phase, ...] = ("warmup", "lead_in", "measured", "drain")  # where a duration bounds the load


class Histogram:
    """Prometheus' cumulative histogram over ``BOUNDS``."""

    def __init__(self) -> None:
        self.counts = [0] * (len(BOUNDS) + 1)
        self.total_s = 0.0

    def add(self, value_ns: float) -> None:
        """Count a value, in nanoseconds."""
        value_s = seconds(value_ns)
        self.counts[bisect_left(BOUNDS, value_s)] += 1
        self.total_s += value_s

    def lines(self, name: str, trial: str) -> Iterator[str]:
        """The series in Prometheus' text format, buckets cumulative; ``trial`` is the label's pair."""
        head, below = f'{name}_bucket{{{trial},le="', 0
        for bound, count in zip((*SHOWN_BOUNDS, "+Inf"), self.counts, strict=True):
            below += count
            yield f'{head}{bound}"}} {below}'
        yield f"{name}_sum{{{trial}}} {self.total_s!r}"
        yield f"{name}_count{{{trial}}} {below}"


class TrialSeries:
    """What Prometheus is told of a trial. Adding a sample costs one append; ``fold`` works what came since off."""

    def __init__(self, trial: Trial) -> None:
        self.trial = trial
        self.fresh: deque[Sample] = deque()
        self.running, self.in_flight = True, 0
        self._requests: Counter[tuple[str, str]] = Counter()
        self._input = 0
        self._output: int | None = 0
        self._first_sent_ns: int | None = None
        self._last_end_ns = 0
        self._e2e, self._ttft, self._tpot = Histogram(), Histogram(), Histogram()
        self._judge = Judge(trial.slo) if trial.slo is not None else None
        self._good = 0

    def fold(self) -> None:
        """Count the fresh samples, in steps so short that a load generator in this process waits for none.

        One thread at a time.
        """
        for count in range(len(self.fresh)):
            self._add(self.fresh.popleft())
            if count % YIELD_EVERY == 0:
                time.sleep(0)

    def _add(self, sample: Sample) -> None:
        reply = sample.reply
        gave_up = cancelled(sample.error)
        self._requests[
            sample.phase, "ok" if sample.error is None else "cancelled" if gave_up else "failed"
        ] += 1
        if sample.phase != "measured" or gave_up:
            return
        if self._judge is not None:
            self._good += self._judge.add(sample) is True
        if self._first_sent_ns is None or reply.sent_ns < self._first_sent_ns:
            self._first_sent_ns = reply.sent_ns
        self._last_end_ns = max(self._last_end_ns, reply.end_ns)
        if sample.error is not None:
            return
        self._input += sample.input_tokens * sample.batch_size
        counted = reply.output_tokens
        self._output = None if counted is None or self._output is None else self._output + sum(counted)
        self._e2e.add(e2e_ns(sample))
        for histogram, value_ns in ((self._ttft, ttft_ns(sample)), (self._tpot, tpot_ns(sample))):
            if value_ns is not None:
                histogram.add(value_ns)

    def lines(self) -> Iterator[tuple[str, str]]:
        """(family, line) of every series; one that is not known has no line."""
        name = f'trial="{escaped(self.trial.id)}"'
        yield "loadgen_trial_info", f"loadgen_trial_info{shown_labels(labels_of(self.trial))} 1"
        phases = PHASES if self.trial.load.duration_s is None else TIMED
        # From the start on: a rate needs the 0 before the first failure.
        for phase, outcome in product(phases, ("ok", "failed", "cancelled")):
            labels = f'{name},phase="{phase}",outcome="{outcome}"'
            yield (
                "loadgen_requests_total",
                f"loadgen_requests_total{{{labels}}} {self._requests[phase, outcome]}",
            )
        span_ns = 0 if self._first_sent_ns is None else self._last_end_ns - self._first_sent_ns
        for family, value in (
            ("loadgen_trial_running", int(self.running)),
            ("loadgen_in_flight_requests", self.in_flight),
            ("loadgen_input_tokens_total", self._input),
            ("loadgen_output_tokens_total", self._output),
            ("loadgen_trial_duration_seconds", seconds(span_ns) if span_ns > 0 else None),
        ):
            if value is not None:
                yield family, f"{family}{{{name}}} {value}"
        if self._judge is not None:
            yield "loadgen_good_requests_total", f"loadgen_good_requests_total{{{name}}} {self._good}"
            for objective, count in self._judge.kept().items():
                family = "loadgen_objective_kept_total"
                yield family, f'{family}{{{name},objective="{objective}"}} {count}'
        for family, histogram in (
            ("loadgen_e2e_latency_seconds", self._e2e),
            ("loadgen_time_to_first_token_seconds", self._ttft),
            ("loadgen_time_per_output_token_seconds", self._tpot),
        ):
            for count, line in enumerate(histogram.lines(family, name)):
                if count % LINES_AT_ONCE == 0:
                    time.sleep(0)
                yield family, line


def labels_of(trial: Trial) -> dict[str, object]:
    """What tells a trial, as labels; ``title`` is all of it in words."""
    row = trial_row(trial)
    return {
        "trial": trial.id,
        "title": row.title,
        "framework": row.framework,
        "model": row.model,
        "tp": row.tp or "",
        "pp": row.pp or "",
        "load": row.load,
        "input_tokens": row.input_tokens,
        "output_tokens": row.output_tokens,
    }


def escaped(value: object) -> str:
    """A label's value, escaped as the text format asks."""
    return str(value).replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def shown_labels(labels: dict[str, object]) -> str:
    """``{a="b"}``; nothing when there is none."""
    pairs = ",".join(f'{key}="{escaped(value)}"' for key, value in labels.items())
    return f"{{{pairs}}}" if pairs else ""
