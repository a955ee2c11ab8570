"""The running trial's figures, folded sample by sample. Pure."""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass, field
from statistics import median

from loadgen.errors import cancelled
from loadgen.labels import clean
from loadgen.live.course import Course
from loadgen.live.progress import Live
from loadgen.metrics.objectives import Judge
from loadgen.metrics.summary import e2e_ns, ttft_ns
from loadgen.request_records import Sample
from loadgen.slo_records import MOST_UNKNOWN, Slo
from loadgen.units import seconds

RECENT = 64  # samples behind the live percentiles and bars


class Kept:
    """How many of the measured requests so far kept the trial's objectives; what cannot be told counts as a miss."""

    def __init__(self, slo: Slo) -> None:
        self._judge = Judge(slo)
        self._due = self._good = self._unknown = 0

    def add(self, sample: Sample) -> None:
        """Judge a measured sample."""
        good = self._judge.add(sample)
        self._due += 1
        self._good += good is True
        self._unknown += good is None

    def shares(self) -> dict[str, float]:
        """The share that kept ``all`` objectives, and each by its name; empty where too many replies do not tell."""
        if not self._due or self._unknown > MOST_UNKNOWN * self._due:
            return {}
        return {name: count / self._due for name, count in {"all": self._good, **self._judge.kept()}.items()}


@dataclass(slots=True)
class Tally:
    """The running trial's figures so far; ``kept`` where it has objectives.

    Latency percentiles run over the last ``RECENT`` good measured samples; the token rate over the time of all measured
    ones, first send → last end, as in a Summary. ``tokens`` is ``None`` once a reply's were counted by nobody.
    """

    warmup: int = 0
    ok: int = 0
    failed: int = 0
    in_flight: int = 0
    tokens: int | None = 0
    first_sent_ns: int | None = None
    last_end_ns: int = 0
    errors: Counter[str] = field(default_factory=Counter)
    words: dict[str, str] = field(default_factory=dict)  # the first error of each class
    e2e_ns: deque[int] = field(default_factory=lambda: deque(maxlen=RECENT))
    ttft_ns: deque[int] = field(default_factory=lambda: deque(maxlen=RECENT))
    course: Course = field(default_factory=Course)
    kept: Kept | None = None

    def fold(self, sample: Sample, in_flight: int) -> None:
        """Take in one reply; ``in_flight`` counts the requests still out. A failed one gives no latency."""
        reply = sample.reply
        self.in_flight = in_flight
        if sample.phase == "measured":
            if self.first_sent_ns is None or reply.sent_ns < self.first_sent_ns:
                self.first_sent_ns = reply.sent_ns
            self.last_end_ns = max(self.last_end_ns, reply.end_ns)
            if self.kept is not None:
                self.kept.add(sample)
        if cancelled(reply.error):
            return
        if reply.error is not None:  # a failed warm-up request is news as well
            self.failed += 1
            name, _, words = clean(reply.error).partition(": ")
            self.errors[name] += 1
            self.words.setdefault(name, words.partition("\n")[0][:200])
            return
        if sample.phase != "measured":
            self.warmup += sample.phase == "warmup"
            return
        self.ok += 1
        counted = None if reply.output_tokens is None else sum(reply.output_tokens)
        self.tokens = None if counted is None or self.tokens is None else self.tokens + counted
        took_ns = e2e_ns(sample)
        self.e2e_ns.append(took_ns)
        begun_ns = reply.token_ns[0] if reply.token_ns else reply.sent_ns
        self.course.add(reply.sent_ns, begun_ns, reply.end_ns, seconds(took_ns), counted)
        if (ttft := ttft_ns(sample)) is not None:
            self.ttft_ns.append(ttft)

    def figures(self) -> Live:
        """A snapshot. Cumulative, so that one that is never shown costs nothing but its moment."""
        span_ns = 0 if self.first_sent_ns is None else self.last_end_ns - self.first_sent_ns
        return Live(
            warmup=self.warmup,
            ok=self.ok,
            failed=self.failed,
            in_flight=self.in_flight,
            e2e_p50_s=seconds(median(self.e2e_ns)) if self.e2e_ns else None,
            ttft_p50_s=seconds(median(self.ttft_ns)) if self.ttft_ns else None,
            tokens_per_s=self.tokens / seconds(span_ns) if self.tokens and span_ns > 0 else None,
            recent_e2e_s=tuple(map(seconds, self.e2e_ns)),
            course_s=self.course.latencies_s,
            course_tokens_per_s=self.course.tokens_per_s,
            bin_s=self.course.width_s,
            errors=dict(self.errors),
            words=dict(self.words),
            kept={} if self.kept is None else self.kept.shares(),
        )
