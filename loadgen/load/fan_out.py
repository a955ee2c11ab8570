"""Static batches over protocols without batch calls: B single calls released together, told as one reply.

The batch begins with the first send and ends with the last end. What a real batch call would not have, the time
between first and last send, is kept as the arrival skew.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from loadgen.protocols import Driver
from loadgen.request_records import Reply, Request


class FanOut:
    """Makes a driver of single calls take batches. ``skews_ns`` are the arrival skews of the batches so far."""

    batches = True

    def __init__(self, driver: Driver, batch_size: int) -> None:
        self._driver, self._batch_size = driver, batch_size
        self.name, self.stamps, self.can = driver.name, driver.stamps, driver.can
        self.skews_ns = array("q")

    async def open(self, connections: int) -> None:
        """Open ``batch_size`` connections for each call in flight."""
        await self._driver.open(connections * self._batch_size)
        self.stamps = self._driver.stamps  # which it knows from now on

    async def close(self) -> None:
        """Close the inner driver."""
        await self._driver.close()

    def prepare(self, request: Request) -> list[Any]:
        """One body for each sequence; the inner calls are numbered seq × B + row."""
        first = request.seq * self._batch_size
        return [
            self._driver.prepare(replace(request, seq=first + row, prompts=(prompt,)))
            for row, prompt in enumerate(request.prompts)
        ]

    def start(self, prepared: list[Any], done: Callable[[Any], None]) -> None:
        """Start every single call at once; ``done`` is called when the last of them has ended."""
        raws: list[Any] = []

        def one_done(raw: Any) -> None:
            raws.append(raw)
            if len(raws) == len(prepared):
                done(raws)

        for body in prepared:
            self._driver.start(body, one_done)

    def decode(self, raw: list[Any]) -> Reply:
        """The reply of the whole batch; notes how far apart its first and last write were."""
        replies = sorted((self._driver.decode(one) for one in raw), key=lambda reply: reply.seq)
        sent = [reply.sent_ns for reply in replies]
        self.skews_ns.append(max(sent) - min(sent))
        return join(replies, replies[0].seq // self._batch_size)


def join(replies: list[Reply], seq: int) -> Reply:
    """The replies of a batch's single calls as the reply to one call; a failed one fails the batch."""
    arrivals = sorted(
        pair for reply in replies for pair in zip(reply.token_ns, reply.tokens_per_arrival, strict=True)
    )
    firsts = [reply.token_ns[0] for reply in replies if reply.token_ns]
    counts = [reply.output_tokens for reply in replies]
    lags = [reply.lag_ns for reply in replies if reply.lag_ns is not None]
    return Reply(
        seq=seq,
        sent_ns=min(reply.sent_ns for reply in replies),
        end_ns=max(reply.end_ns for reply in replies),
        token_ns=tuple(at for at, _ in arrivals),
        tokens_per_arrival=tuple(count for _, count in arrivals),
        begun_ns=max(firsts) if len(firsts) == len(replies) > 1 else None,
        output_tokens=None if None in counts else tuple(n for count in counts for n in count or ()),
        counted_by=replies[0].counted_by,
        usage_prompt_tokens=_total([reply.usage_prompt_tokens for reply in replies]),
        usage_output_tokens=_total([reply.usage_output_tokens for reply in replies]),
        cached_tokens=_total([reply.cached_tokens for reply in replies]),
        first_tokens=replies[0].first_tokens,
        finish=replies[0].finish,
        reads=sum(reply.reads for reply in replies),
        coalesced=sum(reply.coalesced for reply in replies),
        lag_ns=max(lags) if lags else None,
        error=next((reply.error for reply in replies if reply.error is not None), None),
    )


def _total(counts: list[int | None]) -> int | None:
    known = [count for count in counts if count is not None]
    return sum(known) if len(known) == len(counts) else None
