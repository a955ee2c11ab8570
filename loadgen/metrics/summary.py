"""Samples → Summary. Drivers stamp; this is the one place that subtracts.

Definitions (sources in the README's table of words): *start* is the due time in open loop, else the time sent;
E2E runs from start to the last token, TTFT from start to the first; TPOT = (E2E − TTFT)/(n − 1). Warm-up samples and
failed ones give no latency, but a failed one's time is the trial's: 129 s of load in which 2 of 11 requests timed out
are 129 s. What cannot be told from a sample is left out of its distribution, never put in as 0.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import pairwise

from loadgen.errors import cancelled
from loadgen.load_records import Window
from loadgen.metrics.distribution import Values
from loadgen.metrics.distribution import dist as dist  # a figure of its own, for callers of this module
from loadgen.metrics.observations import Observations
from loadgen.metrics.within import Within
from loadgen.records import DEFINITIONS, Summary
from loadgen.request_records import Reply, Sample
from loadgen.units import NS_PER_S, seconds

LENGTHS = ("input_asked", "input_had", "output_asked", "output_had")


def start_ns(sample: Sample) -> int:
    """Where latency begins: when the request was due in open loop, else when it was sent."""
    return sample.reply.sent_ns if sample.due_ns is None else sample.due_ns


def e2e_ns(sample: Sample) -> int:
    """Start → last token; without streaming, start → end of the reply."""
    reply = sample.reply
    return (reply.token_ns[-1] if reply.token_ns else reply.end_ns) - start_ns(sample)


def begun_ns(reply: Reply) -> int | None:
    """When every sequence had its first token; None when not streamed.

    The very first token of a batch would flatter an engine that begins its sequences one after the other.
    """
    if not reply.token_ns:
        return None
    return reply.token_ns[0] if reply.begun_ns is None else reply.begun_ns


def ttft_ns(sample: Sample) -> int | None:
    """Start → first token of every sequence; None when not streamed."""
    begun = begun_ns(sample.reply)
    return None if begun is None else begun - start_ns(sample)


def tpot_ns(sample: Sample) -> float | None:
    """(E2E − TTFT)/(n − 1); None of fewer than 2 tokens a sequence, and of a reply that came in one piece.

    Such a one shows no pace: 0 would be a wrong number that looks right.
    """
    begun, tokens = begun_ns(sample.reply), tokens_per_sequence(sample)
    if begun is None or not tokens or tokens < 2 or (last := sample.reply.token_ns[-1]) <= begun:
        return None
    return (last - begun) / (tokens - 1)


def tokens_per_sequence(sample: Sample) -> float | None:
    """Output tokens of one sequence (the mean over a batch); None when nobody counted them."""
    counted = sample.reply.output_tokens
    return sum(counted) / len(counted) if counted else None


def token_gaps_ns(sample: Sample) -> list[int]:
    """ITL: the gaps between token arrivals. A chunk of k tokens is one gap.

    In a batch the sequences' tokens arrive side by side, and the gaps between neighbours say nothing about any
    sequence; there an arrival counts once it brings every sequence, on average, one token further.
    """
    reply, batch = sample.reply, sample.batch_size
    if batch == 1:
        stamps: Sequence[int] = reply.token_ns
    else:
        steps, tokens = [], 0
        for at_ns, count in zip(reply.token_ns, reply.tokens_per_arrival, strict=True):
            if (tokens + count) // batch > tokens // batch:
                steps.append(at_ns)
            tokens += count
        stamps = steps
    return [later - earlier for earlier, later in pairwise(stamps)]


def error_class(error: str) -> str:
    """``TimedOut`` of ``TimedOut: no first byte in 600 s``."""
    return error.split(":", 1)[0]


class Accumulator:
    """Takes samples one by one and forgets them; ``summary`` may be asked for at any time.

    ``observations`` are what ``caveats`` needs besides; ``firsts`` the first error of each class, of the warm-up, too.
    ``text``: prompts went out as text, so that the server's count of their tokens is the better one. ``count_within``
    must be told a load's window before its first sample behind the warm-up. ``varied``: requests have lengths of their
    own, whose distributions are kept. ``templated``: the server adds a template to texts, so that its count is not that
    of what was sent.
    """

    def __init__(
        self, *, at_most: bool = False, text: bool = False, varied: bool = False, templated: bool = False
    ) -> None:
        self.observations = Observations(at_most=at_most, text=text, templated=templated)
        self.firsts: dict[str, str] = {}
        self._text = text
        self._within: Within | None = None
        self._ok = 0
        self._errors: Counter[str] = Counter()
        self._first_sent_ns: int | None = None
        self._last_end_ns = 0
        self._input_tokens = self._output_tokens = 0
        self._uncounted = 0
        self._cached = self._cached_of = 0
        self._lengths: dict[str, Values] | None = {name: Values() for name in LENGTHS} if varied else None
        self._e2e, self._ttft, self._tpot, self._itl = Values(), Values(), Values(), Values()
        self._per_token, self._send_lag, self._answer = Values(), Values(), Values()
        self._session_lag = Values()
        self._cancelled = 0
        self._known: int | None = None

    def count_within(self, window: Window) -> None:
        """Have rates and tokens be those of a window."""
        self._within = Within(window)

    def add(self, sample: Sample) -> None:
        """Take a sample; warm-up is left out, and so are lead-in and drain but for what they gave to the window."""
        reply = sample.reply
        gave_up = cancelled(reply.error)
        if reply.error is not None and not gave_up:
            self.firsts.setdefault(error_class(reply.error), reply.error)
        if sample.phase == "warmup":
            return
        used = reply.usage_prompt_tokens if self._text else None
        input_tokens = sample.input_tokens * sample.batch_size if used is None else used
        if self._within is not None:
            self._within.add(sample, input_tokens)
        if sample.phase != "measured":
            return
        if self._first_sent_ns is None or reply.sent_ns < self._first_sent_ns:
            self._first_sent_ns = reply.sent_ns
        self._last_end_ns = max(self._last_end_ns, reply.end_ns)
        if gave_up:
            self._cancelled += 1
            return
        if reply.error is not None:
            self._errors[error_class(reply.error)] += 1
            return
        self._ok += 1
        self._input_tokens += input_tokens
        if reply.cached_tokens is not None:
            self._cached += reply.cached_tokens
            self._cached_of += input_tokens
        if sample.known_tokens is not None:
            self._known = (self._known or 0) + sample.known_tokens
        if self._lengths is not None:
            self._note_lengths(sample, self._lengths)
        start, e2e = start_ns(sample), e2e_ns(sample)
        self._e2e.add(e2e)
        self.observations.add(sample, start, e2e)
        if sample.due_ns is not None:
            self._send_lag.add(reply.sent_ns - sample.due_ns)
            if sample.offset_ns is not None:
                self._session_lag.add(sample.due_ns - sample.offset_ns)
        tokens = tokens_per_sequence(sample)
        if reply.output_tokens is None or tokens is None:
            self._uncounted += 1
        else:
            self._output_tokens += sum(reply.output_tokens)
            if tokens:
                self._per_token.add(e2e / tokens)
        if reply.first_answer_ns is not None:
            self._answer.add(reply.first_answer_ns - start)
        if (ttft := ttft_ns(sample)) is not None:
            self._ttft.add(ttft)
        if (tpot := tpot_ns(sample)) is not None:
            self._tpot.add(tpot)
            self._itl.extend(token_gaps_ns(sample))

    def _note_lengths(self, sample: Sample, lengths: dict[str, Values]) -> None:
        used, had = sample.reply.usage_prompt_tokens, tokens_per_sequence(sample)
        lengths["input_asked"].add(sample.input_tokens)
        lengths["output_asked"].add(sample.output_tokens_asked)
        if used is not None:
            lengths["input_had"].add(used / sample.batch_size)
        if had is not None:
            lengths["output_had"].add(had)

    def summary(self, in_flight_mean: float | None = None, in_flight_max: int | None = None) -> Summary:
        """The figures so far. Tokens and their rates are None when a sample's were counted by nobody."""
        within = self._within
        duration_s = None
        if within is not None:
            in_flight_mean = within.in_flight_mean
            duration_s = seconds(within.window.end_ns - within.window.start_ns) if self._ok else None
            served, uncounted = within.served, within.uncounted
            output_tokens, input_tokens = within.output_tokens, within.input_tokens
        else:
            if self._ok and self._first_sent_ns is not None and self._last_end_ns > self._first_sent_ns:
                duration_s = seconds(self._last_end_ns - self._first_sent_ns)
            served, uncounted = self._ok, self._uncounted
            output_tokens, input_tokens = self._output_tokens, self._input_tokens

        def rate(count: int, known: bool = True) -> float | None:
            return count / duration_s if duration_s is not None and known else None

        counted = uncounted == 0
        to_s = 1 / NS_PER_S
        return Summary(
            requests_ok=self._ok,
            requests_failed=self._errors.total(),
            errors=dict(self._errors),
            duration_s=duration_s,
            e2e_s=self._e2e.dist(to_s),
            ttft_s=self._ttft.dist(to_s),
            tpot_s=self._tpot.dist(to_s),
            itl_s=self._itl.dist(to_s),
            latency_per_output_token_s=self._per_token.dist(to_s),
            send_lag_s=self._send_lag.dist(to_s),
            output_tokens=output_tokens if counted else None,
            input_tokens=input_tokens,
            output_tokens_per_s=rate(output_tokens, counted),
            total_tokens_per_s=rate(output_tokens + input_tokens, counted),
            requests_per_s=rate(served),
            in_flight_mean=in_flight_mean,
            in_flight_max=in_flight_max,
            definitions=DEFINITIONS,
            first_answer_s=self._answer.dist(to_s),
            cached_tokens=self._cached if self._cached_of else None,
            cached_of_tokens=self._cached_of or None,
            session_lag_s=self._session_lag.dist(to_s),
            known_tokens=self._known,
            requests_cancelled=self._cancelled,
            lengths={
                name: found
                for name, values in (self._lengths or {}).items()
                if (found := values.dist()) is not None
            },
        )


def summarise(
    samples: Iterable[Sample],
    in_flight_mean: float | None = None,
    in_flight_max: int | None = None,
    window: Window | None = None,
) -> Summary:
    """The figures of one trial's samples; of what came within the ``window`` where the load has one."""
    accumulator = Accumulator()
    if window is not None:
        accumulator.count_within(window)
    for sample in samples:
        accumulator.add(sample)
    return accumulator.summary(in_flight_mean, in_flight_max)
