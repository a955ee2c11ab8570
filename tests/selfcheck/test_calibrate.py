from __future__ import annotations

import dataclasses

import pytest

from loadgen.errors import BadInput
from loadgen.load_records import LoadSpec
from loadgen.records import ClientQuality, Dist
from loadgen.selfcheck import calibrate as subject
from loadgen.selfcheck.calibrate import Limit, calibrate, find_limit, limit_words, rows, verdict
from loadgen.selfcheck.replay import Null, Replay, shorten
from loadgen.selfcheck.timing_errors import Errors

CLOSED = LoadSpec(kind="closed", input_tokens=8, output_tokens=5, concurrency=3, requests=12, warmup=1)


def dist(value: float) -> Dist:
    return Dist(
        n=900, mean=value, stdev=None, min=value, p50=value, p90=value, p95=value, p99=value, max=value
    )


def replay(load: LoadSpec, **changes: object) -> Replay:
    fields: dict[str, object] = {
        "load": load,
        "requests": 4,
        "tokens": 20,
        "failed": {},
        "errors": Errors(ttft_s=dist(1e-5), itl_s=dist(1e-6), e2e_s=dist(1e-5), late_s=dist(1e-4)),
        "rate_share": 1.0,
        "server_share": 1.0,
        "quality": ClientQuality(
            driver="openai-raw", stamps="kernel", cpu_s=0.002, reads=40, coalesced_reads=4
        ),
        "took_s": 2.0,
    }
    return Replay(**(fields | changes))  # type: ignore[arg-type]


class Machine(Null):
    """A client that is good up to a known load: a double for what takes seconds for real."""

    good_to = 100.0
    tried: list[float]

    def replay(self, load: LoadSpec) -> Replay:
        value = load.rate if load.rate is not None else float(load.concurrency)
        self.tried.append(value)
        return replay(load, rate_share=1.0 if value <= self.good_to else 0.9)


def search(load: LoadSpec, good_to: float) -> tuple[Limit, list[float]]:
    tried: list[float] = []
    Machine.good_to, Machine.tried = good_to, tried
    machine = Machine(ttft_ms=1.0, itl_ms=1.0, vocab=100)
    return find_limit(machine, machine.replay(load), 1e-3, lambda _line: None), tried


@pytest.mark.parametrize(("start", "good_to"), [(3, 100), (64, 100), (200, 100), (1000, 1), (7, 7), (1, 2)])
def test_the_search_closes_in_on_the_limit(start: int, good_to: int) -> None:
    limit, tried = search(dataclasses.replace(CLOSED, concurrency=start), good_to)
    assert limit.highest is not None
    assert limit.next_bad is not None
    assert limit.highest <= good_to < limit.next_bad
    assert limit.next_bad / limit.highest <= 1.1 or limit.next_bad - limit.highest <= 1
    assert limit.why == "90.0 % of the load kept up"
    assert not limit.by_server
    assert len(tried) < 25


def test_the_search_of_a_rate() -> None:
    load = LoadSpec(kind="poisson", input_tokens=8, output_tokens=5, rate=10.0, requests=50)
    limit, _ = search(load, 333.3)
    assert limit.what == "requests/s"
    assert limit.highest is not None
    assert limit.next_bad is not None
    assert limit.highest <= 333.3 < limit.next_bad <= limit.highest * 1.1


def test_a_client_without_limit_ends_the_search_at_its_ceiling() -> None:
    limit, _ = search(CLOSED, 10**9)
    assert limit.highest == subject.HIGHEST_CONCURRENCY
    assert limit.next_bad is None
    assert limit.why is None
    assert "or more" in limit_words(limit)


def test_a_client_that_can_do_nothing_is_told() -> None:
    limit, _ = search(dataclasses.replace(CLOSED, concurrency=8), 0)
    assert limit.highest is None
    assert limit.next_bad == 1
    assert limit_words(limit).startswith("below 1 ")


