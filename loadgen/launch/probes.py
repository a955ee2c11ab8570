"""Single requests of a few tokens that find out what an endpoint takes: with less and less beside the prompt."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from loadgen.drivers.openai import make_driver
from loadgen.drivers.openai_endpoint import extras_of
from loadgen.launch.page import within
from loadgen.load.prompts import FIRST_ID
from loadgen.load_records import Timeouts
from loadgen.request_records import Reply, Request

PROBE_TOKENS = 8
PROBE_IDS = tuple(range(FIRST_ID + 1, FIRST_ID + 9))
MOST_TRIES = 6  # of one route
UNREADABLE = frozenset(
    {400, 415, 422}
)  # statuses that may be about a field; a proxy repeats a 500 for seconds
_NO_MAX_TOKENS = re.compile(
    r"max_completion_tokens|(unknown|unsupported|unexpected|unrecognized|extra)\b.*\bmax_tokens"
)
_STATUS = re.compile(r"Refused: (\d{3})\b")


class Late(Exception):
    """The time for asking is over."""


class Prober:
    """Sends single requests through the very driver that will send the load, until its time is over."""

    def __init__(self, url: str, model: str, stream: bool, limit_s: float) -> None:
        self._url, self._model, self._stream = url, model, stream
        self._ends_s = time.monotonic() + limit_s
        self.sent = 0

    @property
    def left_s(self) -> float:
        """Seconds until the time for asking is over; none left is 0."""
        return max(0.0, self._ends_s - time.monotonic())

    def send(
        self, options: Mapping[str, Any], ids: tuple[int, ...], output_tokens: int, rows: int = 1
    ) -> Reply:
        """The reply to one request, of ``rows`` equal prompts. Raises what a driver's ``open`` raises, and Late."""
        left_s = self.left_s
        if left_s <= 0:
            raise Late
        self.sent += 1
        limits = Timeouts(connect_s=left_s, first_byte_s=left_s, between_bytes_s=left_s, total_s=left_s)
        driver = make_driver(self._url, self._model, limits, options)
        request = Request(
            seq=0, phase="warmup", prompts=(ids,) * rows, output_tokens=output_tokens, stream=self._stream
        )

        async def one() -> Reply:
            await driver.open(1)
            try:
                ended: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
                driver.start(driver.prepare(request), ended.set_result)
                return driver.decode(await ended)
            finally:
                await driver.close()

        reply = within(left_s + 0.5, lambda: asyncio.run(one()))
        if reply is None or (reply.error or "").startswith("TimedOut"):
            raise Late
        return reply


@dataclass(slots=True)
class Settled:
    """A form that the server took: what was sent, and how it answered."""

    options: dict[str, Any]
    reply: Reply


def form_of(options: Mapping[str, Any]) -> str:
    """The route and the kind of prompt, in words."""
    return f"{options['endpoint']} by {'token ids' if options['prompt'] == 'ids' else 'text'}"


def settle(prober: Prober, options: dict[str, Any], refusals: dict[str, str]) -> Settled | None:
    """Send a form with less and less beside it, until it is taken; notes the first refusal of it."""
    fixed = options.get("extras") is not None
    extras = extras_of(options.get("extras", options["endpoint"] != "messages"))
    blind = False
    for _ in range(MOST_TRIES):
        reply = prober.send({**options, "extras": list(extras)}, PROBE_IDS, PROBE_TOKENS)
        if reply.error is None:
            options = {**options, "extras": list(extras)}
            return (
                _with_lengths(prober, Settled(options, reply))
                if blind and not fixed
                else Settled(options, reply)
            )
        refusals[form_of(options)] = reply.error
        status = _STATUS.match(reply.error)
        named = [name for name in extras if name in reply.error]
        if status is None or not (int(status[1]) in UNREADABLE or named):
            return None
        leaner = _leaner(options, reply.error)
        if leaner is not None:
            options = leaner
        elif named and not fixed:
            extras = tuple(name for name in extras if name not in named)
        elif extras and not fixed:
            extras, blind = (), True
        else:
            return None
    return None


def _leaner(options: dict[str, Any], words: str) -> dict[str, Any] | None:
    """The options without a field that the server refused by its name."""
    if options["endpoint"] == "chat" and options.get("limit") is None and _NO_MAX_TOKENS.search(words):
        return {**options, "limit": "max_completion_tokens"}
    body = options.get("extra_body") or {}
    for name in ("stream_options", "temperature"):
        if name in words and name not in body:
            return {**options, "extra_body": {**body, name: None}}
    return None


def _with_lengths(prober: Prober, bare: Settled) -> Settled:
    """Whether a server that refused all extras at once takes those that decide lengths."""
    for extras in (("ignore_eos", "min_tokens"), ("ignore_eos",)):
        options = {**bare.options, "extras": list(extras)}
        reply = prober.send(options, PROBE_IDS, PROBE_TOKENS)
        if reply.error is None:
            return Settled(options, reply)
    return bare
