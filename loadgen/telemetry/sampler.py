"""The child that scrapes: a process of its own, so that no scrape ever takes the load generator's interpreter.

Each source is scraped at its own absolute ticks, side by side; one that stalls misses its ticks and holds up no other.
Every scrape, failed or not, is one line of JSON in the log: source, start and duration on the monotonic clock
(one clock for all processes of a host), the error, the readings. A line ``now`` on standard input asks for a scrape of
all sources at once; its end is the sampler's end, so that it never outlives the sweep.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

import httpx
import orjson

from loadgen.telemetry.engine_records import read_records
from loadgen.telemetry.known_series import known_series
from loadgen.telemetry.prometheus_text import Page, Rule, read_page

PAGE_LIMIT = 16 << 20  # bytes; a page that never ends must not fill the memory
SCRAPE_LIMIT_S = 2.0
IDLE_CONNECTION_S = 60.0


class BadPage(Exception):
    """An answer that holds no readings: why."""


class Source:
    """One endpoint and its ticks. ``wake`` asks for a scrape before the next one."""

    def __init__(
        self,
        number: int,
        url: str,
        client: httpx.AsyncClient,
        scrape_log: IO[bytes],
        rules: Mapping[str, Rule],
    ) -> None:
        self._number, self._url, self._client, self._scrape_log = number, url, client, scrape_log
        self._rules = rules
        self.wake = asyncio.Event()

    async def run(self, period_s: float) -> None:
        """Scrape every ``period_s`` seconds, and at once when woken, until cancelled."""
        due_s = time.monotonic()
        while True:
            self.wake.clear()
            await self._scrape()
            now_s = time.monotonic()
            if now_s >= due_s:
                due_s += (int((now_s - due_s) / period_s) + 1) * period_s
            try:
                await asyncio.wait_for(self.wake.wait(), max(0.0, due_s - now_s))
            except TimeoutError:
                continue

    async def _scrape(self) -> None:
        began_ns, error, page = time.monotonic_ns(), None, None
        try:
            async with asyncio.timeout(SCRAPE_LIMIT_S):
                text = await self._fetch()
            page = read_records(text) or read_page(text, self._rules)
            if not (page.readings or page.blind or page.refused or page.quiet):
                raise BadPage("answers, but with no metric that loadgen knows")
        except TimeoutError:
            error = f"no whole answer within {SCRAPE_LIMIT_S:g} s"
        except (BadPage, httpx.HTTPError, httpx.InvalidURL, OSError) as fault:
            error = f"{type(fault).__name__}: {fault}"
        self._write(began_ns, time.monotonic_ns() - began_ns, error, page)

    async def _fetch(self) -> str:
        async with self._client.stream("GET", self._url) as reply:
            if not reply.is_success:
                raise BadPage(f"HTTP {reply.status_code}")
            blocks, size = [], 0
            async for block in reply.aiter_bytes():
                blocks.append(block)
                size += len(block)
                if size > PAGE_LIMIT:
                    raise BadPage(f"a page of more than {PAGE_LIMIT >> 20} MiB")
        return b"".join(blocks).decode(errors="replace")

    def _write(self, at_ns: int, took_ns: int, error: str | None, page: Page | None) -> None:
        good = page if error is None and page is not None else Page(readings=(), refused=(), blind=())
        line = [self._number, at_ns, took_ns, error, good.readings, good.refused, good.blind]
        self._scrape_log.write(orjson.dumps(line) + b"\n")
        self._scrape_log.flush()


async def sample(urls: Sequence[str], period_s: float, scrape_log: IO[bytes]) -> None:
    """Scrape until standard input ends."""
    loop = asyncio.get_running_loop()
    orders = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(orders), sys.stdin.buffer)
    limits = httpx.Limits(keepalive_expiry=IDLE_CONNECTION_S)
    async with httpx.AsyncClient(timeout=SCRAPE_LIMIT_S, trust_env=False, limits=limits) as client:
        rules, _ = known_series()  # the recorder tells what is skipped
        sources = [Source(number, url, client, scrape_log, rules) for number, url in enumerate(urls)]
        tasks = [asyncio.create_task(source.run(period_s)) for source in sources]
        while await orders.readline():
            for source in sources:
                source.wake.set()
            for task in tasks:
                if task.done():
                    task.result()  # a fault of ours ends the sampler, to be seen from outside
        for task in tasks:
            task.cancel()


def main() -> None:
    """The sampler's process: scrape the sources named in ``argv`` until its standard input ends."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--log", type=Path, required=True)
    parser.add_argument("--period", type=float, required=True)
    parser.add_argument("urls", nargs="+")
    given = parser.parse_args()
    with given.log.open("ab") as scrape_log:
        asyncio.run(sample(given.urls, given.period, scrape_log))


if __name__ == "__main__":
    main()
