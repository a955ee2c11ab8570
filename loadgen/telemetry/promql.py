"""A Prometheus server as a source of telemetry, read after the trial through its HTTP API.

Raw samples with the times of their scrapes are asked for (an instant query of a range selector, ``{…}[30s]``). A range
query would fill its grid by repeating each value for up to five minutes, and show readings where there were none.
Prometheus' times are Unix times of its own clock; they are moved onto the samples' monotonic clock.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from typing import Any

import httpx
import orjson

from loadgen.errors import BadInput
from loadgen.telemetry.prometheus_text import ENGINE, HOST, RULES, Page, Rule, Series, names_of, normalise
from loadgen.telemetry.scrapes import Scrape
from loadgen.units import NS_PER_S

LIMIT_S = 10.0
LIMIT_BYTES = 256 << 20  # ten minutes of some hundred series, at their scrapes' rate, are 20 MiB
LATEST_S = 2.0**33


class PrometheusFault(Exception):
    """Prometheus did not answer, or not with what was asked for."""


class Prometheus:
    """One Prometheus server. ``selector`` are further label matchers, such as ``job="dcgm",cluster="a"``; ``rules`` are
    the series that are asked for."""

    def __init__(self, url: str, selector: str = "", rules: Mapping[str, Rule] = RULES) -> None:
        self.url, self._selector, self._rules = url.rstrip("/"), selector.strip().strip("{}"), rules

    def check(self) -> None:
        """Raises BadInput when nothing at the URL answers as Prometheus, or it refuses the selector."""
        try:
            self._query("time()")
            self._query(self._matchers())
        except PrometheusFault as fault:
            raise BadInput(
                f"[telemetry] prometheus = {self.url!r}, selector = {self._selector!r}: {fault} "
                '(accepted: a Prometheus server\'s base URL, and label matchers such as job="dcgm")'
            ) from None

    def read(self, start_ns: int, end_ns: int) -> list[Scrape]:
        """What Prometheus scraped between two instants of the monotonic clock, as scrapes of its targets.

        A fault is a failed scrape: it costs a caveat, never the trial.
        """
        began_ns = time.monotonic_ns()
        try:
            offset_s = self._offset_s()
            width_s = math.ceil((time.monotonic_ns() - start_ns) / NS_PER_S) + 1
            found = self._query(f"{self._matchers()}[{width_s}s]")
            return scrapes_of(self.url, found, offset_s, start_ns, end_ns, self._rules)
        except PrometheusFault as fault:
            took_ns = time.monotonic_ns() - began_ns
            return [Scrape(source=self.url, at_ns=began_ns, took_ns=took_ns, error=str(fault))]

    def _matchers(self) -> str:
        names = "|".join(sorted(names_of(self._rules)))
        more = f",{self._selector}" if self._selector else ""
        return f'{{__name__=~"{names}"{more}}}'

    def _offset_s(self) -> float:
        """Prometheus' Unix time less our monotonic time, by its own clock, to half of the query's round trip."""
        before_ns = time.monotonic_ns()
        result = self._query("time()")
        middle_ns = (before_ns + time.monotonic_ns()) / 2
        try:
            return _time_s(result[0]) - middle_ns / NS_PER_S
        except (LookupError, TypeError, ValueError, OverflowError) as error:
            raise PrometheusFault(f"no time is told by time() ({error})") from None

    def _query(self, query: str) -> list[Any]:
        ends_s = time.monotonic() + LIMIT_S
        blocks = bytearray()
        try:
            with httpx.stream(
                "POST", f"{self.url}/api/v1/query", data={"query": query}, timeout=LIMIT_S, trust_env=False
            ) as reply:
                for block in reply.iter_bytes():
                    blocks += block
                    if len(blocks) > LIMIT_BYTES or time.monotonic() > ends_s:
                        raise PrometheusFault(f"no whole answer in {LIMIT_S:g} s and {LIMIT_BYTES >> 20} MiB")
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise PrometheusFault(f"{type(error).__name__}: {error}") from None
        return result_of(reply.status_code, bytes(blocks))


def result_of(status: int, answer: bytes) -> list[Any]:
    """The result in an answer to a query. Raises PrometheusFault where there is none."""
    try:
        body = orjson.loads(answer)
    except ValueError:
        raise PrometheusFault(f"HTTP {status}, and no JSON") from None
    if not isinstance(body, dict) or body.get("status") != "success":
        words = body.get("error") if isinstance(body, dict) else body
        raise PrometheusFault(f"HTTP {status}: {str(words)[:300]}")
    data = body.get("data")
    result = data.get("result") if isinstance(data, dict) else None
    if not isinstance(result, list):
        raise PrometheusFault("an answer without a result")
    return result


def _time_s(told: Any) -> float:
    """A Unix time. Raises TypeError or ValueError for what is none."""
    at_s = float(told)
    if not 0 <= at_s < LATEST_S:
        raise ValueError(f"{at_s:g} is no time")
    return at_s


def scrapes_of(
    url: str,
    result: Sequence[Any],
    offset_s: float,
    start_ns: int,
    end_ns: int,
    rules: Mapping[str, Rule] = RULES,
) -> list[Scrape]:
    """A matrix as scrapes: the series of one target at one time belong together."""
    by_scrape: dict[tuple[str, float], list[Series]] = {}
    try:
        for series in result:
            labels = {str(key): str(word) for key, word in series["metric"].items()}
            name, target = labels.pop("__name__"), f"{labels.get('job', '')} {labels.get('instance', '')}"
            for at_s, value in series["values"]:
                by_scrape.setdefault((target, _time_s(at_s)), []).append((name, labels, float(value)))
    except (LookupError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise PrometheusFault(f"an answer of another shape ({type(error).__name__}: {error})") from None
    pages: list[tuple[str, int, Page]] = []
    tellers: dict[tuple[str, str], set[str]] = {}
    for (target, at_s), every in sorted(by_scrape.items(), key=lambda item: item[0][1]):
        at_ns = round((at_s - offset_s) * NS_PER_S)
        if start_ns <= at_ns <= end_ns:
            page = normalise(every, rules)
            pages.append((target, at_ns, page))
            for metric, subject, _ in page.readings:
                tellers.setdefault((metric, subject), set()).add(target)
    # Of a GPU any target may tell; figures of two engines or hosts in turn would be neither's.
    mixed = {
        key: f"{key[0]} of {len(targets)} targets in turn (name one by the selector)"
        for key, targets in tellers.items()
        if len(targets) > 1 and key[1] in (ENGINE, HOST)
    }
    return [
        Scrape(
            source=url,
            at_ns=at_ns,
            took_ns=0,
            readings=tuple(each for each in page.readings if each[:2] not in mixed),
            refused=(*page.refused, *(mixed[each[:2]] for each in page.readings if each[:2] in mixed)),
            blind=page.blind,
        )
        for _, at_ns, page in pages
    ]
