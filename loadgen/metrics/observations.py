"""What samples say besides latencies: counts that disagree, a slow start, latency that grows. Pure."""

from __future__ import annotations

from loadgen.request_records import Reply, Sample
from loadgen.units import seconds

EXAMPLES = 3
SEVERAL = 2  # tokens a chunk: below, it is characters of several tokens, which come at once of anybody


# Tokens that were made before the first of them was sent come in a hundredth of the time until then, and faster than
# any model makes them: 10,000 a second of one sequence.
FLUSHED_TOKENS, FLUSHED_SHARE, FLUSHED_GAP_NS = 8, 0.01, 100_000


class Mismatch:
    """How often two counts disagreed, and the first few examples in words."""

    def __init__(self) -> None:
        self.count = 0
        self.examples: list[str] = []

    def add(self, example: str) -> None:
        """Count one more; only the first few keep their words."""
        self.count += 1
        if len(self.examples) < EXAMPLES:
            self.examples.append(example)


def _flushed(reply: Reply) -> bool:
    """Whether a reply's tokens came as good as at once, after a long wait: somebody collected them."""
    first, last = reply.token_ns[0], reply.token_ns[-1]
    tokens = max(reply.output_tokens or (0,))
    return (
        tokens >= FLUSHED_TOKENS
        and last - first < FLUSHED_SHARE * (first - reply.sent_ns)
        and last - first < FLUSHED_GAP_NS * (tokens - 1)
    )


class Observations:
    """Takes measured samples one by one; ``checks`` reads it. Failed ones give no latency.

    ``at_most``: an output may be shorter than was asked for; ``text``: prompts went out as text; ``templated``: to them
    the server adds, so that its count need not be that of what was sent.
    """

    def __init__(self, *, at_most: bool = False, text: bool = False, templated: bool = False) -> None:
        self._at_most, self._text, self._templated = at_most, text, templated
        self.short = 0  # replies with fewer tokens than were asked for, where they may
        self.short_tokens = 0
        self.prompt_uncounted = 0  # text prompts whose tokens the server did not count
        self.ok = 0
        self.uncounted = 0  # replies whose output tokens nobody counted
        self.unstreamed = 0  # streaming was asked for, and no token came before the end
        self.one_piece = 0  # several tokens, and all came in one arrival, or as good as at once
        self.chunked = self.chunks = self.chunked_tokens = 0  # replies whose chunks hold several tokens each
        self.output_mismatch = Mismatch()  # asked / streamed / usage
        self.prompt_mismatch = Mismatch()
        self.first_sent_ns: int | None = None
        self.first_e2e_ns = 0
        self._origin_ns: int | None = None
        self._sum_x = self._sum_y = self._sum_xx = self._sum_xy = self._last_x = 0.0

    def add(self, sample: Sample, start_ns: int, e2e_ns: int) -> None:
        """Take a valid sample with its start and E2E latency."""
        reply = sample.reply
        self.ok += 1
        if self.first_sent_ns is None or reply.sent_ns < self.first_sent_ns:
            self.first_sent_ns, self.first_e2e_ns = reply.sent_ns, e2e_ns
        if reply.output_tokens is None:
            self.uncounted += 1
        self.prompt_uncounted += self._text and reply.usage_prompt_tokens is None
        if not reply.token_ns:
            self.unstreamed += 1
        elif sample.output_tokens_asked > 1:
            self.one_piece += len(reply.token_ns) == 1 or _flushed(reply)
        self._compare(sample)
        self._trend(start_ns, e2e_ns)

    def _compare(self, sample: Sample) -> None:
        reply, batch = sample.reply, sample.batch_size
        used, sent = reply.usage_prompt_tokens, sample.input_tokens * batch
        if used is not None and used != sent and not self._templated:
            self.prompt_mismatch.add(f"request {reply.seq}: sent {sent}, usage {used}")
        self._texts(sample)
        asked, usage = sample.output_tokens_asked * batch, reply.usage_output_tokens
        streamed = sum(reply.tokens_per_arrival) if reply.token_ns and reply.counted_by == "ids" else None
        received = None if reply.output_tokens is None else sum(reply.output_tokens)
        if streamed in (None, asked) and received in (None, asked) and usage in (None, asked):
            return  # as nearly all are
        counts = {"asked": asked, "streamed": streamed, "received": received, "usage": usage}
        known = {name: count for name, count in counts.items() if count is not None}
        if self._at_most:
            del known["asked"]
            if (least := min(known.values())) < asked:
                self.short += 1
                self.short_tokens += least
        if len(set(known.values())) > 1:
            words = ", ".join(f"{name} {count}" for name, count in known.items())
            self.output_mismatch.add(f"request {reply.seq}: {words}")

    def _texts(self, sample: Sample) -> None:
        """Hold tokens against the chunks that they came in: each chunk has one at least, and TPOT takes it for one."""
        reply = sample.reply
        if sample.batch_size > 1 or not reply.output_tokens or len(reply.token_ns) < 2:
            return
        tokens, texts = reply.output_tokens[0], sum(reply.tokens_per_arrival)
        if reply.counted_by == "usage" and texts > tokens:
            self.output_mismatch.add(f"request {reply.seq}: usage {tokens}, yet {texts} texts came")
        chunks = texts if reply.counted_by == "usage" else len(reply.token_ns)
        # By ids a read is counted by its tokens: of several chunks in one nobody knows how many they were.
        if tokens >= SEVERAL * chunks and (reply.counted_by == "usage" or not reply.coalesced):
            self.chunked += 1
            self.chunks += chunks
            self.chunked_tokens += tokens

    def _trend(self, start_ns: int, e2e_ns: int) -> None:
        if self._origin_ns is None:
            self._origin_ns = start_ns
        x, y = seconds(start_ns - self._origin_ns), seconds(e2e_ns)
        self._sum_x += x
        self._sum_y += y
        self._sum_xx += x * x
        self._sum_xy += x * y
        self._last_x = max(self._last_x, x)

    def growth(self) -> float | None:
        """Latency at the end of the trial over that at its start, by the least-squares line; None if it has none.

        A server that keeps up stays near 1; one that does not has a queue, and latency, that grow with time.
        """
        spread = self.ok * self._sum_xx - self._sum_x**2
        if self.ok < 3 or spread <= 0:
            return None
        slope = (self.ok * self._sum_xy - self._sum_x * self._sum_y) / spread
        first = (self._sum_y - slope * self._sum_x) / self.ok
        mean = self._sum_y / self.ok
        # A steep line may start below zero; nothing is faster than a small part of the mean.
        return (first + slope * self._last_x) / max(first, mean / 20)