@pytest.mark.parametrize(
    ("changes", "words", "server"),
    [
        ({}, None, False),
        ({"failed": {"TimedOut: total": 2, "BadReply: x": 1}}, "3 requests failed (TimedOut: total)", False),
        (
            {"errors": Errors(ttft_s=dist(0.002), itl_s=None, e2e_s=None, late_s=None)},
            "TTFT error p99 2.00 ms",
            False,
        ),
        (
            {"errors": Errors(ttft_s=None, itl_s=dist(0.002), e2e_s=None, late_s=None)},
            "ITL error p99 2.00 ms",
            False,
        ),
        (
            {"errors": Errors(ttft_s=None, itl_s=None, e2e_s=dist(0.002), late_s=None)},
            "E2E error p99 2.00 ms",
            False,
        ),
        (
            {"quality": ClientQuality(driver="d", stamps="user", send_lag_s=dist(0.002))},
            "send lag p99 2.00 ms",
            False,
        ),
        ({"rate_share": 0.97}, "97.0 % of the load kept up", False),
        ({"server_share": 0.9, "rate_share": 0.9}, "the null server kept 90.0 % of its pace", True),
        ({"errors": Errors(ttft_s=None, itl_s=None, e2e_s=None, late_s=dist(0.5))}, None, False),
    ],
)
def test_verdicts(changes: dict[str, object], words: str | None, server: bool) -> None:
    assert verdict(replay(CLOSED, **changes), 1e-3) == (words, server)


def test_a_long_load_is_cut_to_whole_rounds() -> None:
    load = dataclasses.replace(CLOSED, concurrency=4, requests=10_000, warmup=50)
    cut = shorten(load, answer_s=2.0, limit_s=20.0)
    assert (cut.requests, cut.warmup) == (40, 4)
    assert shorten(dataclasses.replace(load, requests=9), 2.0, 20.0).requests == 12
    assert shorten(load, answer_s=100.0, limit_s=20.0).requests == 8
    rate = LoadSpec(kind="constant", input_tokens=1, output_tokens=1, rate=50.0, requests=10_000)
    assert shorten(rate, 2.0, 20.0).requests == 1000


def test_a_bound_must_be_positive() -> None:
    with pytest.raises(BadInput, match="bound = 0"):
        calibrate(CLOSED, bound_ms=0)


@pytest.mark.parametrize(
    "load",
    [
        CLOSED,
        dataclasses.replace(CLOSED, kind="static", batch_size=4, concurrency=1, requests=3),
        dataclasses.replace(CLOSED, kind="constant", rate=100.0, stream=False),
        dataclasses.replace(CLOSED, workers=2, concurrency=4),
    ],
    ids=["closed", "static", "constant, not streamed", "two workers"],
)
def test_a_real_replay(load: LoadSpec) -> None:
    notes: list[str] = []
    found = calibrate(load, ttft_ms=5.0, itl_ms=2.0, search=False, note=notes.append)
    measured = found.replay
    assert measured.failed == {}
    assert measured.requests == measured.load.requests
    assert measured.tokens == measured.requests * load.output_tokens * load.batch_size
    errors = measured.errors
    assert errors.e2e_s is not None
    assert errors.e2e_s.n == measured.requests
    if load.stream:
        assert errors.ttft_s is not None
        assert errors.itl_s is not None
        assert errors.ttft_s.n == measured.requests
        assert errors.itl_s.n == measured.requests * (load.output_tokens - 1)
    else:
        assert errors.ttft_s is None
    assert (measured.quality.send_lag_s is not None) == (load.kind == "constant")
    assert measured.cpu_s_per_token is not None
    assert measured.rate_share is not None
    assert 0 < measured.rate_share < 1.5
    assert found.limit is None
    assert len(notes) == 2
    assert found.recorded.failed == {}
    assert found.recorded.requests == measured.requests
    assert set(found.telemetry.cpu_cores) == {"exporter", "sampler"}
    assert all(0 <= share < 2 for share in found.telemetry.cpu_cores.values())
    shown = dict(rows(found))
    (words,) = [value for name, value in shown.items() if name.startswith("telemetry every")]
    assert "exporter" in words
    assert "E2E error p99, without / with telemetry" in shown
    assert ("send lag p99, without / with telemetry" in shown) == (load.kind == "constant")
    assert shown["driver, stamps"].startswith("openai-raw, ")
    assert not any("None" in value for value in shown.values())


def test_a_real_search_stops_at_its_ceiling(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subject, "HIGHEST_CONCURRENCY", 4)
    load = dataclasses.replace(CLOSED, concurrency=2, requests=4, output_tokens=2)
    found = calibrate(load, ttft_ms=100.0, itl_ms=1.0, bound_ms=5000.0)
    assert found.limit is not None
    assert found.limit.what == "concurrency"
    assert any(name.startswith("highest concurrency") for name, _ in rows(found))
